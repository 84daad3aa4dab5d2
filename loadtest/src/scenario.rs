//! What a run does: first uploads as fast as they go, then a fleet of real
//! devices that edit and hear of each other, then the comparison.

use crate::check;
use crate::fleet::Fleet;
use crate::lean;
use crate::report::Report;
use clap::ValueEnum;
use std::time::Duration;

/// The store of a server that the load test starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// The embedded SQLite store.
    Embedded,
    /// PostgreSQL.
    Postgres,
}

impl Store {
    /// For the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Postgres => "postgres",
        }
    }
}

/// A scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// By which it is called.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Users of the fleet.
    pub users: usize,
    /// Real devices per user.
    pub devices: usize,
    /// Devices of the upload phase, each of its own user.
    pub uploaders: usize,
    /// Changes per upload in the upload phase.
    pub batch: usize,
    /// Local edits per second of the whole fleet.
    pub rate: f64,
    /// Length of each phase.
    pub seconds: Duration,
}

/// The scenarios that have names.
pub fn named() -> Vec<Scenario> {
    let smoke = Scenario {
        name: "smoke",
        about: "a bit of everything, 10 s: does it work at all?",
        users: 3,
        devices: 3,
        uploaders: 8,
        batch: 10,
        rate: 30.0,
        seconds: Duration::from_secs(4),
    };
    let realtime = Scenario {
        name: "realtime",
        about: "local commit on one device to the row on another",
        users: 4,
        devices: 3,
        uploaders: 1,
        batch: 1,
        rate: 20.0,
        seconds: Duration::from_secs(20),
    };
    let upload_1 = Scenario {
        name: "upload-1",
        about: "64 users upload one change at a time, as fast as it goes",
        users: 1,
        devices: 2,
        uploaders: 64,
        batch: 1,
        rate: 5.0,
        seconds: Duration::from_secs(15),
    };
    let upload_100 = Scenario {
        name: "upload-100",
        about: "16 users upload 100 changes at a time, as fast as it goes",
        uploaders: 16,
        batch: 100,
        ..upload_1.clone()
    };
    vec![smoke, realtime, upload_1, upload_100]
}

/// A scenario by its name.
pub fn find(name: &str) -> Option<Scenario> {
    named().into_iter().find(|scenario| scenario.name == name)
}

/// Runs a scenario against a server.
pub async fn run(scenario: &Scenario, url: &str, store: &str, seed: u64) -> anyhow::Result<Report> {
    // Several runs may share a database: their users do not.
    let run = format!("{seed:016x}-{}", uuid::Uuid::new_v4().simple());
    let uploads = lean::run(scenario, url, &run).await?;
    let fleet = Fleet::open(scenario, url, &run, seed).await?;
    let live = fleet.run().await?;
    let convergence = check::converge(&fleet).await?;
    fleet.close().await;
    Ok(Report {
        scenario: scenario.name.to_owned(),
        store: store.to_owned(),
        seed,
        uploads,
        live,
        convergence,
    })
}

/// A progress bar for something that takes this long.
pub fn bar(what: &'static str, length: Duration) -> indicatif::ProgressBar {
    let style =
        indicatif::ProgressStyle::with_template("{msg:<10} {bar:30} {pos}/{len} s {prefix}")
            .expect("BUG: the template is valid");
    indicatif::ProgressBar::new(length.as_secs().max(1))
        .with_style(style)
        .with_message(what)
}
