//! How long this disk takes to make a small write durable. Printed beside every
//! figure: on a small virtual machine another busy thread can stretch commits
//! from 0.14 to 4 ms, and then a figure says more about the neighbour.

use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

/// Enough for a median that does not jump, and done in well under a second.
const WRITES: usize = 100;

/// A page: what a write-ahead log flushes at least.
const BYTES: usize = 8192;

/// What the probe found, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FsyncProbe {
    /// The median of one append with fdatasync.
    pub p50_ms: f64,
    /// 99 of 100 were faster.
    pub p99_ms: f64,
    /// How many were measured.
    pub writes: usize,
}

impl FsyncProbe {
    /// Appends and syncs in a temporary file in this folder. Blocks.
    pub fn run(folder: &Path) -> std::io::Result<Self> {
        let mut file = tempfile::tempfile_in(folder)?;
        let page = [0x5a; BYTES];
        let mut times = Vec::with_capacity(WRITES);
        for _ in 0..WRITES {
            let started = Instant::now();
            file.write_all(&page)?;
            file.sync_data()?;
            times.push(started.elapsed().as_secs_f64() * 1_000.0);
        }
        times.sort_by(f64::total_cmp);
        Ok(Self {
            p50_ms: times[WRITES / 2],
            p99_ms: times[WRITES * 99 / 100],
            writes: WRITES,
        })
    }
}

impl std::fmt::Display for FsyncProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:.2} ms, p99 {:.2} ms", self.p50_ms, self.p99_ms)
    }
}
