//! The capture triggers: their text, and keeping it in step with the schema.
//!
//! The text is a function of the table (`migrations/device/triggers.sql`). When
//! what stands in the file is not that text, because the application altered or
//! rebuilt the table, base table and triggers are made anew.

use crate::error::Error;
use crate::schema::{Table, quote};
use rusqlite::Connection;
use std::collections::BTreeSet;

const TRIGGERS: &str = include_str!("../../migrations/device/triggers.sql");
const BASE_TABLE: &str = include_str!("../../migrations/device/table.sql");

/// Brings one table's triggers up to date; inside the caller's transaction.
/// `fresh` tells that the table has just got its number.
///
/// Rows that the triggers cannot have seen (all of a fresh table, all of a
/// table that was rebuilt without triggers) are noted as touched.
pub(crate) fn install(conn: &Connection, table: &Table, fresh: bool) -> Result<(), Error> {
    let wanted = statements(&fill(TRIGGERS, table));
    let base = statements(&fill(BASE_TABLE, table));
    let found = installed(conn, table)?;
    let expected: BTreeSet<&str> = wanted.iter().chain(&base).map(String::as_str).collect();
    let current: BTreeSet<&str> = found.iter().map(|object| object.sql.as_str()).collect();
    if expected == current {
        return Ok(());
    }
    let had_triggers = found
        .iter()
        .filter(|object| object.kind == "trigger")
        .count();
    // Edits that are in the log lose their base image here and nothing else.
    for object in found.iter().filter(|object| object.kind != "index") {
        conn.execute_batch(&format!("DROP {} {}", object.kind, quote(&object.name)))?;
    }
    for statement in base.iter().chain(&wanted) {
        conn.execute_batch(statement)?;
    }
    if fresh || had_triggers < wanted.len() {
        conn.execute(
            &format!(
                "INSERT INTO _sync_log (tbl, op, key) SELECT ?1, 1, {} FROM {}",
                table.quoted_key(),
                table.quoted()
            ),
            [table.n],
        )?;
        conn.execute(
            "INSERT INTO _sync_log (tbl, op, key) SELECT ?1, 3, local_key FROM _sync_row
             WHERE tbl = ?1 AND deleted = 0 AND local_key IS NOT NULL",
            [table.n],
        )?;
    }
    Ok(())
}

/// What stands in the file of a table's triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Installed {
    /// What should.
    Current,
    /// Not all of them.
    Incomplete,
    /// Those of another shape of the table.
    Outdated,
}

/// Compares without changing anything; `install` mends.
pub(crate) fn look(conn: &Connection, table: &Table) -> Result<Installed, Error> {
    let (wanted, base) = (
        statements(&fill(TRIGGERS, table)),
        statements(&fill(BASE_TABLE, table)),
    );
    let found = installed(conn, table)?;
    let expected: BTreeSet<&str> = wanted.iter().chain(&base).map(String::as_str).collect();
    let current: BTreeSet<&str> = found.iter().map(|object| object.sql.as_str()).collect();
    let triggers = found.iter().filter(|object| object.kind == "trigger");
    Ok(match expected == current {
        true => Installed::Current,
        false if triggers.count() < wanted.len() => Installed::Incomplete,
        false => Installed::Outdated,
    })
}

/// Removes the triggers of a table that is no longer listed.
pub(crate) fn remove(conn: &Connection, n: i64) -> Result<(), Error> {
    for name in NAMES {
        conn.execute_batch(&format!("DROP TRIGGER IF EXISTS _sync_{n}_{name}"))?;
    }
    Ok(())
}

const NAMES: [&str; 5] = [
    "before_insert",
    "after_insert",
    "before_update",
    "after_update",
    "after_delete",
];

struct Object {
    kind: String,
    name: String,
    sql: String,
}

fn installed(conn: &Connection, table: &Table) -> Result<Vec<Object>, Error> {
    let names: Vec<String> = NAMES
        .iter()
        .map(|name| format!("_sync_{}_{name}", table.n))
        .chain([
            format!("_sync_base_{}", table.n),
            format!("_sync_base_{}_key", table.n),
        ])
        .collect();
    let mut statement =
        conn.prepare("SELECT type, name, sql FROM sqlite_schema WHERE name = ?1")?;
    let mut found = Vec::new();
    for name in names {
        let rows = statement.query_map([name], |row| {
            Ok(Object {
                kind: row.get(0)?,
                name: row.get(1)?,
                sql: row.get(2)?,
            })
        })?;
        found.extend(rows.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(found)
}

/// Cuts a file into its statements, without comments, as SQLite stores them.
fn statements(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("--"))
        .collect();
    let text = lines.join("\n");
    text.split("\nCREATE ")
        .map(|part| {
            part.trim()
                .trim_start_matches("CREATE ")
                .trim_end_matches(';')
        })
        .filter(|part| !part.is_empty())
        .map(|part| format!("CREATE {part}"))
        .collect()
}

fn fill(template: &str, table: &Table) -> String {
    let each = |prefix: &str| {
        table
            .columns
            .iter()
            .map(|column| format!("{prefix}{}", quote(&column.name)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    // One pass over the template: a column may be called "{n}".
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        let Some(length) = rest[start..].find('}') else {
            break;
        };
        out.push_str(&rest[..start]);
        match &rest[start + 1..start + length] {
            "n" => out.push_str(&table.n.to_string()),
            "table" => out.push_str(&table.quoted()),
            "key" => out.push_str(&table.quoted_key()),
            "base_key" => out.push_str(&base_column(table.key)),
            "base_columns" => {
                let names: Vec<String> = (0..table.columns.len()).map(base_column).collect();
                out.push_str(&names.join(", "));
            }
            "row_columns" => out.push_str(&each("r.")),
            "old_columns" => out.push_str(&each("OLD.")),
            "insert_victims" => out.push_str(&victims(table)),
            "update_victims" => out.push_str(&victims(table)),
            "update_may_replace" => out.push_str(&may_replace(table)),
            other => unreachable!("BUG: placeholder {other} in a template"),
        }
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    out
}

/// The name of a column in the table of base images.
pub(crate) fn base_column(index: usize) -> String {
    format!("c{index}")
}

/// The rows `r` that hold a unique value of NEW.
fn victims(table: &Table) -> String {
    let key = table.quoted_key();
    let mut terms = vec![format!("r.{key} = NEW.{key}")];
    for index in &table.unique {
        let is_key = matches!(&index.columns[..], [(name, _)] if *name == table.key_column().name);
        if is_key {
            continue;
        }
        let columns: Vec<String> = index
            .columns
            .iter()
            .map(|(name, collation)| {
                let name = quote(name);
                format!("r.{name} = NEW.{name} COLLATE {}", quote(collation))
            })
            .collect();
        terms.push(format!("({})", columns.join(" AND ")));
    }
    terms.join(" OR ")
}

/// Whether an update moves a row onto other unique values.
fn may_replace(table: &Table) -> String {
    let mut names: BTreeSet<&str> = BTreeSet::from([table.key_column().name.as_str()]);
    for index in &table.unique {
        names.extend(index.columns.iter().map(|(name, _)| name.as_str()));
    }
    let terms: Vec<String> = names
        .into_iter()
        .map(|name| {
            let name = quote(name);
            format!("NEW.{name} IS NOT OLD.{name} COLLATE BINARY")
        })
        .collect();
    terms.join(" OR ")
}
