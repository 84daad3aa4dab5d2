//! A scenario: fleets of devices and the phases they go through, as TOML. Plain
//! data, checked when read; unknown keys are errors. Every field is documented
//! here, in `docs/LOADTEST.md` and in the named scenarios.

mod named;
mod pace;

pub use named::{NAMED, text_of};
pub use pace::Profile;

use anyhow::{Context as _, ensure};
use rand::Rng;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

/// What a run does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is for, in a sentence.
    #[serde(default)]
    pub about: String,
    /// What the server must look like after warming up; unchecked when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steady: Option<Steady>,
    /// The phases, one after another; all fleets go through them together.
    pub phases: Vec<Phase>,
    /// The devices; none where phases bring their own.
    #[serde(default)]
    pub fleets: Vec<Fleet>,
}

/// A fleet of like devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// For the report; fleets of one scenario have different names.
    pub name: String,
    /// What its devices are.
    pub device: Kind,
    /// Users.
    #[serde(default = "one")]
    pub users: usize,
    /// Devices per user.
    #[serde(default = "one")]
    pub devices: usize,
    /// When the next operation is due.
    #[serde(default, rename = "loop")]
    pub pacing: Pacing,
    /// Open loop: operations per second of the whole fleet at level 1.
    #[serde(default)]
    pub rate: f64,
    /// Closed loop: pause between an answer and the next operation, milliseconds.
    #[serde(default)]
    pub think_ms: Span,
    /// Changes per operation: in one upload (lean), in one local transaction
    /// (real).
    #[serde(default = "Span::one")]
    pub batch: Span,
    /// Bytes of the text in a row.
    #[serde(default = "Span::usual_payload")]
    pub payload_bytes: Span,
    /// Rows that each user has before anything is measured.
    #[serde(default)]
    pub preload: usize,
    /// How lean devices hear of others' changes; real ones always listen.
    #[serde(default)]
    pub listen: Listen,
    /// With `listen = "polls"`: pause between two downloads, seconds.
    #[serde(default = "second")]
    pub poll_seconds: f64,
    /// With `listen = "polls"`: how long the server may wait for something to
    /// tell (long poll), seconds; 0 for servers that do not know it.
    #[serde(default)]
    pub wait_seconds: u32,
    /// Names of the phases in which it works; all when empty. It stays connected
    /// in the others.
    #[serde(default)]
    pub phases: Vec<String>,
    /// What is done, by weight.
    #[serde(default)]
    pub mix: Mix,
    /// Disconnects; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub churn: Option<Churn>,
}

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The real client: a SQLite file, capture, the engine, a WebSocket.
    Real,
    /// The protocol alone: no SQLite, thousands of them in one process.
    Lean,
}

impl Kind {
    /// For reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::Lean => "lean",
        }
    }
}

/// When the next operation is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pacing {
    /// At times fixed beforehand, however slow the server is. Latencies count
    /// from then, so that waiting behind a slow answer is not left out.
    #[default]
    Open,
    /// When the last one was answered: finds the highest rate.
    Closed,
    /// Never: connected and silent.
    Idle,
}

/// How a lean device hears of others' changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Listen {
    /// Not at all: it uploads.
    #[default]
    Nothing,
    /// A WebSocket; what it hints at is not downloaded.
    Hints,
    /// A WebSocket, and a download for each hint.
    Downloads,
    /// Downloads every `poll_seconds`; no WebSocket.
    Polls,
}

/// A number, or the two ends of an even draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Span {
    /// Always this.
    Fixed(u64),
    /// From the first to the second, both included.
    Between(u64, u64),
}

impl Default for Span {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

impl Span {
    const fn one() -> Self {
        Self::Fixed(1)
    }

    /// About what a row of an application weighs; BENCH uses the same.
    const fn usual_payload() -> Self {
        Self::Fixed(120)
    }

    /// The ends.
    pub const fn ends(self) -> (u64, u64) {
        match self {
            Self::Fixed(value) => (value, value),
            Self::Between(low, high) => (low, high),
        }
    }

