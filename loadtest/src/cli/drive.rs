//! `loadtest run`: what is loaded, with what, and which figures are enough.

use super::Ended;
use crate::report::Report;
use crate::run::{self, Plan};
use crate::scenario::{Kind, Pacing, Scenario, Span};
use crate::server::{Options, Servers, Store};
use crate::target::{Target, Tokens};
use anyhow::{Context as _, ensure};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// A run.
#[derive(Debug, Args)]
pub struct Run {
    /// A scenario's name (see `loadtest scenarios`) or a TOML file.
    #[arg(long, value_name = "NAME|FILE", default_value = "smoke")]
    scenario: String,
    /// Load this server instead of starting one: any v1 server with the tables
    /// business.users and business.posts. Give it again for more processes on
    /// the same database.
    #[arg(long, value_name = "URL", conflicts_with = "store")]
    url: Vec<String>,
    /// Sign tokens (HS256) with the secret in this file instead of asking
    /// POST /signin.
    #[arg(long, value_name = "FILE")]
    jwt_secret_file: Option<PathBuf>,
    /// The store of the server that is started.
    #[arg(long, value_enum, default_value_t = Store::Embedded)]
    store: Store,
    /// Server processes on one PostgreSQL; devices are spread over them.
    #[arg(long, value_name = "N", default_value_t = 1)]
    processes: usize,
    /// The database for --store postgres.
    #[arg(
        long,
        value_name = "URL",
        env = "TEST_POSTGRES_URL",
        hide_env_values = true
    )]
    database_url: Option<String>,
    /// Users of fleets of real devices, or of all where there are none
    /// [default: the scenario's].
    #[arg(long)]
    users: Option<usize>,
    /// Devices per user, of the same fleets [default: the scenario's].
    #[arg(long)]
    devices: Option<usize>,
    /// Changes per upload of lean devices [default: the scenario's].
    #[arg(long)]
    batch: Option<u64>,
    /// Operations per second of each fleet with an open loop [default: the
    /// scenario's].
    #[arg(long)]
    rate: Option<f64>,
    /// Length of each phase that has one and is not `fixed`, in seconds [default:
    /// the scenario's].
    #[arg(long)]
    seconds: Option<f64>,
    /// Repeats a run; drawn and printed when not given.
    #[arg(long)]
    seed: Option<u64>,
    /// How long devices may take at the end to become equal to the server,
    /// seconds; the promise is 60.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
    /// Exit status 3 when the 99th percentile is above this; of the stage
    /// "acknowledged", or another: --max-p99-ms "applied elsewhere=50".
    #[arg(long, value_name = "[STAGE=]MS")]
    max_p99_ms: Vec<String>,
    /// Exit status 3 when fewer changes a second were made, over all phases.
    #[arg(long, value_name = "CHANGES")]
    min_rate: Option<f64>,
    /// Logs of the devices, as in oversqlite=debug.
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
    /// Where report.json and report.html go.
    #[arg(long, value_name = "FOLDER", default_value = "loadtest-report")]
    report: PathBuf,
}

/// A percentile that must not be exceeded.
struct MaxP99 {
    stage: String,
    ms: f64,
}

impl Run {
    pub(super) async fn execute(self: Box<Self>) -> anyhow::Result<Ended> {
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log).context("--log")?;
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init();
        let limits = self
            .max_p99_ms
            .iter()
            .map(|text| MaxP99::parse(text))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let (name, scenario) = self.scenario()?;
        run::make_room(&scenario)?;
        let seed = self.seed.unwrap_or_else(rand::random);
        eprintln!("scenario {name}, seed {seed}");

