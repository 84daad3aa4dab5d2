//! One run, from opening the devices to the report: the phases one after
//! another, all fleets together. Ctrl-C ends the phases early; what was measured
//! until then is compared and reported all the same.

mod fleets;
mod phases;
mod work;

use crate::check::{self, Everybody, Stream};
use crate::devices::Surroundings;
use crate::facts;
use crate::live::LiveLine;
use crate::measure::machine::Machine;
use crate::measure::probe::FsyncProbe;
use crate::measure::{Recorder, Sampler, Watched};
use crate::report::{Convergence, Environment, FORMAT, FleetReport, Report, Steadiness};
use crate::scenario::{Kind, Phase, PhaseKind, Scenario};
use crate::server::Servers;
use crate::target::Target;
use fleets::Fleets;
pub use fleets::make_room;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What is to be run, against what.
pub struct Plan {
    /// The scenario's name.
    pub name: String,
    /// The scenario, with what the command line says otherwise.
    pub scenario: Scenario,
    /// The server.
    pub target: Target,
    /// Our own server processes, when we started them.
    pub servers: Option<Servers>,
    /// `embedded`, `postgres`, or `given server`.
    pub store: String,
    /// The PostgreSQL that our servers use.
    pub database_url: Option<String>,
    /// Repeats the run.
    pub seed: u64,
    /// How long devices may take to become equal at the end.
    pub patience: Duration,
    /// As it was called, passwords left out.
    pub command: String,
    /// Turns true with Ctrl-C.
    pub stop: watch::Receiver<bool>,
}

/// A run under way.
struct Run {
    scenario: Scenario,
    around: Surroundings,
    fleets: Fleets,
    servers: Option<Servers>,
    line: LiveLine,
    stop: watch::Receiver<bool>,
    seed: u64,
    /// Several runs may share a database: their users do not.
    id: String,
}

/// Runs a scenario.
pub async fn run(plan: Plan) -> anyhow::Result<Report> {
    let started_at = crate::clock::now_text();
    let machine = Machine::here();
    let facts = facts::gather(plan.database_url.as_deref(), plan.servers.is_some()).await;
    let folder = plan
        .servers
        .as_ref()
        .map_or_else(std::env::temp_dir, |servers| servers.folder().to_owned());
    let fsync_before = probe(folder.clone()).await;
    let recorder = Arc::new(Recorder::default());
    let line = LiveLine::new();
    let watched = Watched {
        server: plan.servers.as_ref().map(Servers::pids).unwrap_or_default(),
        operators: plan
            .servers
            .as_ref()
            .map(Servers::operators)
            .unwrap_or_default(),
        database: facts.database_process,
    };
    let around = Surroundings {
        target: Arc::new(plan.target),
        recorder: Arc::clone(&recorder),
    };
    let id = format!(
        "{:08x}-{}",
        plan.seed as u32,
        &uuid::Uuid::new_v4().simple().to_string()[..8]
    );
    line.say("connecting");
    let fleets = Fleets::open(&around, &plan.scenario, &id, plan.seed).await?;
    let mut run = Run {
        scenario: plan.scenario,
        around,
        fleets,
        servers: plan.servers,
        line: line.clone(),
        stop: plan.stop,
        seed: plan.seed,
        id,
    };
    run.preload().await?;
    recorder.start();
    let sampler = Sampler::start(Arc::clone(&recorder), watched, line.clone())?;
    let ended = run.phases().await;
    drop(sampler);
    let recorded = recorder.finish();
    ended?;
    line.say("comparing");
    run.fleets.settle().await;
    let convergence = run.converge(plan.patience).await?;
    line.clear();
    let fsync_after = probe(folder).await;
    let interrupted = *run.stop.borrow();
    let processes = run
        .servers
        .as_ref()
        .map_or(1, |servers| servers.urls().len());
    let fleets = run.scenario.fleets.iter().map(|fleet| FleetReport {
        name: fleet.name.clone(),
        device: fleet.device.name().to_owned(),
        users: fleet.users,
        devices: fleet.total(),
    });
    let of_stories = |phase: &Phase| FleetReport {
        name: phase.name.clone(),
        device: Kind::Real.name().to_owned(),
        users: phase.users,
        devices: run.fleets.phones.len(),
    };
    let stories = run.scenario.phases.iter();
    let stories = stories.filter(|phase| phase.kind == PhaseKind::Stories);
    let fleets: Vec<_> = fleets.chain(stories.map(of_stories)).collect();
    let steady = run.scenario.steady.filter(|_| !interrupted);
    let report = Report {
        format: FORMAT,
        scenario: plan.name,
        about: run.scenario.about.clone(),
        store: plan.store,
        processes,
        seed: plan.seed,
        started_at,
        command: plan.command,
        interrupted,
        fleets,
        steadiness: steady
            .zip(recorded.phases.last())
            .and_then(|(steady, last)| Steadiness::of(&recorded.timeline, last, &steady)),
        phases: recorded.phases,
        stages: recorded.stages,
        timeline: recorded.timeline,
        errors: recorded.errors,
        convergence,
        environment: Environment {
            machine,
            versions: facts.versions,
            durability: facts.durability,
            fsync_before,
            fsync_after,
        },
        scenario_toml: run.scenario.to_toml(),
    };
    run.fleets.close().await;
    if let Some(servers) = run.servers {
        servers.stop().await;
    }
    Ok(report)
}

impl Run {
    async fn converge(&self, patience: Duration) -> anyhow::Result<Convergence> {
        let mut all = Everybody {
            real: BTreeMap::new(),
            lean: BTreeMap::new(),
            phones: BTreeMap::new(),
        };
        for device in self.fleets.real() {
            let name = device.user.name.as_str();
            all.real.entry(name).or_default().push(device);
        }
        for device in self.fleets.lean() {
            let name = device.user.name.as_str();
            all.lean.entry(name).or_default().push(device);
        }
        for phone in &self.fleets.phones {
            let name = phone.user.as_str();
            all.phones.entry(name).or_default().push(phone);
        }
        let mut found = check::converge(&self.around.target, &all, Stream::Whole, patience).await?;
        found.equal &= self.fleets.broken.is_empty();
        found.differences.extend(self.fleets.broken.iter().cloned());
        Ok(found)
    }
}

async fn probe(folder: PathBuf) -> Option<FsyncProbe> {
    tokio::task::spawn_blocking(move || FsyncProbe::run(&folder).ok())
        .await
        .ok()
        .flatten()
}
