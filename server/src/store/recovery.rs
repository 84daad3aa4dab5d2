//! What backup, restore and move ask of a database: a copy at one moment, and the
//! beginning of a new history.
//!
//! `recovery/` says in which order; the two stores do it. None of this is called by a
//! server that runs.

pub(crate) use super::embedded::recovery as embedded;
pub(crate) use super::postgres::recovery as postgres;

use super::StoreError;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a database holds, in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Its history.
    pub epoch: String,
    /// The last schema step that it has run.
    pub schema_step: i64,
    /// Users that it knows.
    pub users: i64,
    /// Entries in all their logs.
    pub entries: i64,
}

/// How far something is, in pages, bytes or rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Far {
    /// Done.
    pub done: u64,
    /// About as much there is in all; 0 where nobody knows.
    pub of: u64,
}

/// The highest place of a stream: what is a number to a client that has no integers.
pub(crate) const HIGHEST_PLACE: i64 = (1 << 53) - 1;

/// What has not come to its end in a database, as its epoch says. No server starts on
/// one that bears a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A backup is there; its new history has not begun.
    Restore,
    /// A part of a moved database is there, or all of it unproven.
    Move,
}

impl Mark {
    /// The mark of an epoch, if it is one.
    pub(crate) fn of(epoch: &str) -> Option<Self> {
        let mut marks = [Self::Restore, Self::Move].into_iter();
        marks.find(|mark| epoch.starts_with(mark.prefix()))
    }

    /// How it begins.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Restore => "unfinished restore ",
            Self::Move => "unfinished move ",
        }
    }

    /// A new epoch that is this mark.
    pub(super) fn epoch(self) -> String {
        format!("{}{}", self.prefix(), Uuid::new_v4())
    }

    /// What it is, and what is to be done about it.
    fn remedy(self) -> &'static str {
        match self {
            Self::Restore => {
                "a restore into this database has not been finished: run `oversync restore --in-place`"
            }
            Self::Move => {
                "a move into this database has not been finished: where the file says that it was moved, run \
                 `oversync migrate --undo` first; then `oversync migrate` again, into an empty database"
            }
        }
    }
}

/// Refuses a database that is half restored or half moved.
pub(super) fn refuse_unfinished(epoch: &str) -> Result<(), StoreError> {
    match Mark::of(epoch) {
        None => Ok(()),
        Some(mark) => Err(StoreError::Failed(mark.remedy().to_owned())),
    }
}

/// Refuses a database that is half moved: a new history would have it served.
pub(super) fn refuse_half_moved(epoch: &str) -> Result<(), StoreError> {
    match Mark::of(epoch) {
        Some(mark @ Mark::Move) => Err(StoreError::Failed(mark.remedy().to_owned())),
        Some(Mark::Restore) | None => Ok(()),
    }
}

/// A new history has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Begun {
    /// Its epoch.
    pub epoch: String,
    /// Places that every stream has left out.
    pub step: i64,
    /// Users whose streams go on, or begin, above that.
    pub users: u64,
}

/// Why no new history has begun.
#[derive(Debug, thiserror::Error)]
pub enum NotBegun {
    /// Servers are connected to the database.
    #[error("{0} connections of running servers are in the database: stop them first")]
    ServersRun(i64),
    /// Streams cannot go so far up.
    #[error("a stream is at {highest} and cannot go up by {step}: --step must be smaller")]
    TooFar {
        /// Of all streams.
        highest: i64,
        /// What was asked for.
        step: i64,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks that all streams can go up.
pub(super) fn check_room(highest: i64, step: i64) -> Result<(), NotBegun> {
    match highest.checked_add(step) {
        Some(sum) if sum <= HIGHEST_PLACE => Ok(()),
        _ => Err(NotBegun::TooFar { highest, step }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_told_from_the_other() {
        for mark in [Mark::Restore, Mark::Move] {
            assert_eq!(Mark::of(&mark.epoch()), Some(mark));
            assert!(refuse_unfinished(&mark.epoch()).is_err());
            let is_moved = mark == Mark::Move;
            assert_eq!(refuse_half_moved(&mark.epoch()).is_err(), is_moved);
        }
        let epoch = Uuid::new_v4().to_string();
        assert_eq!(Mark::of(&epoch), None);
        assert!(refuse_unfinished(&epoch).is_ok() && refuse_half_moved(&epoch).is_ok());
    }
}
