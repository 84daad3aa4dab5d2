//! One upload from its body to its answer.
//!
//! [`read`] cuts and checks the body; [`apply`] loads what is not remembered,
//! lets the pure core decide, commits under a guard, and decides again when
//! another writer was faster; [`reply`] writes the answer. Called by the user's
//! actor, or directly when actors are bypassed: the result is the same.

mod cache;
mod own;
mod parse;
mod reply;

pub use cache::UserCache;
pub use own::{NotAWrite, ServerChange, read_write, write_of};
pub use parse::NotAnUpload;
pub use reply::reply;

use crate::commit::Lanes;
use crate::store::{
    Commit, DeviceKey, DeviceWrite, Head, KnownDevice, NewEntry, Outcome, Referred, Revision, Show,
    Store, StoreError,
};
use bytestring::ByteString;
use cache::{Snapshot, Trust};
use oversync_shared::catalog::ForeignKeys;
use oversync_shared::upload::{
    Change, Decision, Fault, Link, RawChange, RowAt, Verdict, check, decide,
};
use oversync_shared::wire::Limits;
use oversync_shared::{Catalog, ChangeId, DeviceId, ServerId, UserId};
use parse::Envelope;
use std::collections::{BTreeMap, HashMap, HashSet};
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
    /// Whether the head moved.
    pub wrote: bool,
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

/// Applies an upload: everything that can be applied is durable when this
/// returns. An error leaves open whether it was; sent again, it is answered.
pub async fn apply(
    store: &dyn Store,
    lanes: &Lanes,
    catalog: &Catalog,
    cache: &mut UserCache,
    upload: &Upload,
) -> Result<Applied, UploadError> {
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
            return Err(UploadError::EpochMismatch(snapshot.epoch));
        }
        let referred = referred(catalog, &snapshot, upload);
        if !referred.is_empty() {
            let at_most = 1 + upload.changes.iter().flatten().filter(is_delete).count();
            let user = snapshot.head.user;
            snapshot.view.holders = store.holders(user, &upload.user, referred, at_most).await?;
            snapshot.is_fresh = false;
        }
        let mut decision = decide(catalog, &snapshot.view, &upload.changes);
        let mut missing = missing_parents(&decision, upload);
        // Asked in vain, or asked twice: the second time for all that is left.
        for asks_for_all in [false, true] {
            if missing.is_empty() {
                break;
            }
            snapshot.is_fresh = false;
            let user = snapshot.head.user;
            let found = store.in_business(user, &upload.user, &missing).await?;
            if found.is_empty() {
                break;
            }
            snapshot.view.in_business.extend(found);
            decision = decide(catalog, &snapshot.view, &upload.changes);
            // A change that now stands may have taken another one's change id, and
            // with it the row that a third one rests on.
            let unasked = |row: &RowAt| !missing.contains(row);
            let more = missing_parents(&decision, upload);
            missing = if asks_for_all || !more.iter().any(unasked) {
                Vec::new()
            } else {
                parents(&upload.changes).filter(unasked).collect()
            };
        }
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
            Outcome::Done { mut shown } => {
                if writes {
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
                if round > 0 {
                    tokio::time::sleep(FIRST_PAUSE * (1 << round.min(5))).await;
                }
            }
        }
    }
    Err(StoreError::Overloaded.into())
}

fn is_delete(change: &&Change) -> bool {
    !change.op.is_upsert()
}

/// The values that this upload refers to, where business tables must be asked
/// for them: all at once, since which of them matter depends on the others.
///
/// Business rows are not under the guard, those of other programs least of all:
/// they may come and go between this question and the commit, and later too.
/// What synchronisation itself writes there is guarded by the user's head, so
/// the answers are not fresh enough to be given without it.
fn referred(catalog: &Catalog, snapshot: &Snapshot, upload: &Upload) -> Vec<Referred> {
    if catalog.mode() == ForeignKeys::Disabled {
        return Vec::new();
    }
    let new = upload
        .changes
        .iter()
        .flatten()
        .filter(|change| !snapshot.view.recorded.contains_key(&change.id));
    let values: HashSet<Referred> = new
        .flat_map(Change::values)
        .map(|(column, value)| (column, value.clone()))
        .collect();
    values.into_iter().collect()
}

