//! Starting over from the server without losing local rows.
//!
//! When the server's history was replaced (restore, another database) or pruned
//! below the cursor, the device passes over everything again. What it held is
//! remembered as `lost_version` until the new pass has named the row, or has
//! ended without naming it.

use crate::apply::Poison;
use crate::capture;
use crate::db::Txn;
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
use oversync_shared::reconcile::{Held, Unsent};
use oversync_shared::{ChangeId, RowKey, RowVersion, ServerId};
use rusqlite::{Connection, params};
use std::collections::HashSet;

/// Begins a new pass. The log must have been collected.
pub(crate) fn begin(txn: &Txn<'_>, cause: Cause, epoch: Option<&str>) -> Result<(), Error> {
    tracing::warn!(?cause, "synchronising anew from the server");
    let mut state = State::load(txn.conn)?;
    for frozen in outbox::load(txn.conn)? {
        // Its version belongs to the lost history; it gets a new number too.
        capture::put_back(txn.conn, &frozen)?;
        outbox::remove(txn.conn, frozen.id)?;
    }
    txn.conn.execute_batch(
        "UPDATE _sync_row SET lost_version = max(version, lost_version), version = 0;
         DELETE FROM _sync_shadow;
         DELETE FROM _sync_parked;",
    )?;
    if let Some(epoch) = epoch {
        state.epoch = Some(epoch.to_owned());
    }
    state.cursor = ServerId::ZERO;
    state.hydrated = false;
    state.window_until = None;
    state.resync = Some(cause);
    state.save(txn.conn)?;
    Step::ResyncBegun.reached();
    Ok(())
}

/// The server has a higher change id of this device than the device ever gave
/// out: another file uses its name (a copy, an older state of this one, an
/// earlier installation). Continue above, and from now on download what "this
/// device" wrote, too. Tells whether a new pass over everything begins.
#[must_use]
pub(crate) fn continue_above(state: &mut State, highest: Option<ChangeId>) -> bool {
    let Some(highest) = highest.filter(|highest| *highest >= state.next_change_id) else {
        return false;
    };
    state.next_change_id = ChangeId::new(highest.get().saturating_add(1));
    Step::CountedAbove.reached();
    name_is_shared(state)
}

/// Another file uses this device's name: downloads include what "this device"
/// wrote from now on. Tells whether a new pass over everything begins.
pub(crate) fn name_is_shared(state: &mut State) -> bool {
    tracing::warn!(device = %state.device, "another file has used this device's name");
    // A file on its first pass sees everything anyway, and so does one that
    // knows already that it shares its name.
    if !state.hydrated || state.shares_device {
        return false;
    }
    state.hydrated = false;
    state.cursor = ServerId::ZERO;
    state.window_until = None;
    state.shares_device = true;
    true
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
    // A deletion that the server had told: it names no tombstones below its floor, and
    // a row that is made again must stand on that one.
    let is_known_as_gone = known.held.deleted && (known.unsent != Unsent::None || !here);
    if cause == Cause::HistoryPruned && is_known_as_gone {
        let held = Held {
            version: known.lost_version,
            deleted: true,
        };
        return row::hold(txn.conn, table, row, &known.key, held);
    }
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
        (_, _) => {
            row::forget(txn.conn, row)?;
            if here && known.unsent == Unsent::None {
                send_again(txn, row, &known.key)?;
            }
            Ok(())
        }
    }
}

fn send_again(txn: &Txn<'_>, row: RowRef, key: &LocalKey) -> Result<(), Error> {
    capture::add(txn, row, key, 0, None)
}
