//! What a user's actor remembers between uploads: the head row, the watermark
//! of each device's change ids, a bounded number of row states.
//!
//! Everything remembered is true of one revision. It is only ever used under a
//! guard: a commit that finds another revision is left out, and the cache is
//! dropped. Empty, it makes every upload read from the database.

use super::Upload;
use crate::store::{Ask, DeviceKey, Head, KnownDevice, Loaded, Store, StoreError};
use oversync_shared::upload::{Base, Change, Needs, Room, RowAt, RowState, RowWrite, View, needs};
use oversync_shared::wire::Op;
use oversync_shared::{ChangeId, DeviceId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Row states remembered per user, about 100 bytes each.
const MAX_ROWS: usize = 8_192;

/// Devices remembered per user.
const MAX_DEVICES: usize = 256;

/// A user's remembered state.
#[derive(Debug, Default)]
pub struct UserCache {
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    head: Head,
    epoch: Arc<str>,
    next_device: DeviceKey,
    /// `None`: has never uploaded.
    devices: HashMap<DeviceId, Option<KnownDevice>>,
    /// `None`: has never been seen.
    rows: HashMap<RowAt, Option<RowState>>,
}

/// One committed state of the user, ready to decide an upload against.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) view: View,
    pub(super) head: Head,
    pub(super) epoch: Arc<str>,
    pub(super) device: Option<KnownDevice>,
    /// The key that a device gets which has never uploaded.
    pub(super) next_device: DeviceKey,
    /// Rows taken for new without looking: right only if the commit writes them,
    /// which proves it.
    pub(super) assumed_new: Vec<RowAt>,
    /// Whether it was read just now; otherwise an answer needs the guard.
    pub(super) is_fresh: bool,
}

/// Whether rows that a change takes for new may be taken for new unread; the
/// commit then proves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    NewRows,
    Nothing,
}

impl UserCache {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.known = None;
    }

    /// Brings together what the upload needs, reading what is not remembered
    /// in one question.
    pub(super) async fn snapshot(
        &mut self,
        store: &dyn Store,
        upload: &Upload,
        trust: Trust,
    ) -> Result<Snapshot, StoreError> {
        let mut needs = needs(&upload.changes);
        if upload.device.is_server() {
            // Its change ids are given out afterwards: none is on record.
            needs.ids.clear();
        }
        let assumed = if trust == Trust::NewRows {
            taken_for_new(upload)
        } else {
            HashSet::new()
        };
        let mut is_fresh = false;
        let mut recorded = HashMap::new();
        while let Some(missing) = self.missing(&needs, &assumed, &upload.device) {
            let ask = Ask {
                user: upload.user.clone(),
                device: upload.device.clone(),
                rows: missing.rows.into_iter().collect(),
                ids: missing.ids.into_iter().collect(),
            };
            let loaded = store.load(&ask).await?;
            is_fresh = self.absorb(&ask, &loaded);
            if is_fresh {
                recorded = loaded.recorded;
                break;
            }
            // The user has moved on since the rest was read: read it all again.
        }
        let known = self
            .known
            .as_ref()
            .expect("BUG: a missing head is asked for");
        let rows = needs
            .rows
            .iter()
            .filter_map(|row| Some((*row, (*known.rows.get(row)?)?)))
            .collect();
        let snapshot = Snapshot {
            view: View {
                head: known.head.head,
                rows,
                recorded,
                in_business: HashSet::new(),
                holders: HashMap::new(),
                room: Room::Unlimited,
            },
            head: known.head.clone(),
            epoch: known.epoch.clone(),
            device: known.devices.get(&upload.device).copied().flatten(),
            next_device: known.next_device,
            assumed_new: assumed
                .into_iter()
                .filter(|row| !known.rows.contains_key(row))
                .collect(),
            is_fresh,
        };
        self.trim();
        Ok(snapshot)
    }

    /// Keeps within bounds what only reading has brought in.
    fn trim(&mut self) {
        let Some(known) = &mut self.known else { return };
        if known.rows.len() > MAX_ROWS {
            known.rows.clear();
        }
        if known.devices.len() > MAX_DEVICES {
            known.devices.clear();
        }
    }

    /// `None` when everything is remembered.
    fn missing(&self, needs: &Needs, assumed: &HashSet<RowAt>, device: &DeviceId) -> Option<Needs> {
        let Some((known, device)) = self
            .known
            .as_ref()
            .and_then(|known| Some((known, known.devices.get(device)?)))
        else {
            // Also when only the device is new here: its ids need its watermark.
            let rows = needs.rows.difference(assumed).copied().collect();
            return Some(Needs {
                rows,
                ids: needs.ids.clone(),
            });
        };
        let rows: HashSet<RowAt> = needs
            .rows
            .iter()
            .filter(|row| !known.rows.contains_key(row) && !assumed.contains(row))
            .copied()
            .collect();
        let ids: HashSet<ChangeId> = match device {
            Some(device) => needs
                .ids
                .iter()
                .filter(|id| **id <= device.highest)
                .copied()
                .collect(),
            None => HashSet::new(),
        };
        if rows.is_empty() && ids.is_empty() {
            None
        } else {
            Some(Needs { rows, ids })
        }
    }

    /// Takes in what was read. False when the rest of the cache was of another
    /// revision: it is dropped, and what was read alone is not enough.
    fn absorb(&mut self, ask: &Ask, loaded: &Loaded) -> bool {
        let fits = match &self.known {
            None => true,
            Some(known) => {
                known.head.revision == loaded.head.revision && known.epoch == loaded.epoch
            }
        };
        if !fits {
            self.known = None;
            return false;
        }
        let known = self.known.get_or_insert_with(|| Known {
            head: loaded.head.clone(),
            epoch: loaded.epoch.clone(),
            next_device: loaded.next_device,
            devices: HashMap::new(),
            rows: HashMap::new(),
        });
        known.devices.insert(ask.device.clone(), loaded.device);
        known.rows.extend(
            ask.rows
                .iter()
                .map(|row| (*row, loaded.rows.get(row).copied())),
        );
        true
    }

    /// Takes in what this process has just committed.
    pub(super) fn committed(
        &mut self,
        head: Head,
        device: &DeviceId,
        now: KnownDevice,
        rows: &[RowWrite],
    ) {
        let Some(known) = &mut self.known else { return };
        known.head = head;
        if known.next_device <= now.key {
            known.next_device = DeviceKey(now.key.0 + 1);
        }
        known.devices.insert(device.clone(), Some(now));
        known
            .rows
            .extend(rows.iter().map(|write| (write.row, Some(write.state))));
        self.trim();
    }
}

/// Rows that some change takes for new, and that nothing in the upload needs to
/// know more about than the commit will prove.
fn taken_for_new(upload: &Upload) -> HashSet<RowAt> {
    let takes_for_new = |change: &Change| change.base == Base::NEW && change.op != Op::Delete;
    let row = |change: &Change| RowAt {
        table: change.table,
        key: change.key,
    };
    let first_says_new = upload
        .changes
        .iter()
        .flatten()
        .filter(|change| takes_for_new(change))
        .map(row);
    let otherwise: HashSet<RowAt> = upload
        .changes
        .iter()
        .flatten()
        .filter(|change| !takes_for_new(change))
        .map(row)
        .collect();
    first_says_new
        .filter(|row| !otherwise.contains(row))
        .collect()
}
