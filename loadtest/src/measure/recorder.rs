//! Latencies by stage, work done, and errors by kind, while a run goes on.
//!
//! All devices write into one [`Recorder`]. A histogram per stage for the whole
//! run and for the phase that runs; per second only a few numbers, so that a run
//! may last for days. Nothing is thrown away: no outlier is cut off.

use crate::report::{Phase, Second, SecondLatency, StageReport};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Longest latency that is told apart; longer ones count as this.
const LONGEST: Duration = Duration::from_secs(3_600);

/// What a latency is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// From the local commit, or from when a request was due, to the server's
    /// acknowledgement on the same device.
    Acknowledged,
    /// From the same moment to the hint on another device's socket.
    Hint,
    /// … to the row on another device: its commit in a real one, its arrival in a
    /// lean one.
    Applied,
    /// One download request.
    Download,
    /// From an empty device to one that has everything.
    Hydrated,
    /// From the beginning of a storm to a device that is connected and has
    /// nothing left to download.
    CaughtUp,
}

impl Stage {
    /// All of them, in the order a change passes through.
    pub const ALL: [Self; 6] = [
        Self::Acknowledged,
        Self::Hint,
        Self::Applied,
        Self::Download,
        Self::Hydrated,
        Self::CaughtUp,
    ];

    /// For reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Hint => "hint received",
            Self::Applied => "applied elsewhere",
            Self::Download => "download answered",
            Self::Hydrated => "hydrated",
            Self::CaughtUp => "caught up",
        }
    }
}

struct Times {
    all: Histogram<u64>,
    phase: Histogram<u64>,
    second: Histogram<u64>,
}

/// Work done, since some moment.
#[derive(Debug, Clone, Copy, Default)]
struct Work {
    operations: u64,
    changes: u64,
    errors: u64,
}

struct Current {
    name: String,
    kind: String,
    began: Instant,
    at_start: Work,
}

struct Inner {
    started: Instant,
    times: Vec<Times>,
    total: Work,
    at_last_tick: Work,
    last_tick: Instant,
    errors: BTreeMap<String, u64>,
    seconds: Vec<Second>,
    current: Option<Current>,
    phases: Vec<Phase>,
}

/// Where all devices write what they saw.
pub struct Recorder {
    inner: Mutex<Inner>,
}

/// What a live line shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Glance {
    /// Operations in the last second.
    pub operations: f64,
    /// Changes in the last second.
    pub changes: f64,
    /// The 99th percentile of the last second's acknowledgements, in ms.
    pub p99_ms: Option<f64>,
    /// Errors so far.
    pub errors: u64,
}

impl Default for Recorder {
    fn default() -> Self {
        let started = Instant::now();
        let histogram = || {
            Histogram::new_with_max(LONGEST.as_micros() as u64, 3)
                .expect("BUG: constants that a histogram takes")
        };
        let times = Stage::ALL.map(|_| Times {
            all: histogram(),
            phase: histogram(),
            second: histogram(),
        });
        Self {
            inner: Mutex::new(Inner {
                started,
                times: times.into(),
                total: Work::default(),
                at_last_tick: Work::default(),
                last_tick: started,
                errors: BTreeMap::new(),
                seconds: Vec::new(),
                current: None,
                phases: Vec::new(),
            }),
        }
    }
}

