//! One upload from its body to its answer.
//!
//! [`read`] cuts and checks the body; [`apply`] loads what is not remembered,
//! lets the pure core decide, commits under a guard, and decides again when
//! another writer was faster; [`reply`] writes the answer. Called by the user's
//! actor, or directly when actors are bypassed: the result is the same.

mod cache;
mod parse;
mod reply;

pub use cache::UserCache;
pub use parse::NotAnUpload;
pub use reply::reply;

use crate::commit::Lanes;
use crate::store::{
    Commit, DeviceWrite, Head, KnownDevice, NewEntry, Outcome, Revision, Store, StoreError,
};
use bytestring::ByteString;
use cache::{Snapshot, Trust};
use oversync_shared::upload::{Change, Decision, Fault, LinkValue, RowAt, Verdict, check, decide};
use oversync_shared::wire::Limits;
use oversync_shared::{Catalog, ChangeId, DeviceId, ServerId, UserId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// How often an upload is decided again because other processes write to the
/// same user; each round somebody has made progress.
const MAX_ROUNDS: u32 = 50;

/// The first wait before deciding again, doubled up to 32 times itself: the
/// head row is held by a transaction that ends within milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// An upload whose changes have been checked one by one.
#[derive(Debug)]
pub struct Upload {
    /// Whose.
    pub user: UserId,
    /// By which device.
    pub device: DeviceId,
    /// The epoch the device believes in.
    pub epoch: Option<String>,
    /// The changes as they were numbered, in request order.
    pub ids: Vec<ChangeId>,
    /// Each checked by itself.
    pub changes: Vec<Result<Change, Fault>>,
    /// Each one's payload.
    pub payloads: Vec<Option<ByteString>>,
}

/// What was done.
#[derive(Debug)]
pub struct Applied {
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
) -> Result<Upload, NotAnUpload> {
    let envelope = parse::parse(body.as_bytes())?;
    let mut scratch = Vec::new();
    let too_large = Fault::BatchTooLarge {
        changes: envelope.changes.len(),
        limit: limits.max_changes,
    };
    let is_too_large = envelope.changes.len() > limits.max_changes;
    let mut upload = Upload {
        user: user.clone(),
        device: device.clone(),
        epoch: envelope.epoch.map(|epoch| epoch.into_owned()),
        ids: Vec::with_capacity(envelope.changes.len()),
        changes: Vec::with_capacity(envelope.changes.len()),
        payloads: Vec::with_capacity(envelope.changes.len()),
    };
    for sent in &envelope.changes {
        upload.ids.push(ChangeId::new(sent.source_change_id()));
        upload.changes.push(if is_too_large {
            Err(too_large.clone())
        } else {
            check(
                &sent.as_raw(),
                catalog,
                limits.max_payload_bytes,
                &mut scratch,
            )
        });
        upload
            .payloads
            .push(sent.payload().map(|text| body.slice_ref(text)));
    }
    Ok(upload)
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
        let mut decision = decide(catalog, &snapshot.view, &upload.changes);
        let missing = missing_parents(&decision, upload);
        if !missing.is_empty() {
            let found = store
                .in_business(snapshot.head.user, &upload.user, &missing)
                .await?;
            if !found.is_empty() {
                snapshot.view.in_business = found;
                decision = decide(catalog, &snapshot.view, &upload.changes);
            }
        }
        if !proves_assumptions(&decision, &snapshot) {
            *cache = current;
            trust = Trust::Nothing;
            continue;
        }
        let show = entries_to_show(&decision, snapshot.head.head);
        let writes = !decision.plan.log.is_empty();
        if !writes && show.is_empty() && snapshot.is_fresh {
            *cache = current;
            return Ok(applied(decision, HashMap::new(), &snapshot, None));
        }
        let device = writer(&decision, &snapshot);
        let commit = commit_of(&decision, &snapshot, device, upload, show);
        match lanes.commit(commit).await? {
            Outcome::Done { mut shown } => {
                if writes {
                    let revision = Revision(snapshot.head.revision.0 + 1);
                    let head = Head {
                        user: snapshot.head.user,
                        head: decision.plan.head,
                        revision,
                    };
                    current.committed(head, &upload.device, device, &decision.plan.rows);
                }
                *cache = current;
                shown.extend(shown_from_plan(&decision, upload));
                return Ok(applied(
                    decision,
                    shown,
                    &snapshot,
                    writes.then_some(device),
                ));
            }
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

/// The rows that some change was refused for not being there. They may still be
/// in the business table, which only these rare cases ask.
fn missing_parents(decision: &Decision, upload: &Upload) -> Vec<RowAt> {
    let refused =
        |verdict: &Verdict| matches!(verdict, Verdict::Invalid(Fault::ForeignKeyMissing(_)));
    let parents: HashSet<RowAt> = decision
        .verdicts
        .iter()
        .zip(&upload.changes)
        .filter(|(verdict, _)| refused(verdict))
        .flat_map(|(_, change)| change.iter().flat_map(|change| &change.links))
        .filter_map(|link| match &link.value {
            LinkValue::Key(key, _) => Some(RowAt {
                table: link.parent,
                key: *key,
            }),
            LinkValue::NotKey => None,
        })
        .collect();
    parents.into_iter().collect()
}

/// Whether every row that was taken for new unread is written as new.
fn proves_assumptions(decision: &Decision, snapshot: &Snapshot) -> bool {
    let written: HashSet<RowAt> = decision.plan.rows.iter().map(|write| write.row).collect();
    snapshot.assumed_new.iter().all(|row| written.contains(row))
}

/// The device as it stands after this upload.
fn writer(decision: &Decision, snapshot: &Snapshot) -> KnownDevice {
    let highest_here = decision.plan.log.iter().map(|entry| entry.change_id).max();
    let highest_before = snapshot.device.map(|device| device.highest);
    KnownDevice {
        key: snapshot
            .device
            .map_or(snapshot.next_device, |device| device.key),
        highest: highest_here.max(highest_before).unwrap_or_default(),
    }
}

/// Log entries whose payloads a conflict shows; those of this upload's own plan
/// are at hand.
fn entries_to_show(decision: &Decision, head: ServerId) -> Vec<ServerId> {
    let mut show: Vec<ServerId> = decision
        .verdicts
        .iter()
        .filter_map(|verdict| match verdict {
            Verdict::Conflict(current) if !current.state.deleted && current.state.at <= head => {
                Some(current.state.at)
            }
            _ => None,
        })
        .collect();
    show.sort_unstable();
    show.dedup();
    show
}

fn shown_from_plan(decision: &Decision, upload: &Upload) -> HashMap<ServerId, Option<String>> {
    let needed = |id: ServerId| {
        decision
            .verdicts
            .iter()
            .any(|verdict| matches!(verdict, Verdict::Conflict(current) if current.state.at == id))
    };
    decision
        .plan
        .log
        .iter()
        .filter(|entry| needed(entry.server_id))
        .map(|entry| {
            (
                entry.server_id,
                upload.payloads[entry.position]
                    .as_ref()
                    .map(ToString::to_string),
            )
        })
        .collect()
}

fn commit_of(
    decision: &Decision,
    snapshot: &Snapshot,
    device: KnownDevice,
    upload: &Upload,
    show: Vec<ServerId>,
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
        user_id: upload.user.clone(),
        revision: snapshot.head.revision,
        head: decision.plan.head,
        device: DeviceWrite {
            key: device.key,
            id: upload.device.clone(),
            highest: device.highest,
        },
        entries,
        rows: decision.plan.rows.clone(),
        show,
    }
}

fn applied(
    decision: Decision,
    shown: HashMap<ServerId, Option<String>>,
    snapshot: &Snapshot,
    writer: Option<KnownDevice>,
) -> Applied {
    Applied {
        head: decision.plan.head,
        wrote: !decision.plan.log.is_empty(),
        verdicts: decision.verdicts,
        shown,
        epoch: snapshot.epoch.clone(),
        highest: writer.or(snapshot.device).map(|device| device.highest),
    }
}
