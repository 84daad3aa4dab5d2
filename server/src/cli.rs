//! The command line of the binary `oversync`.

mod devices;
mod fold;
mod recorder;

use crate::clock::Clock;
use crate::serve::{Operators, serve};
use crate::settings::{LogFormat, Settings};
use crate::store::Access;
use crate::verify::{Checked, Wanted, verify};
use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use oversync_shared::UserId;
use serde::Serialize;
use std::future::Future;
use std::io::IsTerminal as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Keeps one user's SQLite data the same on all that user's devices.
#[derive(Debug, Parser)]
#[command(name = "oversync", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sync server until SIGTERM or Ctrl-C.
    Serve(Flags),
    /// Print the effective settings, secrets hidden.
    Config(Flags),
    /// Recompute everything from the log, beside running servers, and compare.
    ///
    /// Exit code 0: all is right; 1: a difference was found; 2: cannot run.
    Verify(VerifyFlags),
    /// Refuse a device from now on, and close its sockets.
    ///
    /// Running servers on PostgreSQL notice within 5 seconds. What the device has
    /// uploaded stays. A running server has the embedded store's file for itself:
    /// POST /admin/revoke does it there.
    Revoke(DeviceFlags),
    /// Let a revoked device in again.
    Reinstate(DeviceFlags),
    /// Fold the logs of all users once, by the settings under `retention`.
    ///
    /// Beside running servers on PostgreSQL, and while none runs on the embedded
    /// store. Whether `retention.enabled` is set does not count here.
    Fold(FoldFlags),
    /// List a user's devices: those that have uploaded, and those that are revoked.
    Devices(UserFlags),
}

#[derive(Debug, Args)]
struct DeviceFlags {
    /// The device's name, the `did` of its tokens.
    #[arg(long, value_name = "DEVICE")]
    device: String,
    #[command(flatten)]
    user: UserFlags,
}

#[derive(Debug, Args)]
struct UserFlags {
    /// The user's name, the `sub` of the tokens.
    #[arg(long, value_name = "USER")]
    user: String,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Args)]
struct FoldFlags {
    /// Only say what could be folded now.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Args)]
struct VerifyFlags {
    /// Only this user.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Report every difference (up to 1000), not only the first.
    #[arg(long)]
    all: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Flags win over the environment (`OVERSYNC_…`), which wins over the file.
#[derive(Debug, Args)]
struct Flags {
    /// Settings file, TOML.
    #[arg(long, env = "OVERSYNC_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingFlags,
}

#[derive(Debug, Args, Serialize)]
struct SettingFlags {
    /// Development: example tables, known secret, POST /signin.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dev: bool,
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// sqlite://FILE or postgres://USER:PASSWORD@HOST/NAME [default: sqlite://data/oversync.db].
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    database_url: Option<String>,
    /// File with the secret that signs tokens.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_secret_file: Option<PathBuf>,
    /// SQL to run at start, before anything else.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    schema_file: Option<PathBuf>,
    /// Name told to devices.
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    app_name: Option<String>,
    /// Address and port for operators; off unless given, needs a token.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_listen: Option<SocketAddr>,
    /// File with the token that operators show.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_token_file: Option<PathBuf>,
    /// HTTP worker threads [default: the number of cores].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<usize>,
    /// Upload without actors and caches (slower; to show that order does not hang on them).
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    bypass_actors: bool,
    /// Which logs to write, as in info,oversync=debug [default: info].
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    /// How to write logs [default: text].
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<LogFormat>,
}

/// Exit code of `verify` when it found a difference …
const DIFFERENT: u8 = 1;

/// … and when it could not look.
const CANNOT_RUN: u8 = 2;

/// How often `verify` says how far it is.
const PROGRESS_PAUSE: Duration = Duration::from_secs(2);

/// Runs the command line to its end. `live_bytes` tells what the program's
/// allocator has given out and not got back, in bytes.
pub fn run(live_bytes: fn() -> usize) -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Config(flags) => print!("{}", load(&flags)?.to_toml()),
        Command::Serve(flags) => {
            let settings = load(&flags)?;
            let logs = start_logs(&settings)?;
            block_on(run_server(settings, flags, logs, live_bytes))?;
        }
        Command::Revoke(wanted) => devices::set_access(&wanted, Access::Revoked)?,
        Command::Reinstate(wanted) => devices::set_access(&wanted, Access::Admitted)?,
        Command::Fold(wanted) => fold::run(&wanted)?,
        Command::Devices(wanted) => devices::list(&wanted)?,
        Command::Verify(wanted) => {
            return Ok(run_verify(&wanted).unwrap_or_else(|error| {
                eprintln!("Error: {error:#}");
                ExitCode::from(CANNOT_RUN)
            }));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs on this thread, with the actors' system.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    actix_web::rt::System::new().block_on(work)
}

fn load(flags: &Flags) -> anyhow::Result<Settings> {
    Ok(Settings::load(flags.config.as_deref(), &flags.settings)?)
}

fn run_verify(flags: &VerifyFlags) -> anyhow::Result<ExitCode> {
    let settings = load(&flags.flags)?;
    start_logs(&settings)?;
    let user = flags.user.as_deref().map(UserId::new).transpose();
    let user = user.context("--user")?;
    let wanted = if flags.all {
        Wanted::All
    } else {
        Wanted::First
    };
    let mut told = Instant::now();
    let mut progress = |checked: &Checked| {
        if told.elapsed() >= PROGRESS_PAUSE {
            told = Instant::now();
            eprintln!("so far: {checked}");
        }
    };
    let report = block_on(verify(&settings, user.as_ref(), wanted, &mut progress))?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for difference in &report.differences {
            println!("{difference}");
        }
        let result = match report.differences.len() {
            0 => "all is right".to_owned(),
            1 => "1 difference".to_owned(),
            several => format!("{several} differences"),
        };
        println!("{result}; checked {}", report.checked);
    }
    Ok(if report.differences.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DIFFERENT)
    })
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

