//! Reading the application's schema, and judging it.
//!
//! Discovery reads the declared columns, keys, unique indexes and foreign keys
//! of the listed tables and refuses, by name, what cannot be synchronised.
//! Called when a file is opened, and whenever its schema has changed.

use crate::config::TableSpec;
use crate::error::{Error, SetupError};
use crate::schema::{
    Affinity, Column, ForeignKey, KeyKind, OWN_PREFIX, OnDelete, Table, Tables, UniqueIndex,
    Unlisted, fold,
};
use crate::triggers;
use oversync_shared::names::is_plain_name;
use rusqlite::{Connection, OptionalExtension as _};
use std::collections::BTreeSet;

/// Reads and judges the listed tables; `number` hands out each one's number.
pub(crate) fn discover(
    conn: &Connection,
    specs: &[TableSpec],
    mut number: impl FnMut(&str) -> Result<i64, Error>,
) -> Result<Tables, Error> {
    if specs.is_empty() {
        return Err(SetupError::NoTables.into());
    }
    let mut tables: Vec<Table> = Vec::new();
    for spec in specs {
        let table = read_table(conn, spec)?;
        if let Some(other) = tables.iter().find(|other| other.wire == table.wire) {
            return Err(SetupError::TableClash {
                first: other.name.clone(),
                second: table.name,
            }
            .into());
        }
        tables.push(table);
    }
    let foreign_keys = all_foreign_keys(conn)?;
    let firing = firing(conn, &foreign_keys)?;
    for table in &mut tables {
        table.fires = firing.contains(&table.name.to_lowercase());
    }
    let others = unlisted(conn, &tables, &foreign_keys)?;
    for foreign_key in foreign_keys {
        for table in &mut tables {
            if table.name.eq_ignore_ascii_case(&foreign_key.child) {
                table.parents.push(foreign_key.clone());
            }
            if table.name.eq_ignore_ascii_case(&foreign_key.parent) {
                table.children.push(foreign_key.clone());
            }
        }
    }
    mark_references(&mut tables);
    rank(&mut tables);
    for table in &mut tables {
        table.n = number(&table.name)?;
    }
    Ok(Tables::new(tables, others))
}

