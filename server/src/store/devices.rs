//! A user's devices as operators see them, and which of them are revoked.

use oversync_shared::{ChangeId, DeviceId, UserId};
use std::collections::{HashMap, HashSet};
use time::OffsetDateTime;

/// Whether a device may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// As its token says.
    Admitted,
    /// Whatever its token says, no.
    Revoked,
}

/// Moves with every change of the list of revoked devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocations(pub(crate) i64);

/// All revoked devices of all users, as they were at one moment.
#[derive(Debug, Clone)]
pub struct RevokedDevices {
    pub(crate) at: Revocations,
    pub(crate) devices: HashMap<UserId, HashSet<DeviceId>>,
}

impl RevokedDevices {
    /// Takes the list as it was read.
    pub(super) fn new(
        at: Revocations,
        pairs: impl IntoIterator<Item = (UserId, DeviceId)>,
    ) -> Self {
        let mut devices: HashMap<UserId, HashSet<DeviceId>> = HashMap::new();
        for (user, device) in pairs {
            devices.entry(user).or_default().insert(device);
        }
        Self { at, devices }
    }

    /// Whether this device is among them.
    pub fn contains(&self, user: &UserId, device: &DeviceId) -> bool {
        let devices = self.devices.get(user);
        devices.is_some_and(|devices| devices.contains(device))
    }

    /// Whether any device of this user is among them.
    pub fn any_of(&self, user: &UserId) -> bool {
        self.devices.contains_key(user)
    }
}

/// A device of a user: one that has uploaded, or is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Its name.
    pub device: DeviceId,
    /// Its highest change id on record; `None` when it has never uploaded.
    pub highest_change_id: Option<ChangeId>,
    /// When that change was taken; `None` also when it is not kept any more.
    pub last_change_at: Option<OffsetDateTime>,
    /// Since when it is revoked.
    pub revoked_at: Option<OffsetDateTime>,
}