    /// One draw.
    pub fn draw(self, random: &mut impl Rng) -> usize {
        let (low, high) = self.ends();
        random.random_range(low..=high) as usize
    }
}

/// What is done, by weight; weights need not add up to anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mix {
    /// New rows.
    pub insert: u32,
    /// Changes of rows that are there.
    pub update: u32,
    /// Deletions.
    pub delete: u32,
    /// Lean: changes on top of an outdated version, which the server must
    /// answer with a conflict. Real: changes of the few rows that all devices of
    /// the user change.
    pub conflict: u32,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            insert: 100,
            update: 0,
            delete: 0,
            conflict: 0,
        }
    }
}

/// What one change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// See [`Mix::insert`].
    Insert,
    /// See [`Mix::update`].
    Update,
    /// See [`Mix::delete`].
    Delete,
    /// See [`Mix::conflict`].
    Conflict,
}

impl Mix {
    /// One draw.
    pub fn draw(&self, random: &mut impl Rng) -> Deed {
        let mut at = random.random_range(0..self.total().max(1));
        for (weight, deed) in [
            (self.insert, Deed::Insert),
            (self.update, Deed::Update),
            (self.delete, Deed::Delete),
        ] {
            if at < weight {
                return deed;
            }
            at -= weight;
        }
        Deed::Conflict
    }

    const fn total(&self) -> u32 {
        self.insert + self.update + self.delete + self.conflict
    }
}

/// Devices that go away and come back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// How long a device stays, on average, seconds.
    pub every_seconds: f64,
    /// How long it is away, seconds. A real device goes on editing meanwhile.
    pub offline_seconds: Span,
    /// Real: meanwhile another program, `oversqlite watch`, keeps the file, and
    /// ends by SIGKILL.
    #[serde(default)]
    pub killed: bool,
}

/// A phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// For the report, and for fleets that work in some phases only.
    pub name: String,
    /// What happens.
    pub kind: PhaseKind,
    /// How long, seconds. Storm, hydrate: at most. Grow, stories: no meaning.
    #[serde(default = "ten")]
    pub seconds: f64,
    /// Times a fleet's rate (open loop), share of its devices that work (closed).
    /// Ramp: reached at the end. Spike: in the middle third.
    #[serde(default = "full")]
    pub level: f64,
    /// Ramp: the level at the beginning.
    #[serde(default)]
    pub from: f64,
    /// Ramp, hold, spike, stories: so often a process of the server this load test started
    /// is killed (SIGKILL, in turn) and started again; 0 for never.
    #[serde(default)]
    pub kill_every_seconds: f64,
    /// Whether `--seconds` leaves it as long as it is.
    #[serde(default)]
    pub fixed: bool,
    /// Storm: kill the server this load test started and start it again.
    #[serde(default)]
    pub restart: bool,
    /// Grow: changes to add.
    #[serde(default)]
    pub rows: usize,
    /// Stories: users, who live the eleven stories in turn.
    #[serde(default)]
    pub users: usize,
}

/// What happens in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseKind {
    /// An even load.
    Hold,
    /// From one level to another.
    Ramp,
    /// An even load, `level` times as much in the middle third.
    Spike,
    /// All devices are cut off and come back at once; ends when all have caught
    /// up.
    Storm,
    /// A new device for each user downloads everything.
    Hydrate,
    /// Other users' changes fill the log as fast as they go; not measured.
    Grow,
    /// Users live the life stories of a device, with real devices of their own.
    Stories,
}

impl PhaseKind {
    /// For reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Ramp => "ramp",
            Self::Spike => "spike",
            Self::Storm => "storm",
            Self::Hydrate => "hydrate",
            Self::Grow => "grow",
            Self::Stories => "stories",
        }
    }
}

