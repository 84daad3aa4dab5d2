//! A report in words and columns, for a terminal.

use super::{Latency, Report};
use std::fmt::{self, Display, Write as _};

impl Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {}   p90 {}   p99 {}   max {}   ({} samples)",
            Millis(self.p50_ms),
            Millis(self.p90_ms),
            Millis(self.p99_ms),
            Millis(self.max_ms),
            self.samples
        )
    }
}

/// A time in the unit a person would choose.
#[derive(Debug, Clone, Copy)]
pub struct Millis(pub f64);

impl Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(ms) = *self;
        if ms < 1.0 {
            write!(f, "{:.0} µs", ms * 1_000.0)
        } else if ms < 10.0 {
            write!(f, "{ms:.2} ms")
        } else if ms < 1_000.0 {
            write!(f, "{ms:.0} ms")
        } else {
            write!(f, "{:.1} s", ms / 1_000.0)
        }
    }
}

/// A number with thin groups, and no more digits than it is worth.
pub fn number(value: f64) -> String {
    if value.abs() < 10.0 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0.0 && digits != "0" {
        grouped.insert(0, '-');
    }
    grouped
}

/// Bytes as MiB.
pub fn mib(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / f64::from(1 << 20))
}

impl Report {
    /// What was found, in sentences.
    pub fn summary(&self) -> Vec<String> {
        let mut said = Vec::new();
        let devices: usize = self.fleets.iter().map(|fleet| fleet.devices).sum();
        let users: usize = self.fleets.iter().map(|fleet| fleet.users).sum();
        said.push(format!(
            "{} devices of {} users worked against {}.",
            number(devices as f64),
            number(users as f64),
            match self.store.as_str() {
                "given server" => "the given server".to_owned(),
                store if self.processes > 1 =>
                    format!("{} server processes on the {store} store", self.processes),
                store => format!("one server on the {store} store"),
            }
        ));
        for phase in self.working_phases() {
            said.push(format!(
                "Phase {}: {} operations with {} changes a second.",
                phase.name,
                number(phase.operations_per_second),
                number(phase.changes_per_second)
            ));
        }
        for stage in &self.stages {
            said.push(format!(
                "{}: half within {}, 99 of 100 within {}.",
                capital(&stage.name),
                Millis(stage.latency.p50_ms),
                Millis(stage.latency.p99_ms)
            ));
        }
        let errors: u64 = self.errors.values().sum();
        said.push(match errors {
            0 => "There were no errors.".to_owned(),
            1 => "There was one error.".to_owned(),
            many => format!("There were {} errors.", number(many as f64)),
        });
        if let Some(found) = &self.steadiness {
            let live = found.live_before.zip(found.live_after);
            let live = live.map_or_else(String::new, |(before, after)| {
                let percent = (after as f64 / before.max(1) as f64 - 1.0) * 100.0;
                format!(
                    "live bytes (the allocator's count) went from {} to {} ({percent:+.2} %), ",
                    mib(before as f64),
                    mib(after as f64)
                )
            });
            said.push(format!(
                "After warming up the server {}: {live}resident memory went from {} to {}, open files from {} to {} ({}).",
                if found.steady { "stayed flat" } else { "did NOT stay flat" },
                mib(found.rss_before as f64),
                mib(found.rss_after as f64),
                found.files_before,
                found.files_after,
                found.allowed
            ));
        }
        if self.interrupted {
            said.push("The run was interrupted: this is what was measured until then.".to_owned());
        }
        said
    }

    /// Whether devices and server agree, in a sentence.
    pub fn verdict(&self) -> String {
        let found = &self.convergence;
        if found.equal {
            format!(
                "All devices equal the server: {} live rows, {} acknowledged changes looked up, {:.1} s after the last edit.",
                number(found.rows as f64),
                number(found.acknowledged as f64),
                found.seconds
            )
        } else {
            format!(
                "DIFFERENT after {:.0} s: repeat with --seed {}.",
                found.seconds, self.seed
            )
        }
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |arguments: fmt::Arguments<'_>| {
            text.write_fmt(arguments)
                .expect("BUG: a String takes any text");
            text.push('\n');
        };
        line(format_args!(
            "scenario {}, store {}, seed {}",
            self.scenario, self.store, self.seed
        ));
        for fleet in &self.fleets {
            line(format_args!(
                "{:<12} {} users, {} {} devices",
                fleet.name, fleet.users, fleet.devices, fleet.device
            ));
        }
        for phase in &self.phases {
            line(format_args!(
                "{:<12} {} operations/s   {} changes/s   {} errors   ({:.1} s)",
                phase.name,
                number(phase.operations_per_second),
                number(phase.changes_per_second),
                phase.errors,
                phase.seconds
            ));
            for stage in &phase.stages {
                line(format_args!("    {:<18} {}", stage.name, stage.latency));
            }
        }
        for (kind, count) in &self.errors {
            line(format_args!("error        {count} × {kind}"));
        }
        if let Some(probe) = &self.environment.fsync_before {
            line(format_args!("fsync        {probe} before"));
        }
        if let Some(probe) = &self.environment.fsync_after {
            line(format_args!("             {probe} after"));
        }
        for sentence in self.summary() {
            line(format_args!("{sentence}"));
        }
        line(format_args!("{}", self.verdict()));
        for difference in &self.convergence.differences {
            line(format_args!("             {difference}"));
        }
        text
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(number(1_234_567.4), "1,234,567");
        assert_eq!(number(999.0), "999");
        assert_eq!(number(2.55), "2.5");
        assert_eq!(number(0.0), "0");
        assert_eq!(number(-12_345.0), "-12,345");
        assert_eq!(Millis(0.25).to_string(), "250 µs");
        assert_eq!(Millis(12.3).to_string(), "12 ms");
        assert_eq!(Millis(2_340.0).to_string(), "2.3 s");
    }
}
