//! One upload from its body to its answer.
//!
//! [`read`] cuts and checks the body; [`apply`] loads what is not remembered,
//! lets the pure core decide, commits under a guard, and decides again when
//! another writer was faster; [`reply`] writes the answer. Called by the user's
//! actor, or directly when actors are bypassed: the result is the same.

mod cache;
mod deciding;
mod own;
mod parse;
mod quota;
mod reply;
mod shown;

pub use cache::UserCache;
pub use own::{NotAWrite, ServerChange, read_write, write_of};
pub use parse::NotAnUpload;
pub use reply::reply;

use crate::commit::Lanes;
use crate::quotas::Quotas;
use crate::store::{
    Commit, DeviceWrite, Head, KnownDevice, NewEntry, Outcome, Revision, Show, Store, StoreError,
};
use bytestring::ByteString;
use cache::{Snapshot, Trust};
use deciding::{decided, is_delete, proves_assumptions, referred, writer};
use oversync_shared::upload::{Change, Decision, Fault, RawChange, Verdict, check};
use oversync_shared::wire::Limits;
use oversync_shared::{Catalog, ChangeId, DeviceId, ServerId, UserId};
use parse::Envelope;
use shown::{entries_to_show, own_texts, shown_from_plan};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// How often an upload is decided again because other processes write to the
/// same user; each round somebody has made progress.
const MAX_ROUNDS: u32 = 50;

/// The first wait before deciding again, doubled up to 32 times itself: the
/// head row is held by a transaction that ends within milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// A batch with more changes than this many times the limit is not answered
/// change by change: its answer would be larger than itself.
const MAX_ANSWERED: usize = 16;

/// Bytes of rows that one answer shows with its conflicts, at least; a device
/// that would get more is told to send less at a time.
const MIN_SHOWN_BYTES: usize = 16 * 1024 * 1024;

/// Why a body is not an upload that can be decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Malformed.
    #[error(transparent)]
    NotAnUpload(#[from] NotAnUpload),
    /// Many times more changes than the limit.
    #[error("far more changes than one upload may carry")]
    Absurd,
}

