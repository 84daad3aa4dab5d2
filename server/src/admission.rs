//! Which readings of pages may run, which wait, and which are sent away.
//!
//! When thousands of devices come back at once, the cheap are served first: heads
//! (for hellos and polls) go in questions of many users and never wait; a device
//! that is a little behind comes before one that is far behind, which may not take
//! all places either. Whoever waits too long, or finds too many waiting, is told
//! to come back. The queue is a pure step function; the semaphore around it thin.

use crate::store::StoreError;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Readings of pages at a time. Below the connections of a process, so that heads
/// and commits always find one; more gave no more pages on 2 cores.
const AT_ONCE: usize = 8;

/// … of them for devices that are far behind.
const HYDRATIONS_AT_ONCE: usize = 4;

/// What a reading is for, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A device that is up to date or a little behind.
    Download,
    /// A new device, or one that is more than a page behind.
    Hydrate,
}

impl Class {
    /// All, the most urgent first.
    const ALL: [Self; 2] = [Self::Download, Self::Hydrate];

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Hydrate => "hydrate",
        }
    }

    fn at_once(self) -> usize {
        match self {
            // One place is left to those far behind: they would never get in while
            // downloads keep coming.
            Self::Download => AT_ONCE - 1,
            Self::Hydrate => HYDRATIONS_AT_ONCE,
        }
    }

    /// How many may wait. A waiting request costs a connection's buffers, no more.
    fn may_wait(self) -> usize {
        match self {
            Self::Download => 4_096,
            Self::Hydrate => 1_024,
        }
    }

    /// How long: below what clients wait for an answer.
    fn patience(self) -> Duration {
        match self {
            Self::Download => Duration::from_secs(5),
            Self::Hydrate => Duration::from_secs(10),
        }
    }
}

/// Too many wait already, or it has waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much is waiting to be read")]
pub struct Crowded(pub Class);

/// Why a page was not read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DownloadError {
    /// Others come first; try again later.
    #[error(transparent)]
    Crowded(#[from] Crowded),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who runs and who waits. Pure.
#[derive(Debug)]
struct Queue<W> {
    running: [usize; 2],
    waiting: [VecDeque<W>; 2],
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self {
            running: [0; 2],
            waiting: [VecDeque::new(), VecDeque::new()],
        }
    }
}

impl<W> Queue<W> {
    /// Whether one more of this class may run now, the more urgent first.
    fn has_place(&self, class: Class) -> bool {
        self.running.iter().sum::<usize>() < AT_ONCE
            && self.running[class as usize] < class.at_once()
    }

    /// Somebody comes: in at once, or as one who waits, unless too many do.
    fn enter(
        &mut self,
        class: Class,
        waiter: W,
        is_gone: impl Fn(&W) -> bool,
    ) -> Result<Entry, Crowded> {
        let waiting = &mut self.waiting[class as usize];
        if waiting.len() >= class.may_wait() {
            waiting.retain(|waiter| !is_gone(waiter));
        }
        if waiting.len() >= class.may_wait() {
            return Err(Crowded(class));
        }
        if waiting.is_empty() && self.has_place(class) {
            self.running[class as usize] += 1;
            return Ok(Entry::In);
        }
        self.waiting[class as usize].push_back(waiter);
        Ok(Entry::Waits)
    }

    /// Somebody has left; who comes in for it.
    fn leave(&mut self, class: Class, is_gone: impl Fn(&W) -> bool) -> Option<(Class, W)> {
        self.running[class as usize] -= 1;
        for class in Class::ALL {
            while self.has_place(class)
                && let Some(next) = self.waiting[class as usize].pop_front()
            {
                if !is_gone(&next) {
                    self.running[class as usize] += 1;
                    return Some((class, next));
                }
            }
        }
        None
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    In,
    Waits,
}

/// The door of a process's database. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    queue: Arc<Mutex<Queue<oneshot::Sender<Place>>>>,
}

/// One reading that may run; its end lets the next one in.
#[derive(Debug)]
pub struct Place {
    door: Admission,
    class: Class,
}

