//! A part of a user's stream that is held without a gap, and those of many users
//! within bounds. What is answered from one is what the store would answer.

use super::super::heads::Now;
use super::super::quiet::Seen;
use crate::store::{Entry, PageQuery};
use oversync_shared::{ChangeId, DeviceId, ServerId, UserId};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use time::OffsetDateTime;

/// Bytes held of one user: several hundred usual changes, which is more than a device
/// that hears of every change is ever behind; and below what an answer may be in one
/// piece.
pub(super) const USER_BYTES: usize = 256 * 1024;

/// Bytes held of all users: twice this at most, and one user's more. A few thousand
/// users who work at the same time.
pub(super) const HALF_BYTES: usize = 16 * 1024 * 1024;

/// What a user, an entry beside its payload, and a writing device beside its name
/// cost, about.
pub(super) const STRETCH_BYTES: usize = 512;
pub(super) const ENTRY_BYTES: usize = 256;
pub(super) const WRITER_BYTES: usize = 128;

/// Writing devices remembered of one user; of more, none is.
pub(super) const WRITERS: usize = 64;

/// One commit, as it is held.
pub(super) struct Fresh {
    pub(super) user: UserId,
    pub(super) epoch: Arc<str>,
    /// The head before it.
    pub(super) before: ServerId,
    /// Dense and ascending, above `from` and up to `to`: all of it, or the last part
    /// of what is too large.
    pub(super) from: ServerId,
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) to: ServerId,
    pub(super) source: Arc<str>,
    /// Of the writing device, afterwards.
    pub(super) highest: ChangeId,
}

/// A part of one user's stream without a gap: everything above `from`, up to `to`.
pub(super) struct Stretch {
    pub(super) epoch: Arc<str>,
    /// Where it began, before its oldest entries were given up: who has written since
    /// is known.
    pub(super) began: ServerId,
    pub(super) from: ServerId,
    pub(super) to: ServerId,
    pub(super) entries: VecDeque<Arc<Entry>>,
    /// Where each device wrote last, and its highest change id then.
    pub(super) writers: HashMap<Arc<str>, (ServerId, ChangeId)>,
    pub(super) bytes: usize,
}

/// A page, still shared with the stretch.
pub(super) struct Found {
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) has_more: bool,
    pub(super) highest: Option<ChangeId>,
}

fn cost(entry: &Entry) -> usize {
    ENTRY_BYTES + entry.payload.as_ref().map_or(0, String::len)
}

impl Stretch {
    fn of(fresh: Fresh) -> Self {
        let before = fresh.before;
        let mut stretch = Self {
            epoch: fresh.epoch.clone(),
            began: before,
            from: before,
            to: before,
            entries: VecDeque::new(),
            writers: HashMap::new(),
            bytes: STRETCH_BYTES,
        };
        stretch.extend(fresh);
        stretch
    }

    fn follows(&self, fresh: &Fresh) -> bool {
        self.epoch == fresh.epoch && self.to == fresh.before
    }

