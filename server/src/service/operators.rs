//! The service as operators see it: who is connected, what has just happened, one
//! user's devices, rows and entries, and what could not be projected.

use super::SyncService;
use crate::drift::Shape;
use crate::live::{Connected, Feed, WhichDevices, WhoIsConnected};
use crate::store::view::{DEVICES_LOOKED_AT, DeviceView, UserRecord, View, holders};
use crate::store::{StoreError, Stored};
use oversync_shared::{DeviceId, ServerId, UserId};
use std::collections::HashMap;
use std::sync::Arc;
use time::OffsetDateTime;

/// A user's log, and how much of it could be folded.
#[derive(Debug, Clone)]
pub(crate) struct Folding {
    /// The user.
    pub(crate) user: UserRecord,
    /// Up to where it may be folded, as far as is known.
    pub(crate) ceiling: ServerId,
    /// Devices without which it could be folded further.
    pub(crate) holders: Vec<DeviceView>,
    /// How many were looked at, the first by name, where that was not all.
    pub(crate) of_the_first: Option<i64>,
}

impl SyncService {
    /// What operators look at.
    pub(crate) fn view(&self) -> Arc<dyn View> {
        self.inner.store.view()
    }

    /// Commits and hints of this process.
    pub(crate) fn feed(&self) -> &Arc<Feed> {
        &self.inner.feed
    }

    /// Since when it has been running.
    pub(crate) fn started(&self) -> OffsetDateTime {
        self.inner.started
    }

    /// Whether other processes may serve the same database.
    pub(crate) fn is_shared(&self) -> bool {
        self.inner.store.is_shared()
    }

    /// How the synchronised tables looked when it started.
    pub(crate) fn shapes(&self) -> &[Shape] {
        &self.inner.shapes
    }

    /// Who is connected to this process; nobody once the server has stopped.
    pub(crate) async fn connected(&self, after: Option<UserId>, limit: usize) -> Connected {
        let asked = WhoIsConnected { after, limit };
        self.inner.notifier.send(asked).await.unwrap_or_default()
    }

    /// Sessions of a user's devices at this process.
    async fn sessions_of(&self, user: &UserId) -> HashMap<DeviceId, usize> {
        let asked = WhichDevices { user: user.clone() };
        self.inner.notifier.send(asked).await.unwrap_or_default()
    }

    /// What the database has on disk.
    pub(crate) async fn stored(&self) -> Result<Vec<Stored>, StoreError> {
        self.inner.store.storage().await
    }

    /// A user's devices after one, with cursors as they are known here, and how many
    /// sessions each has at this process.
    pub(crate) async fn devices_of(
        &self,
        user: &UserId,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<(DeviceView, usize)>, StoreError> {
        let rules = self.inner.settings.retention.rules();
        // Before the view: what is written down in between is then in one of the two.
        let known = self.inner.readers.cursors(user);
        let mut devices = self.view().devices(user, after, rules, limit).await?;
        // One that is connected and has never uploaded may not be written down yet.
        let is_whole = (devices.len() as i64) < limit;
        let last = devices.last().map(|last| last.device.clone());
        let sessions = self.sessions_of(user).await;
        for name in sessions.keys() {
            let name = name.as_str();
            let is_here = after.is_none_or(|after| name > after)
                && (is_whole || last.as_deref().is_some_and(|last| name < last));
            if is_here && devices.iter().all(|device| device.device != name) {
                devices.push(DeviceView::unheard(name));
            }
        }
        devices.sort_by(|a, b| a.device.cmp(&b.device));
        devices.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        for device in &mut devices {
            let Ok(name) = DeviceId::new(&*device.device) else {
                continue;
            };
            // What is written down is up to a pass old.
            let Some(&cursor) = known.get(&name) else {
                continue;
            };
            // What follows may be its own: it is behind by that at most.
            device.needs_after = match device.cursor {
                None => Some(cursor),
                Some(_) => device.needs_after.map(|needs| needs.max(cursor)),
            };
            device.cursor = Some(cursor);
        }
        let sessions = |device: DeviceView| {
            let name = DeviceId::new(&*device.device).ok();
            let count = name.and_then(|name| sessions.get(&name).copied());
            (device, count.unwrap_or(0))
        };
        Ok(devices.into_iter().map(sessions).collect())
    }

    /// A user, and what keeps the log from being folded; `None` for one never seen.
    pub(crate) async fn folding(&self, user: &UserId) -> Result<Option<Folding>, StoreError> {
        let (view, rules) = (self.view(), self.inner.settings.retention.rules());
        let Some(user) = view.user(user, rules).await? else {
            return Ok(None);
        };
        let mut devices = view
            .devices(&user.user, None, rules, DEVICES_LOOKED_AT + 1)
            .await?;
        let of_the_first = (devices.len() as i64 > DEVICES_LOOKED_AT).then_some(DEVICES_LOOKED_AT);
        devices.truncate(DEVICES_LOOKED_AT as usize);
        let aged = user.aged.unwrap_or(user.floor);
        let (places, holders): (Vec<ServerId>, Vec<DeviceView>) = holders(&devices, aged)
            .map(|(place, device)| (place, device.clone()))
            .unzip();
        let ceiling = places.into_iter().min().unwrap_or(aged);
        Ok(Some(Folding {
            ceiling: ceiling.max(user.floor),
            holders,
            of_the_first,
            user,
        }))
    }
}
