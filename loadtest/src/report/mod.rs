//! What a run found, for people and for programs: plain data that is written as
//! `report.json` and read again by `compare`. Text, page and comparison are made
//! from it and from nothing else.

mod chart;
mod compare;
mod page;
mod steadiness;
mod text;
mod told;

pub use compare::compare;
pub use page::page;
pub use text::mib;

use crate::measure::machine::Machine;
use crate::measure::probe::FsyncProbe;
use crate::measure::process::Usage;
use crate::measure::told::Told;
use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The shape of `report.json`; raised when fields change their meaning.
pub const FORMAT: u32 = 2;

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// See [`FORMAT`].
    pub format: u32,
    /// The scenario's name.
    pub scenario: String,
    /// What the scenario is for.
    pub about: String,
    /// What was loaded: `embedded`, `postgres`, or `given server`.
    pub store: String,
    /// Server processes.
    pub processes: usize,
    /// Repeats the run.
    pub seed: u64,
    /// When it began, RFC 3339 UTC.
    pub started_at: String,
    /// As it was called, passwords left out.
    pub command: String,
    /// Whether it was ended by Ctrl-C.
    pub interrupted: bool,
    /// Users, devices and what they were.
    pub fleets: Vec<FleetReport>,
    /// Phase by phase.
    pub phases: Vec<Phase>,
    /// Latencies of the whole run, by stage.
    pub stages: Vec<StageReport>,
    /// Second by second.
    pub timeline: Vec<Second>,
    /// Errors by kind.
    pub errors: BTreeMap<String, u64>,
    /// The comparison at the end.
    pub convergence: Convergence,
    /// Whether memory and files stayed flat, where the scenario asks for that.
    pub steadiness: Option<Steadiness>,
    /// Machine, versions, durability.
    pub environment: Environment,
    /// The scenario as it was run, TOML.
    pub scenario_toml: String,
}

/// One fleet of a scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FleetReport {
    /// Its name.
    pub name: String,
    /// `real` or `lean`.
    pub device: String,
    /// Users.
    pub users: usize,
    /// Devices of all users.
    pub devices: usize,
}

/// One phase.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// `ramp`, `hold`, `spike`, `storm`, …
    pub kind: String,
    /// Seconds from the start of the run.
    pub start: f64,
    /// How long it took.
    pub seconds: f64,
    /// Uploads of lean devices, local transactions of real ones.
    pub operations: u64,
    /// Changes in them.
    pub changes: u64,
    /// Errors.
    pub errors: u64,
    /// Operations per second.
    pub operations_per_second: f64,
    /// Changes per second.
    pub changes_per_second: f64,
    /// Latencies by stage.
    pub stages: Vec<StageReport>,
}

/// Latencies of one stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageReport {
    /// Its name.
    pub name: String,
    /// The usual percentiles.
    pub latency: Latency,
    /// The curve: quantile (0 to 1) and milliseconds.
    pub curve: Vec<(f64, f64)>,
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    /// How many were measured.
    pub samples: u64,
    /// The median.
    pub p50_ms: f64,
    /// 90 of 100 were faster.
    pub p90_ms: f64,
    /// 99 of 100 were faster.
    pub p99_ms: f64,
    /// 999 of 1000 were faster.
    pub p999_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

/// A second of the timeline.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Second {
    /// Its end, in seconds from the start of the run.
    pub at: f64,
    /// Operations per second.
    pub operations_per_second: f64,
    /// Changes per second.
    pub changes_per_second: f64,
    /// Errors.
    pub errors: u64,
    /// Latencies by stage.
    pub stages: BTreeMap<String, SecondLatency>,
    /// The server's processes.
    pub server: Option<Usage>,
    /// This process with all its devices.
    pub fleet: Option<Usage>,
    /// The database's back ends, when they are on this machine. Memory counts
    /// what they share as often as they are.
    pub database: Option<Usage>,
    /// What the server told of itself, by name; empty where it tells nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub told: Told,
}

/// A second's latencies, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct SecondLatency {
    /// How many.
    pub samples: u64,
    /// The median.
    pub p50_ms: f64,
    /// 99 of 100 were faster.
    pub p99_ms: f64,
}

/// The comparison at the end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Convergence {
    /// Whether every device equals the server, and nothing acknowledged is
    /// missing.
    pub equal: bool,
    /// Live rows of all users.
    pub rows: usize,
    /// Acknowledged changes of lean devices that were looked up in the stream.
    pub acknowledged: u64,
    /// How long it took until they were equal.
    pub seconds: f64,
    /// Where not; the first ones.
    pub differences: Vec<String>,
}

