//! What a row stands on while it is measured: servers of ours, floors in
//! processes of their own, databases. All of it is gone afterwards.

use super::row::Before;
use super::{Effort, LEAST_ROUNDS};
use crate::facts;
use crate::floor::driver::Names;
use crate::floor::{Database, Postgres, Served, Style};
use crate::http::Endpoint;
use crate::measure::others::Others;
use crate::measure::probe::FsyncProbe;
use crate::server::{Options, Servers, Store, started};
use crate::target::{Target, Tokens};
use anyhow::{Context as _, ensure};
use clap::ValueEnum as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// What business tables are made of, for projection.
const BUSINESS: &str = include_str!("business.sql");

/// Warming up takes a part of a round.
const WARM_UP: f64 = 0.5;

/// The resources of a row.
pub struct Ground {
    effort: Effort,
    folder: TempDir,
    servers: Vec<Servers>,
    floors: Vec<Child>,
    databases: Vec<Database>,
}

/// A server to send requests to.
#[derive(Clone)]
pub struct Address {
    /// Where.
    pub endpoint: Arc<Endpoint>,
    /// Who devices are there.
    pub names: Names,
    /// Its process.
    pub pid: u32,
}

impl Ground {
    /// Nothing stands yet.
    pub fn new(effort: &Effort) -> anyhow::Result<Self> {
        ensure!(
            effort.rounds >= LEAST_ROUNDS,
            "--rounds: at least {LEAST_ROUNDS} make a figure"
        );
        Ok(Self {
            effort: effort.clone(),
            folder: tempfile::tempdir()?,
            servers: Vec::new(),
            floors: Vec::new(),
            databases: Vec::new(),
        })
    }

    /// How much is measured.
    pub const fn effort(&self) -> &Effort {
        &self.effort
    }

    /// Rounds.
    pub const fn rounds(&self) -> usize {
        self.effort.rounds
    }

    /// Of one contender in one round.
    pub const fn length(&self) -> Duration {
        self.effort.length
    }

    /// Before the first round.
    pub fn warm_up(&self) -> Duration {
        self.effort.length.mul_f64(WARM_UP)
    }

    /// For files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The database server, where the row uses one.
    pub fn database_url(&self) -> Option<&str> {
        self.databases.first().map(|database| database.url.as_str())
    }

    /// Disk and machine as they are before a round.
    pub async fn look(&self) -> anyhow::Result<Before> {
        let database = facts::gather(self.database_url(), false).await;
        let own: Vec<u32> = std::iter::once(std::process::id())
            .chain(database.database_process)
            .collect();
        Ok(Before {
            others: Others::look(&own).await,
            fsync: FsyncProbe::run(self.folder())?,
        })
    }

    /// As it was called.
    pub fn command(&self) -> &str {
        &self.effort.command
    }

    /// A database of its own.
    pub async fn database(&mut self) -> anyhow::Result<String> {
        let admin = self.effort.database_url.as_deref().context(
            "this row needs PostgreSQL: DURABLE=1 tests/with-postgres loadtest bench …, or --database-url",
        )?;
        let database = Database::make(admin).await?;
        let url = database.url.clone();
        self.databases.push(database);
        Ok(url)
    }

    /// A server of ours on a new database.
    pub async fn ours(&mut self, store: Store, projection: bool) -> anyhow::Result<Address> {
        let database_url = match store {
            Store::Embedded => None,
            Store::Postgres => Some(self.database().await?),
        };
        let schema_file = if projection {
            let file = self.folder.path().join("business.sql");
            std::fs::write(&file, BUSINESS)?;
            Some(file)
        } else {
            None
        };
        let servers = Servers::start(Options {
            database_url,
            processes: 1,
            operators: false,
            schema_file,
            ..Options::default()
        })
        .await?;
        let target = Target::look(&servers.urls(), Tokens::SignIn).await?;
        let pids = servers.pids();
        let pid = pids.lock().expect("BUG: no panic under this lock")[0];
        self.servers.push(servers);
        Ok(Address {
            endpoint: target.endpoint(0),
            names: Names::Ours(Arc::new(target)),
            pid,
        })
    }

    /// So many processes on one new PostgreSQL database.
    pub async fn several(&mut self, processes: usize) -> anyhow::Result<Vec<Address>> {
        let servers = Servers::start(Options {
            database_url: Some(self.database().await?),
            processes,
            ..Options::default()
        })
        .await?;
        let target = Arc::new(Target::look(&servers.urls(), Tokens::SignIn).await?);
        let pids = servers.pids();
        let pids = pids.lock().expect("BUG: no panic under this lock").clone();
        self.servers.push(servers);
        let all = pids.into_iter().enumerate().map(|(number, pid)| Address {
            endpoint: target.endpoint(number),
            names: Names::Ours(Arc::clone(&target)),
            pid,
        });
        Ok(all.collect())
    }

    /// A floor behind HTTP, in a process of its own; its database, when it has
    /// one.
    pub async fn floor(
        &mut self,
        kind: Served,
        style: Style,
    ) -> anyhow::Result<(Address, Option<String>)> {
        let mut command = Command::new(std::env::current_exe()?);
        let name = |value: &Option<clap::builder::PossibleValue>| {
            value
                .as_ref()
                .map_or_else(String::new, |value| value.get_name().to_owned())
        };
        command
            .arg("floor-serve")
            .args(["--kind", &name(&kind.to_possible_value())])
            .args(["--style", &name(&style.to_possible_value())]);
        let mut database = None;
        match kind {
            Served::Postgres => {
                let url = self.database().await?;
                Postgres::prepare(&url, crate::floor::USERS).await?;
                command.env("FLOOR_DATABASE_URL", &url);
                database = Some(url);
            }
            Served::Sqlite => {
                let folder = self.new_folder()?;
                command.arg("--folder").arg(folder);
            }
            Served::Empty => {}
        }
        let (child, address) = started(command, "the floor listens on ").await?;
        let pid = child.id().context("the floor ended at once")?;
        self.floors.push(child);
        let endpoint = Endpoint::resolve(&format!("http://{address}")).await?;
        let names = match style {
            Style::Set => Names::Numbers,
            Style::Rows | Style::Batched => Names::Signed,
        };
        let address = Address {
            endpoint: Arc::new(endpoint),
            names,
            pid,
        };
        Ok((address, database))
    }

    fn new_folder(&self) -> anyhow::Result<PathBuf> {
        let folder = self
            .folder
            .path()
            .join(format!("floor-{}", self.floors.len()));
        std::fs::create_dir(&folder)?;
        Ok(folder)
    }

    /// Ends everything.
    pub async fn clear(mut self) {
        for floor in &mut self.floors {
            // It is ours alone, and everything has been measured.
            let _ = floor.kill().await;
        }
        for servers in self.servers {
            servers.stop().await;
        }
        for database in self.databases {
            database.remove().await;
        }
    }
}