/// The rows that some change was refused for not being there. They may still be
/// in the business table, which only these rare cases ask.
fn missing_parents(decision: &Decision, upload: &Upload) -> Vec<RowAt> {
    let refused =
        |verdict: &Verdict| matches!(verdict, Verdict::Invalid(Fault::ForeignKeyMissing(_)));
    let changes = decision.verdicts.iter().zip(&upload.changes);
    let refused = changes.filter(|(verdict, _)| refused(verdict));
    let missing: HashSet<RowAt> = refused
        .flat_map(|(_, change)| parents(std::slice::from_ref(change)))
        .collect();
    missing.into_iter().collect()
}

/// The rows whose keys these changes refer to.
fn parents(changes: &[Result<Change, Fault>]) -> impl Iterator<Item = RowAt> {
    let links = changes.iter().flatten().flat_map(|change| &change.links);
    links.filter_map(|link| match link {
        Link::Key { parent, .. } => Some(*parent),
        Link::NotKey | Link::Column { .. } | Link::TooLong { .. } => None,
    })
}

/// Whether every row that was taken for new unread is written as new.
fn proves_assumptions(decision: &Decision, snapshot: &Snapshot) -> bool {
    let written: HashSet<RowAt> = decision.plan.rows.iter().map(|write| write.row).collect();
    snapshot.assumed_new.iter().all(|row| written.contains(row))
}

/// The device as it stands after this upload.
fn writer(upload: &Upload, decision: &Decision, snapshot: &Snapshot) -> KnownDevice {
    let new = if upload.device.is_server() {
        DeviceKey::SERVER
    } else {
        snapshot.next_device
    };
    let highest_here = decision.plan.log.iter().map(|entry| entry.change_id).max();
    let highest_before = snapshot.device.map(|device| device.highest);
    KnownDevice {
        key: snapshot.device.map_or(new, |device| device.key),
        highest: highest_here.max(highest_before).unwrap_or_default(),
    }
}

/// Log entries whose payloads a conflict shows; those of this upload's own plan
/// are at hand.
fn entries_to_show(decision: &Decision, head: ServerId) -> Show {
    let mut entries: BTreeMap<ServerId, usize> = BTreeMap::new();
    for verdict in &decision.verdicts {
        if let Verdict::Conflict(current) = verdict
            && !current.state.deleted
            && current.state.at <= head
        {
            *entries.entry(current.state.at).or_default() += 1;
        }
    }
    Show {
        entries,
        max_bytes: 0,
    }
}

/// A payload of this very upload that conflicts show.
struct OwnShown {
    text: ByteString,
    times: usize,
}

fn shown_from_plan(decision: &Decision, upload: &Upload) -> HashMap<ServerId, OwnShown> {
    let mut times: HashMap<ServerId, usize> = HashMap::new();
    for verdict in &decision.verdicts {
        if let Verdict::Conflict(current) = verdict {
            *times.entry(current.state.at).or_default() += 1;
        }
    }
    decision
        .plan
        .log
        .iter()
        .filter_map(|entry| {
            let times = *times.get(&entry.server_id)?;
            let text = upload.payloads[entry.position].clone()?;
            Some((entry.server_id, OwnShown { text, times }))
        })
        .collect()
}

fn own_texts(own: HashMap<ServerId, OwnShown>) -> HashMap<ServerId, Option<String>> {
    own.into_iter()
        .map(|(id, shown)| (id, Some(shown.text.to_string())))
        .collect()
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
        wrote: !decision.plan.log.is_empty(),
        verdicts: decision.verdicts,
        shown,
        epoch: snapshot.epoch.clone(),
        highest: writer.or(snapshot.device).map(|device| device.highest),
    }
}
