//! Where commits are announced: the newest head per user, until the notifier
//! takes it.
//!
//! A full mailbox could lose an announcement; a board cannot, and it holds at
//! most one entry per user however many commits there are.

use super::notifier::{Notifier, TakeAnnouncements};
use actix::Addr;
use oversync_shared::{ServerId, UserId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The newest announced head of each user.
#[derive(Debug, Clone, Default)]
pub struct Board {
    heads: Arc<Mutex<HashMap<UserId, ServerId>>>,
}

impl Board {
    /// Puts up a head, unless a higher one is up already, and wakes the
    /// notifier. Call it after the commit is durable.
    pub fn announce(&self, notifier: &Addr<Notifier>, user: &UserId, head: ServerId) {
        {
            let mut heads = self.heads.lock().expect("BUG: no panic under this lock");
            let newest = heads.entry(user.clone()).or_insert(head);
            *newest = head.max(*newest);
        }
        // When the mailbox is full of joins, the notifier looks by itself soon.
        let _ = notifier.try_send(TakeAnnouncements);
    }

    /// Takes everything down.
    pub(super) fn take(&self) -> HashMap<UserId, ServerId> {
        std::mem::take(&mut *self.heads.lock().expect("BUG: no panic under this lock"))
    }
}