/// An upload whose changes have been checked one by one.
#[derive(Debug)]
pub struct Upload {
    /// Whose.
    pub user: UserId,
    /// By which device.
    pub device: DeviceId,
    /// The epoch the device believes in.
    pub epoch: Option<String>,
    /// Below which the device sends no change id again.
    pub settled_below: Option<ChangeId>,
    /// The changes as they were numbered, in request order.
    pub ids: Vec<ChangeId>,
    /// Each checked by itself.
    pub changes: Vec<Result<Change, Fault>>,
    /// Each one's payload.
    pub payloads: Vec<Option<ByteString>>,
    /// The memory its body was promised, until nobody needs it any more.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// What was done.
#[derive(Debug)]
pub struct Applied {
    /// The changes' numbers as the answer shows them, in request order: as they
    /// were sent, or as the server gave them to its own.
    pub ids: Vec<ChangeId>,
    /// In request order.
    pub verdicts: Vec<Verdict>,
    /// The payloads of rows shown with conflicts, by entry.
    pub shown: HashMap<ServerId, Option<String>>,
    /// The user's head afterwards.
    pub head: ServerId,
    /// Entries that were written; with none the head has not moved.
    pub entries: usize,
    /// The database's history.
    pub epoch: Arc<str>,
    /// The device's highest change id on record.
    pub highest: Option<ChangeId>,
}

/// Why an upload has no answer of its own.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The device believes in another history; nothing was applied.
    #[error("the database has another epoch")]
    EpochMismatch(Arc<str>),
    /// The rows to be shown with conflicts are too large together; nothing was
    /// applied. Fewer changes at a time will do.
    #[error("the answer would be too large")]
    AnswerTooLarge,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads an upload's body.
pub fn read(
    body: &ByteString,
    user: &UserId,
    device: &DeviceId,
    catalog: &Catalog,
    limits: &Limits,
) -> Result<Upload, ReadError> {
    let envelope = parse::parse(body.as_bytes(), limits.max_changes)?;
    assemble(body, user, device, envelope, catalog, limits)
}

fn assemble(
    body: &ByteString,
    user: &UserId,
    device: &DeviceId,
    envelope: Envelope<'_>,
    catalog: &Catalog,
    limits: &Limits,
) -> Result<Upload, ReadError> {
    if envelope.ids.len() > limits.max_changes.saturating_mul(MAX_ANSWERED) {
        return Err(ReadError::Absurd);
    }
    let mut upload = Upload {
        user: user.clone(),
        device: device.clone(),
        epoch: envelope.epoch.map(|epoch| epoch.into_owned()),
        settled_below: envelope.settled_below.map(ChangeId::new),
        ids: envelope.ids.into_iter().map(ChangeId::new).collect(),
        changes: Vec::with_capacity(envelope.changes.len()),
        payloads: Vec::with_capacity(envelope.changes.len()),
        room: None,
    };
    if upload.ids.len() > limits.max_changes {
        upload.refuse_all(limits.max_changes);
        return Ok(upload);
    }
    let mut scratch = Vec::new();
    for sent in &envelope.changes {
        upload
            .changes
            .push(checked(&sent.as_raw(), catalog, limits, &mut scratch));
        upload
            .payloads
            .push(sent.payload().map(|text| body.slice_ref(text)));
    }
    Ok(upload)
}

impl Upload {
    /// Makes every change one of a batch that is too large.
    fn refuse_all(&mut self, limit: usize) {
        let changes = self.ids.len();
        self.changes = vec![Err(Fault::BatchTooLarge { changes, limit }); changes];
        self.payloads = vec![None; changes];
    }
}

fn checked(
    raw: &RawChange<'_>,
    catalog: &Catalog,
    limits: &Limits,
    scratch: &mut Vec<u8>,
) -> Result<Change, Fault> {
    check(raw, catalog, limits.max_payload_bytes, scratch)
}

/// What every upload goes through.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    /// The database.
    pub(crate) store: &'a dyn Store,
    /// The way to write.
    pub(crate) lanes: &'a Lanes,
    /// The registered tables.
    pub(crate) catalog: &'a Catalog,
    /// What users may have.
    pub(crate) quotas: &'a Quotas,
}

