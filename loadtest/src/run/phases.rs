//! The phases: paced work, storms, new devices that hydrate, and a log that is
//! made to grow.

use super::Run;
use super::fleets::Device;
use super::work::{Seat, Shift, work};
use crate::devices::{Lean, LeanUser, Real, RealUser, lean};
use crate::life::Life;
use crate::measure::Stage;
use crate::scenario::{Fleet, Kind, Phase, PhaseKind, Profile, Scenario};
use anyhow::Context as _;
use futures_util::{StreamExt as _, stream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Users whose changes fill the log.
const BALLAST_USERS: usize = 4;

/// Devices that are asked at a time whether they have caught up: all of them,
/// so that nobody waits for the answer of another.
const ALL_AT_A_TIME: usize = 100_000;

/// How long devices that are there already may take for what is preloaded.
const PRELOADED: Duration = Duration::from_secs(600);

impl Run {
    /// Rows that must be there before anything is measured.
    pub(super) async fn preload(&mut self) -> anyhow::Result<()> {
        for crew in &mut self.fleets.crews {
            let rows = crew.fleet.preload;
            if rows == 0 {
                continue;
            }
            self.line.say("preloading");
            // One device uploads; a helper of its own for real ones.
            for user in 0..crew.fleet.users {
                match &mut crew.devices[user * crew.fleet.devices] {
                    Device::Lean(device) => device.preload(rows).await?,
                    Device::Real(device) => {
                        let recorder = &self.around.recorder;
                        let shared = Arc::new(LeanUser::new(device.user.name.clone(), recorder));
                        let place = lean::Place {
                            number: user,
                            source: None,
                            seed: self.seed,
                        };
                        let fleet = Arc::new(silent(&crew.fleet));
                        let name = "preloader".to_owned();
                        Lean::open(&self.around, &fleet, &shared, name, place)
                            .await?
                            .preload(rows)
                            .await?;
                        // Or it would download beside who is measured.
                        tokio::time::timeout(PRELOADED, device.has_passed(rows as i64))
                            .await
                            .context("a device does not get what was preloaded")?;
                    }
                }
            }
        }
        Ok(())
    }

    /// All of them, until Ctrl-C.
    pub(super) async fn phases(&mut self) -> anyhow::Result<()> {
        for phase in self.scenario.phases.clone() {
            if *self.stop.borrow() {
                break;
            }
            self.line.phase(&phase.name, phase.length());
            if phase.kind != PhaseKind::Grow {
                let recorder = &self.around.recorder;
                recorder.begin_phase(&phase.name, phase.kind.name());
            }
            let began = Instant::now();
            let line = self.line.clone();
            let clock = crate::devices::Background(tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    line.at(began);
                }
            }));
            let done = match phase.kind {
                PhaseKind::Hold | PhaseKind::Ramp | PhaseKind::Spike => self.paced(&phase).await,
                PhaseKind::Storm => self.storm(&phase).await,
                PhaseKind::Hydrate => self.hydrate(&phase).await,
                PhaseKind::Grow => self.grow(&phase).await,
                PhaseKind::Stories => self.stories(&phase).await,
            };
            drop(clock);
            self.around.recorder.end_phase();
            done.with_context(|| format!("phase {:?}", phase.name))?;
        }
        Ok(())
    }

    async fn paced(&mut self, phase: &Phase) -> anyhow::Result<()> {
        let profile = Arc::new(Profile::of(phase));
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for (number, crew) in self.fleets.crews.iter_mut().enumerate() {
            let works = crew.fleet.works_in(phase);
            if !works && crew.fleet.churn.is_none() {
                continue;
            }
            let of = crew.devices.len();
            for (index, device) in std::mem::take(&mut crew.devices).into_iter().enumerate() {
                let shift = Shift {
                    began,
                    length: phase.length(),
                    profile: Arc::clone(&profile),
                    works,
                    recorder: Arc::clone(&self.around.recorder),
                    stop: self.stop.clone(),
                    seed: self.seed.rotate_left(17),
                };
                let fleet = Arc::clone(&crew.fleet);
                tasks.spawn(async move {
                    let device = work(device, fleet, Seat { index, of }, shift).await;
                    (number, index, device)
                });
            }
        }
        if tasks.is_empty() {
            let mut stop = self.stop.clone();
            let _ = tokio::time::timeout(phase.length(), stop.wait_for(|stop| *stop)).await;
            return Ok(());
        }
        let mut back = Vec::with_capacity(tasks.len());
        let mut kills = Kills::of(phase, began);
        loop {
            tokio::select! {
                done = tasks.join_next() => match done {
                    Some(done) => back.push(done?),
                    None => break,
                },
                number = kills.next() => {
                    if let Some(servers) = &mut self.servers {
                        servers.kill_one(number).await?;
                        kills.up = Instant::now();
                    }
                }
            }
        }
        back.sort_by_key(|(number, index, _)| (*number, *index));
        for (number, _, device) in back {
            self.fleets.crews[number].devices.push(device);
        }
        Ok(())
    }

    /// Users live one story each, some at a time; what breaks is told with the
    /// differences at the end.
    async fn stories(&mut self, phase: &Phase) -> anyhow::Result<()> {
        let mut kills = Kills::of(phase, Instant::now());
        // They end by themselves.
        kills.end += ALL_STORIES;
        let lives = (0..phase.users).map(|number| {
            let user = format!("story-{}-{number}", self.id);
            Life::new(&self.around, self.fleets.folder.path(), user, number).live()
        });
        let mut lives = stream::iter(lives).buffer_unordered(STORIES_AT_A_TIME);
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                lived = lives.next() => match lived {
                    None => return Ok(()),
                    Some(Ok(phones)) => self.fleets.phones.extend(phones),
                    Some(Err(error)) => {
                        self.around.recorder.error("a story did not end well");
                        self.fleets.broken.push(format!("{error:#}"));
                    }
                },
                number = kills.next() => {
                    if let Some(servers) = &mut self.servers {
                        servers.kill_one(number).await?;
                        kills.up = Instant::now();
                    }
                }
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
        }
    }

    /// Everybody is cut off, and comes back at once.
    async fn storm(&mut self, phase: &Phase) -> anyhow::Result<()> {
        let restarts = phase.restart && self.servers.is_some();
        for device in self
            .fleets
            .crews
            .iter_mut()
            .flat_map(|crew| &mut crew.devices)
        {
            // Real devices find their own way back to a server that was away.
            if !(restarts && matches!(device, Device::Real(_))) {
                device.go_offline().await;
            }
        }
        if restarts && let Some(servers) = &mut self.servers {
            servers.kill_and_restart().await?;
        }
        let began = Instant::now();
        let end = began + phase.length();
        for device in self
            .fleets
            .crews
            .iter_mut()
            .flat_map(|crew| &mut crew.devices)
        {
            device.come_back().await?;
        }
        let recorder = &self.around.recorder;
        let mut stop = self.stop.clone();
        let all = self.fleets.crews.iter().flat_map(|crew| &crew.devices);
        let all = stream::iter(all.filter(|device| device.listens())).for_each_concurrent(
            ALL_AT_A_TIME,
            |device| async move {
                match tokio::time::timeout_at(end.into(), device.caught_up()).await {
                    Ok(()) => recorder.record(Stage::CaughtUp, began.elapsed()),
                    Err(_) => recorder.error("not caught up in time"),
                }
            },
        );
        tokio::select! {
            () = all => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        Ok(())
    }

    /// A new device for each user.
    async fn hydrate(&mut self, phase: &Phase) -> anyhow::Result<()> {
        let end = Instant::now() + phase.length();
        for number in 0..self.fleets.crews.len() {
            let fleet = Arc::clone(&self.fleets.crews[number].fleet);
            for user in 0..fleet.users {
                if *self.stop.borrow() || Instant::now() > end {
                    self.around.recorder.errors("not hydrated in time", 1);
                    continue;
                }
                let first = &self.fleets.crews[number].devices[user * fleet.devices];
                let began = Instant::now();
                let device = match first {
                    Device::Real(first) => {
                        let shared: &Arc<RealUser> = &first.user;
                        let name = format!("new-{}", self.fleets.crews[number].devices.len());
                        let folder = self.fleets.folder.path();
                        let place = (number + user, self.seed);
                        let real =
                            Real::open(&self.around, &fleet, shared, name, folder, place).await?;
                        Device::Real(Box::new(real))
                    }
                    Device::Lean(first) => {
                        let name = format!("new-{}", self.fleets.crews[number].devices.len());
                        let listening = Arc::new(Fleet {
                            listen: crate::scenario::Listen::Downloads,
                            ..fleet.as_ref().clone()
                        });
                        let place = lean::Place {
                            number: usize::MAX - user,
                            source: None,
                            seed: self.seed,
                        };
                        let lean =
                            Lean::open(&self.around, &listening, &first.user, name, place).await?;
                        lean.caught_up().await;
                        Device::Lean(Box::new(lean))
                    }
                };
                self.around
                    .recorder
                    .record(Stage::Hydrated, began.elapsed());
                self.around.recorder.did(1, fleet.preload as u64);
                self.fleets.crews[number].devices.push(device);
            }
        }
        Ok(())
    }

    /// Other users' changes, as fast as they go.
    async fn grow(&mut self, phase: &Phase) -> anyhow::Result<()> {
        let fleet = Scenario::parse(BALLAST)
            .context("BUG: a constant scenario")?
            .fleets
            .remove(0);
        let fleet = Arc::new(fleet);
        let mut tasks = JoinSet::new();
        for user in 0..BALLAST_USERS {
            let (around, fleet) = (self.around.clone(), Arc::clone(&fleet));
            let name = format!("ballast-{}-{user}", self.id);
            let recorder = &self.around.recorder;
            let shared = Arc::new(LeanUser::new(name, recorder));
            let place = lean::Place {
                number: user,
                source: None,
                seed: self.seed ^ user as u64,
            };
            let rows = phase.rows / BALLAST_USERS;
            let device = format!("ballast-{}", phase.name);
            tasks.spawn(async move {
                let mut lean = Lean::open(&around, &fleet, &shared, device, place).await?;
                lean.preload(rows).await
            });
        }
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                done = tasks.join_next() => match done {
                    Some(done) => done??,
                    None => return Ok(()),
                },
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
        }
    }
}

