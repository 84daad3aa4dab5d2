//! How far devices have read, as their requests say: kept until the next time it
//! is written down.

use crate::store::retention::Heard;
use oversync_shared::{DeviceId, ServerId, UserId};
use std::collections::HashMap;
use std::sync::Mutex;

/// Devices remembered between two writes, about 200 bytes each. One that finds no
/// room is written down after another request; until then it counts as it did.
const ROOM: usize = 65_536;

/// The devices that have been heard of since the last write.
#[derive(Debug, Default)]
pub struct Readers {
    heard: Mutex<HashMap<(UserId, DeviceId), ServerId>>,
}

impl Readers {
    /// A device asked from this cursor.
    pub fn note(&self, user: &UserId, device: &DeviceId, cursor: ServerId) {
        let mut heard = self.heard.lock().expect("BUG: no panic under this lock");
        let is_full = heard.len() >= ROOM;
        let name = (user.clone(), device.clone());
        if let Some(known) = heard.get_mut(&name) {
            *known = cursor;
        } else if !is_full {
            heard.insert(name, cursor);
        }
    }

    /// Takes what has been heard.
    pub fn take(&self) -> Vec<Heard> {
        let mut heard = self.heard.lock().expect("BUG: no panic under this lock");
        let all = std::mem::take(&mut *heard).into_iter();
        all.map(|((user, device), cursor)| Heard {
            user,
            device,
            cursor,
        })
        .collect()
    }
}
