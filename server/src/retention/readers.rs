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
    has_moved: bool,
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
            // In the middle of a fold it may still begin again, and has its own rows.
            let is_there = stand.is_some_and(|stand| stand.cursor == asked);
            news.has_moved |= is_there && asked > ServerId::ZERO;
        });
    }

    /// Takes back what could not be written down. What was heard since then is newer.
    pub fn put_back(&self, unwritten: Vec<Heard>) {
        for old in unwritten {
            self.note(&old.user, &old.device, |news| {
                news.asked = news.asked.or(old.asked);
                news.stand = news.stand.or(old.stand);
                news.has_moved |= old.has_moved;
            });
        }
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
            has_moved: news.has_moved,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = "device";

    fn names() -> (UserId, DeviceId) {
        let user = UserId::new("user".to_owned()).expect("a name");
        (user, DeviceId::new(DEVICE.to_owned()).expect("a name"))
    }

    fn stand(cursor: i64) -> Option<Stand> {
        Some(Stand {
            cursor: ServerId::new(cursor),
            through: None,
            wants_own: false,
        })
    }

    fn read(readers: &Readers, asked: i64, stand: Option<Stand>) {
        let (user, device) = names();
        readers.read(&user, &device, ServerId::new(asked), stand);
    }

    #[test]
    fn what_was_not_written_down_is_kept_under_what_is_newer() {
        let readers = Readers::default();
        read(&readers, 5, stand(5));
        let taken = readers.take();
        assert_eq!(readers.take(), []);
        readers.put_back(taken.clone());
        assert_eq!(readers.take(), taken);
        // Newer news stand, and keep what only the old ones say.
        read(&readers, 0, stand(7));
        readers.put_back(taken.clone());
        let now = readers.take().remove(0);
        assert_eq!((now.asked, now.stand), (Some(ServerId::ZERO), stand(7)));
        assert!(now.has_moved);
        let (user, device) = names();
        readers.wrote(&user, &device);
        readers.put_back(taken.clone());
        assert_eq!(readers.take(), taken);
    }

    #[test]
    fn who_is_in_the_middle_of_a_fold_has_not_moved() {
        let readers = Readers::default();
        let has_moved = || readers.take().remove(0).has_moved;
        // All at once, from the start; then anew, page by page.
        read(&readers, 0, stand(9));
        read(&readers, 0, None);
        read(&readers, 4, None);
        // The rest of the fold, which may never arrive.
        read(&readers, 7, stand(9));
        assert!(!has_moved());
        read(&readers, 9, stand(9));
        read(&readers, 0, None);
        assert!(has_moved());
    }
}
