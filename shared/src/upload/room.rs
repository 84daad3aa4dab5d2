//! How much more a user may have: the limits that are set, and what is in use.
//!
//! The shell measures and puts it into the view; [`decide`](super::decide) asks before
//! each write. What is counted is what lives: rows that are no tombstones, and the
//! bytes of their payloads as they were sent. A user who is over a limit of rows
//! or bytes may still delete, and update what does not grow; a device too many may not
//! change anything ([`Room::Closed`]).

use super::change::Change;
use super::view::RowAt;
use std::collections::HashMap;

/// What of a user is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quota {
    /// Live rows.
    Rows,
    /// Bytes of the payloads of live rows.
    Bytes,
    /// Devices that have uploaded.
    Devices,
}

impl Quota {
    /// Its name, which is also that of its setting.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rows => "user_rows",
            Self::Bytes => "user_bytes",
            Self::Devices => "user_devices",
        }
    }
}

/// A limit that a change would pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// Which.
    pub quota: Quota,
    /// The limit.
    pub limit: u64,
    /// What is in use before the change.
    pub used: u64,
    /// What the change would add; of rows that stand or fall together, all of them.
    pub adds: u64,
}

/// Rows, and the bytes of their payloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Live rows.
    pub rows: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

/// The limits of a user's rows, where they are set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Live rows.
    pub rows: Option<u64>,
    /// Bytes of their payloads.
    pub bytes: Option<u64>,
}

impl Allowed {
    /// The limit that growing from one amount to another passes. What does not grow
    /// passes none, however much there is already.
    pub fn exceeded(&self, before: Amount, after: Amount) -> Option<Exceeded> {
        [
            (Quota::Rows, self.rows, before.rows, after.rows),
            (Quota::Bytes, self.bytes, before.bytes, after.bytes),
        ]
        .into_iter()
        .find_map(|(quota, limit, before, after)| {
            let limit = limit?;
            (after > limit && after > before).then(|| Exceeded {
                quota,
                limit,
                used: before,
                adds: after - before,
            })
        })
    }
}

/// What an upload may add.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Room {
    /// As much as it likes.
    #[default]
    Unlimited,
    /// Nothing, nor may it change anything.
    Closed(Exceeded),
    /// Up to these limits.
    Limited(Limited),
}

/// Limits, and what is in use in the view.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limited {
    /// The limits.
    pub allowed: Allowed,
    /// What is in use.
    pub used: Amount,
    /// The payload bytes of live rows that the upload changes; of a row that is not
    /// here, none are counted as given back.
    pub sizes: HashMap<RowAt, u64>,
}

/// What is in use while an upload is decided.
#[derive(Debug)]
pub(super) struct Tally<'a> {
    limits: &'a Limited,
    used: Amount,
    /// Of rows that the upload has written.
    sizes: HashMap<RowAt, u64>,
    undo: Vec<(RowAt, Option<u64>, Amount)>,
}

impl<'a> Tally<'a> {
    /// `None` where nothing is limited.
    pub(super) fn of(room: &'a Room) -> Option<Self> {
        match room {
            Room::Limited(limits) => Some(Self {
                limits,
                used: limits.used,
                sizes: HashMap::new(),
                undo: Vec::new(),
            }),
            Room::Unlimited | Room::Closed(_) => None,
        }
    }

    /// What a change would bring about, of a row that lives or not.
    fn after(&self, change: &Change, is_live: bool) -> Amount {
        let row = change.row();
        let size = || self.sizes.get(&row).or_else(|| self.limits.sizes.get(&row));
        let old = Amount {
            rows: u64::from(is_live),
            bytes: size().filter(|_| is_live).copied().unwrap_or(0),
        };
        let new = Amount {
            rows: u64::from(change.op.is_upsert()),
            bytes: change.bytes as u64,
        };
        // What is in use may be a little less than what is given back, if another
        // program has written into the server's tables.
        Amount {
            rows: (self.used.rows + new.rows).saturating_sub(old.rows),
            bytes: (self.used.bytes + new.bytes).saturating_sub(old.bytes),
        }
    }

    /// The limit that a change would pass.
    pub(super) fn exceeded(&self, change: &Change, is_live: bool) -> Option<Exceeded> {
        let allowed = &self.limits.allowed;
        allowed.exceeded(self.used, self.after(change, is_live))
    }

    /// The limit that everything since the mark has passed.
    pub(super) fn exceeded_since(&self, mark: usize) -> Option<Exceeded> {
        let before = self.undo.get(mark).map_or(self.used, |(_, _, used)| *used);
        self.limits.allowed.exceeded(before, self.used)
    }

    pub(super) fn write(&mut self, change: &Change, was_live: bool) {
        let (row, used) = (change.row(), self.used);
        self.used = self.after(change, was_live);
        let size = self.sizes.insert(row, change.bytes as u64);
        self.undo.push((row, size, used));
    }

    /// Takes back everything since the mark.
    pub(super) fn back_to(&mut self, mark: usize) {
        while self.undo.len() > mark {
            let (row, size, used) = self.undo.pop().expect("BUG: there are more than the mark");
            self.used = used;
            match size {
                Some(size) => self.sizes.insert(row, size),
                None => self.sizes.remove(&row),
            };
        }
    }
}
