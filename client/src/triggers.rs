//! The capture triggers: their text, and keeping it in step with the schema.
//!
//! The text is a function of the table (`migrations/device/triggers.sql`). When
//! what stands in the file is not that text, because the application altered or
//! rebuilt the table, log and triggers are made anew. They run in the SQLite of
//! whoever writes: 3.8.2 and later must understand them (`tests/it/old_sqlite.rs`).

use crate::error::Error;
use crate::learned::{self, LeftOut};
use crate::log;
use crate::schema::{Table, fill_in, quote};
use crate::sweep;
use rusqlite::Connection;
use std::collections::BTreeSet;

const TRIGGERS: &str = include_str!("../../migrations/device/triggers.sql");
const LOG: &str = include_str!("../../migrations/device/table.sql");

/// Brings one table's triggers up to date; inside the caller's transaction.
/// `fresh` tells that the table has just got its number.
///
/// Rows that the triggers cannot have seen (all of a fresh table, all of a
/// table that was rebuilt without triggers) are noted as touched. A file of an
/// older version that lacks a `before_` trigger has seen every row that is there:
/// only a delete can have escaped it.
pub(crate) fn install(
    conn: &Connection,
    table: &Table,
    fresh: bool,
    left_out: &mut LeftOut,
) -> Result<(), Error> {
    let found = installed(conn, table)?;
    let (triggers, tables): (Vec<Object>, Vec<Object>) = found
        .into_iter()
        .partition(|object| object.kind == "trigger");
    let generation = Generation::of(&tables, table.n);
    let wanted = statements(TRIGGERS, table);
    let is_new = differ(&triggers, &wanted);
    if is_new {
        for object in &triggers {
            conn.execute_batch(&format!("DROP TRIGGER {}", quote(&object.name)))?;
        }
    }
    // Where the columns have changed, edits that are in the log lose their base
    // image here and nothing else.
    let has_other_columns = install_log(conn, table, &tables)?;
    log::take_over(conn, table)?;
    if is_new {
        for statement in &wanted {
            conn.execute_batch(statement)?;
        }
    }
    if has_other_columns {
        learned::fill(conn, table, left_out)?;
    }
    if !is_new && !fresh {
        return Ok(());
    }
    if fresh || was_blind(generation, &triggers) {
        conn.execute(
            &format!(
                "INSERT INTO {} (op, key) SELECT 1, {} FROM {}",
                log::name(table.n),
                table.quoted_key(),
                table.quoted()
            ),
            [],
        )?;
    }
    if fresh || !generation.has_all(&triggers, table) {
        sweep::note_missing(conn, table)?;
    }
    Ok(())
}

/// Makes the table's log, or gives it today's shape. Tells whether it did.
fn install_log(conn: &Connection, table: &Table, found: &[Object]) -> Result<bool, Error> {
    let wanted = statements(LOG, table).concat();
    let name = log::name(table.n);
    match found.iter().find(|object| object.name == name) {
        Some(log) if log.sql == wanted => return Ok(false),
        Some(_) => log::reshape(conn, table.n, &wanted)?,
        None => conn.execute_batch(&wanted)?,
    }
    Ok(true)
}

/// Which version of this crate has made the triggers of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Generation {
    /// One with a log for all tables, and base images beside it.
    Images,
    /// This one.
    Logs,
}

impl Generation {
    fn of(tables: &[Object], n: i64) -> Self {
        let images = format!("_sync_base_{n}");
        match tables.iter().any(|object| object.name == images) {
            true => Self::Images,
            false => Self::Logs,
        }
    }

    /// The triggers that see what becomes of a row that stays; the others only look
    /// at what a REPLACE takes away.
    fn sees(self) -> &'static [&'static str] {
        match self {
            Self::Images => &["_after_insert", "_after_update", "_after_delete"],
            Self::Logs => &[
                "_after_insert",
                "_after_update",
                "_after_key",
                "_after_delete",
            ],
        }
    }

    /// Whether no delete can have escaped the triggers that are there.
    fn has_all(self, found: &[Object], table: &Table) -> bool {
        let victims = ["_before_insert", "_before_update"];
        let by_number = (self == Self::Images && table.rowid.is_some()).then_some("_before_rowid");
        let mut needed = victims.iter().chain(self.sees()).copied().chain(by_number);
        needed.all(|end| found.iter().any(|object| object.name.ends_with(end)))
    }
}

