//! Columns that the application has just learned.
//!
//! An older version of it kept what others wrote into them beside the row, and sent
//! it back with every upload. A new version has the column, with its default in every
//! row: what was kept is written there, before anything is sent; else the default
//! would go out in its place. Called when the triggers are made anew.

use crate::conflicts;
use crate::error::{Error, StorageError};
use crate::key::RowRef;
use crate::payload;
use crate::place;
use crate::row;
use crate::schema::{Column, ForeignKey, Table, Tables, quote};
use oversync_shared::RowKey;
use rusqlite::types::Value;
use rusqlite::{Connection, params};
use std::collections::{HashMap, HashSet};

/// Rows of one table that may be found one by one, each by a transaction that is
/// rolled back; beyond, nothing is filled into any other row of it.
const MOST_LEFT_OUT: usize = 100;

/// Rows that nothing is written into, because a trigger of the application ends the
/// transaction that tries to.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    rows: HashSet<RowRef>,
    of_table: HashMap<i64, usize>,
    /// Tables that were filled in this transaction.
    filled: HashSet<i64>,
}

impl LeftOut {
    /// A new transaction, in which the same rows are left out.
    pub(crate) fn begin(&mut self) {
        self.filled.clear();
    }

    fn add(&mut self, row: RowRef) {
        if self.rows.insert(row) {
            *self.of_table.entry(row.tbl).or_default() += 1;
        }
    }

    fn has(&self, row: RowRef) -> bool {
        let of_table = self.of_table.get(&row.tbl).copied().unwrap_or(0);
        of_table >= MOST_LEFT_OUT || self.rows.contains(&row)
    }
}

/// Moves what was kept beside the rows of a table into columns it has by now. A
/// value that the application itself has written there already stays: it is a newer
/// edit. One that refers to a row which is not here stays kept, is sent with the row as
/// before, and is tried again ([`fill_rest`]). One that another constraint
/// refuses, or a trigger leaves out, goes to the conflict list.
///
/// A trigger that rolls back ends the caller's transaction: the row is added to
/// `left_out`, the error says so, and the caller begins again. What was kept beside
/// such a row goes to the conflict list, too.
///
/// Nothing of this is captured: the server has it.
pub(crate) fn fill(conn: &Connection, table: &Table, left_out: &mut LeftOut) -> Result<(), Error> {
    left_out.filled.insert(table.n);
    let waits = fill_rows(conn, table, left_out)?;
    conn.prepare_cached("UPDATE _sync_table SET learns = ?2 WHERE n = ?1 AND learns <> ?2")?
        .execute(params![table.n, waits])?;
    Ok(())
}

/// The same for the tables where something waits, as far as it was not tried already in
/// this transaction. Reads nothing of the others.
pub(crate) fn fill_rest(
    conn: &Connection,
    tables: &Tables,
    left_out: &mut LeftOut,
) -> Result<(), Error> {
    let mut statement = conn.prepare_cached("SELECT n FROM _sync_table WHERE learns ORDER BY n")?;
    let numbers = statement.query_map([], |row| row.get(0))?;
    for n in numbers.collect::<Result<Vec<i64>, _>>()? {
        if let Some(table) = tables.by_number(n)
            && !left_out.filled.contains(&n)
        {
            fill(conn, table, left_out)?;
        }
    }
    Ok(())
}

/// Whether any value waits for the row that it refers to.
pub(crate) fn is_any_waiting(conn: &Connection) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _sync_table WHERE learns)";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// Tells whether any value waits.
fn fill_rows(conn: &Connection, table: &Table, left_out: &mut LeftOut) -> Result<bool, Error> {
    let kept = kept(conn, table)?;
    if kept.is_empty() {
        return Ok(false);
    }
    let mut waits = false;
    conn.execute("UPDATE _sync_guard SET applying = 1", [])?;
    for (row, text) in &kept {
        let Ok(found) = payload::read_row(table, row.key, text) else {
            // No value of such a column.
            conflicts::keep_theirs(conn, *row, text)?;
            row::set_extra(conn, *row, None)?;
            continue;
        };
        let learned = found.known.iter().filter(|(index, _)| *index != table.key);
        let learned: Vec<&(usize, Value)> = learned.collect();
        if learned.is_empty() {
            continue;
        }
        let mut waiting = Vec::new();
        for (index, value) in learned {
            if left_out.has(*row) {
                keep(conn, &table.columns[*index], *row, value)?;
                continue;
            }
            let written = unless_it_waits(conn, table, (*row, *index), || {
                write(conn, table, *row, *index, value)
            });
            if conn.is_autocommit() {
                left_out.add(*row);
            }
            if written? == Written::WaitsForParent {
                waiting.push((&table.columns[*index], value));
            }
        }
        waits |= !waiting.is_empty();
        let rest = payload::with_members(found.extra, waiting);
        row::set_extra(conn, *row, rest.as_deref())?;
    }
    conn.execute("UPDATE _sync_guard SET applying = 0", [])?;
    Ok(waits)
}

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// It is in its column, in the conflict list, or not needed any more.
    Done,
    /// It refers to a row that is not here.
    WaitsForParent,
}

