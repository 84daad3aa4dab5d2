//! An upload's answer, carried out: one transaction settles what was sent,
//! matched by position, and nothing else.
//!
//! Between sending and the answer the file may have gone on without this process:
//! another one took the lease, or began anew. What is no longer in the outbox as it
//! was sent is none of the answer's business; an edit of it goes its own way.

use crate::apply::Poison;
use crate::capture;
use crate::error::{Error, NetworkError};
use crate::key::{LocalKey, RowRef};
use crate::outbox::{self, Frozen};
use crate::place::ServerState;
use crate::rejected;
use crate::resync;
use crate::row;
use crate::shadow::{self, More};
use crate::state::State;
use crate::step::Step;
use crate::store::{Store, Txn};
use oversync_shared::reconcile::{
    Answer, Held, History, InvalidReason, Numbering, Parent, Sent, Settlement, history, settle,
};
use oversync_shared::wire::{ChangeStatus, UploadReply};
use oversync_shared::{ChangeId, RowKey, TableName};
use rusqlite::params;
use std::borrow::Cow;

/// What an upload came to.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    pub(crate) applied: usize,
    pub(crate) conflicts: usize,
    pub(crate) rejected: usize,
    pub(crate) waiting: usize,
    /// Another file uses this device's name.
    shared_name: bool,
    /// Everything is read again from here on.
    pub(crate) begins_anew: bool,
    /// The server wants fewer changes at once.
    pub(crate) smaller_batch: bool,
    /// Rows of conflicts that were written into tables.
    pub(crate) written: Vec<(RowRef, LocalKey)>,
}

/// Settles `sent` by the reply to it. A remembered row that fails the commit holds
/// nothing else up: the same batch would be sent for ever.
pub(crate) fn acknowledge(
    store: &mut Store,
    sent: &[Frozen],
    reply: &UploadReply,
) -> Result<Acknowledged, Error> {
    let done = match store.write(|txn| acknowledge_as(txn, sent, reply, Poison::Unknown)) {
        Err(error) if error.is_of_one_row() => {
            let mut done =
                store.write(|txn| acknowledge_as(txn, sent, reply, Poison::Remembered))?;
            let settled = shadow::settle_apart(store, More::Coming)?;
            done.conflicts += settled.conflicts;
            done.written.extend(settled.written);
            done
        }
        other => other?,
    };
    if !done.written.is_empty() {
        store.has_new_rows();
    }
    store.hear();
    Ok(done)
}

fn acknowledge_as(
    txn: &Txn<'_>,
    sent: &[Frozen],
    reply: &UploadReply,
    poison: Poison,
) -> Result<Acknowledged, Error> {
    if reply.statuses.len() != sent.len() {
        let counts = format!(
            "{} statuses for {} changes",
            reply.statuses.len(),
            sent.len()
        );
        return Err(NetworkError::Protocol(counts).into());
    }
    // Edits made in flight stand in _sync_pending before anything is settled.
    capture::collect(txn)?;
    let mut done = Acknowledged::default();
    let mut is_late = false;
    let unexplained = unexplained(sent, reply);
    for (frozen, status) in sent.iter().zip(&reply.statuses) {
        if !outbox::holds(txn.conn, frozen)? {
            is_late = true;
            continue;
        }
        let frozen = &match unexplained {
            Some(id) if frozen.id <= id => Cow::Owned(Frozen {
                was_known: true,
                ..frozen.clone()
            }),
            _ => Cow::Borrowed(frozen),
        };
        let numbering = match reply.highest_source_change_id {
            Some(highest) if frozen.id <= highest && frozen.renumbered == 0 => Numbering::Doubtful,
            _ => Numbering::Sound,
        };
        one(txn, frozen, status, numbering, &mut done)?;
    }
    let mut state = State::load(txn.conn)?;
    let settled = shadow::settle_all(txn, More::Coming, poison)?;
    done.conflicts += settled.conflicts;
    done.written = settled.written;
    done.begins_anew = resync::continue_above(txn, &mut state, reply.highest_source_change_id)?;
    if done.shared_name {
        done.begins_anew |= resync::name_is_shared(txn, &mut state)?;
    }
    let seen = history(
        state.epoch.as_deref(),
        reply.epoch.as_deref(),
        state.cursor,
        reply.head,
    );
    if seen == History::First {
        state.epoch.clone_from(&reply.epoch);
    }
    state.save(txn.conn)?;
    // The head of a late answer may lie below a cursor that has moved since.
    if seen == History::Replaced && !is_late {
        resync::begin(txn, resync::Cause::HistoryReplaced, reply.epoch.as_deref())?;
        done.begins_anew = true;
    }
    Step::BatchSettled.reached();
    Ok(done)
}