/// Whether the server stayed as it was after warming up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Steadiness {
    /// Whether it did.
    pub steady: bool,
    /// Seconds looked at, after the warm-up.
    pub seconds: f64,
    /// Resident memory in the first quarter of that time, median, bytes.
    pub rss_before: u64,
    /// … and in the last quarter.
    pub rss_after: u64,
    /// Growth of resident memory by a straight line through all samples, bytes
    /// per hour.
    pub rss_per_hour: f64,
    /// Open files in the first quarter, median.
    pub files_before: u64,
    /// … and in the last.
    pub files_after: u64,
    /// Memory that the server's allocator had given out, in the first quarter,
    /// median, bytes; where the server tells and the scenario asks.
    #[serde(default)]
    pub live_before: Option<u64>,
    /// … and in the last.
    #[serde(default)]
    pub live_after: Option<u64>,
    /// What was allowed, in words.
    pub allowed: String,
}

/// Where and with what a run was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Environment {
    /// The machine.
    pub machine: Machine,
    /// Programs and their versions.
    pub versions: BTreeMap<String, String>,
    /// The store's durability settings, as it tells them.
    pub durability: BTreeMap<String, String>,
    /// The disk before the run …
    pub fsync_before: Option<FsyncProbe>,
    /// … and after it.
    pub fsync_after: Option<FsyncProbe>,
}

/// The curve's quantiles: enough for a smooth line on a scale that stretches the
/// tail.
const CURVE: [f64; 21] = [
    0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 0.995,
    0.999, 0.9995, 0.9999, 0.99995, 0.99999,
];

fn ms(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}

impl From<&Histogram<u64>> for Latency {
    /// The histogram is in microseconds.
    fn from(times: &Histogram<u64>) -> Self {
        let at = |quantile| ms(times.value_at_quantile(quantile));
        Self {
            samples: times.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: ms(times.max()),
        }
    }
}

impl SecondLatency {
    /// The histogram is in microseconds.
    pub fn of(times: &Histogram<u64>) -> Self {
        Self {
            samples: times.len(),
            p50_ms: ms(times.value_at_quantile(0.5)),
            p99_ms: ms(times.value_at_quantile(0.99)),
        }
    }
}

impl StageReport {
    /// The histogram is in microseconds. The curve ends where fewer than one
    /// sample would stand behind a point.
    pub fn new(name: &str, times: &Histogram<u64>) -> Self {
        let samples = times.len() as f64;
        let curve = CURVE
            .iter()
            .take_while(|quantile| (1.0 - **quantile) * samples >= 1.0)
            .map(|quantile| (*quantile, ms(times.value_at_quantile(*quantile))))
            .collect();
        Self {
            name: name.to_owned(),
            latency: Latency::from(times),
            curve,
        }
    }
}

impl Report {
    /// Whether nothing was lost, everybody agrees, and what had to stay flat did.
    pub fn is_right(&self) -> bool {
        self.convergence.equal && self.steadiness.as_ref().is_none_or(|found| found.steady)
    }

    /// A stage of the whole run.
    pub fn stage(&self, name: &str) -> Option<&StageReport> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Phases in which anything was done.
    pub fn working_phases(&self) -> impl Iterator<Item = &Phase> {
        self.phases.iter().filter(|phase| phase.operations > 0)
    }

    /// Operations and changes per second over all phases in which anything was
    /// done.
    pub fn rates(&self) -> (f64, f64) {
        let (mut operations, mut changes, mut seconds) = (0, 0, 0.0);
        for phase in self.working_phases() {
            operations += phase.operations;
            changes += phase.changes;
            seconds += phase.seconds;
        }
        let seconds = f64::max(seconds, 0.001);
        (operations as f64 / seconds, changes as f64 / seconds)
    }

    /// Reads `report.json`, or the one in this folder.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = if path.is_dir() {
            path.join("report.json")
        } else {
            path.to_owned()
        };
        let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
        let report: Self = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{}: not a report of this version of loadtest",
                file.display()
            )
        })?;
        anyhow::ensure!(
            report.format == FORMAT,
            "{}: format {}, this version reads {FORMAT}",
            file.display(),
            report.format
        );
        Ok(report)
    }

    /// Writes `report.json` and `report.html`; the latter's path.
    pub fn write(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let put = |name: &str, text: Vec<u8>| {
            let file = folder.join(name);
            std::fs::write(&file, text).with_context(|| file.display().to_string())?;
            anyhow::Ok(file)
        };
        put("report.json", serde_json::to_vec_pretty(self)?)?;
        put("report.html", page(self).into_bytes())
    }
}
