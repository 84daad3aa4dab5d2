//! Around the pure decision: what it must be told of the business tables, and who writes
//! what comes of it.

use super::Upload;
use super::cache::Snapshot;
use crate::store::{DeviceKey, KnownDevice, Referred, Store, StoreError};
use oversync_shared::Catalog;
use oversync_shared::catalog::ForeignKeys;
use oversync_shared::upload::{Change, Decision, Fault, Link, RowAt, Verdict, decide};
use std::collections::HashSet;

/// Decides; parents that are missing are looked for in the business tables.
pub(super) async fn decided(
    store: &dyn Store,
    catalog: &Catalog,
    snapshot: &mut Snapshot,
    upload: &Upload,
) -> Result<Decision, StoreError> {
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
    Ok(decision)
}

pub(super) fn is_delete(change: &&Change) -> bool {
    !change.op.is_upsert()
}

/// The values that this upload refers to, where business tables must be asked
/// for them: all at once, since which of them matter depends on the others.
///
/// Business rows are not under the guard, those of other programs least of all:
/// they may come and go between this question and the commit, and later too.
/// What synchronisation itself writes there is guarded by the user's head, so
/// the answers are not fresh enough to be given without it.
pub(super) fn referred(catalog: &Catalog, snapshot: &Snapshot, upload: &Upload) -> Vec<Referred> {
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
pub(super) fn missing_parents(decision: &Decision, upload: &Upload) -> Vec<RowAt> {
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
pub(super) fn proves_assumptions(decision: &Decision, snapshot: &Snapshot) -> bool {
    let written: HashSet<RowAt> = decision.plan.rows.iter().map(|write| write.row).collect();
    snapshot.assumed_new.iter().all(|row| written.contains(row))
}

/// The device as it stands after this upload.
pub(super) fn writer(upload: &Upload, decision: &Decision, snapshot: &Snapshot) -> KnownDevice {
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
