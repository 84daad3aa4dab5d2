//! What has just happened in this process: commits, and who was told of them. For
//! operators who watch; the last few are kept whether anybody does or not, which
//! costs a commit a lock and two names. Nothing here is needed for anything else:
//! events may be missed, and whoever missed some is told so.

use crate::clock::Clock;
use crate::recent::Recent;
use oversync_shared::{DeviceId, ServerId, UserId};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

/// Events kept, about 300 bytes each.
const ROOM: usize = 500;

/// Places that somebody was told up to: twice this at most. Each who watches has one
/// or two.
const WATCHERS: usize = 64;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An upload was committed here.
    Commit {
        /// By which device.
        device: DeviceId,
        /// Entries of the stream that it became.
        changes: usize,
        /// The user's head since then.
        head: ServerId,
    },
    /// Connected devices were told of a new head.
    Hint {
        /// The head.
        head: ServerId,
        /// Sessions that were told.
        sessions: usize,
        /// Long polls that were woken.
        polls: usize,
    },
}

/// An event with its place in the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// 1, 2, 3 … since the process began.
    pub number: u64,
    /// When.
    pub at: OffsetDateTime,
    /// To whose data.
    pub user: UserId,
    /// What.
    pub event: Event,
}

/// How far the feed is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newest {
    /// Up to this number; more may come.
    Open(u64),
    /// The server stops: nobody waits any longer.
    Closed,
}

/// A piece of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// In order.
    pub events: Vec<Happened>,
    /// To be asked for next: what comes after this number.
    pub last: u64,
    /// Events before these that are not kept any more.
    pub missed: u64,
}

/// The last events of this process.
#[derive(Debug)]
pub struct Feed {
    life: String,
    kept: Mutex<VecDeque<Happened>>,
    newest: watch::Sender<Newest>,
    /// Who was told up to which number.
    told: Mutex<Recent<(String, u64), ()>>,
    clock: Clock,
}

impl Feed {
    /// Empty.
    pub fn new(clock: Clock) -> Self {
        Self {
            life: Uuid::new_v4().to_string(),
            kept: Mutex::new(VecDeque::with_capacity(ROOM)),
            newest: watch::Sender::new(Newest::Open(0)),
            told: Mutex::new(Recent::new(WATCHERS)),
            clock,
        }
    }

    /// Names this life of the process: numbers of another one mean nothing here.
    pub fn life(&self) -> &str {
        &self.life
    }

    /// Something has happened.
    pub fn tell(&self, user: &UserId, event: Event) {
        let at = self.clock.now();
        let mut kept = self.kept.lock().expect("BUG: no panic under this lock");
        let number = kept.back().map_or(0, |last| last.number) + 1;
        if kept.len() == ROOM {
            kept.pop_front();
        }
        kept.push_back(Happened {
            number,
            at,
            user: user.clone(),
            event,
        });
        // Under the lock: numbers only rise.
        self.newest.send_if_modified(|newest| match newest {
            Newest::Open(last) => {
                *last = number;
                true
            }
            Newest::Closed => false,
        });
    }

    /// Somebody has been told all up to this number.
    pub fn told(&self, who: &str, number: u64) {
        let mut told = self.told.lock().expect("BUG: no panic under this lock");
        told.insert((who.to_owned(), number), ());
    }

    /// Whether somebody asks for what follows on what it was told.
    pub fn goes_on(&self, who: &str, number: u64) -> bool {
        let told = self.told.lock().expect("BUG: no panic under this lock");
        told.get(&(who.to_owned(), number)).is_some()
    }

    /// Nobody waits from now on.
    pub fn close(&self) {
        self.newest.send_replace(Newest::Closed);
    }

    /// What happened after a number; where there is nothing yet, as soon as there is,
    /// or after this time. A number of another life of the process is taken for 0, as is
    /// one that is not reached yet, where no life is named.
    pub async fn after(&self, number: u64, life: Option<&str>, wait: Duration) -> Piece {
        let mut newest = self.newest.subscribe();
        let is_of_this_life = life.is_none_or(|life| life == self.life) && number <= self.last();
        let after = if is_of_this_life { number } else { 0 };
        let is_there = |newest: &Newest| match newest {
            Newest::Open(last) => *last > after,
            Newest::Closed => true,
        };
        // Its time has passed, or the feed is gone with its server: both are answers.
        let _ = timeout(wait, newest.wait_for(is_there)).await;
        self.piece(after)
    }

    fn last(&self) -> u64 {
        let kept = self.kept.lock().expect("BUG: no panic under this lock");
        kept.back().map_or(0, |last| last.number)
    }

    fn piece(&self, after: u64) -> Piece {
        let kept = self.kept.lock().expect("BUG: no panic under this lock");
        let first = kept.front().map_or(1, |first| first.number);
        Piece {
            events: kept.iter().filter(|e| e.number > after).cloned().collect(),
            last: kept.back().map_or(0, |last| last.number),
            missed: first.saturating_sub(after + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const LONG: Duration = Duration::from_secs(60);

    fn feed() -> Feed {
        Feed::new(Clock::system())
    }

    fn tell(feed: &Feed, head: i64) {
        let user = UserId::new("user").expect("a name");
        let head = ServerId::new(head);
        let (sessions, polls) = (1, 0);
        feed.tell(
            &user,
            Event::Hint {
                head,
                sessions,
                polls,
            },
        );
    }

    /// Until somebody waits.
    async fn waited_for(feed: &Feed) {
        tokio::task::yield_now().await;
        assert_eq!(feed.newest.receiver_count(), 1, "nobody waits");
    }

    fn numbers(piece: &Piece) -> Vec<u64> {
        piece.events.iter().map(|event| event.number).collect()
    }

    #[tokio::test]
    async fn whoever_is_late_is_told_what_was_missed() {
        let feed = feed();
        for head in 1..=(ROOM as i64 + 10) {
            tell(&feed, head);
        }
        let piece = feed.after(4, None, LONG).await;
        assert_eq!((piece.events.len(), piece.missed), (ROOM, 6));
        assert_eq!(piece.events[0].number, 11);
        let piece = feed.after(509, Some(feed.life()), LONG).await;
        assert_eq!((numbers(&piece), piece.missed), (vec![510], 0));
        // The process has begun anew, and come as far as it was.
        let piece = feed.after(509, Some("another"), LONG).await;
        assert_eq!((piece.events.len(), piece.missed), (ROOM, 10));
        let piece = feed.after(9_999, None, LONG).await;
        assert_eq!((piece.events.len(), piece.last), (ROOM, 510));
    }

    #[tokio::test]
    async fn who_waits_is_woken_and_let_go_at_the_end() {
        let feed = Arc::new(feed());
        let waiting = tokio::spawn({
            let feed = feed.clone();
            async move { feed.after(0, None, LONG).await }
        });
        waited_for(&feed).await;
        tell(&feed, 1);
        assert_eq!(numbers(&waiting.await.expect("no panic")), [1]);
        let none = feed.after(1, None, Duration::ZERO).await;
        assert_eq!((numbers(&none), none.last), (vec![], 1));
        let waiting = tokio::spawn({
            let feed = feed.clone();
            async move { feed.after(1, None, LONG).await }
        });
        waited_for(&feed).await;
        feed.close();
        assert!(numbers(&waiting.await.expect("no panic")).is_empty());
        tell(&feed, 2);
        assert_eq!(numbers(&feed.after(1, None, LONG).await), [2]);
    }
}
