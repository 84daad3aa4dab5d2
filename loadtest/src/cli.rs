//! The command line.

use crate::report::Report;
use crate::scenario::{self, Scenario, Store};
use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Drives fleets of devices against a sync server and says what it carries.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a scenario. Exit status 1 when devices differ at the end.
    Run(Box<Run>),
    /// List the scenarios that have names.
    Scenarios,
}

#[derive(Debug, Args)]
struct Run {
    /// A scenario's name; see `loadtest scenarios`.
    #[arg(long, default_value = "smoke")]
    scenario: String,
    /// Load this server instead of starting one; it must run with --dev and the
    /// example tables.
    #[arg(long, value_name = "URL", conflicts_with = "store")]
    url: Option<String>,
    /// The store of the server that is started.
    #[arg(long, value_enum, default_value_t = Store::Embedded)]
    store: Store,
    /// The database for --store postgres.
    #[arg(
        long,
        value_name = "URL",
        env = "TEST_POSTGRES_URL",
        hide_env_values = true
    )]
    database_url: Option<String>,
    /// Users [default: the scenario's].
    #[arg(long)]
    users: Option<usize>,
    /// Devices per user [default: the scenario's].
    #[arg(long)]
    devices: Option<usize>,
    /// Changes per upload in the upload phase [default: the scenario's].
    #[arg(long)]
    batch: Option<usize>,
    /// Local edits per second of the whole fleet [default: the scenario's].
    #[arg(long)]
    rate: Option<f64>,
    /// Length of each phase, in seconds [default: the scenario's].
    #[arg(long)]
    seconds: Option<u64>,
    /// Repeats a run; drawn and printed when not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Logs of the devices, as in oversqlite=debug.
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
    /// Where report.json goes.
    #[arg(long, value_name = "FOLDER", default_value = "loadtest-report")]
    report: PathBuf,
}

/// Runs the command line to its end.
pub fn run() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Scenarios => {
            for scenario in scenario::named() {
                println!("{:<10} {}", scenario.name, scenario.about);
            }
            Ok(())
        }
        Command::Run(run) => {
            let filter = tracing_subscriber::EnvFilter::try_new(&run.log).context("--log")?;
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_writer(std::io::stderr)
                .init();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?;
            let report = runtime.block_on(run.execute())?;
            print!("{}", report.to_text());
            anyhow::ensure!(
                report.is_right(),
                "devices differ: repeat with --seed {}",
                report.seed
            );
            Ok(())
        }
    }
}

impl Run {
    async fn execute(self: Box<Self>) -> anyhow::Result<Report> {
        let mut scenario: Scenario = scenario::find(&self.scenario)
            .with_context(|| format!("no scenario {:?}; see loadtest scenarios", self.scenario))?;
        scenario.users = self.users.unwrap_or(scenario.users).max(1);
        scenario.devices = self.devices.unwrap_or(scenario.devices).max(2);
        scenario.batch = self.batch.unwrap_or(scenario.batch).max(1);
        scenario.rate = self.rate.unwrap_or(scenario.rate);
        scenario.seconds = self.seconds.map_or(scenario.seconds, Duration::from_secs);
        anyhow::ensure!(scenario.rate > 0.0, "--rate must be above 0");
        let seed = self.seed.unwrap_or_else(rand::random);
        eprintln!("scenario {}, seed {seed}", scenario.name);
        let report = match self.url {
            Some(url) => scenario::run(&scenario, &url, "given server", seed).await?,
            None => {
                let server =
                    crate::server::Server::start(self.store, self.database_url.as_deref()).await?;
                let report = scenario::run(&scenario, server.url(), self.store.name(), seed).await;
                server.stop().await;
                report?
            }
        };
        std::fs::create_dir_all(&self.report).with_context(|| self.report.display().to_string())?;
        let file = self.report.join("report.json");
        std::fs::write(&file, serde_json::to_vec_pretty(&report)?)
            .with_context(|| file.display().to_string())?;
        eprintln!("report: {}", file.display());
        Ok(report)
    }
}
