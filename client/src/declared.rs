//! One table as the application has declared it, read and judged.
//!
//! Columns, key and unique indexes; what cannot be synchronised is refused by name.
//! Called by `discover.rs`.

use crate::config::TableSpec;
use crate::error::{Error, SetupError};
use crate::schema::{Affinity, Column, KeyKind, OWN_PREFIX, Table, UniqueIndex, fold};
use oversync_shared::names::is_plain_name;
use rusqlite::{Connection, OptionalExtension as _};

/// Reads a listed table; its foreign keys and its number come later.
pub(crate) fn read_table(conn: &Connection, spec: &TableSpec) -> Result<Table, Error> {
    let name = declared_name(conn, spec)?;
    let wire = wire_name(&name)?;
    let declared = read_columns(conn, &name)?;
    let unique = read_unique(conn, &name)?;
    let key_name = choose_key(&name, spec, &declared, &unique)?;
    let columns: Vec<&Declared> = declared.iter().filter(|c| !c.generated).collect();
    for (i, column) in columns.iter().enumerate() {
        if let Some(other) = columns[..i]
            .iter()
            .find(|o| fold(&o.name) == fold(&column.name))
        {
            return Err(SetupError::ColumnClash {
                table: name,
                first: other.name.clone(),
                second: column.name.clone(),
            }
            .into());
        }
    }
    let key = columns
        .iter()
        .position(|column| column.name == key_name)
        .ok_or_else(|| SetupError::KeyColumn {
            table: name.clone(),
            column: key_name.clone(),
        })?;
    let key_kind = key_kind(&name, columns[key])?;
    Ok(Table {
        n: 0,
        wire,
        columns: columns
            .iter()
            .map(|column| Column {
                wire: fold(&column.name),
                blob: column.is_blob(),
                reference: false,
                not_null: column.not_null,
                default: column.default.clone(),
                affinity: Affinity::of(&column.declared),
                name: column.name.clone(),
            })
            .collect(),
        key,
        key_kind,
        // Of a generated column a trigger may see no value before the update.
        needs_sweep: unique.iter().any(|index| match index {
            None => true,
            Some(index) => index.columns.iter().any(|(name, _)| {
                declared
                    .iter()
                    .any(|column| column.generated && column.name == *name)
            }),
        }),
        unique: unique.into_iter().flatten().collect(),
        rowid: rowid_name(conn, &name, &declared)?,
        parents: Vec::new(),
        children: Vec::new(),
        rank: 0,
        fires: false,
        name,
    })
}

