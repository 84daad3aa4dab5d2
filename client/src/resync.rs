//! Starting over from the server without losing local rows.
//!
//! When the server's history was replaced (restore, another database) or pruned
//! below the cursor, or this file is perhaps an older state of itself, the device
//! passes over everything again. What it held is remembered as `lost_version` until
//! the new pass has named the row, or has ended without naming it. In a replaced
//! history the versions held mean nothing; in the same one they stay as they are.

use crate::apply::Poison;
use crate::capture;
use crate::error::Error;
use crate::key::{LocalKey, RowRef};
use crate::outbox;
use crate::parked;
use crate::place::{self, Placed, ServerState};
use crate::row::{self, Known};
use crate::schema::Table;
pub(crate) use crate::state::Resync as Cause;
use crate::state::State;
use crate::step::Step;
use crate::store::Txn;
use oversync_shared::reconcile::{Held, Unsent};
use oversync_shared::{ChangeId, RowKey, RowVersion, ServerId};
use rusqlite::{Connection, params};
use std::collections::HashSet;

/// Begins a new pass. The log must have been collected.
pub(crate) fn begin(txn: &Txn<'_>, cause: Cause, epoch: Option<&str>) -> Result<(), Error> {
    tracing::warn!(?cause, "synchronising anew from the server");
    let mut state = State::load(txn.conn)?;
    if let Some(epoch) = epoch {
        state.epoch = Some(epoch.to_owned());
    }
    pass_over_everything(txn, &mut state, cause)?;
    state.save(txn.conn)?;
    Step::ResyncBegun.reached();
    Ok(())
}

fn pass_over_everything(txn: &Txn<'_>, state: &mut State, cause: Cause) -> Result<(), Error> {
    // One that is cut short by folding is still one over another history: what it does
    // not name has not been deleted.
    let cause = match state.resync {
        Some(Cause::HistoryReplaced) => Cause::HistoryReplaced,
        _ => cause,
    };
    match cause {
        Cause::HistoryReplaced => {
            for frozen in outbox::load(txn.conn)? {
                // Its version belongs to the lost history; it gets a new number too.
                capture::put_back(txn.conn, &frozen)?;
                outbox::remove(txn.conn, frozen.id)?;
                // It may have been applied there, and deleted by others since.
                capture::was_known(txn.conn, frozen.row)?;
            }
            txn.conn.execute_batch(
                "UPDATE _sync_row SET lost_version = max(version, lost_version), version = 0",
            )?;
        }
        // What is frozen is sent again as it was: the server knows its number. A
        // tombstone that is not named stands.
        Cause::HistoryPruned => txn.conn.execute_batch(
            "UPDATE _sync_row SET lost_version = version WHERE version > 0 AND deleted = 0",
        )?,
    }
    // What is still so is told again, but for deletes of an earlier pass.
    txn.conn
        .execute_batch("DELETE FROM _sync_shadow; DELETE FROM _sync_parked WHERE version > 0")?;
    state.cursor = ServerId::ZERO;
    state.hydrated = false;
    state.window_until = None;
    state.resync = Some(cause);
    Ok(())
}

/// The pass names a row of which this device holds as much, or that cannot be written
/// now: it is there.
pub(crate) fn named(conn: &Connection, row: RowRef) -> Result<(), Error> {
    conn.prepare_cached(
        "UPDATE _sync_row SET lost_version = 0 WHERE tbl = ?1 AND pk = ?2 AND version > 0",
    )?
    .execute(params![row.tbl, row.pk()])?;
    Ok(())
}

/// The server has a higher change id of this device than the device ever gave
/// out: another file uses its name (a copy, an older state of this one, an
/// earlier installation). Continue above, and from now on download what "this
/// device" wrote, too. Tells whether a new pass over everything begins. The log must
/// have been collected.
pub(crate) fn continue_above(
    txn: &Txn<'_>,
    state: &mut State,
    highest: Option<ChangeId>,
) -> Result<bool, Error> {
    let Some(highest) = highest.filter(|highest| *highest >= state.next_change_id) else {
        return Ok(false);
    };
    state.next_change_id = ChangeId::new(highest.get().saturating_add(1));
    Step::CountedAbove.reached();
    name_is_shared(txn, state)
}

