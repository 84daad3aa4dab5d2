//! One upload: freeze, send, settle.

use crate::apply::Poison;
use crate::capture;
use crate::core::Core;
use crate::declared::wire_form;
use crate::error::{Error, NetworkError};
use crate::key::{LocalKey, RowRef};
use crate::outbox::{self, BatchLimits, Frozen};
use crate::pause;
use crate::settle::{self, Acknowledged};
use crate::shadow::{self, More};
use crate::state::State;
use crate::step::Step;
use crate::store::{Store, Txn};
use crate::trace::Told;
use opentelemetry::KeyValue;
use oversync_shared::ChangeId;
use oversync_shared::trace;
use oversync_shared::wire::{UploadChange, UploadReply, UploadRequest};
use serde_json::value::RawValue;

/// What an upload came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uploaded {
    /// Changes sent; 0 when there was nothing to send.
    pub sent: usize,
    /// Accepted by the server.
    pub applied: usize,
    /// Met a newer row of the server, and something was lost by it: see
    /// [`Client::conflicts`](crate::Client::conflicts).
    pub conflicts: usize,
    /// Put into the rejected list.
    pub rejected: usize,
    /// Waiting for a row they refer to.
    pub waiting: usize,
}

impl Uploaded {
    /// Adds another upload's numbers.
    pub(crate) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.applied += other.applied;
        self.conflicts += other.conflicts;
        self.rejected += other.rejected;
        self.waiting += other.waiting;
    }
}

/// A batch that is ready to be sent.
pub(crate) struct Batch {
    /// None where the server is only asked which change ids it knows.
    pub(crate) sent: Vec<Frozen>,
    pub(crate) request: UploadRequest,
    /// Rows that earlier conflicts have written into tables.
    written: Vec<(RowRef, LocalKey)>,
    is_question: bool,
}

/// Uploads one batch, smaller ones if the server asks for that; paused or not. The caller
/// has the turn.
pub(crate) async fn once(core: &Core) -> Result<Uploaded, Error> {
    Ok(step(core, |_| Ok(false)).await?.unwrap_or_default())
}

/// The same for who heeds a pause, which may have come a moment ago: `None` then. An edit
/// that is made after it is not sent.
pub(crate) async fn once_unless_paused(core: &Core) -> Result<Option<Uploaded>, Error> {
    step(core, |store| Ok(store.read(pause::read)?.uploads)).await
}

async fn step(
    core: &Core,
    is_held_back: fn(&mut Store) -> Result<bool, Error>,
) -> Result<Option<Uploaded>, Error> {
    loop {
        // Who is held back asks the server nothing.
        if !core.knows_server() && core.db.run(is_held_back).await? {
            return Ok(None);
        }
        let limits = core.server().await?.batch;
        let began = core.transport.traces().begin();
        let prepared = core.db.run(move |store| match is_held_back(store)? {
            true => Ok(None),
            false => prepare(store, limits).map(Some),
        });
        let Some(batch) = prepared.await? else {
            return Ok(None);
        };
        let Some(batch) = batch else {
            return Ok(Some(Uploaded::default()));
        };
        core.announce(batch.written).await?;
        if batch.sent.is_empty() && !batch.is_question {
            return Ok(Some(Uploaded::default()));
        }
        Step::BatchSending.reached();
        match core.transport.upload(&batch.request).await {
            Ok(reply) => {
                Step::BatchAnswered.reached();
                let head = reply.head.or(Some(reply.highest_server_seq));
                core.saw_head(head, reply.epoch.as_deref());
                let sent = batch.sent.clone();
                let told = began.map(|began| (began, told(core, &sent, &reply)));
                let done = core
                    .db
                    .run(move |store| settle::acknowledge(store, &sent, &reply))
                    .await?;
                if done.begins_anew {
                    core.starts_over();
                }
                if let Some((began, told)) = told {
                    let user = core.user();
                    let traces = core.transport.traces();
                    traces.waited(&user, began, &told);
                    traces.changes("change.upload", &user, began, told);
                }
                if batch.is_question {
                    core.announce(done.written).await?;
                    continue;
                }
                if done.smaller_batch {
                    smaller(core, &batch.sent, None).await?;
                    continue;
                }
                Step::BatchDone.reached();
                let uploaded = summary(batch.sent.len(), &done);
                core.announce(done.written).await?;
                return Ok(Some(uploaded));
            }
            Err(NetworkError::TooLarge { limit_bytes }) if !batch.is_question => {
                smaller(core, &batch.sent, limit_bytes).await?;
            }
            Err(error) => {
                core.start_over(error).await?;
                return Ok(Some(Uploaded::default()));
            }
        }
    }
}

/// What the server has said of each change.
fn told(core: &Core, sent: &[Frozen], reply: &UploadReply) -> Vec<Told> {
    let device = core.device();
    let both = sent.iter().zip(&reply.statuses);
    both.take(trace::MAX_CHANGES)
        .map(|(frozen, status)| {
            let outcome = status.status.as_str();
            Told {
                source: device.clone(),
                change: frozen.id,
                edited_at: frozen.at,
                attributes: vec![KeyValue::new("oversync.status", outcome)],
            }
        })
        .collect()
}

fn summary(sent: usize, done: &Acknowledged) -> Uploaded {
    Uploaded {
        sent,
        applied: done.applied,
        conflicts: done.conflicts,
        rejected: done.rejected,
        waiting: done.waiting,
    }
}