/// Applies an upload: everything that can be applied is durable when this
/// returns. An error leaves open whether it was; sent again, it is answered.
pub(crate) async fn apply(
    way: Way<'_>,
    cache: &mut UserCache,
    upload: &Upload,
) -> Result<Applied, UploadError> {
    let Way {
        store,
        lanes,
        catalog,
        quotas,
    } = way;
    let mut trust = Trust::NewRows;
    for round in 0..MAX_ROUNDS {
        // Until its end is known, nothing is remembered.
        let mut current = std::mem::take(cache);
        let mut snapshot = current.snapshot(store, upload, trust).await?;
        if upload
            .epoch
            .as_deref()
            .is_some_and(|epoch| epoch != &*snapshot.epoch)
        {
            if !snapshot.is_fresh {
                // What is remembered may be the lost history of a restored database.
                trust = Trust::Nothing;
                continue;
            }
            return Err(UploadError::EpochMismatch(snapshot.epoch));
        }
        let referred = referred(catalog, &snapshot, upload);
        if !referred.is_empty() {
            let at_most = 1 + upload.changes.iter().flatten().filter(is_delete).count();
            let user = snapshot.head.user;
            snapshot.view.holders = store.holders(user, &upload.user, referred, at_most).await?;
            snapshot.is_fresh = false;
        }
        let decision = decided(store, catalog, &mut snapshot, upload).await?;
        let held = quota::hold(store, catalog, quotas, &mut snapshot, upload, decision).await?;
        let Some(quota::Held {
            mut decision,
            counted,
        }) = held
        else {
            trust = Trust::Nothing;
            pause(round).await;
            continue;
        };
        if upload.device.is_server() {
            let highest = snapshot.device.map(|device| device.highest);
            own::give_ids(&mut decision, highest.unwrap_or_default());
        }
        if !proves_assumptions(&decision, &snapshot) {
            *cache = current;
            trust = Trust::Nothing;
            continue;
        }
        let mut show = entries_to_show(&decision, snapshot.head.head);
        let own = shown_from_plan(&decision, upload);
        show.max_bytes = MIN_SHOWN_BYTES
            .checked_sub(
                own.values()
                    .map(|shown| shown.text.len() * shown.times)
                    .sum(),
            )
            .ok_or(UploadError::AnswerTooLarge)?;
        let writes = !decision.plan.log.is_empty();
        if !writes && show.entries.is_empty() && snapshot.is_fresh {
            *cache = current;
            return Ok(applied(upload, decision, own_texts(own), &snapshot, None));
        }
        let device = writer(upload, &decision, &snapshot);
        let commit = commit_of(&decision, &snapshot, device, upload, show);
        match lanes.commit(commit).await? {
            Outcome::Done { mut shown, .. } => {
                if writes {
                    if let Some(counted) = counted {
                        let now = counted.after(&decision, &snapshot, upload);
                        quotas.remember(&upload.user, now);
                    }
                    let revision = Revision(snapshot.head.revision.0 + 1);
                    let head = Head {
                        user: snapshot.head.user,
                        user_id: snapshot.head.user_id.clone(),
                        head: decision.plan.head,
                        revision,
                    };
                    current.committed(head, &upload.device, device, &decision.plan.rows);
                }
                *cache = current;
                shown.extend(own_texts(own));
                return Ok(applied(
                    upload,
                    decision,
                    shown,
                    &snapshot,
                    writes.then_some(device),
                ));
            }
            Outcome::TooMuchToShow => return Err(UploadError::AnswerTooLarge),
            Outcome::LeftOut => {
                current.clear();
                trust = Trust::Nothing;
                pause(round).await;
            }
        }
    }
    Err(StoreError::Overloaded.into())
}

/// Before the next round, but for the first.
async fn pause(round: u32) {
    if round > 0 {
        tokio::time::sleep(FIRST_PAUSE * (1 << round.min(5))).await;
    }
}

fn commit_of(
    decision: &Decision,
    snapshot: &Snapshot,
    device: KnownDevice,
    upload: &Upload,
    show: Show,
) -> Commit {
    let entries = decision
        .plan
        .log
        .iter()
        .map(|entry| NewEntry {
            server_id: entry.server_id,
            row: entry.row,
            op: entry.op,
            version: entry.version,
            change_id: entry.change_id,
            fingerprint: entry.fingerprint,
            payload: upload.payloads[entry.position].clone(),
        })
        .collect();
    Commit {
        user: snapshot.head.user,
        user_id: snapshot.head.user_id.clone(),
        epoch: snapshot.epoch.clone(),
        revision: snapshot.head.revision,
        head: decision.plan.head,
        device: DeviceWrite {
            key: device.key,
            id: upload.device.clone(),
            highest: device.highest,
            settled_below: upload.settled_below,
        },
        entries,
        rows: decision.plan.rows.clone(),
        show,
    }
}

fn applied(
    upload: &Upload,
    decision: Decision,
    shown: HashMap<ServerId, Option<String>>,
    snapshot: &Snapshot,
    writer: Option<KnownDevice>,
) -> Applied {
    let ids = if upload.device.is_server() {
        own::given_ids(&decision)
    } else {
        upload.ids.clone()
    };
    Applied {
        ids,
        head: decision.plan.head,
        entries: decision.plan.log.len(),
        verdicts: decision.verdicts,
        shown,
        epoch: snapshot.epoch.clone(),
        highest: writer.or(snapshot.device).map(|device| device.highest),
    }
}
