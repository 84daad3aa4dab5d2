//! The capture triggers: their text, and keeping it in step with the schema.
//!
//! The text is a function of the table (`migrations/device/triggers.sql`). When
//! what stands in the file is not that text, because the application altered or
//! rebuilt the table, base table and triggers are made anew.

use crate::error::Error;
use crate::learned;
use crate::schema::{Table, quote};
use crate::sweep;
use rusqlite::Connection;
use std::collections::BTreeSet;

const TRIGGERS: &str = include_str!("../../migrations/device/triggers.sql");
const BASE_TABLE: &str = include_str!("../../migrations/device/table.sql");

/// Brings one table's triggers up to date; inside the caller's transaction.
/// `fresh` tells that the table has just got its number.
///
/// Rows that the triggers cannot have seen (all of a fresh table, all of a
/// table that was rebuilt without triggers) are noted as touched. A file of an
/// older version that lacks a `before_` trigger has seen every row that is there:
/// only a delete can have escaped it.
pub(crate) fn install(conn: &Connection, table: &Table, fresh: bool) -> Result<(), Error> {
    let found = installed(conn, table)?;
    let (triggers, base): (Vec<Object>, Vec<Object>) = found
        .into_iter()
        .partition(|object| object.kind == "trigger");
    // Where the columns have changed, edits that are in the log lose their base
    // image here and nothing else.
    let has_other_columns = replace(conn, &base, &statements(BASE_TABLE, table))?;
    let wanted = statements(TRIGGERS, table);
    let is_new = replace(conn, &triggers, &wanted)?;
    if has_other_columns {
        learned::fill(conn, table)?;
    }
    if !is_new && !fresh {
        return Ok(());
    }
    if fresh || was_blind(&triggers) {
        conn.execute(
            &format!(
                "INSERT INTO _sync_log (tbl, op, key) SELECT ?1, 1, {} FROM {}",
                table.quoted_key(),
                table.quoted()
            ),
            [table.n],
        )?;
    }
    if fresh || triggers.len() < wanted.len() {
        sweep::note_missing(conn, table)?;
    }
    Ok(())
}

/// The triggers that see what becomes of a row that stays; the others only look at
/// what a REPLACE takes away.
const SEES: [&str; 3] = ["_after_insert", "_after_update", "_after_delete"];

/// Whether an edit of a row that is still there can have been missed.
fn was_blind(triggers: &[Object]) -> bool {
    SEES.iter()
        .any(|end| !triggers.iter().any(|found| found.name.ends_with(end)))
}

/// What stands in the file of a table's triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Installed {
    /// What should.
    Current,
    /// Not all of those that see edits.
    Incomplete,
    /// Those of another shape of the table, or of an older version.
    Outdated,
}

/// Compares without changing anything; `install` mends.
pub(crate) fn look(conn: &Connection, table: &Table) -> Result<Installed, Error> {
    let (wanted, base) = (statements(TRIGGERS, table), statements(BASE_TABLE, table));
    let found = installed(conn, table)?;
    let expected: BTreeSet<&str> = wanted.iter().chain(&base).map(String::as_str).collect();
    let current: BTreeSet<&str> = found.iter().map(|object| object.sql.as_str()).collect();
    let is_current = expected == current;
    Ok(match is_current {
        true => Installed::Current,
        false if was_blind(&found) => Installed::Incomplete,
        false => Installed::Outdated,
    })
}

/// Puts what is wanted in the place of what is there, where it differs. Tells
/// whether it did.
fn replace(conn: &Connection, found: &[Object], wanted: &[String]) -> Result<bool, Error> {
    let expected: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    let current: BTreeSet<&str> = found.iter().map(|object| object.sql.as_str()).collect();
    if expected == current {
        return Ok(false);
    }
    // An index goes with its table.
    for object in found.iter().filter(|object| object.kind != "index") {
        conn.execute_batch(&format!("DROP {} {}", object.kind, quote(&object.name)))?;
    }
    for statement in wanted {
        conn.execute_batch(statement)?;
    }
    Ok(true)
}

