//! The newest changes of users whose devices ask, as this process has committed them.
//!
//! After a commit every device that hears of it asks for the same few changes; they
//! are answered from here, as the store would at the same head, byte for byte. Held
//! is one stretch of a user's stream without a gap. Nothing is answered that was not
//! committed, and nothing before the head and the history are known to be what they
//! were: on the embedded store from memory, on a shared database by one question for
//! all who ask at that moment ([`Heads`]). What does not fit is read from the store.

mod stretch;

use super::heads::{Heads, Now};
use super::quiet::Seen;
use crate::meters;
use crate::recent::Recent;
use crate::store::{Commit, Entry, FoldNumber, Outcome, Page, PageQuery};
use oversync_shared::{Catalog, DeviceId, ServerId, TableName, UserId};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard};
use stretch::{Fresh, HALF_BYTES, Stretches, USER_BYTES};
use time::OffsetDateTime;

/// Users whose commits are kept because a device listens or has asked: twice this at
/// most, about 20 bytes each.
const ASKING: usize = 32_768;

/// Newest changes of users. Cheap to clone.
#[derive(Clone)]
pub struct Newest {
    heads: Heads,
    tables: Arc<[Arc<TableName>]>,
    memory: Arc<Mutex<Memory>>,
}

struct Memory {
    /// By hashes: two users with one are both held, which is no harm.
    asking: Recent<u64, ()>,
    hashes: RandomState,
    stretches: Stretches,
    /// Moves with everything that is forgotten for a reason.
    forgotten: u64,
}

impl Memory {
    fn asks(&mut self, user: &UserId) {
        let hash = self.hashes.hash_one(user);
        self.asking.insert(hash, ());
    }

    fn is_asked(&self, user: &UserId) -> bool {
        self.asking.get(&self.hashes.hash_one(user)).is_some()
    }
}

/// What this process is about to commit, of users whose changes are held.
pub struct Coming {
    forgotten: u64,
    commits: Vec<Option<Commit>>,
}

impl Newest {
    /// Beside these heads, of a catalog's tables.
    pub fn new(heads: Heads, catalog: &Catalog) -> Self {
        let names = catalog.tables().map(|(_, table)| table.name.clone());
        Self {
            heads,
            tables: names.map(Arc::new).collect(),
            memory: Arc::new(Mutex::new(Memory {
                asking: Recent::new(ASKING),
                hashes: RandomState::new(),
                stretches: Stretches::new(HALF_BYTES),
                forgotten: 0,
            })),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("BUG: no panic under this lock")
    }

    /// Somebody listens for this user's changes, or has asked for them: they are kept
    /// from now on.
    pub fn asks(&self, user: &UserId) {
        self.memory().asks(user);
    }

    /// Whether a question for the head is worth it. From now on the user's commits are
    /// kept.
    pub fn may_answer(&self, query: &PageQuery) -> bool {
        let heard_of = self.heads.remembered(&query.user);
        let mut memory = self.memory();
        memory.asks(&query.user);
        let stretch = memory.stretches.get(&query.user);
        stretch.is_some_and(|stretch| {
            let is_told = heard_of.is_none_or(|head| head <= stretch.to);
            is_told && (stretch.from..=stretch.to).contains(&query.after)
        })
    }

    /// What the store would answer at this head, where all of it is held; `seen` is
    /// what a page last said of the device.
    pub fn answer(&self, query: &PageQuery, now: &Now, seen: Option<Seen>) -> Option<Page> {
        let found = {
            let memory = self.memory();
            let stretch = memory.stretches.get(&query.user)?;
            stretch.page(query, now, seen)?
        };
        // The text is copied when nobody waits for the lock.
        let entries = found.entries.iter().map(|entry| Entry::clone(entry));
        Some(Page {
            epoch: now.epoch.clone(),
            head: now.head,
            // Only compared with cursors, and this one is not below it. Of a stretch
            // that begins at 0 nothing has been folded: it is 0.
            floor: now.floor.unwrap_or(ServerId::ZERO),
            fold: FoldNumber::NONE,
            began: None,
            needless: None,
            highest_change_id: found.highest,
            entries: entries.collect(),
            has_more: found.has_more,
            is_cut: false,
        })
    }

    /// When the last change of others was taken that a device at this place has.
    pub fn taken_at(
        &self,
        user: &UserId,
        device: &DeviceId,
        place: ServerId,
    ) -> Option<OffsetDateTime> {
        let memory = self.memory();
        let stretch = memory.stretches.get(user)?;
        stretch.taken_at(device, place)
    }

    /// To be called before a group commit.
    pub fn before(&self, commits: &[Commit]) -> Coming {
        let memory = self.memory();
        let is_held = |commit: &&Commit| {
            let user = &commit.user_id;
            !commit.entries.is_empty()
                && (memory.is_asked(user) || memory.stretches.get(user).is_some())
        };
        Coming {
            forgotten: memory.forgotten,
            commits: commits
                .iter()
                .map(|commit| Some(commit).filter(is_held).cloned())
                .collect(),
        }
    }

    /// To be called after it, and before anybody hears of it.
    pub fn after(&self, coming: Coming, outcomes: &[Outcome]) {
        let done = coming.commits.iter().zip(outcomes);
        let fresh = done.filter_map(|(commit, outcome)| match (commit, outcome) {
            (Some(commit), Outcome::Done { at, .. }) => Some(self.fresh(commit, *at)),
            _ => None,
        });
        let fresh: Vec<Fresh> = fresh.collect();
        if fresh.is_empty() {
            return;
        }
        let mut memory = self.memory();
        if memory.forgotten == coming.forgotten {
            for fresh in fresh {
                memory.stretches.extend(fresh);
            }
        }
        meters::newest_bytes(memory.stretches.bytes());
    }

    /// Nobody knows what became of a group commit.
    pub fn lost(&self, coming: &Coming) {
        for commit in coming.commits.iter().flatten() {
            self.forget(&commit.user_id);
        }
    }

    /// Forgets what is held of a user, and does not hold what is being committed now.
    /// Whatever is held afterwards lies above the head of this moment.
    pub fn forget(&self, user: &UserId) {
        let mut memory = self.memory();
        memory.forgotten += 1;
        memory.stretches.remove(user);
    }

    fn fresh(&self, commit: &Commit, at: OffsetDateTime) -> Fresh {
        let source: Arc<str> = commit.device.id.as_str().into();
        let before = commit.head.get() - commit.entries.len() as i64;
        // Of a large commit only what will be held is copied.
        let mut bytes = 0;
        let last = commit.entries.iter().rev().take_while(|entry| {
            bytes += entry.payload.as_ref().map_or(0, |text| text.len());
            bytes <= USER_BYTES
        });
        let given_up = commit.entries.len() - last.count();
        let entries = commit.entries[given_up..].iter().map(|entry| {
            Arc::new(Entry {
                server_id: entry.server_id,
                table: self.tables[entry.row.table.index()].clone(),
                op: entry.op,
                key: entry.row.key,
                version: entry.version,
                source: source.clone(),
                change_id: entry.change_id,
                ts: at,
                payload: entry.payload.as_ref().map(ToString::to_string),
            })
        });
        Fresh {
            user: commit.user_id.clone(),
            epoch: commit.epoch.clone(),
            before: ServerId::new(before),
            from: ServerId::new(before + given_up as i64),
            to: commit.head,
            highest: commit.device.highest,
            entries: entries.collect(),
            source,
        }
    }
}

#[cfg(test)]
mod tests;
