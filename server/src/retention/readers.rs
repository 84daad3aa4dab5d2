//! What requests say of devices, kept until the next time it is written down: how far
//! they have read, and that they are there.

use crate::store::retention::{Heard, Stand};
use oversync_shared::{DeviceId, ServerId, UserId};
use std::collections::HashMap;
use std::sync::Mutex;

/// Devices remembered between two writes, about 250 bytes each. One that finds no
/// room is written down after another request; until then it counts as it did.
const ROOM: usize = 65_536;

/// What is known of a device since the last write.
#[derive(Debug, Clone, Copy, Default)]
struct News {
    asked: Option<ServerId>,
    stand: Option<Stand>,
}

/// The devices that have been heard of since the last write.
#[derive(Debug, Default)]
pub struct Readers {
    heard: Mutex<HashMap<(UserId, DeviceId), News>>,
}

impl Readers {
    /// A device has uploaded.
    pub fn wrote(&self, user: &UserId, device: &DeviceId) {
        self.note(user, device, |_| {});
    }

    /// A device has asked from here and needs the stream from `stand` on.
    pub fn read(&self, user: &UserId, device: &DeviceId, asked: ServerId, stand: Option<Stand>) {
        self.note(user, device, |news| {
            news.asked = Some(asked);
            news.stand = stand.or(news.stand);
        });
    }

    fn note(&self, user: &UserId, device: &DeviceId, change: impl FnOnce(&mut News)) {
        let mut heard = self.heard.lock().expect("BUG: no panic under this lock");
        let is_full = heard.len() >= ROOM;
        let name = (user.clone(), device.clone());
        if let Some(known) = heard.get_mut(&name) {
            change(known);
        } else if !is_full {
            change(heard.entry(name).or_default());
        }
    }

    /// Takes what has been heard.
    pub fn take(&self) -> Vec<Heard> {
        let mut heard = self.heard.lock().expect("BUG: no panic under this lock");
        let all = std::mem::take(&mut *heard).into_iter();
        all.map(|((user, device), news)| Heard {
            user,
            device,
            asked: news.asked,
            stand: news.stand,
        })
        .collect()
    }
}
