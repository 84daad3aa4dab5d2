//! What a run found, for people and for programs.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt::Write as _;

/// A run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The server's store.
    pub store: String,
    /// Repeats the run.
    pub seed: u64,
    /// The upload phase.
    pub uploads: Uploads,
    /// The fleet of real devices.
    pub live: Live,
    /// The comparison at the end.
    pub convergence: Convergence,
}

/// The upload phase.
#[derive(Debug, Serialize)]
pub struct Uploads {
    /// Devices, each of its own user.
    pub devices: usize,
    /// Changes per upload.
    pub batch: usize,
    /// Uploads answered.
    pub uploads: u64,
    /// Uploads answered per second.
    pub uploads_per_second: f64,
    /// Changes applied per second.
    pub changes_per_second: f64,
    /// From sending to the answer.
    pub latency: Latency,
}

/// The fleet of real devices.
#[derive(Debug, Serialize)]
pub struct Live {
    /// Users.
    pub users: usize,
    /// Devices of all users.
    pub devices: usize,
    /// Local edits.
    pub edits: u64,
    /// Local edits per second.
    pub edits_per_second: f64,
    /// From the local commit of a new row to its commit on another device.
    pub commit_to_remote_row: Latency,
}

/// The comparison at the end.
#[derive(Debug, Serialize)]
pub struct Convergence {
    /// Whether every device equals the server.
    pub equal: bool,
    /// Live rows of all users.
    pub rows: usize,
    /// How long it took until they were equal.
    pub seconds: f64,
    /// Where not.
    pub differences: Vec<String>,
}

/// Percentiles in milliseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub samples: u64,
    /// The median.
    pub p50_ms: f64,
    /// 90 of 100 were faster.
    pub p90_ms: f64,
    /// 99 of 100 were faster.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl From<&Histogram<u64>> for Latency {
    /// The histogram is in microseconds.
    fn from(times: &Histogram<u64>) -> Self {
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1_000.0;
        Self {
            samples: times.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            max_ms: times.max() as f64 / 1_000.0,
        }
    }
}

impl Latency {
    fn to_text(&self) -> String {
        format!(
            "p50 {:.2} ms   p90 {:.2} ms   p99 {:.2} ms   max {:.2} ms   ({} samples)",
            self.p50_ms, self.p90_ms, self.p99_ms, self.max_ms, self.samples
        )
    }
}

impl Report {
    /// Whether nothing was lost and everybody agrees.
    pub fn is_right(&self) -> bool {
        self.convergence.equal
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let Self {
            scenario,
            store,
            seed,
            uploads,
            live,
            convergence,
        } = self;
        let mut text = String::new();
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            text.write_fmt(arguments)
                .expect("BUG: a String takes any text");
            text.push('\n');
        };
        line(format_args!(
            "scenario {scenario}, store {store}, seed {seed}"
        ));
        line(format_args!(
            "uploads      {} devices × {} changes",
            uploads.devices, uploads.batch
        ));
        line(format_args!(
            "             {:.0} uploads/s   {:.0} changes/s",
            uploads.uploads_per_second, uploads.changes_per_second
        ));
        line(format_args!("             {}", uploads.latency.to_text()));
        line(format_args!(
            "devices      {} users, {} devices, {} edits ({:.1}/s)",
            live.users, live.devices, live.edits, live.edits_per_second
        ));
        line(format_args!(
            "             local commit to remote row: {}",
            live.commit_to_remote_row.to_text()
        ));
        if convergence.equal {
            line(format_args!(
                "converged    all devices equal the server: {} rows, {:.1} s after the last edit",
                convergence.rows, convergence.seconds
            ));
        } else {
            line(format_args!(
                "DIFFERENT    after {:.0} s",
                convergence.seconds
            ));
            for difference in &convergence.differences {
                line(format_args!("             {difference}"));
            }
        }
        text
    }
}