    fn extend(&mut self, fresh: Fresh) {
        if fresh.from > fresh.before {
            for older in self.entries.drain(..) {
                self.bytes -= cost(&older);
            }
            self.from = fresh.from;
        }
        self.bytes += fresh.entries.iter().map(|entry| cost(entry)).sum::<usize>();
        self.entries.extend(fresh.entries);
        self.to = fresh.to;
        let name = fresh.source.len();
        let last = (fresh.to, fresh.highest);
        if self.writers.insert(fresh.source, last).is_none() {
            self.bytes += WRITER_BYTES + name;
        }
        if self.writers.len() > WRITERS {
            // Nobody knows any more who has written up to here.
            for (name, _) in self.writers.drain() {
                self.bytes -= WRITER_BYTES + name.len();
            }
            self.began = self.to;
        }
        while self.bytes > USER_BYTES
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= cost(&oldest);
            self.from = oldest.server_id;
        }
    }

    /// The highest change id of the asking device at this head; `None` when nobody
    /// knows.
    fn highest(
        &self,
        query: &PageQuery,
        head: ServerId,
        seen: Option<Seen>,
    ) -> Option<Option<ChangeId>> {
        match self.writers.get(query.device.as_str()) {
            Some((at, highest)) => (*at <= head).then_some(Some(*highest)),
            None => {
                let seen = seen?;
                let is_of_now =
                    seen.epoch == self.epoch && (self.began..=head).contains(&seen.head);
                is_of_now.then_some(seen.highest_change_id)
            }
        }
    }

    /// When the last change was taken that lies at or below a place, and is not this
    /// device's; none for places that are not held.
    pub(super) fn taken_at(&self, device: &DeviceId, place: ServerId) -> Option<OffsetDateTime> {
        if place > self.to {
            return None;
        }
        let end = self
            .entries
            .partition_point(|entry| entry.server_id <= place);
        let mut known = self.entries.range(..end).rev();
        let others = known.find(|entry| &*entry.source != device.as_str());
        others.map(|entry| entry.ts)
    }

    pub(super) fn page(&self, query: &PageQuery, now: &Now, seen: Option<Seen>) -> Option<Found> {
        let is_ours = now.epoch == self.epoch
            && now.head <= self.to
            && (self.from..=now.head).contains(&query.after)
            && now.floor.is_none_or(|floor| floor <= query.after);
        if !is_ours {
            return None;
        }
        let highest = self.highest(query, now.head, seen)?;
        let until = query.until.map_or(now.head, |until| until.min(now.head));
        let first = self
            .entries
            .partition_point(|entry| entry.server_id <= query.after);
        let (mut entries, mut has_more, mut bytes) = (Vec::new(), false, 0);
        for entry in self.entries.range(first..) {
            if entry.server_id > until {
                break;
            }
            let is_own = &*entry.source == query.device.as_str();
            let is_of_schema = query
                .schema
                .as_ref()
                .is_none_or(|schema| *schema == entry.table.schema);
            if is_own && !query.include_self || !is_of_schema {
                continue;
            }
            if entries.len() >= query.limit {
                has_more = true;
                break;
            }
            bytes += entry.payload.as_ref().map_or(0, String::len);
            entries.push(entry.clone());
        }
        // A page that is cut is the store's to cut.
        (bytes <= query.max_bytes).then_some(Found {
            entries,
            has_more,
            highest,
        })
    }
}

/// Stretches of many users, of bounded size: two halves as in [`Recent`]. When the
/// newer one is full it becomes the older one, and what nobody has written to since
/// is forgotten.
pub(super) struct Stretches {
    pub(super) newer: HashMap<UserId, Stretch>,
    pub(super) older: HashMap<UserId, Stretch>,
    pub(super) newer_bytes: usize,
    pub(super) older_bytes: usize,
    pub(super) half: usize,
}

impl Stretches {
    pub(super) fn new(half: usize) -> Self {
        Self {
            newer: HashMap::new(),
            older: HashMap::new(),
            newer_bytes: 0,
            older_bytes: 0,
            half,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.newer_bytes + self.older_bytes
    }

    pub(super) fn get(&self, user: &UserId) -> Option<&Stretch> {
        self.newer.get(user).or_else(|| self.older.get(user))
    }

    pub(super) fn remove(&mut self, user: &UserId) -> Option<Stretch> {
        if let Some(stretch) = self.newer.remove(user) {
            self.newer_bytes -= stretch.bytes;
            return Some(stretch);
        }
        let stretch = self.older.remove(user)?;
        self.older_bytes -= stretch.bytes;
        Some(stretch)
    }

    /// A commit goes to the end of its user's stretch, or begins a new one where
    /// another process, or nobody who was held, wrote in between. One that is not
    /// newer than what is held has come late, or the database was put back.
    pub(super) fn extend(&mut self, fresh: Fresh) {
        let user = fresh.user.clone();
        let stretch = match self.remove(&user) {
            Some(mut stretch) if stretch.follows(&fresh) => {
                stretch.extend(fresh);
                stretch
            }
            Some(stretch) if stretch.epoch == fresh.epoch && fresh.to <= stretch.to => return,
            Some(_) | None => Stretch::of(fresh),
        };
        if self.newer_bytes >= self.half {
            self.older = std::mem::take(&mut self.newer);
            self.older_bytes = std::mem::take(&mut self.newer_bytes);
        }
        self.newer_bytes += stretch.bytes;
        self.newer.insert(user, stretch);
    }
}