/// The table's name as it was declared.
fn declared_name(conn: &Connection, spec: &TableSpec) -> Result<String, Error> {
    let listed = spec.name.as_str();
    if listed.to_lowercase().starts_with(OWN_PREFIX) {
        return Err(SetupError::TableName {
            table: listed.to_owned(),
            why: format!("names that start with {OWN_PREFIX} are the client's own"),
        }
        .into());
    }
    let found: Option<(String, String)> = conn
        .query_row(
            "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE",
            [listed],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    match found {
        Some((name, kind)) if kind == "table" => Ok(name),
        Some((name, kind)) => Err(SetupError::NotATable {
            table: name,
            kind: if kind == "view" {
                kind
            } else {
                format!("{kind} table")
            },
        }
        .into()),
        None => Err(SetupError::MissingTable {
            table: listed.to_owned(),
        }
        .into()),
    }
}

/// A table's name as the wire has it.
pub(crate) fn wire_form(name: &str) -> String {
    name.trim().to_lowercase()
}

fn wire_name(name: &str) -> Result<String, SetupError> {
    let wire = wire_form(name);
    if is_plain_name(&wire) {
        Ok(wire)
    } else {
        Err(SetupError::TableName {
            table: name.to_owned(),
            why: "use only letters a-z, digits and _".to_owned(),
        })
    }
}

/// One of the names of the row number that is not a column's.
pub(crate) fn rowid_name(
    conn: &Connection,
    table: &str,
    columns: &[Declared],
) -> Result<Option<&'static str>, Error> {
    let sql = "SELECT wr FROM pragma_table_list
               WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
    if conn.query_row(sql, [table], |row| row.get(0))? {
        return Ok(None);
    }
    let hidden = |name: &str| columns.iter().any(|c| c.name.eq_ignore_ascii_case(name));
    Ok(["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|name| !hidden(name)))
}

/// A column as it was declared.
pub(crate) struct Declared {
    pub(crate) name: String,
    declared: String,
    not_null: bool,
    default: Option<String>,
    /// Its place in the primary key, from 1; 0 elsewhere.
    pub(crate) key_position: i64,
    generated: bool,
}

impl Declared {
    fn is_blob(&self) -> bool {
        self.declared.to_uppercase().contains("BLOB")
    }
}

pub(crate) fn read_columns(conn: &Connection, table: &str) -> Result<Vec<Declared>, Error> {
    let mut statement = conn.prepare(
        "SELECT name, type, pk, hidden, \"notnull\", dflt_value FROM pragma_table_xinfo(?1)
         WHERE hidden <> 1 ORDER BY cid",
    )?;
    let rows = statement.query_map([table], |row| {
        Ok(Declared {
            name: row.get(0)?,
            declared: row.get(1)?,
            key_position: row.get(2)?,
            generated: row.get::<_, i64>(3)? >= 2,
            not_null: row.get(4)?,
            default: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The unique indexes; `None` for one over expressions or a part of the rows.
fn read_unique(conn: &Connection, table: &str) -> Result<Vec<Option<UniqueIndex>>, Error> {
    let mut list = conn.prepare(
        "SELECT name, partial FROM pragma_index_list(?1) WHERE \"unique\" = 1 ORDER BY seq",
    )?;
    let mut columns = conn.prepare(
        "SELECT name, coll FROM pragma_index_xinfo(?1) WHERE \"key\" = 1 ORDER BY seqno",
    )?;
    let mut found = Vec::new();
    let mut rows = list.query([table])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let partial: bool = row.get(1)?;
        let columns: Vec<(Option<String>, String)> = columns
            .query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let plain: Option<Vec<(String, String)>> = columns
            .into_iter()
            .map(|(name, collation)| name.map(|name| (name, collation)))
            .collect();
        found.push(match plain {
            Some(columns) if !partial => Some(UniqueIndex { columns }),
            _ => None,
        });
    }
    Ok(found)
}

fn choose_key(
    table: &str,
    spec: &TableSpec,
    columns: &[Declared],
    unique: &[Option<UniqueIndex>],
) -> Result<String, SetupError> {
    let mut primary: Vec<&Declared> = columns.iter().filter(|c| c.key_position > 0).collect();
    primary.sort_by_key(|column| column.key_position);
    let integer = |column: &&Declared| column.declared.to_uppercase().contains("INT");
    if let [only] = primary[..]
        && integer(&only)
    {
        return Err(SetupError::IntegerKey {
            table: table.to_owned(),
            column: only.name.clone(),
        });
    }
    let Some(wanted) = &spec.key_column else {
        return match primary[..] {
            [] => Err(SetupError::NoKey {
                table: table.to_owned(),
            }),
            [only] => Ok(only.name.clone()),
            _ => Err(SetupError::CompositeKey {
                table: table.to_owned(),
                columns: primary
                    .iter()
                    .map(|column| column.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        };
    };
    let alone = |index: &UniqueIndex| matches!(&index.columns[..], [(name, _)] if name.eq_ignore_ascii_case(wanted));
    columns
        .iter()
        .find(|column| column.name.eq_ignore_ascii_case(wanted))
        .filter(|_| unique.iter().flatten().any(alone))
        .map(|column| column.name.clone())
        .ok_or_else(|| SetupError::KeyColumn {
            table: table.to_owned(),
            column: wanted.clone(),
        })
}

fn key_kind(table: &str, column: &Declared) -> Result<KeyKind, SetupError> {
    let declared = column.declared.to_uppercase();
    if declared.contains("INT") {
        return Err(SetupError::IntegerKey {
            table: table.to_owned(),
            column: column.name.clone(),
        });
    }
    // SQLite's own rule for TEXT affinity.
    if ["CHAR", "CLOB", "TEXT"]
        .iter()
        .any(|word| declared.contains(word))
    {
        return Ok(KeyKind::Text);
    }
    if column.is_blob() {
        return Ok(KeyKind::Blob);
    }
    Err(SetupError::KeyType {
        table: table.to_owned(),
        column: column.name.clone(),
        declared: column.declared.clone(),
    })
}