/// What must stay flat, and when looking begins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steady {
    /// Not looked at, seconds from the start of the last phase.
    pub warmup_seconds: f64,
    /// The same as a share of the last phase; the longer of the two counts.
    #[serde(default)]
    pub warmup_share: f64,
    /// Growth of the server's resident memory between the first and the last
    /// quarter of the time looked at, per cent.
    pub max_rss_growth_percent: f64,
    /// … and of its open files.
    pub max_files_growth: u64,
    /// … and of what its allocator has given out and not got back, per cent;
    /// not looked at when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_live_growth_percent: Option<f64>,
    /// So much growth of that is never too much, KiB: a quarter of a short phase
    /// is a few samples.
    #[serde(default)]
    pub live_allowance_kib: u64,
}

impl Steady {
    /// What is not looked at of a phase of this length; both in seconds.
    pub fn warmup(&self, seconds: f64) -> f64 {
        self.warmup_seconds.max(self.warmup_share * seconds)
    }
}

/// Shorter, and there are too few samples to compare quarters of.
const LEAST_STEADY_SECONDS: f64 = 12.0;

const fn one() -> usize {
    1
}

const fn second() -> f64 {
    1.0
}

const fn ten() -> f64 {
    10.0
}

const fn full() -> f64 {
    1.0
}

impl Phase {
    /// Its length, or the most it may take.
    pub fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Whether devices work in it at their own pace.
    pub const fn is_paced(&self) -> bool {
        matches!(
            self.kind,
            PhaseKind::Hold | PhaseKind::Ramp | PhaseKind::Spike
        )
    }
}

impl Fleet {
    /// Devices of all users.
    pub const fn total(&self) -> usize {
        self.users * self.devices
    }

    /// Whether it works in this phase.
    pub fn works_in(&self, phase: &Phase) -> bool {
        self.pacing != Pacing::Idle && (self.phases.is_empty() || self.phases.contains(&phase.name))
    }
}

impl Scenario {
    /// Reads and checks a scenario.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// A named one, or the file.
    pub fn find(name: &str) -> anyhow::Result<(String, Self)> {
        if let Some(text) = text_of(name) {
            return Ok((
                name.to_owned(),
                Self::parse(text).context("BUG: named scenarios are right")?,
            ));
        }
        let path = Path::new(name);
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("{name:?} is neither a file nor a name; see loadtest scenarios")
        })?;
        let stem = path.file_stem().unwrap_or(path.as_os_str());
        let scenario = Self::parse(&text).with_context(|| name.to_owned())?;
        Ok((stem.to_string_lossy().into_owned(), scenario))
    }

    /// As TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("BUG: scenarios serialise")
    }

    /// Whether it can be run; the message names what cannot be.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.phases.is_empty(), "phases: at least one is needed");
        let brings_devices = |phase: &Phase| phase.kind == PhaseKind::Stories;
        ensure!(
            !self.fleets.is_empty() || self.phases.iter().any(brings_devices),
            "fleets: at least one is needed"
        );
        let mut names = HashSet::new();
        for phase in &self.phases {
            let name = &phase.name;
            ensure!(names.insert(name.as_str()), "phase {name:?}: twice");
            ensure!(
                phase.seconds.is_finite() && phase.seconds > 0.0 && phase.seconds < 1e8,
                "phase {name:?}: seconds must be above 0"
            );
            ensure!(
                (phase.kind == PhaseKind::Stories) == (phase.users > 0),
                "phase {name:?}: users belong to stories, and stories need users"
            );
            for level in [phase.level, phase.from, phase.kill_every_seconds] {
                ensure!(
                    level.is_finite() && level >= 0.0,
                    "phase {name:?}: level, from and kill_every_seconds must be at least 0"
                );
            }
        }
        let mut fleets = HashSet::new();
        if let (Some(steady), Some(last)) = (&self.steady, self.phases.last()) {
            ensure!(
                last.kill_every_seconds == 0.0,
                "steady: the last phase kills the server, and memory begins anew"
            );
            ensure!(
                last.seconds >= steady.warmup(last.seconds) + LEAST_STEADY_SECONDS,
                "steady: the last phase must go on for {LEAST_STEADY_SECONDS} s after its warm-up"
            );
        }
        for fleet in &self.fleets {
            let name = &fleet.name;
            ensure!(fleets.insert(name.as_str()), "fleet {name:?}: twice");
            for phase in &fleet.phases {
                ensure!(
                    names.contains(phase.as_str()),
                    "fleet {name:?}: there is no phase {phase:?}"
                );
            }
            fleet.check().with_context(|| format!("fleet {name:?}"))?;
        }
        Ok(())
    }
}