fn read_table(conn: &Connection, spec: &TableSpec) -> Result<Table, Error> {
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
fn rowid_name(
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

struct Declared {
    name: String,
    declared: String,
    not_null: bool,
    default: Option<String>,
    key_position: i64,
    generated: bool,
}

impl Declared {
    fn is_blob(&self) -> bool {
        self.declared.to_uppercase().contains("BLOB")
    }
}

fn read_columns(conn: &Connection, table: &str) -> Result<Vec<Declared>, Error> {
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

fn all_foreign_keys(conn: &Connection) -> Result<Vec<ForeignKey>, Error> {
    let mut statement = conn.prepare(
        "SELECT t.name, f.id, f.\"table\", f.\"from\", f.\"to\", f.on_delete,
                f.on_update
         FROM pragma_table_list AS t, pragma_foreign_key_list(t.name) AS f
         WHERE t.schema = 'main' AND t.type = 'table'
         ORDER BY t.name, f.id, f.seq",
    )?;
    let mut found: Vec<(i64, ForeignKey)> = Vec::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (child, id): (String, i64) = (row.get(0)?, row.get(1)?);
        let to: Option<String> = row.get(4)?;
        let on_delete: String = row.get(5)?;
        if found
            .last()
            .is_none_or(|(last, fk)| *last != id || fk.child != child)
        {
            let on_update: String = row.get(6)?;
            let foreign_key = ForeignKey {
                follows: matches!(&*on_update, "CASCADE" | "SET NULL" | "SET DEFAULT"),
                child,
                columns: Vec::new(),
                parent: row.get(2)?,
                parent_columns: Vec::new(),
                on_delete: match on_delete.as_str() {
                    "CASCADE" => OnDelete::Cascade,
                    "SET NULL" | "SET DEFAULT" => OnDelete::Set,
                    _ => OnDelete::Refuse,
                },
            };
            found.push((id, foreign_key));
        }
        let (_, foreign_key) = found.last_mut().expect("BUG: one was just pushed");
        foreign_key.columns.push(row.get(3)?);
        foreign_key.parent_columns.extend(to);
    }
    let mut keys: Vec<ForeignKey> = found.into_iter().map(|(_, key)| key).collect();
    for key in &mut keys {
        let mut columns = read_columns(conn, &key.parent)?;
        let is_there = |name: &String| columns.iter().any(|c| c.name.eq_ignore_ascii_case(name));
        if !key.parent_columns.iter().all(is_there) {
            key.parent_columns.clear();
        } else if key.parent_columns.is_empty() {
            // `REFERENCES parent` without columns means its primary key.
            columns.retain(|column| column.key_position > 0);
            columns.sort_by_key(|column| column.key_position);
            key.parent_columns = columns.into_iter().map(|column| column.name).collect();
        }
    }
    // A key whose parent does not exist, or does not fit, cannot be followed.
    keys.retain(|key| !key.columns.is_empty() && key.columns.len() == key.parent_columns.len());
    Ok(keys)
}

/// The tables at the ends of foreign keys that are not synchronised.
fn unlisted(
    conn: &Connection,
    tables: &[Table],
    foreign_keys: &[ForeignKey],
) -> Result<Vec<Unlisted>, Error> {
    let mut found: Vec<Unlisted> = Vec::new();
    let ends = foreign_keys
        .iter()
        .flat_map(|key| [&key.parent, &key.child]);
    for name in ends {
        let is_it = |other: &str| other.eq_ignore_ascii_case(name);
        if tables.iter().any(|table| is_it(&table.name))
            || found.iter().any(|table| is_it(&table.name))
        {
            continue;
        }
        let mut columns = read_columns(conn, name)?;
        let identity = match rowid_name(conn, name, &columns)? {
            Some(rowid) => vec![rowid.to_owned()],
            None => {
                columns.retain(|column| column.key_position > 0);
                columns.into_iter().map(|column| column.name).collect()
            }
        };
        if identity.is_empty() {
            continue;
        }
        let children = foreign_keys.iter().filter(|key| is_it(&key.parent));
        found.push(Unlisted {
            name: name.clone(),
            identity,
            refuses: foreign_keys
                .iter()
                .any(|key| is_it(&key.child) && key.on_delete == OnDelete::Refuse),
            children: children.cloned().collect(),
        });
    }
    Ok(found)
}

/// The tables, in lower case, whose writing may fire a trigger of the application:
/// theirs, or one of a table that foreign-key actions reach from them.
fn firing(conn: &Connection, foreign_keys: &[ForeignKey]) -> Result<BTreeSet<String>, Error> {
    let mut statement =
        conn.prepare("SELECT lower(tbl_name), name FROM sqlite_schema WHERE type = 'trigger'")?;
    let mut found = BTreeSet::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(1)?;
        if !triggers::is_ours(&name) {
            found.insert(row.get::<_, String>(0)?.to_lowercase());
        }
    }
    loop {
        let before = found.len();
        for key in foreign_keys {
            if found.contains(&key.child.to_lowercase()) {
                found.insert(key.parent.to_lowercase());
            }
        }
        if found.len() == before {
            return Ok(found);
        }
    }
}

fn mark_references(tables: &mut [Table]) {
    let blob_keys: Vec<(String, String)> = tables
        .iter()
        .filter(|table| table.key_kind == KeyKind::Blob)
        .map(|table| (table.name.clone(), table.key_column().name.clone()))
        .collect();
    for table in tables {
        for foreign_key in &table.parents {
            let ([column], [parent_column]) =
                (&foreign_key.columns[..], &foreign_key.parent_columns[..])
            else {
                continue;
            };
            let refers = blob_keys.iter().any(|(name, key)| {
                name.eq_ignore_ascii_case(&foreign_key.parent)
                    && key.eq_ignore_ascii_case(parent_column)
            });
            let column = table
                .columns
                .iter_mut()
                .find(|found| found.name.eq_ignore_ascii_case(column));
            if let (true, Some(column)) = (refers, column) {
                column.reference = true;
            }
        }
    }
}

/// Orders tables by a depth-first walk along their parents; a ring is cut where
/// the walk closes it.
fn rank(tables: &mut [Table]) {
    fn visit(at: usize, tables: &[Table], seen: &mut [bool], order: &mut Vec<usize>) {
        if std::mem::replace(&mut seen[at], true) {
            return;
        }
        for key in &tables[at].parents {
            let parent = tables
                .iter()
                .position(|table| table.name.eq_ignore_ascii_case(&key.parent));
            if let Some(parent) = parent {
                visit(parent, tables, seen, order);
            }
        }
        order.push(at);
    }
    let mut seen = vec![false; tables.len()];
    let mut order = Vec::with_capacity(tables.len());
    for at in 0..tables.len() {
        visit(at, tables, &mut seen, &mut order);
    }
    for (rank, at) in order.into_iter().enumerate() {
        tables[at].rank = rank;
    }
}
