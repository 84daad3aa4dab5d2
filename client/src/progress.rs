//! How far a download of many pages has got: a first pass over everything, a new
//! one, or catching up after a long absence.
//!
//! The file knows where it stands and where the pages end, so another process and
//! the next one can tell as well; how fast it goes only the one that works knows.

use crate::state::State;
use oversync_shared::ServerId;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Shorter than this, a rate says nothing.
const LEAST_TIME: Duration = Duration::from_millis(200);

/// How far a download of many pages has got.
///
/// Counted in places of the user's stream, which the server hands out without
/// gaps; only a restored server has left out some, which pass in one step. Places of
/// other schemas, of this device's own edits and of rows that are
/// folded away pass without a row to be written, so `total` is at most the number of
/// rows that come, and the time left an estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Places that have been passed and committed, also by earlier processes.
    pub done: i64,
    /// Places in all: the head of the stream when the pages began.
    pub total: i64,
    /// Rows that this process has written into tables so far.
    pub rows: u64,
    /// About how many seconds are left, at the rate of this process; none before
    /// there is one, and in a process that only looks.
    pub eta_seconds: Option<u64>,
}

impl Progress {
    /// What the file says: nothing, unless it stands in the middle.
    pub(crate) fn of(state: &State) -> Option<Self> {
        let total = state.window_until?.get();
        Some(Self {
            done: state.cursor.get(),
            total,
            rows: 0,
            eta_seconds: None,
        })
    }

    /// From 0 to 100.
    pub fn percent(&self) -> u8 {
        let part = self.done.clamp(0, self.total.max(0)) as f64;
        (100.0 * part / self.total.max(1) as f64) as u8
    }
}

/// The pages that this process has applied in a row.
#[derive(Debug, Clone)]
pub(crate) struct Pass {
    began: Instant,
    /// Where it went on.
    from: ServerId,
    rows: u64,
    until: ServerId,
}

impl Pass {
    /// One that goes on at a place.
    pub(crate) fn begin(now: Instant, from: ServerId, until: ServerId) -> Self {
        Self {
            began: now,
            from,
            rows: 0,
            until,
        }
    }

    /// A page has been committed.
    pub(crate) fn page(&mut self, now: Instant, cursor: ServerId, rows: usize) -> Progress {
        self.rows += rows as u64;
        let passed = cursor.get() - self.from.get();
        let left = (self.until.get() - cursor.get()).max(0);
        let took = now.saturating_duration_since(self.began);
        let eta_seconds = (passed > 0 && took >= LEAST_TIME)
            .then(|| (took.as_secs_f64() * left as f64 / passed as f64).ceil() as u64);
        Progress {
            done: cursor.get(),
            total: self.until.get(),
            rows: self.rows,
            eta_seconds,
        }
    }

    /// Whether a page goes on where this one has got to.
    pub(crate) fn leads_to(&self, until: ServerId) -> bool {
        self.until == until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_the_rate_of_this_process() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        // An earlier process has done half of it.
        let mut pass = Pass::begin(began, ServerId::new(5_000), ServerId::new(10_000));
        let first = pass.page(at(100), ServerId::new(5_500), 400);
        assert_eq!((first.done, first.total, first.rows), (5_500, 10_000, 400));
        assert_eq!(first.eta_seconds, None, "too early to say");
        let second = pass.page(at(1_000), ServerId::new(6_000), 500);
        assert_eq!((second.rows, second.eta_seconds), (900, Some(4)));
        assert_eq!(second.percent(), 60);
        let last = pass.page(at(5_000), ServerId::new(10_000), 0);
        assert_eq!((last.eta_seconds, last.percent()), (Some(0), 100));
    }
}