/// Whether an edit of a row that is still there can have been missed.
fn was_blind(generation: Generation, triggers: &[Object]) -> bool {
    let sees = generation.sees();
    sees.iter()
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
    let mut wanted = statements(TRIGGERS, table);
    wanted.extend(statements(LOG, table));
    let found = installed(conn, table)?;
    let generation = Generation::of(&found, table.n);
    Ok(match differ(&found, &wanted) {
        false => Installed::Current,
        true if was_blind(generation, &found) => Installed::Incomplete,
        true => Installed::Outdated,
    })
}

fn differ(found: &[Object], wanted: &[String]) -> bool {
    let expected: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    let current: BTreeSet<&str> = found.iter().map(|object| object.sql.as_str()).collect();
    expected != current
}

/// Removes the triggers of a table that is no longer listed.
pub(crate) fn remove(conn: &Connection, n: i64) -> Result<(), Error> {
    for name in NAMES {
        conn.execute_batch(&format!("DROP TRIGGER IF EXISTS _sync_{n}_{name}"))?;
    }
    Ok(())
}

/// With those of earlier versions.
const NAMES: [&str; 7] = [
    "before_insert",
    "before_rowid",
    "after_insert",
    "before_update",
    "after_update",
    "after_key",
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
        .chain([log::name(table.n), format!("_sync_base_{}", table.n)])
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
        .map(|part| fill(&format!("CREATE {part}"), table))
        .collect()
}

fn fill(template: &str, table: &Table) -> String {
    // The key first, as in the log.
    let key = std::iter::once(table.key);
    let others = (0..table.columns.len()).filter(|i| *i != table.key && table.has_images());
    let logged: Vec<usize> = key.chain(others).collect();
    let each = |name: &dyn Fn(usize) -> String| {
        let names: Vec<String> = logged.iter().map(|i| name(*i)).collect();
        names.join(", ")
    };
    let named = |prefix: &str| each(&|i| format!("{prefix}{}", quote(&table.columns[i].name)));
    fill_in(template, |name| match name {
        "n" => table.n.to_string(),
        "table" => table.quoted(),
        "key" => table.quoted_key(),
        "log_columns" => each(&|i| log::column(table, i)),
        "row_columns" => named("r."),
        "old_columns" => named("OLD."),
        "any_victim" => any_victim(table),
        "insert_victims" => {
            let mut terms = victims(table);
            terms.extend(table.rowid.map(by_number));
            terms.join(" OR ")
        }
        "update_victims" => {
            let mut terms = victims(table);
            terms.extend(table.rowid.map(|rowid| format!("r.{rowid} = NEW.{rowid}")));
            terms.join(" OR ")
        }
        "of_unique" => of_unique(table),
        "update_may_replace" => may_replace(table),
        other => unreachable!("BUG: placeholder {other} in a template"),
    })
}

/// The row that a REPLACE removes by its number, where the statement gives one: SQLite
/// shows -1 before it has chosen one itself.
fn by_number(rowid: &str) -> String {
    format!("NEW.{rowid} <> -1 AND r.{rowid} = NEW.{rowid}")
}

/// Whether there are rows that an insert may replace; each index is asked by itself.
fn any_victim(table: &Table) -> String {
    let mut terms = victims(table);
    terms.extend(table.rowid.map(by_number));
    let ask = |term: &String| {
        let table = table.quoted();
        format!("EXISTS (SELECT 1 FROM {table} AS r WHERE {term})")
    };
    terms.iter().map(ask).collect::<Vec<_>>().join(" OR ")
}

/// The columns whose update may replace rows, so that the trigger is not even asked
/// about others; nothing where one of them follows from others. SQLite compares names
/// only: those of the row number may stand there, too.
fn of_unique(table: &Table) -> String {
    let names = unique_names(table);
    let is_plain = |name: &&str| table.columns.iter().any(|column| column.name == **name);
    if !names.iter().all(is_plain) {
        return String::new();
    }
    let names = names.into_iter().map(quote);
    let numbers = ["rowid", "_rowid_", "oid"].map(str::to_owned);
    let numbers = numbers.into_iter().filter(|_| table.rowid.is_some());
    let all: Vec<String> = names.chain(numbers).collect();
    format!(" OF {}", all.join(", "))
}

/// The rows `r` that hold a unique value of NEW.
fn victims(table: &Table) -> Vec<String> {
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
    terms
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

/// The columns of all unique indexes, and the key.
fn unique_names(table: &Table) -> BTreeSet<&str> {
    let mut names: BTreeSet<&str> = BTreeSet::from([table.key_column().name.as_str()]);
    for index in &table.unique {
        names.extend(index.columns.iter().map(|(name, _)| name.as_str()));
    }
    names
}

/// Whether an update moves a row onto other unique values.
fn may_replace(table: &Table) -> String {
    let terms: Vec<String> = unique_names(table)
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
