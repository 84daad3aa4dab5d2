//! Answers to devices for which there is nothing new, without reading a page.
//!
//! A device that polls with a cursor at its user's head gets an empty page. All it
//! says besides the head is the device's highest change id, which moves only when
//! the head does: so it is remembered with the head at which it was read.

use super::heads::{Heads, Mark};
use crate::recent::Recent;
use crate::store::{FoldNumber, Page, PageQuery, StoreError};
use oversync_shared::{ChangeId, DeviceId, ServerId, UserId};
use std::sync::{Arc, Mutex};

/// Devices remembered: twice this at most, about 250 bytes each.
const ROOM: usize = 16_384;

/// What a page said of a device.
#[derive(Debug, Clone)]
struct Seen {
    epoch: Arc<str>,
    head: ServerId,
    floor: ServerId,
    fold: FoldNumber,
    highest_change_id: Option<ChangeId>,
}

/// Devices that are known to have nothing to download, at some head.
#[derive(Clone)]
pub struct Quiet {
    heads: Heads,
    devices: Arc<Mutex<Recent<(UserId, DeviceId), Seen>>>,
}

impl Quiet {
    /// Beside these heads.
    pub fn new(heads: Heads) -> Self {
        Self {
            heads,
            devices: Arc::new(Mutex::new(Recent::new(ROOM))),
        }
    }

    fn seen(&self, query: &PageQuery) -> Option<Seen> {
        let key = (query.user.clone(), query.device.clone());
        let devices = self.devices.lock().expect("BUG: no panic under this lock");
        devices.get(&key).cloned()
    }

    /// The empty page, where it is one and nothing else is to be said.
    pub async fn answer(&self, query: &PageQuery) -> Result<Option<Page>, StoreError> {
        if query.until.is_some() {
            return Ok(None);
        }
        let Some(seen) = self.seen(query).filter(|seen| seen.head == query.after) else {
            return Ok(None);
        };
        if self
            .heads
            .remembered(&query.user)
            .is_some_and(|head| head > query.after)
        {
            return Ok(None);
        }
        let (epoch, head) = self.heads.now_of(&query.user).await?;
        if head != seen.head || epoch != seen.epoch {
            return Ok(None);
        }
        crate::meters::quiet_download();
        Ok(Some(Page {
            epoch,
            head,
            floor: seen.floor,
            // At the head nothing is asked of a fold.
            fold: seen.fold,
            began: None,
            needless: None,
            highest_change_id: seen.highest_change_id,
            entries: Vec::new(),
            has_more: false,
            is_cut: false,
        }))
    }

    /// A page was read after `mark`.
    pub fn learn(&self, mark: Mark, query: &PageQuery, page: &Page) {
        self.heads.learn(mark, &query.user, page.head);
        let seen = Seen {
            epoch: page.epoch.clone(),
            head: page.head,
            floor: page.floor,
            fold: page.fold,
            highest_change_id: page.highest_change_id,
        };
        let key = (query.user.clone(), query.device.clone());
        let mut devices = self.devices.lock().expect("BUG: no panic under this lock");
        devices.insert(key, seen);
    }
}
