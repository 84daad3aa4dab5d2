//! The command line of the binary `oversync`.

mod backup;
mod devices;
mod doctor;
mod flags;
mod fold;
mod history;
mod migrate;
mod recorder;
mod restore;
mod serve;
mod verify;

use crate::settings::{LogFormat, Settings};
use crate::store::Access;
use crate::trace;
use anyhow::Context as _;
use clap::Parser as _;
use flags::{Cli, Command, Flags};
use std::future::Future;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Exit code where a command could not look, or a backup was not made or not put back.
const CANNOT_RUN: u8 = 2;

/// How often `verify` says how far it is.
const PROGRESS_PAUSE: Duration = Duration::from_secs(2);

/// Runs the command line to its end. `live_bytes` tells what the program's
/// allocator has given out and not got back, in bytes.
pub fn run(live_bytes: fn() -> usize) -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Config(wanted) if wanted.manual => print!("{}", Settings::manual()),
        Command::Config(wanted) => print!("{}", load(&wanted.flags)?.to_toml()),
        Command::Serve(flags) => {
            let settings = load(&flags)?;
            let logs = start_logs(&settings)?;
            let spans = trace::export(&settings.trace).context("trace.endpoint")?;
            let ended = block_on(serve::run_server(settings, flags, logs, live_bytes));
            if let Some(spans) = spans {
                trace::finish(&spans);
            }
            ended?;
        }
        Command::Revoke(wanted) => devices::set_access(&wanted, Access::Revoked)?,
        Command::Reinstate(wanted) => devices::set_access(&wanted, Access::Admitted)?,
        Command::Fold(wanted) => fold::run(&wanted)?,
        Command::Backup(wanted) => return Ok(or_cannot_run(backup::run(&wanted))),
        Command::Restore(wanted) => return Ok(or_cannot_run(restore::run(&wanted))),
        Command::Migrate(wanted) => return Ok(or_cannot_run(migrate::run(&wanted))),
        Command::Devices(wanted) => devices::list(&wanted)?,
        Command::Doctor(wanted) => return Ok(or_cannot_run(doctor::run(&wanted))),
        Command::History(wanted) => history::run(&wanted)?,
        Command::Verify(wanted) => return Ok(or_cannot_run(verify::run(&wanted))),
    }
    Ok(ExitCode::SUCCESS)
}

/// How a command ends whose other exit codes mean something else.
fn or_cannot_run(ended: anyhow::Result<ExitCode>) -> ExitCode {
    ended.unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        ExitCode::from(CANNOT_RUN)
    })
}

/// Runs on this thread, with the actors' system.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    actix_web::rt::System::new().block_on(work)
}

fn load(flags: &Flags) -> anyhow::Result<Settings> {
    Ok(Settings::load(flags.config.as_deref(), &flags.settings)?)
}

/// Changes which logs are written.
type Logs = reload::Handle<EnvFilter, Registry>;

fn start_logs(settings: &Settings) -> anyhow::Result<Logs> {
    let filter = EnvFilter::try_new(&settings.log).context("log")?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match settings.log_format {
        LogFormat::Text => registry.with(lines).init(),
        LogFormat::Json => registry.with(lines.json()).init(),
    }
    Ok(handle)
}

/// Catches SIGTERM and Ctrl-C from now on; the future ends with the first.
fn catch_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("Ctrl-C cannot be caught")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
