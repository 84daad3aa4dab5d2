//! One line of the table, with everything it stands on.

use super::ground::Ground;
use crate::facts;
use crate::floor::Rounds;
use crate::measure::machine::Machine;
use crate::measure::others::Others;
use crate::measure::probe::FsyncProbe;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// Which part a contender has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// This project.
    Ours,
    /// The least work that does the same.
    Floor,
    /// The reference style of working.
    Reference,
    /// For the reader only.
    Aside,
}

/// A contender's figures.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// What it is.
    pub name: String,
    /// Its part.
    pub role: Role,
    /// The median of the rounds.
    pub median: f64,
    /// All rounds.
    pub values: Vec<f64>,
}

/// A ratio with its target.
#[derive(Debug, Clone, Serialize)]
pub struct Target {
    /// Of what to what.
    pub name: String,
    /// The value.
    pub value: f64,
    /// `≥ 0.6`, `≤ 16 KiB`, …
    pub wanted: String,
    /// Whether it is reached.
    pub reached: bool,
}

/// How it looked before a round.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Before {
    /// The disk.
    pub fsync: FsyncProbe,
    /// What had nothing to do with us.
    pub others: Others,
}

/// A line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// `B1`, …
    pub id: String,
    /// The workload.
    pub what: String,
    /// Of all figures in the line.
    pub unit: String,
    /// Who was measured.
    pub measured: Vec<Measured>,
    /// What was to be reached.
    pub targets: Vec<Target>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// Disk and machine, before every round.
    pub before: Vec<Before>,
    /// Where.
    pub machine: Option<Machine>,
    /// With what.
    pub versions: BTreeMap<String, String>,
    /// How durable.
    pub durability: BTreeMap<String, String>,
    /// As it was called.
    pub command: String,
}

impl Row {
    /// An empty line.
    pub fn new(id: &str, what: &str, unit: &str) -> Self {
        Self {
            id: id.to_owned(),
            what: what.to_owned(),
            unit: unit.to_owned(),
            measured: Vec::new(),
            targets: Vec::new(),
            notes: Vec::new(),
            before: Vec::new(),
            machine: None,
            versions: BTreeMap::new(),
            durability: BTreeMap::new(),
            command: String::new(),
        }
    }

    /// Notes versions, durability and what makes it no figure.
    pub(super) async fn facts(&mut self, ground: &Ground) {
        let facts = facts::gather(ground.database_url(), true).await;
        self.versions = facts.versions;
        self.durability = facts.durability;
        self.command = ground.command().to_owned();
        if self
            .durability
            .get("fsync")
            .is_some_and(|fsync| fsync == "off")
        {
            self.note("fsync is off: this is no figure; run with DURABLE=1");
        }
        if cfg!(debug_assertions) {
            self.note("a debug build: this is no figure; build with --release");
        }
    }

    /// Says whether something else kept the machine busy, once all rounds are over.
    pub(super) fn judge(&mut self) {
        let cores = self.machine.as_ref().map_or(1, |machine| machine.cores);
        let busy = |before: &&Before| before.others.are_busy(cores);
        let rounds = self.before.iter().filter(busy).count();
        if rounds > 0 {
            let all = self.before.len();
            self.note(&format!(
                "the machine was busy with something else before {rounds} of {all} rounds: this is no figure"
            ));
        }
    }

    /// Adds a contender's rounds.
    pub fn add(&mut self, name: &str, role: Role, rounds: Rounds) {
        self.measured.push(Measured {
            name: name.to_owned(),
            role,
            median: rounds.median(),
            values: rounds.values,
        });
    }