/// Records the version held of a row that was sent, whether its table is still listed or not.
fn hold(txn: &Txn<'_>, frozen: &Frozen, held: Held) -> Result<(), Error> {
    match txn.tables.by_number(frozen.row.tbl) {
        Some(table) => row::hold(txn.conn, table, frozen.row, &frozen.key, held),
        None => row::hold_as_spelt(txn.conn, frozen.row, Some(&frozen.key), held),
    }
}

/// The highest change id that the server knows of this device, where no change of this
/// answer has used it: this file may be an older state of itself, whose later life has
/// sent what is frozen here, too. If the server has forgotten the record of that since
/// (`settled_below`), and others have deleted the row, the answer looks like that to a
/// row made anew, but the delete is news.
fn unexplained(sent: &[Frozen], reply: &UploadReply) -> Option<ChangeId> {
    let highest = reply.highest_source_change_id?;
    let mut answered = sent.iter().zip(&reply.statuses);
    let is_explained = answered.any(|(frozen, status)| {
        let answer = Answer::of(status);
        frozen.id >= highest && matches!(answer, Answer::Applied(Some(_)))
    });
    (!is_explained).then_some(highest)
}

fn one(
    txn: &Txn<'_>,
    frozen: &Frozen,
    status: &ChangeStatus,
    numbering: Numbering,
    done: &mut Acknowledged,
) -> Result<(), Error> {
    let parent = missing_parent(txn, frozen, status)?;
    let on_its_way = match parent {
        Some(_) => Parent::OnItsWay,
        None => Parent::NotHere,
    };
    let sent = Sent {
        op: frozen.op,
        base: frozen.version,
        knew_row: frozen.was_known || frozen.base.is_some(),
    };
    let settlement = settle(sent, Answer::of(status), on_its_way, numbering);
    if settlement == Settlement::SmallerBatch {
        done.smaller_batch = true;
        return Ok(());
    }
    outbox::remove(txn.conn, frozen.id)?;
    step(&settlement).reached();
    match settlement {
        Settlement::Done(held) => {
            done.applied += 1;
            // Under its first number it was refused, under another one taken.
            done.shared_name |= frozen.renumbered > 0;
            hold(txn, frozen, held)?;
            capture::parent_arrived(txn.conn, frozen.row)
        }
        Settlement::Forgotten => {
            done.applied += 1;
            row::forget(txn.conn, frozen.row)
        }
        Settlement::Conflict => {
            if let Some(server_row) = &status.server_row {
                let payload = server_row
                    .payload
                    .as_deref()
                    .map(|raw| raw.get().to_owned());
                let state = ServerState {
                    row: frozen.row,
                    version: server_row.server_version,
                    payload: payload.filter(|_| !server_row.deleted),
                };
                shadow::remember(txn.conn, &state)?;
            }
            put_back(txn, frozen)
        }
        Settlement::MakeAnew(tombstone) => {
            hold(txn, frozen, tombstone)?;
            put_back(txn, frozen)
        }
        Settlement::Renumber => {
            put_back(txn, frozen)?;
            renumber(txn, frozen)
        }
        Settlement::StartOver => {
            row::forget(txn.conn, frozen.row)?;
            put_back(txn, frozen)?;
            capture::was_known(txn.conn, frozen.row)
        }
        Settlement::WaitForParent => {
            done.waiting += 1;
            put_back(txn, frozen)?;
            if let Some(parent) = parent {
                wait_for(txn, frozen.row, parent)?;
            }
            Ok(())
        }
        Settlement::Reject(why) => {
            done.rejected += 1;
            reject(txn, frozen, &why, status)
        }
        Settlement::SmallerBatch => Ok(()),
    }
}

