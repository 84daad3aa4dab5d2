//! What SQLite says about business tables. There is one name space: the table
//! `business.users` is the table `users` of the file.

use crate::projection::{BusinessTable, Column, Kind};
use crate::store::StoreError;
use oversync_shared::TableName;
use rusqlite::Connection;
use std::collections::HashMap;

pub(super) fn describe(
    connection: &mut Connection,
    tables: &[TableName],
) -> Result<HashMap<TableName, BusinessTable>, StoreError> {
    let mut found = HashMap::new();
    for name in tables {
        let mut table = BusinessTable {
            columns: columns(connection, &name.table)?,
            primary_key: primary_key(connection, &name.table)?,
            ..BusinessTable::default()
        };
        declare(connection, name, &mut table)?;
        if !table.columns.is_empty() {
            found.insert(name.clone(), table);
        }
    }
    Ok(found)
}

fn columns(connection: &Connection, table: &str) -> Result<Vec<Column>, StoreError> {
    let mut statement = connection.prepare(
        "SELECT x.name, x.type, x.hidden IN (2, 3), \
                (x.pk = 1 AND (SELECT count(*) FROM pragma_table_xinfo(?1) p WHERE p.pk > 0) = 1) OR EXISTS ( \
                    SELECT 1 FROM pragma_index_list(?1) l \
                    WHERE l.\"unique\" AND NOT l.partial \
                      AND (SELECT group_concat(i.name) FROM pragma_index_info(l.name) i) = x.name) \
         FROM pragma_table_xinfo(?1) x ORDER BY x.cid",
    )?;
    let columns = statement.query_map([table], |row| {
        let type_name: String = row.get(1)?;
        Ok(Column {
            name: row.get(0)?,
            kind: kind(&type_name),
            stored_type: type_name.clone(),
            type_name,
            generated: row.get(2)?,
            unique: row.get(3)?,
        })
    })?;
    Ok(columns.collect::<Result<_, _>>()?)
}

fn primary_key(connection: &Connection, table: &str) -> Result<Vec<String>, StoreError> {
    let mut statement =
        connection.prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE pk > 0 ORDER BY pk")?;
    Ok(statement
        .query_map([table], |row| row.get(0))?
        .collect::<Result<_, _>>()?)
}

/// A parent has the schema of its child. One that names no columns refers to the
/// parent's primary key, in its order.
fn declare(
    connection: &Connection,
    child: &TableName,
    table: &mut BusinessTable,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare(
        "SELECT k.id, lower(k.\"table\"), k.\"from\", \
                coalesce(k.\"to\", (SELECT name FROM pragma_table_info(k.\"table\") WHERE pk = k.seq + 1)) \
         FROM pragma_foreign_key_list(?1) k ORDER BY k.id DESC, k.seq",
    )?;
    let columns = statement.query_map([&child.table], |row| {
        let (id, parent): (i64, String) = (row.get(0)?, row.get(1)?);
        let there: Option<String> = row.get(3)?;
        Ok(((id, parent), (row.get::<_, String>(2)?, there)))
    })?;
    let columns: Vec<_> = columns.collect::<Result<_, _>>()?;
    for key in columns.chunk_by(|a, b| a.0 == b.0) {
        let pairs = key
            .iter()
            .map(|(_, (here, there))| Some((here.clone(), there.clone()?)));
        // A parent without such a column: nothing can refer to it.
        if let Some(pairs) = pairs.collect() {
            let parent = TableName {
                schema: child.schema.clone(),
                table: key[0].0.1.clone(),
            };
            table.declare(parent, pairs);
        }
    }
    Ok(())
}

/// By SQLite's affinity rules (SQLite documentation, "Datatypes", 3.1), except
/// that a column declared UUID is one.
fn kind(type_name: &str) -> Kind {
    let name = type_name.to_ascii_uppercase();
    if name == "UUID" {
        Kind::Text
    } else if name.contains("INT") {
        Kind::Integer
    } else if ["CHAR", "CLOB", "TEXT"]
        .iter()
        .any(|part| name.contains(part))
    {
        Kind::Text
    } else if name.contains("BLOB") {
        Kind::Bytes
    } else if name.is_empty() {
        // It keeps what it is given.
        Kind::FromText
    } else if ["REAL", "FLOA", "DOUB"]
        .iter()
        .any(|part| name.contains(part))
    {
        Kind::Real
    } else {
        Kind::Numeric
    }
}
