//! When operations are due in an open loop: pure arithmetic over the phase's
//! level. The n-th arrival of a fleet is due when the area under its rate
//! reaches n, so a ramp or a spike is exact and every run has the same times.

use super::{Phase, PhaseKind};
use std::time::Duration;

/// A stretch in which the level goes straight from one value to another.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    seconds: f64,
    from: f64,
    to: f64,
}

impl Stretch {
    fn area(self) -> f64 {
        self.seconds * (self.from + self.to) / 2.0
    }

    /// After how many seconds the area is this much; it is at most all of it.
    fn time_of(self, area: f64) -> f64 {
        let slope = (self.to - self.from) / self.seconds;
        if slope.abs() < 1e-12 {
            return area / self.from;
        }
        // from·t + slope·t²/2 = area
        ((self.from * self.from + 2.0 * slope * area).max(0.0).sqrt() - self.from) / slope
    }
}

/// The level over a phase.
#[derive(Debug, Clone)]
pub struct Profile {
    stretches: Vec<Stretch>,
}

impl Profile {
    /// Of a phase.
    pub fn of(phase: &Phase) -> Self {
        let stretch = |seconds, from, to| Stretch { seconds, from, to };
        let (seconds, level) = (phase.seconds, phase.level);
        let stretches = match phase.kind {
            PhaseKind::Ramp => vec![stretch(seconds, phase.from, level)],
            PhaseKind::Spike => {
                let third = seconds / 3.0;
                vec![
                    stretch(third, 1.0, 1.0),
                    stretch(third, level, level),
                    stretch(third, 1.0, 1.0),
                ]
            }
            PhaseKind::Hold
            | PhaseKind::Storm
            | PhaseKind::Hydrate
            | PhaseKind::Grow
            | PhaseKind::Stories => {
                vec![stretch(seconds, level, level)]
            }
        };
        Self { stretches }
    }

    /// When an arrival is due, counted from 0, at this many arrivals a second
    /// per level; `None` after the end of the phase.
    pub fn due(&self, arrival: f64, rate: f64) -> Option<Duration> {
        let mut area = arrival / rate;
        let mut start = 0.0;
        for stretch in &self.stretches {
            let whole = stretch.area();
            if area < whole {
                return Some(Duration::from_secs_f64(start + stretch.time_of(area)));
            }
            area -= whole;
            start += stretch.seconds;
        }
        None
    }

    /// The level at a moment; 0 after the end.
    pub fn level(&self, at: Duration) -> f64 {
        let mut at = at.as_secs_f64();
        for stretch in &self.stretches {
            if at < stretch.seconds {
                return stretch.from + (stretch.to - stretch.from) * at / stretch.seconds;
            }
            at -= stretch.seconds;
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(kind: PhaseKind, level: f64, from: f64) -> Profile {
        Profile::of(&Phase {
            name: "p".into(),
            kind,
            seconds: 9.0,
            level,
            from,
            restart: false,
            kill_every_seconds: 0.0,
            fixed: false,
            rows: 0,
            users: 0,
        })
    }

    fn arrivals(profile: &Profile, rate: f64) -> Vec<f64> {
        (0..)
            .map_while(|n| profile.due(f64::from(n), rate))
            .map(|due| due.as_secs_f64())
            .collect()
    }

    #[test]
    fn a_hold_is_even() {
        let times = arrivals(&profile(PhaseKind::Hold, 2.0, 0.0), 5.0);
        assert_eq!(times.len(), 90);
        assert!((times[1] - times[0] - 0.1).abs() < 1e-9);
        assert!((times[89] - 8.9).abs() < 1e-6);
    }

    #[test]
    fn a_ramp_grows_evenly() {
        let ramp = profile(PhaseKind::Ramp, 1.0, 0.0);
        let times = arrivals(&ramp, 100.0);
        assert_eq!(times.len(), 450);
        let early = times.iter().filter(|time| **time < 4.5).count();
        assert!((110..=115).contains(&early), "a quarter: {early}");
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!((ramp.level(Duration::from_millis(4_500)) - 0.5).abs() < 1e-9);
        let down = arrivals(&profile(PhaseKind::Ramp, 0.0, 1.0), 100.0);
        assert_eq!(down.len(), 450);
        assert!(*down.last().expect("some") < 9.0);
    }

    #[test]
    fn a_spike_is_in_the_middle() {
        let times = arrivals(&profile(PhaseKind::Spike, 10.0, 0.0), 10.0);
        let middle = times.iter().filter(|time| (3.0..6.0).contains(*time));
        assert_eq!(times.len(), 30 + 300 + 30);
        assert!((299..=301).contains(&middle.count()));
    }
}