/// Users whose stories go on at the same time.
const STORIES_AT_A_TIME: usize = 8;

/// No scenario has stories that go on for longer.
const ALL_STORIES: Duration = Duration::from_secs(24 * 3_600);

/// When server processes are killed in a phase.
struct Kills {
    every: Duration,
    begun: Instant,
    end: Instant,
    /// Since when all servers are up.
    up: Instant,
    count: usize,
}

impl Kills {
    fn of(phase: &Phase, began: Instant) -> Self {
        Self {
            every: Duration::from_secs_f64(phase.kill_every_seconds),
            begun: began,
            end: began + phase.length(),
            up: began,
            count: 0,
        }
    }

    /// The number of the next kill, when its time has come; never after the end.
    async fn next(&mut self) -> usize {
        // However long a restart takes: between two, devices have time to work.
        let due = self.begun + self.every * (self.count as u32 + 1);
        let at = due.max(self.up + self.every / 2);
        if self.every.is_zero() || at >= self.end {
            return std::future::pending().await;
        }
        tokio::time::sleep_until(at.into()).await;
        self.count += 1;
        self.count - 1
    }
}

/// The devices that make a log grow.
const BALLAST: &str = "[[phases]]\nname = 'grow'\nkind = 'grow'\n\
                       [[fleets]]\nname = 'ballast'\ndevice = 'lean'\nloop = 'closed'\n";

/// The same devices, lean and without ears.
fn silent(fleet: &Fleet) -> Fleet {
    Fleet {
        device: Kind::Lean,
        listen: crate::scenario::Listen::Nothing,
        ..fleet.clone()
    }
}
