//! From the capture logs to pending edits: one line a row, whatever happened.
//!
//! They say which keys were touched; what to send follows from the state of
//! the row, so no sequence of statements can be misread. Called at the start of
//! every transaction that freezes, applies or settles: afterwards everything
//! unsent stands in `_sync_pending`, and only logs of tables that are no longer listed
//! hold anything. It waits there until the table is listed again.

use crate::error::Error;
use crate::key::{LocalKey, RowRef};
use crate::log::{self, Touch};
use crate::outbox::Frozen;
use crate::rejected;
use crate::row::{self, Known};
use crate::schema::Table;
use crate::step::Step;
use crate::store::Txn;
use crate::sweep;
use oversync_shared::reconcile::{Edit, Unsent, edit};
use rusqlite::{Connection, params};

/// Empties the logs into the pending edits.
pub(crate) fn collect(txn: &Txn<'_>) -> Result<(), Error> {
    for table in txn.tables.iter().filter(|table| table.needs_sweep) {
        sweep::note_missing(txn.conn, table)?;
    }
    let mut is_any = false;
    for table in txn.tables.iter() {
        let touched = log::read(txn.conn, table)?;
        if touched.is_empty() {
            is_any |= free_twins(txn, table)?;
            continue;
        }
        is_any = true;
        // A log begins at 1 again when it has been emptied.
        let before = newest(txn.conn, table)?;
        for touch in &touched {
            take(txn, table, touch, before)?;
        }
        log::clear(txn.conn, table)?;
        free_twins(txn, table)?;
    }
    if is_any {
        Step::EditsCollected.reached();
    }
    Ok(())
}

/// The highest place of a pending edit of the table; what was put back stands below 0.
fn newest(conn: &Connection, table: &Table) -> Result<i64, Error> {
    let sql = "SELECT max(coalesce(max(seq), 0), 0) FROM _sync_pending WHERE tbl = ?1";
    Ok(conn
        .prepare_cached(sql)?
        .query_row([table.n], |row| row.get(0))?)
}

const HAS_WORK: &str = include_str!("../../migrations/device/has_work.sql");

/// Whether anything has been captured or waits to be frozen or sent; an edit
/// that waits for a page is no work, nor is one of a table that is not listed.
pub(crate) fn has_work(conn: &Connection) -> Result<bool, Error> {
    let mut statement = conn.prepare_cached(HAS_WORK)?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

fn take(txn: &Txn<'_>, table: &Table, touch: &Touch, before: i64) -> Result<(), Error> {
    let cells = row::read(txn.conn, table, &touch.key)?;
    if touch.perhaps && cells.is_some() {
        return Ok(());
    }
    let Some(canonical) = touch.key.canonical(table.key_kind) else {
        rejected::drop_key(txn.conn, table, &touch.key)?;
        if cells.is_some() {
            rejected::add_bad_key(txn, table, &touch.key)?;
        }
        return Ok(());
    };
    let row = RowRef::new(table, canonical);
    let known = row::known(txn.conn, table, row)?;
    rejected::drop_twin(txn.conn, table, &touch.key)?;
    if cells.is_some() && stands_elsewhere(txn.conn, table, &touch.key, &known)? {
        // Under one key on the server, one of them would overwrite the other.
        return rejected::add_twin(txn, table, &touch.key, &known.key);
    }
    if cells.is_none() && stands_elsewhere(txn.conn, table, &touch.key, &known)? {
        return Ok(());
    }
    let base_cells = log::image(txn.conn, table, touch)?;
    let on_server = edit(false, known.remembered()) != Edit::Nothing;
    match known.unsent {
        // Nothing unsent so far: perhaps there still is nothing.
        Unsent::None => {
            if edit(cells.is_some(), known.remembered()) == Edit::Nothing {
                return Ok(());
            }
            if on_server && cells.is_some() && cells == base_cells {
                return Ok(());
            }
        }
        Unsent::Pending | Unsent::Rejected => {
            if edit(cells.is_some(), known.remembered()) == Edit::Nothing {
                remove(txn.conn, row)?;
                rejected::drop_row(txn.conn, row)?;
                return Ok(());
            }
        }
        // What is in flight may make the row known: decided when it is answered.
        Unsent::InFlight => {}
    }
    let base = match (known.unsent, base_cells) {
        (Unsent::Rejected, _) => rejected::base_of(txn.conn, row)?,
        // What was there before is not what the server has.
        (Unsent::None | Unsent::Pending, _) if !on_server => None,
        (_, Some(cells)) => row::to_payload(txn.conn, table, row, &cells)?.ok(),
        (_, None) => None,
    };
    rejected::drop_row(txn.conn, row)?;
    let seq = before.saturating_add(touch.seq);
    add(txn, row, &touch.key, seq, base.as_deref())?;
    match known.unsent {
        // What was refused has been tried: it is no new row any more.
        Unsent::Rejected => was_known(txn.conn, row),
        Unsent::None | Unsent::Pending | Unsent::InFlight => Ok(()),
    }
}

/// Lets go the rows whose key was another spelling of a row's that has gone. Tells
/// whether there were any.
fn free_twins(txn: &Txn<'_>, table: &Table) -> Result<bool, Error> {
    let mut is_any = false;
    for key in rejected::twins(txn.conn, table)? {
        let Some(canonical) = key.canonical(table.key_kind) else {
            continue;
        };
        let known = row::known(txn.conn, table, RowRef::new(table, canonical))?;
        if !stands_elsewhere(txn.conn, table, &key, &known)? {
            is_any = true;
            let before = newest(txn.conn, table)?;
            take(txn, table, &Touch::found(key), before)?;
        }
    }
    Ok(is_any)
}

/// A key that is gone under this spelling may live on under another one of the
/// same UUID.
fn stands_elsewhere(
    conn: &Connection,
    table: &Table,
    key: &LocalKey,
    known: &Known,
) -> Result<bool, Error> {
    if known.key == *key {
        return Ok(false);
    }
    // Under the column's own collation it might be the very same row; that one first,
    // for its index.
    let sql = format!(
        "SELECT 1 FROM {table} WHERE {column} IS ?1 AND {column} IS ?1 COLLATE BINARY",
        table = table.quoted(),
        column = table.quoted_key(),
    );
    Ok(conn.prepare_cached(&sql)?.exists([&known.key])?)
}

/// Adds a pending edit, or renews the one that is there: the base image of the
/// first stays, and it no longer waits for a parent it may not refer to any more.
pub(crate) fn add(
    txn: &Txn<'_>,
    row: RowRef,
    key: &LocalKey,
    seq: i64,
    base: Option<&str>,
) -> Result<(), Error> {
    txn.conn
        .prepare_cached(
            "INSERT INTO _sync_pending (tbl, pk, local_key, seq, base, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (tbl, pk) DO UPDATE SET local_key = excluded.local_key,
             waits_tbl = NULL, waits_pk = NULL",
        )?
        .execute(params![row.tbl, row.pk(), key, seq, base, txn.now])?;
    Ok(())
}

/// Notes of a pending edit that this device knew its row.
pub(crate) fn was_known(conn: &Connection, row: RowRef) -> Result<(), Error> {
    conn.prepare_cached("UPDATE _sync_pending SET was_known = 1 WHERE tbl = ?1 AND pk = ?2")?
        .execute(params![row.tbl, row.pk()])?;
    Ok(())
}

/// Notes of all unsent edits that this device may have known their rows.
pub(crate) fn may_all_be_known(conn: &Connection) -> Result<(), Error> {
    conn.execute_batch(
        "UPDATE _sync_pending SET was_known = 1; UPDATE _sync_outbox SET was_known = 1",
    )?;
    Ok(())
}

/// Whether this device knew the row of a pending edit, or may have.
pub(crate) fn is_of_known_row(conn: &Connection, row: RowRef) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM _sync_pending WHERE tbl = ?1 AND pk = ?2
               AND (was_known OR base IS NOT NULL)";
    Ok(conn
        .prepare_cached(sql)?
        .exists(params![row.tbl, row.pk()])?)
}

