//! The one task that looks along while a run goes on: once a second it closes a
//! second of the timeline, with what the server, the database and the fleet
//! used and what the server told of itself, and renews the line that a person sees.

use super::Recorder;
use super::process::{Watch, children};
use super::told::{Operators, Scraper};
use crate::live::LiveLine;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval_at};

/// How often to look.
const EVERY: Duration = Duration::from_secs(1);

/// Whom to look at. The server's processes may be others after a restart.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// The server's processes; empty when it is not on this machine.
    pub server: Arc<Mutex<Vec<u32>>>,
    /// Where they tell of themselves.
    pub operators: Operators,
    /// The database's first process, whose children do the work.
    pub database: Option<u32>,
}

/// The running task.
pub struct Sampler {
    task: JoinHandle<()>,
}

impl Sampler {
    /// Starts to look. The error is the system's.
    pub fn start(
        recorder: Arc<Recorder>,
        watched: Watched,
        line: LiveLine,
    ) -> anyhow::Result<Self> {
        let mut scraper = Scraper::new()?;
        let task = tokio::spawn(async move {
            let mut ticks = interval_at(tokio::time::Instant::now() + EVERY, EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let own = [std::process::id()];
            let (mut server, mut fleet, mut database) =
                (Watch::default(), Watch::default(), Watch::default());
            let sample_all = |server: &mut Watch, fleet: &mut Watch, database: &mut Watch| {
                let pids = watched
                    .server
                    .lock()
                    .expect("BUG: no panic under this lock")
                    .clone();
                let back_ends = watched.database.map(children).unwrap_or_default();
                (
                    server.sample(&pids),
                    fleet.sample(&own),
                    database.sample(&back_ends),
                )
            };
            sample_all(&mut server, &mut fleet, &mut database);
            scraper.sample(&watched.operators).await;
            let pids = || watched.server.lock().map(|pids| pids.clone());
            let mut known = pids().expect("BUG: no panic under this lock");
            loop {
                ticks.tick().await;
                let now = pids().expect("BUG: no panic under this lock");
                if !now.iter().any(|pid| known.contains(pid)) {
                    scraper.began_anew();
                }
                known = now;
                let told = scraper.sample(&watched.operators).await;
                let (of_server, of_fleet, of_database) =
                    sample_all(&mut server, &mut fleet, &mut database);
                let glance = recorder.tick(|second| {
                    second.server = of_server;
                    second.fleet = of_fleet;
                    second.database = of_database;
                    second.told = told;
                });
                line.show(&glance);
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}
