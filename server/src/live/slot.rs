//! What one session is to be told, and for how long it is to stay away once the server
//! stops. The notifier writes it, the session looks with each wake; neither waits for
//! the other.

use oversync_shared::ServerId;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a session is to be told: each wake has it look here.
#[derive(Debug, Default)]
pub struct HintSlot {
    /// The newest head.
    head: AtomicI64,
    /// The first commit of this process that the device has not been told of.
    since: Mutex<Option<Instant>>,
    /// Once the server stops, how long the device is to stay away, in milliseconds
    /// and one more.
    goodbye: AtomicU64,
}

impl HintSlot {
    pub(super) fn raise(&self, head: ServerId, since: Option<Instant>) {
        self.head.fetch_max(head.get(), Ordering::AcqRel);
        if since.is_some() {
            let mut first = self.since.lock().expect("BUG: no panic under this lock");
            *first = first.or(since);
        }
    }

    /// How long ago the first commit was that the device is now told of; none where
    /// none of this process is among them.
    pub(super) fn told(&self) -> Option<Duration> {
        let mut first = self.since.lock().expect("BUG: no panic under this lock");
        Some(first.take()?.elapsed())
    }

    /// The newest head.
    pub fn head(&self) -> ServerId {
        ServerId::new(self.head.load(Ordering::Acquire))
    }

    pub(super) fn say_goodbye(&self, away: Duration) {
        let away = u64::try_from(away.as_millis()).unwrap_or(u64::MAX - 1);
        self.goodbye.store(away + 1, Ordering::Release);
    }

    /// Whether the server stops: for how many milliseconds the device is to stay
    /// away.
    pub fn goodbye(&self) -> Option<u64> {
        self.goodbye.load(Ordering::Acquire).checked_sub(1)
    }
}

/// After a restart devices come back over at least this time …
const SPREAD: Duration = Duration::from_secs(2);

/// … and no more than so many in a second.
const RETURNS_PER_SECOND: u32 = 1_000;

/// The own delay of the device at this place among `count`: one after another, each
/// at some moment of its own slot.
pub(super) fn delay(place: u32, count: u32, chance: f64) -> Duration {
    let spread = SPREAD.max(Duration::from_secs(1) * count / RETURNS_PER_SECOND);
    (spread / count.max(1)).mul_f64(f64::from(place) + chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_come_back_one_after_another() {
        for (count, seconds) in [(1, 2), (100, 2), (2_000, 2), (5_000, 5), (20_000, 20)] {
            let whole = Duration::from_secs(seconds);
            let delays = (0..count).map(|place| delay(place, count, 0.5));
            for (place, delay) in (0..).zip(delays) {
                let slot = whole / count;
                assert!(
                    delay >= slot * place && delay <= slot * (place + 1),
                    "{delay:?}"
                );
            }
        }
    }
}
