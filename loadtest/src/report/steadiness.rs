//! Whether a server stayed as it was after warming up: medians of quarters, so
//! that one peak neither hides growth nor invents it.

use super::{Phase, Second, Steadiness};
use crate::measure::told::live_bytes;
use crate::scenario::Steady;

/// What is looked at in one second.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: f64,
    rss: u64,
    files: u64,
    /// `None` in a second in which the server did not answer in time.
    live: Option<u64>,
}

impl Steadiness {
    /// Looks at the server's samples of the last phase after the warm-up; `None`
    /// when there are too few to say anything. A server that does not tell what
    /// the scenario asks for is not steady.
    pub fn of(timeline: &[Second], last_phase: &Phase, steady: &Steady) -> Option<Self> {
        let begin = last_phase.start + steady.warmup(last_phase.seconds);
        let end = last_phase.start + last_phase.seconds;
        let samples: Vec<Sample> = timeline
            .iter()
            .filter(|second| second.at > begin && second.at <= end)
            .filter_map(|second| {
                let usage = second.server?;
                Some(Sample {
                    at: second.at,
                    rss: usage.rss,
                    files: usage.files,
                    live: live_bytes(&second.told),
                })
            })
            .collect();
        let quarter = samples.len() / 4;
        if quarter < 2 {
            return None;
        }
        let (first, last) = (&samples[..quarter], &samples[samples.len() - quarter..]);
        let of = |value: fn(&Sample) -> Option<u64>| (median(first, value), median(last, value));
        let (rss_before, rss_after) = of(|sample| Some(sample.rss));
        let (files_before, files_after) = of(|sample| Some(sample.files));
        let (live_before, live_after) = of(|sample| sample.live);
        let (rss_before, rss_after) = (rss_before.unwrap_or(0), rss_after.unwrap_or(0));
        let (files_before, files_after) = (files_before.unwrap_or(0), files_after.unwrap_or(0));
        let growth = (rss_after as f64 / rss_before.max(1) as f64 - 1.0) * 100.0;
        let files = files_after.saturating_sub(files_before);
        let mut is_steady =
            growth <= steady.max_rss_growth_percent && files <= steady.max_files_growth;
        let mut allowed = format!(
            "allowed: {} % of resident memory, {} files",
            steady.max_rss_growth_percent, steady.max_files_growth
        );
        if let Some(percent) = steady.max_live_growth_percent {
            is_steady &= live_before.zip(live_after).is_some_and(|(before, after)| {
                let most = before as f64 * percent / 100.0;
                after.saturating_sub(before) as f64
                    <= most.max(steady.live_allowance_kib as f64 * 1_024.0)
            });
            allowed += &format!(
                ", {percent} % or {} KiB of live bytes",
                steady.live_allowance_kib
            );
        }
        Some(Self {
            steady: is_steady,
            seconds: samples[samples.len() - 1].at - samples[0].at,
            rss_before,
            rss_after,
            rss_per_hour: slope(&samples) * 3_600.0,
            files_before,
            files_after,
            live_before,
            live_after,
            allowed,
        })
    }
}

/// Of those that have one.
fn median(samples: &[Sample], value: impl Fn(&Sample) -> Option<u64>) -> Option<u64> {
    let mut values: Vec<u64> = samples.iter().filter_map(value).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// Bytes per second of the straight line through all samples.
fn slope(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let at = samples.iter().map(|sample| sample.at).sum::<f64>() / count;
    let mean = samples.iter().map(|sample| sample.rss as f64).sum::<f64>() / count;
    let (mut across, mut along) = (0.0, 0.0);
    for sample in samples {
        across += (sample.at - at) * (sample.rss as f64 - mean);
        along += (sample.at - at) * (sample.at - at);
    }
    across / along.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::process::Usage;

    fn timeline(rss: impl Fn(f64) -> f64, files: impl Fn(f64) -> u64) -> Vec<Second> {
        (0..100)
            .map(|at| Second {
                at: f64::from(at),
                server: Some(Usage {
                    cores: 0.0,
                    rss: rss(f64::from(at)) as u64,
                    files: files(f64::from(at)),
                }),
                ..Second::default()
            })
            .collect()
    }

    #[test]
    fn growth_is_seen_and_warming_up_is_not() {
        let allowed = Steady {
            warmup_seconds: 20.0,
            warmup_share: 0.1,
            max_rss_growth_percent: 5.0,
            max_files_growth: 3,
            max_live_growth_percent: None,
            live_allowance_kib: 0,
        };
        let phase = |start: f64| Phase {
            name: "p".into(),
            kind: "hold".into(),
            start,
            seconds: 100.0,
            operations: 1,
            changes: 1,
            errors: 0,
            operations_per_second: 1.0,
            changes_per_second: 1.0,
            stages: Vec::new(),
        };
        let of = |timeline: Vec<Second>| {
            Steadiness::of(&timeline, &phase(0.0), &allowed).expect("enough")
        };
        let warm = |at: f64| if at < 20.0 { at * 1e6 } else { 2e7 };
        let flat = of(timeline(warm, |_| 40));
        assert!(flat.steady && flat.rss_per_hour.abs() < 1.0, "{flat:?}");
        let leak = of(timeline(|at| 1e8 + at * 1e5, |_| 40));
        assert!(!leak.steady, "{leak:?}");
        assert!((leak.rss_per_hour - 3.6e8).abs() < 1e3, "{leak:?}");
        let files = of(timeline(warm, |at| 40 + (at / 10.0) as u64));
        assert!(!files.steady, "{files:?}");
        // What was before the last phase does not count, not even a leak.
        let early = |at: f64| if at < 50.0 { 1e8 + at * 1e6 } else { 1.5e8 };
        let late = Steadiness::of(&timeline(early, |_| 40), &phase(30.0), &allowed);
        assert!(late.expect("enough").steady);
        assert!(Steadiness::of(&timeline(warm, |_| 1)[..22], &phase(0.0), &allowed).is_none());
    }
    #[test]
    fn what_the_allocator_says_is_looked_at_where_the_scenario_asks() {
        let mut allowed = Steady {
            warmup_seconds: 20.0,
            warmup_share: 0.1,
            max_rss_growth_percent: 5.0,
            max_files_growth: 3,
            max_live_growth_percent: Some(2.0),
            live_allowance_kib: 0,
        };
        let phase = Phase {
            name: "p".into(),
            kind: "hold".into(),
            start: 0.0,
            seconds: 100.0,
            operations: 1,
            changes: 1,
            errors: 0,
            operations_per_second: 1.0,
            changes_per_second: 1.0,
            stages: Vec::new(),
        };
        let of = |live: &dyn Fn(f64) -> Option<f64>, allowed: &Steady| {
            let mut seconds = timeline(|_| 1e8, |_| 40);
            for second in &mut seconds {
                if let Some(bytes) = live(second.at) {
                    second.told.insert("live_bytes".to_owned(), bytes);
                }
            }
            Steadiness::of(&seconds, &phase, allowed).expect("enough")
        };
        assert!(of(&|at| Some(1e7 + at * 1e3), &allowed).steady);
        // One second in three is missing.
        assert!(of(&|at| (at % 3.0 > 0.5).then_some(1e7), &allowed).steady);
        let leak = |at: f64| Some(1e7 + at * 1e4);
        let found = of(&leak, &allowed);
        assert!(!found.steady, "{found:?}");
        assert_eq!(found.live_before, Some(10_300_000));
        allowed.live_allowance_kib = 1_024;
        assert!(of(&leak, &allowed).steady, "less than was allowed");
        assert!(!of(&|_| None, &allowed).steady, "nothing was told");
    }
}
