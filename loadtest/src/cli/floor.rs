//! `loadtest floor NAME` and `loadtest bench ROW`.

use super::Ended;
use super::drive::command_line;
use crate::bench::{self, Effort, HEAD, LEAST_ROUNDS, Line, Name, table};
use crate::clock::now_text;
use crate::facts;
use crate::floor::driver::{Asked, Names, Uploaders, echoes, gets};
use crate::floor::{
    Database, Postgres, Rounds, Served, Style, USERS, Width, edits, empty_commits, load_rows,
    upload_rows, uploads,
};
use crate::http::Endpoint;
use crate::measure::machine::Machine;
use crate::measure::probe::FsyncProbe;
use crate::server::started;
use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

/// The floors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FloorName {
    /// Empty durable transactions on PostgreSQL: --connections.
    PostgresCommit,
    /// Uploads by bare SQL: --style, --connections, --users per transaction,
    /// --changes per user.
    PostgresUpload,
    /// Uploads behind HTTP by 64 devices: --style, --changes; --connections is
    /// the number of devices.
    HttpUpload,
    /// Uploads into plain SQLite, WAL and FULL: --users per transaction,
    /// --changes.
    SqliteUpload,
    /// An empty HTTP handler: --connections.
    HttpEmpty,
    /// Round trips over one WebSocket.
    WsEcho,
    /// --rows into plain SQLite by a prepared statement.
    SqliteLoad,
    /// An application's inserts without capture.
    SqliteEdits,
}

/// Measure the least work that does the same.
#[derive(Debug, Args)]
pub struct Floor {
    #[arg(value_enum)]
    name: FloorName,
    /// How uploads are written.
    #[arg(long, value_enum, default_value_t = Style::Set)]
    style: Style,
    /// Connections, or devices.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Users in one transaction.
    #[arg(long, default_value_t = 1)]
    users: usize,
    /// Changes of each user in one upload.
    #[arg(long, default_value_t = 1)]
    changes: usize,
    /// Rows of sqlite-load and sqlite-edits.
    #[arg(long, default_value_t = 100_000)]
    rows: usize,
    #[command(flatten)]
    measure: Measure,
}

/// Measure rows of the table of figures: ours and the floors in turn.
#[derive(Debug, Args)]
pub struct Bench {
    /// Which; ALL, or none, is every row.
    #[arg(value_enum, ignore_case = true)]
    rows: Vec<Name>,
    /// Rows of B6, B7 and STORAGE, and of the large log of B10 [default: B6 and B7
    /// 100,000, B10 1,000,000, STORAGE 20,000].
    #[arg(long = "log-rows", value_name = "ROWS")]
    log_rows: Option<usize>,
    /// Devices of B5, B9 and B11 [default: 1,000, 10,000 and 5,000].
    #[arg(long)]
    devices: Option<usize>,
    #[command(flatten)]
    measure: Measure,
}

#[derive(Debug, Args)]
struct Measure {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = LEAST_ROUNDS)]
    rounds: usize,
    /// Seconds of each contender in each round.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// PostgreSQL, on which databases may be made (and are dropped again).
    #[arg(
        long,
        value_name = "URL",
        env = "TEST_POSTGRES_URL",
        hide_env_values = true
    )]
    database_url: Option<String>,
    /// Where the figures go as JSON.
    #[arg(long, value_name = "FOLDER", default_value = "loadtest-report")]
    report: PathBuf,
}

/// What a floor's figures stand on.
#[derive(Debug, Serialize)]
struct FloorReport {
    name: String,
    unit: &'static str,
    median: f64,
    rounds: Rounds,
    fsync: Vec<FsyncProbe>,
    machine: Machine,
    versions: BTreeMap<String, String>,
    durability: BTreeMap<String, String>,
    command: String,
}

impl Measure {
    fn length(&self) -> anyhow::Result<Duration> {
        ensure!(
            self.seconds.is_finite() && self.seconds > 0.0,
            "--seconds must be above 0"
        );
        Ok(Duration::from_secs_f64(self.seconds))
    }

