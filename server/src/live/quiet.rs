//! Answers to devices for which there is nothing new, without reading a page.
//!
//! A device that polls with a cursor at its user's head gets an empty page. All it
//! says besides the head is the device's highest change id, which moves only when
//! the head does: so it is remembered with the head at which it was read, by a page or
//! by the greeting of a session.

use super::heads::{Heads, Mark, Now};
use crate::recent::Recent;
use crate::store::{FoldNumber, Page, PageQuery, StoreError};
use oversync_shared::{ChangeId, DeviceId, ServerId, UserId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Devices remembered: twice this at most, about 250 bytes each.
const ROOM: usize = 16_384;

/// What was known of a device at a head.
#[derive(Debug, Clone)]
pub struct Seen {
    pub(super) epoch: Arc<str>,
    pub(super) head: ServerId,
    pub(super) highest_change_id: Option<ChangeId>,
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

    /// What is known of the device that asks.
    pub fn seen(&self, query: &PageQuery) -> Option<Seen> {
        self.seen_of(&query.user, &query.device)
    }

    fn seen_of(&self, user: &UserId, device: &DeviceId) -> Option<Seen> {
        let key = (user.clone(), device.clone());
        let devices = self.devices.lock().expect("BUG: no panic under this lock");
        devices.get(&key).cloned()
    }

    fn saw(&self, user: &UserId, device: &DeviceId, seen: Seen) {
        let key = (user.clone(), device.clone());
        let mut devices = self.devices.lock().expect("BUG: no panic under this lock");
        devices.insert(key, seen);
    }

    /// Whether a question for the head is worth it; `seen` is what is known of the
    /// device.
    pub fn may_answer(&self, query: &PageQuery, seen: Option<&Seen>) -> bool {
        let heard_of = || self.heads.remembered(&query.user);
        query.until.is_none()
            && seen.is_some_and(|seen| seen.head == query.after)
            && heard_of().is_none_or(|head| head <= query.after)
    }

    /// The empty page of a device that [may be answered](Self::may_answer), where the
    /// head is still the one at which it was seen.
    pub fn answer(&self, now: &Now, seen: Option<&Seen>) -> Option<Page> {
        let seen = seen.filter(|seen| now.head == seen.head && now.epoch == seen.epoch)?;
        crate::meters::quiet_download();
        Some(Page {
            epoch: now.epoch.clone(),
            head: now.head,
            // At the head nothing is asked of a fold, and no floor is above it.
            floor: ServerId::ZERO,
            fold: FoldNumber::NONE,
            began: None,
            needless: None,
            highest_change_id: seen.highest_change_id,
            entries: Vec::new(),
            has_more: false,
            is_cut: false,
        })
    }

    /// A page was read after `mark`.
    pub fn learn(&self, mark: Mark, query: &PageQuery, page: &Page) {
        self.heads.learn(mark, &query.user, page.head);
        self.answered(query, page);
    }

    /// A device has been given this page.
    pub fn answered(&self, query: &PageQuery, page: &Page) {
        let seen = Seen {
            epoch: page.epoch.clone(),
            head: page.head,
            highest_change_id: page.highest_change_id,
        };
        self.saw(&query.user, &query.device, seen);
    }

    /// The heads of users of whom somebody has just joined, true at some moment after
    /// the call. One question for all of them; it also asks what is to be known of
    /// devices that will ask next whether there is anything new, so that no page has
    /// to be read for them.
    pub async fn greet(
        &self,
        joined: &[(UserId, Option<DeviceId>)],
    ) -> Result<HashMap<UserId, ServerId>, StoreError> {
        let mut greeted = HashMap::with_capacity(joined.len());
        let mut unknown = Vec::new();
        for (user, device) in joined {
            // On a shared database memory is hearsay.
            let head = self.heads.remembered(user);
            let Some(head) = head.filter(|_| !self.heads.is_shared()) else {
                unknown.push((user.clone(), device.clone()));
                continue;
            };
            greeted.insert(user.clone(), head);
            if let Some(device) = device
                && self
                    .seen_of(user, device)
                    .is_none_or(|seen| seen.head != head)
            {
                unknown.push((user.clone(), Some(device.clone())));
            }
        }
        if unknown.is_empty() {
            return Ok(greeted);
        }
        let mark = self.heads.mark();
        let found = self.heads.ask(&unknown).await?;
        for (user, device) in unknown {
            let reach = found.of(&user, device.as_ref());
            let head = reach.map_or(ServerId::ZERO, |reach| reach.head);
            self.heads.learn(mark, &user, head);
            if let Some(device) = device {
                let seen = Seen {
                    epoch: found.epoch.clone(),
                    head,
                    highest_change_id: reach.and_then(|reach| reach.highest_change_id),
                };
                self.saw(&user, &device, seen);
            }
            let newest = greeted.entry(user).or_insert(head);
            *newest = head.max(*newest);
        }
        Ok(greeted)
    }
}
