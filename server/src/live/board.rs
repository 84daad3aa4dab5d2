//! Where commits are announced: the newest head per user, and since when something
//! is new, until the notifier takes it.
//!
//! A full mailbox could lose an announcement; a board cannot, and it holds at
//! most one entry per user however many commits there are.

use super::notifier::{Notifier, TakeAnnouncements};
use actix::Addr;
use oversync_shared::{ServerId, UserId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What is up of one user.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notice {
    /// The newest head.
    pub(super) head: ServerId,
    /// The first commit of this process among them; none where another process, or the
    /// database, told of it.
    pub(super) since: Option<Instant>,
}

/// The newest announced head of each user.
#[derive(Debug, Clone, Default)]
pub struct Board {
    heads: Arc<Mutex<HashMap<UserId, Notice>>>,
}

impl Board {
    /// Puts up a head, unless a higher one is up already, and wakes the
    /// notifier. Call it after the commit is durable.
    pub fn announce(&self, notifier: &Addr<Notifier>, user: &UserId, head: ServerId) {
        self.put(notifier, user, Notice { head, since: None });
    }

    /// The same for what this process has just committed.
    pub fn announce_commit(&self, notifier: &Addr<Notifier>, user: &UserId, head: ServerId) {
        let since = Some(Instant::now());
        self.put(notifier, user, Notice { head, since });
    }

    fn put(&self, notifier: &Addr<Notifier>, user: &UserId, notice: Notice) {
        {
            let mut heads = self.heads.lock().expect("BUG: no panic under this lock");
            let newest = heads.entry(user.clone()).or_insert(notice);
            newest.head = notice.head.max(newest.head);
            newest.since = newest.since.or(notice.since);
        }
        // When the mailbox is full of joins, the notifier looks by itself soon.
        let _ = notifier.try_send(TakeAnnouncements);
    }

    /// Takes everything down.
    pub(super) fn take(&self) -> HashMap<UserId, Notice> {
        std::mem::take(&mut *self.heads.lock().expect("BUG: no panic under this lock"))
    }
}