/// Another file uses this device's name: downloads include what "this device"
/// wrote from now on. Tells whether a new pass over everything begins. It begins at 0,
/// where nobody says `history_pruned`, though deletions may have been folded away: a
/// row that it does not name is gone all the same.
pub(crate) fn name_is_shared(txn: &Txn<'_>, state: &mut State) -> Result<bool, Error> {
    tracing::warn!(device = %state.device, "another file has used this device's name");
    // If that was a later state of this file, it may have sent them.
    capture::may_all_be_known(txn.conn)?;
    // A file on its first pass sees everything anyway, and so does one that
    // knows already that it shares its name.
    if !state.hydrated || state.shares_device {
        return Ok(false);
    }
    state.shares_device = true;
    pass_over_everything(txn, state, Cause::HistoryPruned)?;
    Ok(true)
}

/// The new pass names a row in an older state than this device was told had
/// been applied: the newer state is sent again.
pub(crate) fn keep_newer(
    txn: &Txn<'_>,
    table: &Table,
    state: &ServerState,
    known: &Known,
) -> Result<(), Error> {
    let held = Held {
        version: state.version,
        deleted: state.payload.is_none(),
    };
    row::hold(txn.conn, table, state.row, &known.key, held)?;
    capture::add(txn, state.row, &known.key, 0, state.payload.as_deref())?;
    Step::NewerKept.reached();
    Ok(())
}

/// The pass over everything has ended: decides about the rows it did not name.
pub(crate) fn pass_completed(
    txn: &Txn<'_>,
    state: &mut State,
    poison: Poison,
) -> Result<(), Error> {
    if !state.hydrated {
        Step::PassCompleted.reached();
    }
    state.hydrated = true;
    let Some(cause) = state.resync.take() else {
        return Ok(());
    };
    let unnamed = unnamed(txn.conn)?;
    place::silently(txn, || {
        for row in &unnamed {
            if let Some(table) = txn.tables.by_number(row.tbl) {
                unnamed_row(txn, table, *row, cause, poison)?;
                Step::UnnamedSettled.reached();
            }
        }
        Ok(())
    })
}

fn unnamed(conn: &Connection) -> Result<Vec<RowRef>, Error> {
    let mut statement = conn
        .prepare_cached("SELECT tbl, pk FROM _sync_row WHERE lost_version > 0 ORDER BY tbl, pk")?;
    let rows = statement.query_map(params![], |row| {
        Ok(RowRef {
            tbl: row.get(0)?,
            key: RowKey::new(row.get(1)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn unnamed_row(
    txn: &Txn<'_>,
    table: &Table,
    row: RowRef,
    cause: Cause,
    poison: Poison,
) -> Result<(), Error> {
    let known = row::known(txn.conn, table, row)?;
    let here = row::exists(txn.conn, table, &known.key)?;
    match (cause, known.unsent) {
        // Deleted while this device was away: no tombstone is left to say so.
        (Cause::HistoryPruned, Unsent::None) if here => {
            let gone = ServerState {
                row,
                version: RowVersion::NEVER_SEEN,
                payload: None,
            };
            if poison == Poison::Unnamed {
                parked::set_aside(txn.conn, table, &gone)?;
                return row::forget(txn.conn, row);
            }
            let placed = place::place(txn, table, &gone, &HashSet::new())?;
            if !matches!(placed, Placed::Done(_)) {
                parked::add(txn.conn, table, &gone, &placed)?;
            }
            row::forget(txn.conn, row)
        }
        (Cause::HistoryPruned, Unsent::None) if !known.held.deleted => row::forget(txn.conn, row),
        // An edit of a row that is gone is judged when it is sent, on the version that
        // it was made on. A deletion that the server had told stands: it names no
        // tombstones below its floor, and a row that is made again must stand on that.
        (Cause::HistoryPruned, _) => {
            row::hold(txn.conn, table, row, &known.key, known.remembered())
        }
        (Cause::HistoryReplaced, unsent) => {
            row::forget(txn.conn, row)?;
            if here && unsent == Unsent::None {
                send_again(txn, row, &known.key)?;
            }
            // Another device may offer it, too, and delete it again.
            match known.held.deleted {
                true => Ok(()),
                false => capture::was_known(txn.conn, row),
            }
        }
    }
}

fn send_again(txn: &Txn<'_>, row: RowRef, key: &LocalKey) -> Result<(), Error> {
    capture::add(txn, row, key, 0, None)
}