/// What an answer is called where steps are told.
fn step(settlement: &Settlement) -> Step {
    match settlement {
        Settlement::Done(_) | Settlement::Forgotten => Step::ChangeApplied,
        Settlement::Conflict => Step::ChangeConflicted,
        Settlement::Renumber => Step::ChangeRenumbered,
        Settlement::StartOver | Settlement::MakeAnew(_) => Step::ChangeStartedOver,
        Settlement::WaitForParent => Step::ChangeWaits,
        Settlement::Reject(_) => Step::ChangeRefused,
        Settlement::SmallerBatch => Step::BatchHalved,
    }
}

fn put_back(txn: &Txn<'_>, frozen: &Frozen) -> Result<(), Error> {
    capture::put_back(txn.conn, frozen)
}

/// Counts the numbers the edit was sent under in vain.
fn renumber(txn: &Txn<'_>, frozen: &Frozen) -> Result<(), Error> {
    txn.conn
        .prepare_cached("UPDATE _sync_pending SET renumbered = ?3 WHERE tbl = ?1 AND pk = ?2")?
        .execute(params![
            frozen.row.tbl,
            frozen.row.pk(),
            frozen.renumbered + 1
        ])?;
    Ok(())
}

fn wait_for(txn: &Txn<'_>, row: RowRef, parent: RowRef) -> Result<(), Error> {
    txn.conn
        .prepare_cached(
            "UPDATE _sync_pending SET waits_tbl = ?3, waits_pk = ?4 WHERE tbl = ?1 AND pk = ?2",
        )?
        .execute(params![row.tbl, row.pk(), parent.tbl, parent.pk()])?;
    Ok(())
}

/// Into the rejected list, unless a newer edit of the row is there to be tried.
fn reject(
    txn: &Txn<'_>,
    frozen: &Frozen,
    why: &InvalidReason,
    status: &ChangeStatus,
) -> Result<(), Error> {
    let newer = txn
        .conn
        .prepare_cached("SELECT 1 FROM _sync_pending WHERE tbl = ?1 AND pk = ?2")?
        .exists(params![frozen.row.tbl, frozen.row.pk()])?;
    if newer {
        return put_back(txn, frozen);
    }
    let details = status
        .invalid
        .as_ref()
        .map(|invalid| invalid.details.to_string());
    let detail = status.message.clone().or(details).unwrap_or_default();
    rejected::add_frozen(txn, frozen, why.as_str(), &detail)
}

/// The first row that the server misses and that is on its way from here.
fn missing_parent(
    txn: &Txn<'_>,
    frozen: &Frozen,
    status: &ChangeStatus,
) -> Result<Option<RowRef>, Error> {
    let missing = status
        .invalid
        .as_ref()
        .and_then(|invalid| invalid.details.get("missing"))
        .and_then(|missing| missing.as_array());
    for text in missing
        .into_iter()
        .flatten()
        .filter_map(|item| item.as_str())
    {
        // "schema.table:value"
        let Some((name, value)) = text.split_once(':') else {
            continue;
        };
        let Some((schema, table)) = name.split_once('.') else {
            continue;
        };
        let named = TableName::parse(schema, table).ok();
        let table = named.and_then(|name| txn.tables.by_wire(&name.table));
        if let (Some(table), Some(key)) = (table, RowKey::parse_reference(value)) {
            let parent = RowRef::new(table, key);
            let known = row::known(txn.conn, table, parent)?;
            let unsent = known.unsent != oversync_shared::reconcile::Unsent::None;
            if parent != frozen.row && unsent {
                return Ok(Some(parent));
            }
        }
    }
    Ok(None)
}

/// A change so large that the server takes it in no batch.
pub(crate) fn reject_too_large(txn: &Txn<'_>, frozen: &Frozen) -> Result<(), Error> {
    if !outbox::holds(txn.conn, frozen)? {
        return Ok(());
    }
    outbox::remove(txn.conn, frozen.id)?;
    let detail = format!(
        "the row is larger ({} bytes) than the server takes",
        frozen.size()
    );
    rejected::add_frozen(txn, frozen, "request_too_large", &detail)
}
