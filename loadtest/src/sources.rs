//! Where connections to a server on this machine come from. A port of a closed
//! connection rests for a minute, and ten thousand devices leave ten thousand of
//! them behind: each run takes addresses of its own, so that no run, and no program
//! that wants a port on 127.0.0.1, waits for the ports of the run before.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

/// Connections per source address: well below the 28,000 ports there are, also
/// when each device has three.
const PER_ADDRESS: usize = 5_000;

/// Addresses for devices; those above are for everything else.
const MOST_HOSTS: usize = 250;

/// Runs of this process so far.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// The addresses of one run: 127.x.y.1 and so on.
#[derive(Debug, Clone, Copy)]
pub struct Sources {
    block: [u8; 2],
}

impl Sources {
    /// Addresses that no other run of this process has; those of the last program
    /// were most likely others.
    pub fn new() -> Self {
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        Self::of_run(std::process::id().wrapping_mul(61).wrapping_add(run))
    }

    fn of_run(run: u32) -> Self {
        // 127.0.y.z is left to others.
        let part = |number: u32| (1 + number % 250) as u8;
        Self {
            block: [part(run / 250), part(run)],
        }
    }

    /// Of the n-th device.
    pub fn of(&self, number: usize) -> Ipv4Addr {
        let host = 1 + (number / PER_ADDRESS).min(MOST_HOSTS - 1);
        self.host(host as u8)
    }

    /// Of what is no device: signing in, comparing.
    pub fn own(&self) -> Ipv4Addr {
        self.host(u8::MAX - 1)
    }

    fn host(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.block[0], self.block[1], host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn runs_do_not_share_addresses() {
        let mut seen = HashSet::new();
        for run in 0..62_500 {
            let sources = Sources::of_run(run);
            for address in [sources.of(0), sources.of(PER_ADDRESS), sources.own()] {
                assert!(seen.insert(address), "{address}");
            }
        }
        let sources = Sources::new();
        assert_eq!(sources.of(0), sources.of(PER_ADDRESS - 1));
        assert_ne!(sources.of(usize::MAX), sources.own());
        assert_ne!(sources.of(0), Sources::new().of(0));
    }
}