/// Halves the batch, or takes the server's word for its limit; a single change
/// that is too large is rejected.
async fn smaller(core: &Core, sent: &[Frozen], limit_bytes: Option<u64>) -> Result<(), Error> {
    Step::BatchHalved.reached();
    if let [only] = sent {
        let only = only.clone();
        return core
            .db
            .write(move |txn| settle::reject_too_large(txn, &only))
            .await;
    }
    let half: usize = sent.iter().map(Frozen::size).sum::<usize>() / 2;
    let told = limit_bytes.and_then(|limit| usize::try_from(limit).ok());
    core.shrink(BatchLimits {
        changes: sent.len().div_ceil(2),
        bytes: told.map_or(half, |told| told.min(half)).max(1),
    });
    Ok(())
}

/// A table's name on the wire; also of one that is no longer listed: what is
/// frozen may have been applied already, and is sent again unchanged.
pub(crate) fn wire_name(txn: &Txn<'_>, tbl: i64) -> Result<String, Error> {
    if let Some(table) = txn.tables.by_number(tbl) {
        return Ok(table.wire.clone());
    }
    let name: String = txn
        .conn
        .prepare_cached("SELECT name FROM _sync_table WHERE n = ?1")?
        .query_row([tbl], |row| row.get(0))?;
    Ok(wire_form(&name))
}

/// Freezes what there is to send, or takes what is frozen; `None` before the first
/// pass has been completed. What is new is not frozen before the server has answered
/// this process once: an upload of nothing asks it.
/// A remembered row that fails the commit is dealt with by itself, and holds nothing
/// else up.
pub(crate) fn prepare(store: &mut Store, limits: BatchLimits) -> Result<Option<Batch>, Error> {
    if outbox::must_ask(store)? {
        return store.write(question);
    }
    let new = match store.has_heard() {
        true => New::MayBeFrozen,
        // An edit may have come since the question above was asked.
        false => New::Waits,
    };
    let batch = match store.write(|txn| prepare_as(txn, limits, new, Poison::Unknown)) {
        Err(error) if error.is_of_one_row() => {
            let settled = shadow::settle_apart(store, More::Coming)?;
            let mut batch = store.write(|txn| prepare_as(txn, limits, new, Poison::Remembered))?;
            if let Some(batch) = &mut batch {
                batch.written.extend(settled.written);
            }
            batch
        }
        other => other?,
    };
    if batch
        .as_ref()
        .is_some_and(|batch| !batch.written.is_empty())
    {
        store.has_new_rows();
    }
    Ok(batch)
}

fn question(txn: &Txn<'_>) -> Result<Option<Batch>, Error> {
    let state = State::load(txn.conn)?;
    Ok(state.hydrated.then(|| Batch {
        sent: Vec::new(),
        request: UploadRequest {
            last_server_seq_seen: state.cursor,
            changes: Vec::new(),
            epoch: state.epoch,
            settled_below: None,
        },
        written: Vec::new(),
        is_question: true,
    }))
}

/// What becomes of edits that are not frozen yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum New {
    MayBeFrozen,
    /// Only what is frozen is sent.
    Waits,
}

fn prepare_as(
    txn: &Txn<'_>,
    limits: BatchLimits,
    new: New,
    poison: Poison,
) -> Result<Option<Batch>, Error> {
    let state = State::load(txn.conn)?;
    // Before the first pass the device does not know what the server has.
    if !state.hydrated {
        return Ok(None);
    }
    capture::collect(txn)?;
    let settled = shadow::settle_all(txn, More::Coming, poison)?;
    let mut frozen = match new {
        New::MayBeFrozen => outbox::next_batch(txn, limits)?,
        New::Waits => outbox::load(txn.conn)?,
    };
    let settled_below = frozen
        .first()
        .map_or(state.next_change_id, |first| first.id);
    frozen.truncate(fitting(&frozen, limits));
    let request = UploadRequest {
        last_server_seq_seen: state.cursor,
        changes: changes(txn, &state.schema, &frozen)?,
        epoch: state.epoch,
        settled_below: Some(settled_below).filter(|id| *id > ChangeId::new(1)),
    };
    Ok(Some(Batch {
        sent: frozen,
        request,
        written: settled.written,
        is_question: false,
    }))
}

/// How many of the frozen changes fit into one upload; at least one.
fn fitting(frozen: &[Frozen], limits: BatchLimits) -> usize {
    let mut bytes = 0;
    frozen
        .iter()
        .take(limits.changes)
        .take_while(|change| {
            let first = bytes == 0;
            bytes += change.size();
            first || bytes <= limits.bytes
        })
        .count()
}

fn changes(txn: &Txn<'_>, schema: &str, frozen: &[Frozen]) -> Result<Vec<UploadChange>, Error> {
    frozen
        .iter()
        .map(|change| {
            let payload = change
                .payload
                .clone()
                .map(RawValue::from_string)
                .transpose();
            Ok(UploadChange {
                source_change_id: change.id,
                schema: schema.to_owned(),
                table: wire_name(txn, change.row.tbl)?,
                op: change.op,
                pk: change.row.key.to_string(),
                server_version: change.version,
                payload: payload.map_err(|error| NetworkError::Protocol(error.to_string()))?,
            })
        })
        .collect()
}
