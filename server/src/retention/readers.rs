//! What requests say of devices, kept until the next time it is written down: how far
//! they have read, and that they are there.

use crate::store::retention::{Heard, Stand};
use oversync_shared::{DeviceId, ServerId, UserId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Devices remembered between two writes, about 250 bytes each; while a write runs, as
/// many again. One that finds no room is written down after another request; until then
/// it counts as it did.
const ROOM: usize = 65_536;

/// What is known of a device since the last write.
#[derive(Debug, Clone, Copy, Default)]
struct News {
    asked: Option<ServerId>,
    stand: Option<Stand>,
    has_moved: bool,
}

/// The devices that have been heard of since the last write, and those of a write that
/// runs: until it has committed, nobody else knows of them.
#[derive(Debug, Default)]
pub struct Readers {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    heard: HashMap<(UserId, DeviceId), News>,
    /// What [`Readers::take`] gave away last, until it is written down or put back.
    writing: Arc<HashMap<(UserId, DeviceId), News>>,
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

    /// What was taken is written down.
    pub fn written(&self) {
        // Every request waits for this lock: the map goes after it.
        let written = std::mem::take(&mut self.lock().writing);
        drop(written);
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
        self.written();
    }

    fn note(&self, user: &UserId, device: &DeviceId, change: impl FnOnce(&mut News)) {
        let mut kept = self.lock();
        let heard = &mut kept.heard;
        let is_full = heard.len() >= ROOM;
        let name = (user.clone(), device.clone());
        if let Some(known) = heard.get_mut(&name) {
            change(known);
        } else if !is_full {
            change(heard.entry(name).or_default());
        }
    }

    /// How far a user's devices have read, of those that may not be written down yet. Goes
    /// over all that are remembered: for operators, not for requests.
    pub fn cursors(&self, user: &UserId) -> HashMap<DeviceId, ServerId> {
        let kept = self.lock();
        // The newer ones last: they stand.
        let all = kept.writing.iter().chain(kept.heard.iter());
        all.filter(|((of, _), _)| of == user)
            .filter_map(|((_, device), news)| Some((device.clone(), news.stand?.cursor)))
            .collect()
    }

    /// Takes what has been heard, to write it down: [`written`](Self::written) or
    /// [`put_back`](Self::put_back) follows.
    pub fn take(&self) -> Vec<Heard> {
        let taken = {
            let mut kept = self.lock();
            kept.writing = Arc::new(std::mem::take(&mut kept.heard));
            Arc::clone(&kept.writing)
        };
        let all = taken.iter();
        all.map(|((user, device), news)| Heard {
            user: user.clone(),
            device: device.clone(),
            asked: news.asked,
            stand: news.stand,
            has_moved: news.has_moved,
        })
        .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("BUG: no panic under this lock")
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
    fn what_is_being_written_down_is_known_until_it_is_written() {
        let readers = Readers::default();
        let (user, device) = names();
        let known = || readers.cursors(&user).remove(&device).map(ServerId::get);
        read(&readers, 5, stand(5));
        assert_eq!(known(), Some(5));
        let taken = readers.take();
        assert_eq!(known(), Some(5), "the write has not committed");
        // What is heard meanwhile is newer; an upload alone says nothing of cursors.
        readers.wrote(&user, &device);
        assert_eq!(known(), Some(5));
        read(&readers, 7, stand(7));
        assert_eq!(known(), Some(7));
        readers.put_back(taken);
        assert_eq!(known(), Some(7));
        readers.take();
        readers.written();
        assert_eq!(known(), None, "the database knows");
        let other = UserId::new("other".to_owned()).expect("a name");
        read(&readers, 9, stand(9));
        assert!(readers.cursors(&other).is_empty());
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
