//! From the capture log to pending edits: one line a row, whatever happened.
//!
//! The log says which keys were touched; what to send follows from the state of
//! the row, so no sequence of statements can be misread. Called at the start of
//! every transaction that freezes, applies or settles: afterwards the log is
//! empty, and everything unsent stands in `_sync_pending`.

use crate::db::Txn;
use crate::error::Error;
use crate::key::{LocalKey, RowRef};
use crate::outbox::Frozen;
use crate::rejected;
use crate::row::{self, Known};
use crate::schema::Table;
use crate::step::Step;
use oversync_shared::RowKey;
use oversync_shared::reconcile::{Edit, Unsent, edit};
use rusqlite::types::Value;
use rusqlite::{Connection, params};

const TOUCHED: &str = include_str!("../../migrations/device/touched.sql");

/// What the log says about one key.
struct Touch {
    tbl: i64,
    key: LocalKey,
    seq: i64,
    /// Only noted because a REPLACE might remove it.
    perhaps: bool,
    /// The row was not there when it was first touched.
    is_born: bool,
}

/// Empties the log into the pending edits.
pub(crate) fn collect(txn: &Txn<'_>) -> Result<(), Error> {
    sweep(txn)?;
    let touched = touched(txn.conn)?;
    let is_any = !touched.is_empty();
    for touch in touched {
        if let Some(table) = txn.tables.by_number(touch.tbl) {
            take(txn, table, &touch)?;
        }
    }
    txn.conn
        .prepare_cached("DELETE FROM _sync_log")?
        .execute([])?;
    for table in txn.tables.iter() {
        let sql = format!("DELETE FROM _sync_base_{}", table.n);
        txn.conn.prepare_cached(&sql)?.execute([])?;
    }
    if is_any {
        Step::EditsCollected.reached();
    }
    Ok(())
}

/// Whether anything has been captured or waits to be frozen or sent; an edit
/// that waits for a page is no work.
pub(crate) fn has_work(conn: &Connection) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _sync_log) OR EXISTS (SELECT 1 FROM _sync_outbox) \
               OR EXISTS (SELECT 1 FROM _sync_pending AS p WHERE p.waits_tbl IS NULL \
               AND NOT EXISTS (SELECT 1 FROM _sync_shadow AS s WHERE s.tbl = p.tbl AND s.pk = p.pk))";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

fn touched(conn: &Connection) -> Result<Vec<Touch>, Error> {
    let mut statement = conn.prepare_cached(TOUCHED)?;
    let rows = statement.query_map([], |row| {
        Ok(Touch {
            tbl: row.get(0)?,
            key: row.get(1)?,
            seq: row.get(2)?,
            perhaps: row.get::<_, i64>(3)? == 0,
            is_born: row.get::<_, i64>(4)? == 1,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn take(txn: &Txn<'_>, table: &Table, touch: &Touch) -> Result<(), Error> {
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
    if cells.is_none() && stands_elsewhere(txn.conn, table, &touch.key, &known)? {
        return Ok(());
    }
    let base_cells = if touch.is_born {
        None
    } else {
        row::read_base(txn.conn, table, &touch.key)?
    };
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
    add(txn, row, &touch.key, touch.seq, base.as_deref())
}

/// A key that is gone under this spelling may live on under another one of the
/// same UUID.
fn stands_elsewhere(
    conn: &Connection,
    table: &Table,
    key: &LocalKey,
    known: &Known,
) -> Result<bool, Error> {
    Ok(known.key != *key && row::exists(conn, table, &known.key)?)
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

/// Takes back a frozen change: its edit is pending again, under the base image
/// it was frozen with, and as old as it was.
pub(crate) fn put_back(conn: &Connection, frozen: &Frozen) -> Result<(), Error> {
    conn.prepare_cached(
        "INSERT INTO _sync_pending (tbl, pk, local_key, seq, base, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (tbl, pk) DO UPDATE SET base = excluded.base,
         at = coalesce(min(at, excluded.at), at, excluded.at)",
    )?
    .execute(params![
        frozen.row.tbl,
        frozen.row.pk(),
        frozen.key,
        frozen.id.get(),
        frozen.base,
        frozen.at
    ])?;
    Ok(())
}

/// Whether the triggers have written anything since the log was last read.
pub(crate) fn log_waits(conn: &Connection) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _sync_log)";
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

/// Where SQLite fires no trigger (a REPLACE through an index over expressions
/// or a part of the rows), finds the rows that are gone and notes them.
fn sweep(txn: &Txn<'_>) -> Result<(), Error> {
    for table in txn.tables.iter().filter(|table| table.needs_sweep) {
        let mut held = txn
            .conn
            .prepare_cached("SELECT pk, local_key FROM _sync_row WHERE tbl = ?1 AND deleted = 0")?;
        let mut rows = held.query([table.n])?;
        while let Some(found) = rows.next()? {
            let key = RowKey::new(found.get(0)?);
            let spelling: LocalKey = found.get(1)?;
            let key = match spelling.0 {
                Value::Null => LocalKey::usual(key, table.key_kind),
                _ => spelling,
            };
            if !row::exists(txn.conn, table, &key)? {
                txn.conn
                    .prepare_cached("INSERT INTO _sync_log (tbl, op, key) VALUES (?1, 3, ?2)")?
                    .execute(params![table.n, key])?;
            }
        }
    }
    Ok(())
}