impl Admission {
    fn queue(&self) -> MutexGuard<'_, Queue<oneshot::Sender<Place>>> {
        self.queue.lock().expect("BUG: no panic under this lock")
    }

    /// Waits for a place.
    pub async fn enter(&self, class: Class) -> Result<Place, Crowded> {
        let (sender, turn) = oneshot::channel();
        let entry = self
            .queue()
            .enter(class, sender, oneshot::Sender::is_closed);
        let place = match entry {
            Ok(Entry::In) => Ok(Place {
                door: self.clone(),
                class,
            }),
            Ok(Entry::Waits) => match timeout(class.patience(), turn).await {
                Ok(Ok(place)) => Ok(place),
                Ok(Err(_)) | Err(_) => Err(Crowded(class)),
            },
            Err(crowded) => Err(crowded),
        };
        if place.is_err() {
            crate::meters::sent_away(class);
        }
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let next = self
            .door
            .queue()
            .leave(self.class, oneshot::Sender::is_closed);
        if let Some((class, waiter)) = next {
            let place = Place {
                door: self.door.clone(),
                class,
            };
            // One that goes away at this very moment gives its place back by its drop.
            let _ = waiter.send(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: fn(&u32) -> bool = |_| false;

    /// Lets in until the queue is full: as many of a class as come in at once.
    fn fill(queue: &mut Queue<u32>, class: Class) -> usize {
        (0..100)
            .filter(|&n| queue.enter(class, n, HERE) == Ok(Entry::In))
            .count()
    }

    #[test]
    fn those_far_behind_leave_places_for_the_others() {
        let mut queue = Queue::default();
        assert_eq!(fill(&mut queue, Class::Hydrate), HYDRATIONS_AT_ONCE);
        assert_eq!(
            fill(&mut queue, Class::Download),
            AT_ONCE - HYDRATIONS_AT_ONCE
        );
    }

    #[test]
    fn the_more_urgent_come_first_and_in_turn() {
        let mut queue = Queue::default();
        assert_eq!(fill(&mut queue, Class::Hydrate), HYDRATIONS_AT_ONCE);
        assert_eq!(
            fill(&mut queue, Class::Download),
            AT_ONCE - HYDRATIONS_AT_ONCE
        );
        // 96 of each class wait now. The places of both go to the urgent ones, but for
        // the one that is kept for those far behind.
        for n in 0..97 {
            let class = if n < 4 {
                Class::Hydrate
            } else {
                Class::Download
            };
            let (next, first) = queue.leave(class, HERE).expect("somebody waits");
            match n {
                3 => assert_eq!((next, first), (Class::Hydrate, HYDRATIONS_AT_ONCE as u32)),
                _ => assert_eq!(next, Class::Download, "{n}"),
            }
        }
        let (next, second) = queue.leave(Class::Download, HERE).expect("somebody waits");
        assert_eq!(
            (next, second),
            (Class::Hydrate, HYDRATIONS_AT_ONCE as u32 + 1)
        );
    }

    #[test]
    fn downloads_that_keep_coming_leave_a_place_to_those_far_behind() {
        let mut queue = Queue::default();
        assert_eq!(fill(&mut queue, Class::Download), AT_ONCE - 1);
        assert_eq!(fill(&mut queue, Class::Hydrate), 1);
    }

    #[test]
    fn too_many_are_sent_away_and_those_who_left_are_forgotten() {
        let mut queue = Queue::default();
        fill(&mut queue, Class::Hydrate);
        for n in 0.. {
            if queue.enter(Class::Hydrate, n, HERE).is_err() {
                break;
            }
            assert!(queue.waiting[1].len() <= Class::Hydrate.may_wait());
        }
        assert_eq!(
            queue.enter(Class::Hydrate, 0, HERE),
            Err(Crowded(Class::Hydrate))
        );
        // The urgent are not sent away for that.
        assert_eq!(queue.enter(Class::Download, 0, HERE), Ok(Entry::In));
        // All who wait have gone: there is room again, and nobody is let in for them.
        assert_eq!(queue.enter(Class::Hydrate, 7, |_| true), Ok(Entry::Waits));
        assert_eq!(queue.leave(Class::Hydrate, |_| true), None);
        assert!(queue.waiting[1].is_empty());
    }

    /// Whoever is told to wait is let in or told to go, and no place is ever lost.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_place_is_lost() {
        let door = Admission::default();
        let work = (0..2_000_u64).map(|n| {
            let door = door.clone();
            tokio::spawn(async move {
                let class = Class::ALL[n as usize % 2];
                let enter = door.enter(class);
                if n % 7 == 0 {
                    // Goes away while it waits.
                    let _ = timeout(Duration::from_micros(n), enter).await;
                } else if let Ok(place) = enter.await {
                    tokio::task::yield_now().await;
                    drop(place);
                }
            })
        });
        for task in work.collect::<Vec<_>>() {
            task.await.expect("no panic");
        }
        let queue = door.queue();
        assert_eq!(queue.running, [0, 0]);
        assert!(queue.waiting.iter().all(VecDeque::is_empty));
    }
}