/// Removes the triggers of a table that is no longer listed.
pub(crate) fn remove(conn: &Connection, n: i64) -> Result<(), Error> {
    for name in NAMES {
        conn.execute_batch(&format!("DROP TRIGGER IF EXISTS _sync_{n}_{name}"))?;
    }
    Ok(())
}

/// The trigger that only tables with row numbers have.
const BEFORE_ROWID: &str = "before_rowid";

const NAMES: [&str; 6] = [
    "before_insert",
    BEFORE_ROWID,
    "after_insert",
    "before_update",
    "after_update",
    "after_delete",
];

/// Whether a trigger of this name is one of the client's own.
pub(crate) fn is_ours(name: &str) -> bool {
    let parts = name
        .strip_prefix("_sync_")
        .and_then(|rest| rest.split_once('_'));
    parts.is_some_and(|(number, kind)| number.parse::<i64>().is_ok() && NAMES.contains(&kind))
}

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

/// Cuts a template into its statements, without comments, as SQLite stores them,
/// and fills them in: names come last, they may look like anything.
fn statements(template: &str, table: &Table) -> Vec<String> {
    let lines: Vec<&str> = template
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
        .filter(|part| table.rowid.is_some() || !part.contains(BEFORE_ROWID))
        .map(|part| fill(&format!("CREATE {part}"), table))
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
            "base_key" => out.push_str(&table.quoted_key()),
            "base_columns" => out.push_str(&each("")),
            "row_columns" => out.push_str(&each("r.")),
            "old_columns" => out.push_str(&each("OLD.")),
            "insert_victims" => out.push_str(&victims(table)),
            "update_victims" => {
                out.push_str(&victims(table));
                if let Some(rowid) = table.rowid {
                    out.push_str(&format!(" OR r.{rowid} = NEW.{rowid}"));
                }
            }
            "rowid" => out.push_str(table.rowid.expect("BUG: a table with row numbers")),
            "update_may_replace" => out.push_str(&may_replace(table)),
            other => unreachable!("BUG: placeholder {other} in a template"),
        }
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    out
}

/// The rows `r` that hold a unique value of NEW.
fn victims(table: &Table) -> String {
    let key = &table.key_column().name;
    let mut terms = vec![format!("r.{} = {}", quote(key), as_replaced(table, key))];
    for index in &table.unique {
        // Under the index's own collation a key may equal more than under the
        // column's.
        let said = |(name, collation): &(String, String)| name == key && collation == "BINARY";
        if matches!(&index.columns[..], [only] if said(only)) {
            continue;
        }
        let columns: Vec<String> = index
            .columns
            .iter()
            .map(|(name, collation)| {
                // On the left: in an OR of one column, SQLite takes a collation on
                // the right for none.
                let new = as_replaced(table, name);
                format!("r.{} COLLATE {} = {new}", quote(name), quote(collation))
            })
            .collect();
        terms.push(format!("({})", columns.join(" AND ")));
    }
    terms.join(" OR ")
}

/// The new value of a column as a REPLACE takes it: where NULL is not allowed, the
/// default stands for it, though the trigger does not see that yet.
fn as_replaced(table: &Table, column: &str) -> String {
    let name = quote(column);
    let default = table.columns.iter().find(|found| found.name == column);
    match default.and_then(|column| column.in_place_of_null()) {
        None => format!("NEW.{name}"),
        Some(default) => {
            format!("CASE WHEN NEW.{name} IS NULL THEN ({default}) ELSE NEW.{name} END")
        }
    }
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
        .chain(
            table
                .rowid
                .map(|rowid| format!("NEW.{rowid} <> OLD.{rowid}")),
        )
        .collect();
    terms.join(" OR ")
}