impl Recorder {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("BUG: no panic under this lock")
    }

    /// The timeline begins now: everything has been prepared.
    pub fn start(&self) {
        let mut inner = self.inner();
        inner.started = Instant::now();
        inner.last_tick = inner.started;
    }

    /// Notes a latency.
    pub fn record(&self, stage: Stage, time: Duration) {
        let micros = time.min(LONGEST).as_micros() as u64;
        let mut inner = self.inner();
        // Between phases (preparing, comparing) nothing is measured.
        if inner.current.is_none() {
            return;
        }
        let times = &mut inner.times[stage as usize];
        for histogram in [&mut times.all, &mut times.phase, &mut times.second] {
            histogram.saturating_record(micros);
        }
    }

    /// Notes operations (uploads, local transactions) and the changes in them.
    pub fn did(&self, operations: u64, changes: u64) {
        let mut inner = self.inner();
        if inner.current.is_some() {
            inner.total.operations += operations;
            inner.total.changes += changes;
        }
    }

    /// Notes an error; kinds are short and few.
    pub fn error(&self, kind: impl Into<String>) {
        self.errors(kind, 1);
    }

    /// Notes many.
    pub fn errors(&self, kind: impl Into<String>, count: u64) {
        if count > 0 {
            let mut inner = self.inner();
            inner.total.errors += count;
            *inner.errors.entry(kind.into()).or_default() += count;
        }
    }

    /// Begins a phase; the one before ends.
    pub fn begin_phase(&self, name: &str, kind: &str) {
        self.end_phase();
        let mut inner = self.inner();
        for times in &mut inner.times {
            times.phase.reset();
        }
        inner.current = Some(Current {
            name: name.to_owned(),
            kind: kind.to_owned(),
            began: Instant::now(),
            at_start: inner.total,
        });
    }

    /// Ends the phase that runs; what is recorded until the next one begins does
    /// not count.
    pub fn end_phase(&self) {
        let mut inner = self.inner();
        let Some(current) = inner.current.take() else {
            return;
        };
        let seconds = current.began.elapsed().as_secs_f64();
        let work = inner.total.since(current.at_start);
        let stages = reports(&inner.times, |times| &times.phase);
        let started = inner.started;
        inner.phases.push(Phase {
            name: current.name,
            kind: current.kind,
            start: current
                .began
                .saturating_duration_since(started)
                .as_secs_f64(),
            seconds,
            operations: work.operations,
            changes: work.changes,
            errors: work.errors,
            operations_per_second: work.operations as f64 / seconds.max(0.001),
            changes_per_second: work.changes as f64 / seconds.max(0.001),
            stages,
        });
    }

    /// Closes a second of the timeline. The caller adds what processes used.
    pub fn tick(&self, complete: impl FnOnce(&mut Second)) -> Glance {
        let mut inner = self.inner();
        let now = Instant::now();
        let length = now.duration_since(inner.last_tick).as_secs_f64().max(0.001);
        let work = inner.total.since(inner.at_last_tick);
        let mut second = Second {
            at: now.duration_since(inner.started).as_secs_f64(),
            operations_per_second: work.operations as f64 / length,
            changes_per_second: work.changes as f64 / length,
            errors: work.errors,
            ..Second::default()
        };
        for (stage, times) in Stage::ALL.iter().zip(&mut inner.times) {
            if !times.second.is_empty() {
                let name = stage.name().to_owned();
                second.stages.insert(name, SecondLatency::of(&times.second));
                times.second.reset();
            }
        }
        complete(&mut second);
        let glance = Glance {
            operations: second.operations_per_second,
            changes: second.changes_per_second,
            p99_ms: second
                .stages
                .get(Stage::Acknowledged.name())
                .map(|latency| latency.p99_ms),
            errors: inner.total.errors,
        };
        inner.at_last_tick = inner.total;
        inner.last_tick = now;
        inner.seconds.push(second);
        glance
    }

    /// Everything, once the run is over.
    pub fn finish(&self) -> Recorded {
        self.end_phase();
        let mut inner = self.inner();
        Recorded {
            stages: reports(&inner.times, |times| &times.all),
            phases: std::mem::take(&mut inner.phases),
            timeline: std::mem::take(&mut inner.seconds),
            errors: std::mem::take(&mut inner.errors),
        }
    }
}

/// What a run came to.
pub struct Recorded {
    /// By stage, of the whole run.
    pub stages: Vec<StageReport>,
    /// The phases.
    pub phases: Vec<Phase>,
    /// Second by second.
    pub timeline: Vec<Second>,
    /// By kind.
    pub errors: BTreeMap<String, u64>,
}

fn reports(times: &[Times], which: impl Fn(&Times) -> &Histogram<u64>) -> Vec<StageReport> {
    Stage::ALL
        .iter()
        .zip(times)
        .map(|(stage, times)| (stage, which(times)))
        .filter(|(_, histogram)| !histogram.is_empty())
        .map(|(stage, histogram)| StageReport::new(stage.name(), histogram))
        .collect()
}

impl Work {
    fn since(self, before: Self) -> Self {
        Self {
            operations: self.operations - before.operations,
            changes: self.changes - before.changes,
            errors: self.errors - before.errors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happens_in_a_phase_counts() {
        let recorder = Recorder::default();
        recorder.did(1, 10);
        recorder.record(Stage::Acknowledged, Duration::from_millis(900));
        recorder.begin_phase("first", "hold");
        for millis in 1..=100 {
            recorder.did(1, 2);
            recorder.record(Stage::Acknowledged, Duration::from_millis(millis));
        }
        let glance = recorder.tick(|second| second.server = None);
        assert!(glance.operations > 0.0);
        recorder.begin_phase("second", "hold");
        recorder.record(Stage::Acknowledged, Duration::from_millis(7));
        recorder.error("timeout");
        let done = recorder.finish();
        assert_eq!(done.stages.len(), 1, "stages without samples are left out");
        let latency = &done.stages[0].latency;
        assert_eq!(latency.samples, 101);
        assert!((latency.p50_ms - 50.0).abs() < 1.0, "{latency:?}");
        assert!((latency.max_ms - 100.0).abs() < 1.0, "{latency:?}");
        assert_eq!(done.phases.len(), 2);
        assert_eq!(done.phases[0].changes, 200);
        assert_eq!(done.phases[1].stages[0].latency.samples, 1);
        assert_eq!(done.phases[1].errors, 1);
        assert_eq!(done.errors["timeout"], 1);
    }
}
