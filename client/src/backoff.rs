//! How long to wait after a failure: capped exponential, full jitter.

use rand::Rng as _;
use std::time::Duration;

/// The first wait is at most this long.
const FIRST: Duration = Duration::from_millis(200);

/// No wait of our own is longer: once a fault has ended, devices converge within
/// seconds. A server that wants more room says so with `Retry-After`.
const LONGEST: Duration = Duration::from_secs(5);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It worked.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// It failed: how long to wait, never less than the server asked for.
    pub(crate) fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let ceiling = ceiling(self.failures);
        self.failures = self.failures.saturating_add(1);
        let jitter = ceiling.mul_f64(rand::rng().random_range(0.0..1.0));
        // Everybody was told the same time: spread out behind it.
        retry_after.map_or(jitter, |asked| asked + jitter.min(FIRST))
    }
}

fn ceiling(failures: u32) -> Duration {
    FIRST
        .saturating_mul(2_u32.saturating_pow(failures.min(16)))
        .min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_lost_the_server_together_come_back_spread_out() {
        let waits: Vec<Duration> = (0..400)
            .map(|_| Backoff { failures: 100 }.next(None))
            .collect();
        // Full jitter: any part of the time is as likely as any other.
        for part in 0..4 {
            let (from, to) = (LONGEST / 4 * part, LONGEST / 4 * (part + 1));
            let count = waits
                .iter()
                .filter(|wait| (from..to).contains(wait))
                .count();
            assert!(count > 20, "{count} of 400 between {from:?} and {to:?}");
        }
    }

    #[test]
    fn waits_grow_to_the_cap_and_honour_the_server() {
        assert_eq!(ceiling(0), FIRST);
        assert_eq!(ceiling(1), FIRST * 2);
        assert_eq!(ceiling(1_000), LONGEST);
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            assert!(backoff.next(None) <= LONGEST);
        }
        let asked = Duration::from_secs(90);
        for _ in 0..100 {
            let wait = backoff.next(Some(asked));
            assert!(wait >= asked && wait <= asked + FIRST, "{wait:?}");
        }
    }
}