/// Reads the settings again with every SIGHUP. Those that cannot be used change nothing.
fn watch_settings(flags: Flags, logs: Logs) -> anyhow::Result<mpsc::Receiver<Settings>> {
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be caught")?;
    let (sender, changes) = mpsc::channel(1);
    actix_web::rt::spawn(async move {
        while hangup.recv().await.is_some() {
            match load_again(&flags, &logs) {
                Ok(settings) => {
                    if sender.send(settings).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!("settings stay as they were: {error:#}");
                }
            }
        }
    });
    Ok(changes)
}

fn load_again(flags: &Flags, logs: &Logs) -> anyhow::Result<Settings> {
    let settings = load(flags)?;
    let filter = EnvFilter::try_new(&settings.log).context("log")?;
    logs.reload(filter)?;
    Ok(settings)
}

async fn run_server(
    settings: Settings,
    flags: Flags,
    logs: Logs,
    live_bytes: fn() -> usize,
) -> anyhow::Result<()> {
    // Before anybody is told that we are here.
    let stop = catch_stop()?;
    let changes = watch_settings(flags, logs)?;
    let bind = |setting: &str, address: SocketAddr| {
        TcpListener::bind(address).with_context(|| format!("{setting}: cannot listen on {address}"))
    };
    let listener = bind("listen", settings.listen)?;
    let admin = settings
        .admin_listen
        .map(|address| bind("admin_listen", address))
        .transpose()?;
    let address = listener.local_addr()?;
    tracing::info!(%address, database = scheme(&settings.database_url), started = %Clock::system().now(), "starting");
    let scheme = match settings.tls.certificate_file {
        Some(_) => "https",
        None => "http",
    };
    println!("oversync listens on {scheme}://{address}");
    let operators = match admin {
        None => None,
        Some(listener) => {
            let address = listener.local_addr()?;
            println!("operators: http://{address}");
            if let Some(known) = settings.dev_admin_token() {
                if !address.ip().is_loopback() {
                    eprintln!(
                        "warning: everybody knows the operators' token, and {address} can be reached from other machines"
                    );
                }
                println!("development mode: operators show the known token {known}");
            }
            let metrics = Some(recorder::install(live_bytes)?);
            Some(Operators { listener, metrics })
        }
    };
    if settings.dev {
        print_next_steps(address);
    }
    serve(settings, listener, operators, changes, stop).await?;
    Ok(())
}

/// A database URL may hold a password; its scheme is enough for the log.
fn scheme(url: &str) -> &str {
    url.split("://").next().unwrap_or_default()
}

fn print_next_steps(address: SocketAddr) {
    if !address.ip().is_loopback() {
        eprintln!(
            "warning: --dev signs in anybody, and {address} can be reached from other machines"
        );
    }
    println!(
        "development mode: anybody may sign in, tokens are signed with a known secret
tables: business.users (key id), business.posts (key id, author_id refers to users)

two devices in a browser: http://{address}/demo

next, in another terminal:
  oversqlite --db a.db init --server http://{address} --schema business \\
      --table users --table posts --signin ann --schema-sql examples/blog.sql
  oversqlite --db a.db watch
and the same with b.db in a third. Then: oversqlite --db a.db sql \"INSERT INTO users …\""
    );
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
