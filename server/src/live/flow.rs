//! How much a session may have on its way, in either direction. Pure.
//!
//! actix-web-actors queues what is sent without a bound and does not say how much
//! is queued. So a numbered ping follows every few KiB, and its pong proves that
//! the device has read everything before it. Once too much is unproven, hints wait
//! in their slot; a device that proves nothing for long is a slow consumer.

use super::bucket::Bucket;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Unproven bytes after which a probe follows: about 80 hints.
const PROBE_EVERY: usize = 4 * 1024;

/// Unproven bytes beyond which nothing is sent but `bye`. A quarter of what a
/// connection may cost (GUARANTEES, BOUNDED: 64 KiB); the rest is buffers.
const MAX_UNPROVEN: usize = 16 * 1024;

/// How long a device may prove nothing once sending has stopped for it. Below
/// the time after which devices that answer no ping are dropped without a word, as it is
/// by default.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of a frame's head, for small frames sent by a server (RFC 6455, 5.2).
const FRAME_HEAD: usize = 4;

/// What a device may send per second, lasting. It needs a frame per ping and one
/// per fresh token.
const FRAMES_PER_SECOND: f64 = 10.0;

/// … and at once.
const FRAMES_AT_ONCE: f64 = 100.0;

/// A ping whose pong proves what was sent before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probe {
    number: u64,
    /// Bytes sent since the probe before this one.
    bytes: usize,
}

impl Probe {
    /// What the ping carries.
    pub(super) fn payload(self) -> [u8; 8] {
        self.number.to_be_bytes()
    }
}

/// What is on its way to the device.
#[derive(Debug, Default)]
pub(super) struct Outflow {
    /// Oldest first; at most [`MAX_UNPROVEN`] / [`PROBE_EVERY`] and a few.
    probes: VecDeque<Probe>,
    /// Bytes sent since the last probe.
    since_probe: usize,
    last: u64,
}

impl Outflow {
    fn unproven(&self) -> usize {
        self.since_probe + self.probes.iter().map(|probe| probe.bytes).sum::<usize>()
    }

    /// Whether hints have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.unproven() >= MAX_UNPROVEN
    }

    /// A frame with so many bytes was sent; the probe to send after it, if one is due.
    pub(super) fn sent(&mut self, bytes: usize) -> Option<Probe> {
        self.since_probe += bytes + FRAME_HEAD;
        if self.since_probe < PROBE_EVERY {
            return None;
        }
        self.last += 1;
        let probe = Probe {
            number: self.last,
            bytes: std::mem::take(&mut self.since_probe),
        };
        self.probes.push_back(probe);
        Some(probe)
    }

    /// A pong came. What is no answer to a probe proves nothing.
    pub(super) fn pong(&mut self, payload: &[u8]) {
        let Ok(number) = payload.try_into().map(u64::from_be_bytes) else {
            return;
        };
        if number > self.last {
            return;
        }
        while self
            .probes
            .front()
            .is_some_and(|probe| probe.number <= number)
        {
            self.probes.pop_front();
        }
    }

    /// The probe that has waited longest for its answer.
    pub(super) fn oldest(&self) -> Option<Probe> {
        self.probes.front().copied()
    }
}

/// What comes from the device, in frames.
pub(super) fn inflow(now: Instant) -> Bucket {
    Bucket::full(FRAMES_PER_SECOND, FRAMES_AT_ONCE, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends until the outflow is full; what went out and the probes.
    fn fill(outflow: &mut Outflow) -> (usize, Vec<Probe>) {
        let (mut bytes, mut probes) = (0, Vec::new());
        while !outflow.is_full() {
            bytes += 50;
            probes.extend(outflow.sent(50));
        }
        (bytes, probes)
    }

    #[test]
    fn a_device_that_reads_nothing_costs_a_bounded_amount() {
        let mut outflow = Outflow::default();
        let (bytes, probes) = fill(&mut outflow);
        assert!(bytes < MAX_UNPROVEN + 100, "{bytes}");
        assert!(probes.len() >= 3, "{probes:?}");
        assert_eq!(outflow.oldest(), probes.first().copied());
        // What proves nothing changes nothing.
        for payload in [&b""[..], b"hello", &u64::MAX.to_be_bytes(), &[0; 8]] {
            outflow.pong(payload);
            assert!(outflow.is_full(), "{payload:?}");
        }
    }

    #[test]
    fn a_pong_frees_what_was_sent_before_its_probe() {
        let mut outflow = Outflow::default();
        let (_, probes) = fill(&mut outflow);
        outflow.pong(&probes[1].payload());
        assert!(!outflow.is_full());
        assert_eq!(outflow.oldest(), probes.get(2).copied());
        // An older answer that comes late, or twice, frees nothing more.
        let unproven = outflow.unproven();
        outflow.pong(&probes[0].payload());
        outflow.pong(&probes[1].payload());
        assert_eq!(outflow.unproven(), unproven);
        // With every answer, it never ends.
        for _ in 0..10_000 {
            if let Some(probe) = outflow.sent(50) {
                outflow.pong(&probe.payload());
            }
        }
        assert!(!outflow.is_full());
    }

    #[test]
    fn frames_are_taken_at_a_rate() {
        let start = Instant::now();
        let mut inflow = inflow(start);
        let at_once = (0..1_000).filter(|_| inflow.takes(start)).count();
        assert_eq!(at_once, FRAMES_AT_ONCE as usize);
        let later = start + Duration::from_secs(2);
        let after_a_while = (0..1_000).filter(|_| inflow.takes(later)).count();
        assert_eq!(after_a_while, 2 * FRAMES_PER_SECOND as usize);
    }
}
