//! A bucket that fills with time: how often something may happen, lasting and at once.
//! Pure: whoever takes says what time it is. Sessions count frames with it, the heads
//! their questions.

use std::time::{Duration, Instant};

/// What is in it.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: f64,
    at_once: f64,
    /// Below 0 by what was taken in advance.
    left: f64,
    at: Instant,
}

impl Bucket {
    /// A full one: `per_second` come in, `at_once` have room.
    pub(super) fn full(per_second: f64, at_once: f64, now: Instant) -> Self {
        Self {
            per_second,
            at_once,
            left: at_once,
            at: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * self.per_second).min(self.at_once);
    }

    /// Takes one, in advance if need be; how long to wait until it is there.
    pub(super) fn take(&mut self, now: Instant) -> Duration {
        self.fill(now);
        self.left -= 1.0;
        Duration::from_secs_f64((-self.left).max(0.0) / self.per_second)
    }

    /// Takes one if there is one.
    pub(super) fn takes(&mut self, now: Instant) -> bool {
        self.fill(now);
        let is_there = self.left >= 1.0;
        if is_there {
            self.left -= 1.0;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PER_SECOND: f64 = 500.0;
    const AT_ONCE: f64 = 100.0;

    #[test]
    fn what_is_taken_in_advance_is_waited_for() {
        let start = Instant::now();
        let mut bucket = Bucket::full(PER_SECOND, AT_ONCE, start);
        let at_once = (0..1_000).take_while(|_| bucket.take(start).is_zero());
        assert_eq!(at_once.count(), AT_ONCE as usize);
        // Who waits as long as is said takes so many in a second, and no more.
        let (mut bucket, mut now) = (Bucket::full(PER_SECOND, AT_ONCE, start), start);
        let mut taken = 0;
        while now < start + Duration::from_secs(10) {
            now += bucket.take(now);
            taken += 1;
        }
        let lasting = AT_ONCE + 10.0 * PER_SECOND;
        assert!((f64::from(taken) - lasting).abs() < 5.0, "{taken}");
        // Who comes rarely never waits.
        for n in 1..1_000 {
            let now = now + Duration::from_millis(10 * n);
            assert!(n < 100 || bucket.take(now).is_zero());
        }
    }

    #[test]
    fn what_is_not_there_is_not_taken() {
        let start = Instant::now();
        let mut bucket = Bucket::full(10.0, AT_ONCE, start);
        let at_once = (0..1_000).filter(|_| bucket.takes(start)).count();
        assert_eq!(at_once, AT_ONCE as usize);
        let later = start + Duration::from_secs(2);
        let after_a_while = (0..1_000).filter(|_| bucket.takes(later)).count();
        assert_eq!(after_a_while, 20);
    }
}
