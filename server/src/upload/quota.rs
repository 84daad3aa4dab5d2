//! Whether what an upload adds is within what its user may have.
//!
//! Without limits nothing happens here. Far below them, what is known of the user is
//! raised by what each upload brings, and the database is not asked. Only when that
//! upper bound would pass a limit is it looked at closely: first the rows that the
//! upload replaces, then, if that does not do, all that the user has. A refusal is
//! never a guess, and what is refused and what is written is true of the head that the
//! commit's guard proves: also over several processes no limit is passed.

use super::{Snapshot, Upload, decided};
use crate::quotas::{Known, Quotas, Sureness};
use crate::store::{Store, StoreError};
use oversync_shared::upload::{
    Allowed, Amount, Decision, Exceeded, Fault, Limited, LogEntry, Quota, Room, RowAt, Verdict,
    decide,
};
use oversync_shared::{Catalog, ServerId};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// All that a user has is counted at most so often by one process: a user who stays at
/// a limit, on several processes at once, must not keep the database counting. Until
/// then what cannot be decided is told to come back (503), which devices do by themselves.
const MEASURE_PAUSE: Duration = Duration::from_secs(5);

/// From this part of the limit on, in quarters, the rows that an upload replaces are
/// looked at beforehand: so what is known stays exact where that will matter soon.
const NEAR_QUARTERS: u64 = 3;

/// A decision within the limits.
pub(super) struct Held {
    pub(super) decision: Decision,
    /// What the user has before it, where that must be kept.
    pub(super) counted: Option<Counted>,
}

/// What a user has at the head that an upload was decided at.
pub(super) struct Counted {
    known: Known,
    allowed: Allowed,
    /// Of the rows that the upload replaces, where they were asked for.
    sizes: Option<HashMap<RowAt, u64>>,
}

/// Holds a decision against the limits, and decides again where it passes them.
/// `None`: the user has moved on since the snapshot.
pub(super) async fn hold(
    store: &dyn Store,
    catalog: &Catalog,
    quotas: &Quotas,
    snapshot: &mut Snapshot,
    upload: &Upload,
    decision: Decision,
) -> Result<Option<Held>, StoreError> {
    let as_it_is = |decision| {
        Ok(Some(Held {
            decision,
            counted: None,
        }))
    };
    let Some(limits) = quotas.limits() else {
        return as_it_is(decision);
    };
    if upload.device.is_server() || decision.plan.log.is_empty() {
        return as_it_is(decision);
    }
    if let (Some(limit), None) = (limits.user_devices, snapshot.device) {
        let (used, limit) = (devices(store, upload).await?, u64::from(limit.get()));
        if used >= limit {
            // They were not read with the rest: the guard must say that both are true.
            snapshot.is_fresh = false;
            snapshot.view.room = Room::Closed(Exceeded {
                quota: Quota::Devices,
                limit,
                used,
                adds: 1,
            });
            return as_it_is(decide(catalog, &snapshot.view, &upload.changes));
        }
    }
    let allowed = limits.allowed();
    let grows = decision.plan.log.iter().any(|entry| entry.op.is_upsert());
    if allowed == Allowed::default() {
        return as_it_is(decision);
    }
    let known = quotas.known(&upload.user, &snapshot.epoch);
    let known = match known.filter(|known| known.at == snapshot.head.head || grows) {
        // Nothing is known, and a delete needs nothing to be.
        None if !grows => return as_it_is(decision),
        None => measure(store, quotas, snapshot, upload).await?,
        Some(known) => catch_up(store, quotas, snapshot, upload, known).await?,
    };
    let Some(mut known) = known else {
        return Ok(None);
    };
    let bound = added_at_most(&decision, snapshot, upload);
    let most = plus(known.used, bound);
    let fits = allowed.exceeded(known.used, most).is_none();
    let is_near = allowed
        .bytes
        .is_some_and(|limit| most.bytes >= limit / 4 * NEAR_QUARTERS);
    if fits && !(is_near && known.sureness == Sureness::Exactly) {
        let counted = Counted {
            known,
            allowed,
            sizes: None,
        };
        return Ok(Some(Held {
            decision,
            counted: Some(counted),
        }));
    }
    let sizes = sizes(store, snapshot, upload).await?;
    let mut decision = decision;
    if !fits {
        snapshot.view.room = limited(allowed, &known, &sizes);
        decision = decided(store, catalog, snapshot, upload).await?;
        if known.sureness == Sureness::AtMost && refuses(&decision) {
            if known.measured.elapsed() < MEASURE_PAUSE {
                return Err(StoreError::Overloaded);
            }
            let Some(measured) = measure(store, quotas, snapshot, upload).await? else {
                return Ok(None);
            };
            known = measured;
            snapshot.view.room = limited(allowed, &known, &sizes);
            decision = decided(store, catalog, snapshot, upload).await?;
        }
    }
    let counted = Counted {
        known,
        allowed,
        sizes: Some(sizes),
    };
    Ok(Some(Held {
        decision,
        counted: Some(counted),
    }))
}