/// Below all places of collected edits: change ids do not come that far.
const PUT_BACK: i64 = i64::MAX / 2;

/// Takes back a frozen change: its edit is pending again, under the base image
/// it was frozen with, and before all that was collected since, in the order of the
/// ids: places in a log begin anew and say nothing against an id.
pub(crate) fn put_back(conn: &Connection, frozen: &Frozen) -> Result<(), Error> {
    conn.prepare_cached(
        "INSERT INTO _sync_pending (tbl, pk, local_key, seq, base, at, was_known)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (tbl, pk) DO UPDATE SET base = excluded.base,
         was_known = excluded.was_known, at = coalesce(min(at, excluded.at), at, excluded.at)",
    )?
    .execute(params![
        frozen.row.tbl,
        frozen.row.pk(),
        frozen.key,
        frozen.id.get().saturating_sub(PUT_BACK),
        frozen.base,
        frozen.at,
        frozen.was_known
    ])?;
    Ok(())
}

/// Whether the triggers have written anything since the log was last read.
pub(crate) fn log_waits(conn: &Connection) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _sync_touched \
               WHERE tbl IN (SELECT n FROM _sync_table WHERE listed))";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// Takes a pending edit out; rows that waited for it may try again.
pub(crate) fn remove(conn: &Connection, row: RowRef) -> Result<(), Error> {
    conn.prepare_cached("DELETE FROM _sync_pending WHERE tbl = ?1 AND pk = ?2")?
        .execute(params![row.tbl, row.pk()])?;
    parent_arrived(conn, row)
}

/// Whether any edit waits for a row.
pub(crate) fn is_any_waiting(conn: &Connection) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _sync_pending WHERE waits_tbl IS NOT NULL)";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// Lets go the edits that waited for a row.
pub(crate) fn parent_arrived(conn: &Connection, row: RowRef) -> Result<(), Error> {
    conn.prepare_cached(
        "UPDATE _sync_pending SET waits_tbl = NULL, waits_pk = NULL
         WHERE waits_tbl = ?1 AND waits_pk = ?2",
    )?
    .execute(params![row.tbl, row.pk()])?;
    Ok(())
}