        let tokens = match &self.jwt_secret_file {
            Some(file) => Tokens::from_file(file)?,
            None => Tokens::SignIn,
        };
        let database_url = self.database_url.clone();
        let database_url = database_url.filter(|_| self.store == Store::Postgres);
        let servers = if self.url.is_empty() {
            ensure!(
                self.store == Store::Embedded || database_url.is_some(),
                "--store postgres needs --database-url"
            );
            let options = Options {
                database_url: database_url.clone(),
                processes: self.processes,
                operators: true,
                ..Options::default()
            };
            Some(Servers::start(options).await?)
        } else {
            None
        };
        let (urls, store) = match &servers {
            Some(servers) => (servers.urls(), self.store.name()),
            None => (self.url.clone(), "given server"),
        };
        let target = Target::look(&urls, tokens).await?;
        if !target.has_hints {
            eprintln!("this server has no hints: devices poll");
        }
        let plan = Plan {
            name,
            scenario,
            target,
            servers,
            store: store.to_owned(),
            database_url,
            seed,
            patience: Duration::from_secs(self.patience),
            command: command_line(std::env::args()),
            stop: stop_with_ctrl_c(),
        };
        let report = run::run(plan).await?;
        print!("{}", report.to_text());
        let page = report.write(&self.report)?;
        eprintln!("report: {}", page.display());
        Ok(self.judge(&report, &limits))
    }

    /// The scenario, with what the command line says otherwise.
    fn scenario(&self) -> anyhow::Result<(String, Scenario)> {
        let (name, mut scenario) = Scenario::find(&self.scenario)?;
        let any_real = scenario
            .fleets
            .iter()
            .any(|fleet| fleet.device == Kind::Real);
        for fleet in &mut scenario.fleets {
            if fleet.device == Kind::Real || !any_real {
                fleet.users = self.users.unwrap_or(fleet.users);
                fleet.devices = self.devices.unwrap_or(fleet.devices);
            }
            if fleet.device == Kind::Lean {
                fleet.batch = self.batch.map_or(fleet.batch, Span::Fixed);
            }
            if fleet.pacing == Pacing::Open {
                fleet.rate = self.rate.unwrap_or(fleet.rate);
            }
        }
        for phase in scenario
            .phases
            .iter_mut()
            .filter(|phase| phase.is_paced() && !phase.fixed)
        {
            phase.seconds = self.seconds.unwrap_or(phase.seconds);
        }
        scenario.check().context("with these flags")?;
        Ok((name, scenario))
    }

    fn judge(&self, report: &Report, limits: &[MaxP99]) -> Ended {
        if !report.is_right() {
            eprintln!("WRONG: repeat with --seed {}", report.seed);
            return Ended::Wrong;
        }
        if report.interrupted {
            return Ended::Interrupted;
        }
        let mut missed = Vec::new();
        for limit in limits {
            match report.stage(&limit.stage) {
                Some(stage) if stage.latency.p99_ms <= limit.ms => {}
                Some(stage) => missed.push(format!(
                    "{}: p99 {:.2} ms, at most {} ms wanted",
                    limit.stage, stage.latency.p99_ms, limit.ms
                )),
                None => missed.push(format!("{}: nothing was measured", limit.stage)),
            }
        }
        let (_, changes) = report.rates();
        if let Some(least) = self.min_rate
            && changes < least
        {
            missed.push(format!("{changes:.0} changes/s, at least {least} wanted"));
        }
        for threshold in &missed {
            eprintln!("missed: {threshold}");
        }
        if missed.is_empty() {
            Ended::Right
        } else {
            Ended::Missed
        }
    }
}

impl MaxP99 {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (stage, ms) = text.rsplit_once('=').unwrap_or(("acknowledged", text));
        Ok(Self {
            stage: stage.to_owned(),
            ms: ms
                .parse()
                .with_context(|| format!("--max-p99-ms {text:?}: milliseconds are needed"))?,
        })
    }
}

/// Turns true with the first Ctrl-C; the second one ends at once.
fn stop_with_ctrl_c() -> watch::Receiver<bool> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if stop.send_replace(true) {
                std::process::exit(super::INTERRUPTED.into());
            }
            eprintln!("interrupted: comparing and reporting; again to end at once");
        }
    });
    stopped
}

/// How the program was called, without passwords and without where it lies.
pub fn command_line(args: impl Iterator<Item = String>) -> String {
    let mut shown = vec!["loadtest".to_owned()];
    for argument in args.skip(1) {
        let hidden = match (argument.find("://"), argument.rfind('@')) {
            (Some(scheme), Some(at)) if at > scheme => {
                format!("{}://***{}", &argument[..scheme], &argument[at..])
            }
            _ => argument,
        };
        shown.push(if hidden.contains(' ') {
            format!("'{hidden}'")
        } else {
            hidden
        });
    }
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_in_the_report() {
        let args = [
            "/somewhere/loadtest",
            "run",
            "--database-url",
            "postgres://ann:s3@cret@db/x",
            "--max-p99-ms",
            "applied elsewhere=5",
        ];
        assert_eq!(
            command_line(args.into_iter().map(str::to_owned)),
            "loadtest run --database-url postgres://***@db/x --max-p99-ms 'applied elsewhere=5'"
        );
    }
}
