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
use crate::schema::{Column, Table, quote};
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
}

impl LeftOut {
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
/// edit. One that a constraint refuses, or a trigger leaves out, goes to the conflict
/// list.
///
/// A trigger that rolls back ends the caller's transaction: the row is added to
/// `left_out`, the error says so, and the caller begins again. What was kept beside
/// such a row goes to the conflict list, too.
///
/// Nothing of this is captured: the server has it.
pub(crate) fn fill(conn: &Connection, table: &Table, left_out: &mut LeftOut) -> Result<(), Error> {
    let kept = kept(conn, table)?;
    if kept.is_empty() {
        return Ok(());
    }
    conn.pragma_update(None, "defer_foreign_keys", true)?;
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
        for (index, value) in learned {
            if left_out.has(*row) {
                keep(conn, &table.columns[*index], *row, value)?;
                continue;
            }
            let written = write(conn, table, *row, *index, value);
            if conn.is_autocommit() {
                left_out.add(*row);
            }
            written?;
        }
        row::set_extra(conn, *row, found.extra.as_deref())?;
    }
    conn.execute("UPDATE _sync_guard SET applying = 0", [])?;
    Ok(())
}

fn kept(conn: &Connection, table: &Table) -> Result<Vec<(RowRef, String)>, Error> {
    let mut statement = conn.prepare("SELECT pk, payload FROM _sync_extra WHERE tbl = ?1")?;
    let rows = statement.query_map([table.n], |row| {
        Ok((RowRef::new(table, RowKey::new(row.get(0)?)), row.get(1)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn write(
    conn: &Connection,
    table: &Table,
    row: RowRef,
    index: usize,
    value: &Value,
) -> Result<(), Error> {
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
            match conn.prepare_cached(&sql)?.exists([&key])? {
                true => keep(conn, column, row, value),
                false => Ok(()),
            }
        }
        Ok(_) => Ok(()),
        // A trigger has ended the transaction, and with it everything that was done.
        Err(error) if conn.is_autocommit() => Err(StorageError::RolledBack(error).into()),
        Err(error)
            if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) =>
        {
            keep(conn, column, row, value)
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
