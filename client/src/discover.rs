//! The application's tables together: who refers to whom, and what follows of it.
//!
//! Discovery reads the listed tables (`declared.rs`) and all foreign keys of the file:
//! which tables stand at their ends, in which order rows must come, and whose triggers
//! may fire. Called when a file is opened, and whenever its schema has changed.

use crate::config::TableSpec;
use crate::declared::{read_columns, read_table, rowid_name};
use crate::error::{Error, SetupError};
use crate::schema::{Action, ForeignKey, KeyKind, Table, Tables, Unlisted};
use crate::triggers;
use rusqlite::Connection;
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

fn action(said: &str) -> Action {
    match said {
        "CASCADE" => Action::Cascade,
        "SET NULL" | "SET DEFAULT" => Action::Set,
        _ => Action::Refuse,
    }
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
                child,
                columns: Vec::new(),
                parent: row.get(2)?,
                parent_columns: Vec::new(),
                on_delete: action(&on_delete),
                on_update: action(&on_update),
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
                .any(|key| is_it(&key.child) && key.on_delete == Action::Refuse),
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
