//! `oversync serve`: listens, says where, and runs until it is told to stop.

use super::flags::Flags;
use super::{Logs, catch_stop, load, recorder};
use crate::clock::Clock;
use crate::serve::{Operators, serve};
use crate::settings::Settings;
use anyhow::Context as _;
use std::net::{SocketAddr, TcpListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

/// Reads the settings again with every SIGHUP. Those that cannot be used change nothing.
fn watch_settings(flags: Flags, logs: Logs) -> anyhow::Result<mpsc::Receiver<Settings>> {
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be caught")?;
    let (sender, changes) = mpsc::channel(1);
    tokio::task::spawn_local(async move {
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

pub(super) async fn run_server(
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