    /// The rows as JSON, and the page.
    fn keep(&self, lines: &[Line]) -> anyhow::Result<()> {
        let rows: Vec<_> = lines
            .iter()
            .filter_map(|line| match line {
                Line::Measured(row) => Some(row.as_ref()),
                Line::Left(..) => None,
            })
            .collect();
        self.write("bench.json", &rows)?;
        let page = table(lines, &command_line(std::env::args()), &now_text());
        let file = self.report.join("bench.md");
        std::fs::write(&file, page).with_context(|| file.display().to_string())
    }

    fn write(&self, name: &str, what: &impl Serialize) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.report).with_context(|| self.report.display().to_string())?;
        let file = self.report.join(name);
        std::fs::write(&file, serde_json::to_vec_pretty(what)?)
            .with_context(|| file.display().to_string())?;
        eprintln!("figures: {}", file.display());
        Ok(())
    }
}

impl Bench {
    pub(super) async fn execute(self) -> anyhow::Result<Ended> {
        let names = if self.rows.is_empty() || self.rows.contains(&Name::All) {
            let rows = Name::value_variants().iter().copied();
            rows.filter(|name| *name != Name::All).collect()
        } else {
            self.rows
        };
        println!("{HEAD}");
        let mut lines = Vec::new();
        for name in names {
            let (rows, devices) = match name {
                Name::B10 => (1_000_000, 0),
                Name::B5 => (0, 1_000),
                Name::B9 => (0, 10_000),
                Name::B11 => (0, 5_000),
                Name::Storage => (20_000, 0),
                _ => (100_000, 0),
            };
            let effort = Effort {
                rounds: self.measure.rounds,
                length: self.measure.length()?,
                rows: self.log_rows.unwrap_or(rows),
                devices: self.devices.unwrap_or(devices),
                database_url: self.measure.database_url.clone(),
                command: command_line(std::env::args()),
            };
            match bench::bench(name, &effort).await {
                Ok(rows) => {
                    for row in rows {
                        print!("{row}");
                        lines.push(Line::Measured(Box::new(row)));
                    }
                }
                Err(error) => {
                    let name = format!("{name:?}").to_uppercase();
                    println!("| {name} | not measured: {error:#} | | | | |");
                    lines.push(Line::Left(name, format!("{error:#}")));
                }
            }
            // What has been measured is kept if a later row ends all of it.
            self.measure.keep(&lines)?;
        }
        let is_measured = |line: &Line| matches!(line, Line::Measured(_));
        if !lines.iter().any(is_measured) {
            anyhow::bail!("nothing could be measured");
        }
        Ok(Ended::Right)
    }
}

