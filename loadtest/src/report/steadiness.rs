//! Whether a server stayed as it was after warming up: medians of quarters, so
//! that one peak neither hides growth nor invents it.

use super::{Phase, Second, Steadiness};
use crate::scenario::Steady;

impl Steadiness {
    /// Looks at the server's samples of the last phase after the warm-up; `None`
    /// when there are too few to say anything.
    pub fn of(timeline: &[Second], last_phase: &Phase, steady: &Steady) -> Option<Self> {
        let begin = last_phase.start + steady.warmup_seconds;
        let end = last_phase.start + last_phase.seconds;
        let samples: Vec<(f64, u64, u64)> = timeline
            .iter()
            .filter(|second| second.at > begin && second.at <= end)
            .filter_map(|second| Some((second.at, second.server?.rss, second.server?.files)))
            .collect();
        let quarter = samples.len() / 4;
        if quarter < 2 {
            return None;
        }
        let (first, last) = (&samples[..quarter], &samples[samples.len() - quarter..]);
        let (rss_before, rss_after) = (median(first, |s| s.1), median(last, |s| s.1));
        let (files_before, files_after) = (median(first, |s| s.2), median(last, |s| s.2));
        let growth = (rss_after as f64 / rss_before.max(1) as f64 - 1.0) * 100.0;
        let files = files_after.saturating_sub(files_before);
        Some(Self {
            steady: growth <= steady.max_rss_growth_percent && files <= steady.max_files_growth,
            seconds: samples[samples.len() - 1].0 - samples[0].0,
            rss_before,
            rss_after,
            rss_per_hour: slope(&samples) * 3_600.0,
            files_before,
            files_after,
            allowed: format!(
                "allowed: {} % of memory, {} files",
                steady.max_rss_growth_percent, steady.max_files_growth
            ),
        })
    }
}

fn median(samples: &[(f64, u64, u64)], value: impl Fn(&(f64, u64, u64)) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(value).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Bytes per second of the straight line through all samples.
fn slope(samples: &[(f64, u64, u64)]) -> f64 {
    let count = samples.len() as f64;
    let at = samples.iter().map(|sample| sample.0).sum::<f64>() / count;
    let mean = samples.iter().map(|sample| sample.1 as f64).sum::<f64>() / count;
    let (mut across, mut along) = (0.0, 0.0);
    for (time, rss, _) in samples {
        across += (time - at) * (*rss as f64 - mean);
        along += (time - at) * (time - at);
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
            max_rss_growth_percent: 5.0,
            max_files_growth: 3,
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
}