    /// Something a reader must know.
    pub fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }

    /// The median of the first contender with this part.
    pub fn median(&self, role: Role) -> f64 {
        self.measured
            .iter()
            .find(|measured| measured.role == role)
            .map_or(f64::NAN, |measured| measured.median)
    }

    /// A target that a value must reach from below.
    pub fn at_least(&mut self, name: &str, value: f64, wanted: f64) {
        self.targets.push(Target {
            name: name.to_owned(),
            value,
            wanted: format!("≥ {wanted}"),
            reached: value >= wanted,
        });
    }

    /// A target that a value must not exceed.
    pub fn at_most(&mut self, name: &str, value: f64, wanted: f64) {
        self.targets.push(Target {
            name: name.to_owned(),
            value,
            wanted: format!("≤ {wanted}"),
            reached: value <= wanted,
        });
    }
}

/// Digits that are worth something.
struct Figure(f64);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            value if value.abs() >= 100.0 => write!(f, "{value:.0}"),
            value if value.abs() >= 1.0 => write!(f, "{value:.2}"),
            value => write!(f, "{value:.3}"),
        }
    }
}

impl fmt::Display for Row {
    /// A line of a Markdown table, and below it what it stands on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |role: Role| {
            let mut text = String::new();
            for found in self.measured.iter().filter(|found| found.role == role) {
                let comma = if text.is_empty() { "" } else { "; " };
                // A String takes any text.
                let _ = write!(text, "{comma}{} ({})", Figure(found.median), found.name);
            }
            if text.is_empty() {
                "–".to_owned()
            } else {
                text
            }
        };
        let targets: Vec<String> = self
            .targets
            .iter()
            .map(|target| {
                format!(
                    "{} {} (wanted {}{})",
                    target.name,
                    Figure(target.value),
                    target.wanted,
                    if target.reached { "" } else { ": MISSED" }
                )
            })
            .collect();
        writeln!(
            f,
            "| {} | {} ({}) | {} | {} | {} | {} |",
            self.id,
            self.what,
            self.unit,
            cell(Role::Ours),
            cell(Role::Floor),
            cell(Role::Reference),
            targets.join("; ")
        )?;
        for found in &self.measured {
            let values: Vec<String> = found
                .values
                .iter()
                .map(|value| Figure(*value).to_string())
                .collect();
            writeln!(f, "    {:<34} {}", found.name, values.join(" "))?;
        }
        if !self.before.is_empty() {
            let probe = |of: fn(&Before) -> f64| {
                let all = self.before.iter();
                let all: Vec<_> = all.map(|before| format!("{:.2}", of(before))).collect();
                all.join(" ")
            };
            let fsync = probe(|before| before.fsync.p50_ms);
            writeln!(f, "    {:<34} {fsync}", "fsync, ms")?;
            let others = probe(|before| before.others.cores);
            writeln!(f, "    {:<34} {others}", "cores that others kept busy")?;
        }
        for note in &self.notes {
            writeln!(f, "    note: {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_missed() {
        let mut row = Row::new("B0", "nothing", "per s");
        for (name, role, values) in [
            ("ours", Role::Ours, [3.0, 1.0, 2.0]),
            ("bare", Role::Floor, [4.0, 4.0, 5.0]),
        ] {
            let values = values.to_vec();
            row.add(name, role, Rounds { values });
        }
        let ratio = row.median(Role::Ours) / row.median(Role::Floor);
        row.at_least("ours/floor", ratio, 0.6);
        row.at_most("ours/floor", ratio, 0.6);
        row.machine = Some(Machine::here());
        for cores in [0.0, 1_000.0] {
            let (p50_ms, p99_ms, writes) = (0.5, 1.0, 100);
            row.before.push(Before {
                fsync: FsyncProbe {
                    p50_ms,
                    p99_ms,
                    writes,
                },
                others: Others { cores },
            });
        }
        row.judge();
        let text = row.to_string();
        assert!(
            text.contains("busy with something else before 1 of 2 rounds"),
            "{text}"
        );
        assert!(text.contains("| 2.00 (ours) | 4.00 (bare) | – |"), "{text}");
        assert_eq!(text.matches("MISSED").count(), 1, "{text}");
        assert!(text.contains("3.00 1.00 2.00"), "{text}");
    }
}