impl Fleet {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.users > 0 && self.devices > 0,
            "users and devices must be at least 1"
        );
        ensure!(
            self.pacing != Pacing::Open || (self.rate.is_finite() && self.rate > 0.0),
            "an open loop needs a rate above 0"
        );
        ensure!(self.mix.total() > 0, "mix: all weights are 0");
        for (field, span) in [
            ("batch", self.batch),
            ("think_ms", self.think_ms),
            ("payload_bytes", self.payload_bytes),
        ] {
            let (low, high) = span.ends();
            ensure!(low <= high, "{field}: from {low} to {high}");
        }
        ensure!(self.batch.ends().0 > 0, "batch must be at least 1");
        ensure!(self.poll_seconds > 0.0, "poll_seconds must be above 0");
        ensure!(self.wait_seconds <= 60, "wait_seconds must be at most 60");
        if let Some(churn) = &self.churn {
            ensure!(
                churn.every_seconds > 0.0,
                "churn.every_seconds must be above 0"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    const LEAST: &str = "[[phases]]\nname='a'\nkind='hold'\n\
                         [[fleets]]\nname='f'\ndevice='lean'\nloop='closed'\n";

    fn problem(text: &str) -> String {
        format!("{:#}", Scenario::parse(text).expect_err("not a scenario"))
    }

    #[test]
    fn every_named_scenario_is_right_and_says_what_it_is_for() {
        for named in NAMED {
            let (name, scenario) = Scenario::find(named.name).expect("it is right");
            assert_eq!(name, named.name);
            assert!(!scenario.about.is_empty(), "{name}");
            let again = Scenario::parse(&scenario.to_toml()).expect("it reads what it writes");
            assert_eq!(scenario, again, "{name}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        Scenario::parse(LEAST).expect("enough");
        assert!(problem(&format!("{LEAST}ratte=1\n")).contains("ratte"));
        assert!(problem(&format!("{LEAST}phases=['b']\n")).contains("no phase \"b\""));
        assert!(problem(&format!("{LEAST}batch=0\n")).contains("batch"));
        assert!(problem(&format!("{LEAST}batch=[9, 2]\n")).contains("from 9 to 2"));
        assert!(problem(&LEAST.replace("closed", "open")).contains("rate"));
        assert!(problem(&format!("{LEAST}[fleets.mix]\ninsert=0\n")).contains("weights"));
        assert!(problem("phases=[]\nfleets=[]").contains("phases"));
        let steady = "[steady]\nwarmup_seconds=1\nmax_rss_growth_percent=1\nmax_files_growth=1\n";
        assert!(problem(&format!("{steady}{LEAST}")).contains("go on for"));
        let long = format!("{steady}{}", LEAST.replace("'hold'", "'hold'\nseconds=20"));
        Scenario::parse(&long).expect("long enough");
        let killed = long.replace("seconds=20", "seconds=20\nkill_every_seconds=2");
        assert!(problem(&killed).contains("kills the server"));
    }

    #[test]
    fn the_mix_is_drawn_by_weight() {
        let mix = Mix {
            insert: 0,
            update: 30,
            delete: 10,
            conflict: 60,
        };
        let mut random = StdRng::seed_from_u64(1);
        let mut counts = [0; 4];
        for _ in 0..10_000 {
            counts[mix.draw(&mut random) as usize] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!((2_700..3_300).contains(&counts[1]), "{counts:?}");
        assert!((5_700..6_300).contains(&counts[3]), "{counts:?}");
    }
}