impl Counted {
    /// What the user has when the decision is committed.
    pub(super) fn after(self, decision: &Decision, snapshot: &Snapshot, upload: &Upload) -> Known {
        let Self {
            mut known,
            allowed,
            sizes,
        } = self;
        let entries: HashMap<ServerId, &LogEntry> = decision
            .plan
            .log
            .iter()
            .map(|entry| (entry.server_id, entry))
            .collect();
        let (mut added, mut gone, mut is_sure) = (Amount::default(), Amount::default(), true);
        for write in &decision.plan.rows {
            if !write.state.deleted {
                added.rows += 1;
                added.bytes += bytes_of(entries[&write.state.at], upload);
            }
            if is_live(snapshot, &write.row) {
                gone.rows += 1;
                match sizes.as_ref().and_then(|sizes| sizes.get(&write.row)) {
                    Some(bytes) => gone.bytes += bytes,
                    None => is_sure = allowed.bytes.is_none(),
                }
            }
        }
        let most = plus(known.used, added);
        known.used = Amount {
            rows: most.rows.saturating_sub(gone.rows),
            bytes: most.bytes.saturating_sub(gone.bytes),
        };
        known.at = decision.plan.head;
        if !is_sure {
            known.sureness = Sureness::AtMost;
        }
        known
    }
}

/// The devices that count: those that have uploaded and may come in.
async fn devices(store: &dyn Store, upload: &Upload) -> Result<u64, StoreError> {
    let devices = store.devices(&upload.user).await?;
    let count = devices
        .iter()
        .filter(|one| one.highest_change_id.is_some() && one.revoked_at.is_none())
        .filter(|one| !one.device.is_server())
        .count();
    Ok(count as u64)
}

/// Counts all that the user has; `None` when that is of another head than the
/// snapshot. It is remembered in any case.
async fn measure(
    store: &dyn Store,
    quotas: &Quotas,
    snapshot: &Snapshot,
    upload: &Upload,
) -> Result<Option<Known>, StoreError> {
    let usage = store.usage(snapshot.head.user, None).await?;
    let known = Known {
        epoch: snapshot.epoch.clone(),
        at: usage.head,
        used: usage.used,
        sureness: Sureness::Exactly,
        measured: Instant::now(),
    };
    quotas.remember(&upload.user, known.clone());
    Ok(Some(known).filter(|known| known.at == snapshot.head.head))
}

/// Adds what others have committed since. Entries that folding has removed meanwhile
/// have been replaced by later ones, which are there: it is still no less than the truth.
async fn catch_up(
    store: &dyn Store,
    quotas: &Quotas,
    snapshot: &Snapshot,
    upload: &Upload,
    mut known: Known,
) -> Result<Option<Known>, StoreError> {
    // The user's head went back, or this is a race: only the first stays like that.
    if known.at > snapshot.head.head && known.measured.elapsed() >= MEASURE_PAUSE {
        return measure(store, quotas, snapshot, upload).await;
    }
    if known.at < snapshot.head.head {
        let since = store.usage(snapshot.head.user, Some(known.at)).await?;
        known.at = since.head;
        known.used = plus(known.used, since.used);
        known.sureness = Sureness::AtMost;
        quotas.remember(&upload.user, known.clone());
    }
    Ok(Some(known).filter(|known| known.at == snapshot.head.head))
}

/// The payload bytes of the live rows that the upload would change, if it could.
async fn sizes(
    store: &dyn Store,
    snapshot: &Snapshot,
    upload: &Upload,
) -> Result<HashMap<RowAt, u64>, StoreError> {
    let rows: HashMap<ServerId, RowAt> = upload
        .changes
        .iter()
        .flatten()
        .filter_map(|change| {
            let state = snapshot.view.rows.get(&change.row())?;
            (!state.deleted).then_some((state.at, change.row()))
        })
        .collect();
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let entries = rows.keys().copied().collect();
    let sizes = store.sizes(snapshot.head.user, entries).await?;
    let of_row = |(entry, bytes): (ServerId, u64)| Some((*rows.get(&entry)?, bytes));
    Ok(sizes.into_iter().filter_map(of_row).collect())
}

fn limited(allowed: Allowed, known: &Known, sizes: &HashMap<RowAt, u64>) -> Room {
    Room::Limited(Limited {
        allowed,
        used: known.used,
        sizes: sizes.clone(),
    })
}

fn refuses(decision: &Decision) -> bool {
    let is_one = |verdict: &Verdict| matches!(verdict, Verdict::Invalid(Fault::QuotaExceeded(_)));
    decision.verdicts.iter().any(is_one)
}

/// No order in which the plan is written adds more than this at any moment.
fn added_at_most(decision: &Decision, snapshot: &Snapshot, upload: &Upload) -> Amount {
    let plan = &decision.plan;
    let is_new = |row: &RowAt| !is_live(snapshot, row);
    let rows = plan.rows.iter().filter(|write| is_new(&write.row)).count();
    Amount {
        rows: rows as u64,
        bytes: plan.log.iter().map(|entry| bytes_of(entry, upload)).sum(),
    }
}

fn bytes_of(entry: &LogEntry, upload: &Upload) -> u64 {
    let payload = upload.payloads[entry.position].as_ref();
    payload.map_or(0, |text| text.len() as u64)
}

fn is_live(snapshot: &Snapshot, row: &RowAt) -> bool {
    let state = snapshot.view.rows.get(row);
    state.is_some_and(|state| !state.deleted)
}

fn plus(a: Amount, b: Amount) -> Amount {
    Amount {
        rows: a.rows.saturating_add(b.rows),
        bytes: a.bytes.saturating_add(b.bytes),
    }
}