fn kept(conn: &Connection, table: &Table) -> Result<Vec<(RowRef, String)>, Error> {
    let mut statement = conn.prepare("SELECT pk, payload FROM _sync_extra WHERE tbl = ?1")?;
    let rows = statement.query_map([table.n], |row| {
        Ok((RowRef::new(table, RowKey::new(row.get(0)?)), row.get(1)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Writes a value, and takes it back where it refers to a row that is not here: a
/// foreign key that is judged at the commit would fail it there, each time anew.
fn unless_it_waits(
    conn: &Connection,
    table: &Table,
    (row, index): (RowRef, usize),
    write: impl FnOnce() -> Result<Written, Error>,
) -> Result<Written, Error> {
    let name = &table.columns[index].name;
    let is_of_it = |key: &&ForeignKey| key.columns.iter().any(|c| c.eq_ignore_ascii_case(name));
    let keys: Vec<&ForeignKey> = table.parents.iter().filter(is_of_it).collect();
    if keys.is_empty() {
        return write();
    }
    conn.execute_batch("SAVEPOINT learned")?;
    let mut written = write()?;
    for key in keys {
        if written == Written::Done && is_orphan(conn, table, row, key)? {
            written = Written::WaitsForParent;
        }
    }
    conn.execute_batch(match written {
        Written::Done => "RELEASE learned",
        Written::WaitsForParent => "ROLLBACK TO learned; RELEASE learned",
    })?;
    Ok(written)
}

/// Whether a row refers, by this foreign key, to a row that is not here.
fn is_orphan(
    conn: &Connection,
    table: &Table,
    row: RowRef,
    foreign_key: &ForeignKey,
) -> Result<bool, Error> {
    let columns = foreign_key.columns.iter().zip(&foreign_key.parent_columns);
    let (mut refers, mut meets) = (String::new(), Vec::new());
    for (child, parent) in columns {
        let child = quote(child);
        refers += &format!(" AND c.{child} IS NOT NULL");
        meets.push(format!("p.{} = c.{child}", quote(parent)));
    }
    let sql = format!(
        "SELECT 1 FROM {} AS c WHERE c.{} = ?1{refers}
         AND NOT EXISTS (SELECT 1 FROM {} AS p WHERE {})",
        table.quoted(),
        table.quoted_key(),
        quote(&foreign_key.parent),
        meets.join(" AND "),
    );
    let key = row::known(conn, table, row)?.key;
    Ok(conn.prepare_cached(&sql)?.exists([&key])?)
}

fn write(
    conn: &Connection,
    table: &Table,
    row: RowRef,
    index: usize,
    value: &Value,
) -> Result<Written, Error> {
    let key = row::known(conn, table, row)?.key;
    let column = &table.columns[index];
    let name = quote(&column.name);
    let default = column.default.as_deref().unwrap_or("NULL");
    let (table_name, key_name) = (table.quoted(), table.quoted_key());
    let is_free = format!("{key_name} = ?1 AND ({name} IS NULL OR {name} IS ({default}))");
    let sql = format!("UPDATE OR ABORT {table_name} SET {name} = ?2 WHERE {is_free}");
    let mut statement = conn.prepare_cached(&sql)?;
    match place::whole(conn, table, || statement.execute(params![key, value])) {
        Ok(0) => {
            // Either the application has written there, or a trigger of its own
            // leaves the update out.
            let sql = format!("SELECT 1 FROM {table_name} WHERE {is_free}");
            if conn.prepare_cached(&sql)?.exists([&key])? {
                keep(conn, column, row, value)?;
            }
            Ok(Written::Done)
        }
        Ok(_) => Ok(Written::Done),
        // A trigger has ended the transaction, and with it everything that was done.
        Err(error) if conn.is_autocommit() => Err(StorageError::RolledBack(error).into()),
        Err(error) if place::breaks_a_foreign_key(&error) => Ok(Written::WaitsForParent),
        Err(error)
            if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) =>
        {
            keep(conn, column, row, value)?;
            Ok(Written::Done)
        }
        Err(error) => Err(error.into()),
    }
}

/// A value that cannot be written into the row.
fn keep(conn: &Connection, column: &Column, row: RowRef, value: &Value) -> Result<(), Error> {
    match payload::write_value(column, value) {
        Some(lost) => conflicts::keep_theirs(conn, row, &lost),
        None => Ok(()),
    }
}