impl Floor {
    pub(super) async fn execute(self) -> anyhow::Result<Ended> {
        let length = self.measure.length()?;
        ensure!(
            self.measure.rounds >= LEAST_ROUNDS,
            "--rounds: at least {LEAST_ROUNDS} make a figure"
        );
        let folder = tempfile::tempdir()?;
        let needs_database = matches!(
            self.name,
            FloorName::PostgresCommit | FloorName::PostgresUpload | FloorName::HttpUpload
        );
        let database = if needs_database {
            let admin = self.measure.database_url.as_deref().context(
                "PostgreSQL is needed: DURABLE=1 tests/with-postgres loadtest floor …, or --database-url",
            )?;
            let database = Database::make(admin).await?;
            Postgres::prepare(&database.url, USERS).await?;
            Some(database)
        } else {
            None
        };
        let url = database.as_ref().map(|database| database.url.clone());
        let mut fsync = Vec::new();
        let mut values = Vec::new();
        let mut heads = vec![0; self.connections * self.users];
        let measured = async {
            let mut http = self.http(url.as_deref()).await?;
            for _ in 0..self.measure.rounds {
                fsync.push(FsyncProbe::run(folder.path())?);
                let url = url.as_deref().unwrap_or_default();
                let value = self.round(length, url, &mut heads, &mut http, folder.path());
                values.push(value.await?);
            }
            anyhow::Ok(())
        }
        .await;
        let facts = facts::gather(url.as_deref(), true).await;
        if let Some(database) = database {
            database.remove().await;
        }
        measured?;
        let name = self
            .name
            .to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned());
        let rounds = Rounds { values };
        let unit = match self.name {
            FloorName::PostgresCommit => "commits/s",
            FloorName::HttpEmpty | FloorName::WsEcho => "round trips/s",
            FloorName::SqliteEdits => "µs per insert",
            _ => "rows/s",
        };
        let report = FloorReport {
            median: rounds.median(),
            name,
            unit,
            rounds,
            fsync,
            machine: Machine::here(),
            versions: facts.versions,
            durability: facts.durability,
            command: command_line(std::env::args()),
        };
        println!("{}: {:.1} {}", report.name, report.median, report.unit);
        println!("    rounds {:.1?}", report.rounds.values);
        for probe in &report.fsync {
            println!("    fsync {probe}");
        }
        for (name, value) in report.versions.iter().chain(&report.durability) {
            println!("    {name}: {value}");
        }
        self.measure
            .write(&format!("floor-{}.json", report.name), &report)?;
        Ok(Ended::Right)
    }

    /// The server of the floors that have one, and its devices.
    async fn http(&self, url: Option<&str>) -> anyhow::Result<Option<OverHttp>> {
        let kind = match self.name {
            FloorName::HttpEmpty | FloorName::WsEcho => Served::Empty,
            FloorName::HttpUpload => Served::Postgres,
            _ => return Ok(None),
        };
        let value_name = |value: Option<clap::builder::PossibleValue>| {
            value.map_or_else(String::new, |value| value.get_name().to_owned())
        };
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("floor-serve")
            .args(["--kind", &value_name(kind.to_possible_value())])
            .args(["--style", &value_name(self.style.to_possible_value())]);
        if let Some(url) = url {
            command.env("FLOOR_DATABASE_URL", url);
        }
        let (child, address) = started(command, "the floor listens on ").await?;
        let endpoint = Arc::new(Endpoint::resolve(&format!("http://{address}")).await?);
        let names = match self.style {
            Style::Set => Names::Numbers,
            Style::Rows | Style::Batched => Names::Signed,
        };
        let uploaders = Uploaders::open(&endpoint, &names, self.connections, self.changes).await?;
        Ok(Some(OverHttp {
            _child: child,
            endpoint,
            names,
            uploaders,
        }))
    }

    async fn round(
        &self,
        length: Duration,
        url: &str,
        heads: &mut [i64],
        http: &mut Option<OverHttp>,
        folder: &Path,
    ) -> anyhow::Result<f64> {
        let over_http = || "BUG: this floor has a server";
        match self.name {
            FloorName::PostgresCommit => empty_commits(url, self.connections, length).await,
            FloorName::PostgresUpload => {
                let shape = (self.connections, self.users, self.changes);
                uploads(url, self.style, shape, length, heads).await
            }
            FloorName::HttpUpload => {
                let http = http.as_mut().with_context(over_http)?;
                Ok(http.uploaders.round(length, None).await?.changes)
            }
            FloorName::HttpEmpty => {
                let http = http.as_ref().with_context(over_http)?;
                let asked = Asked {
                    endpoint: &http.endpoint,
                    names: &http.names,
                    devices: self.connections,
                    user: None,
                    rows: 1,
                };
                Ok(gets(&asked, length, |_| "/empty".to_owned())
                    .await?
                    .requests)
            }
            FloorName::WsEcho => {
                let http = http.as_ref().with_context(over_http)?;
                Ok(echoes(&http.endpoint, length).await?.requests)
            }
            FloorName::SqliteUpload => tokio::task::block_in_place(|| {
                upload_rows(folder, self.users, self.changes, length)
            }),
            FloorName::SqliteLoad => tokio::task::block_in_place(|| load_rows(folder, self.rows)),
            FloorName::SqliteEdits => Ok(edits(folder, self.rows, 100, Width::Narrow, false)
                .await?
                .insert),
        }
    }
}

/// A floor behind HTTP; it ends with this.
struct OverHttp {
    _child: tokio::process::Child,
    endpoint: Arc<Endpoint>,
    names: Names,
    uploaders: Uploaders,
}
