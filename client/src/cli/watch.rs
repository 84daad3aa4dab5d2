//! `oversqlite watch`: the engine, and what it does, line by line, until Ctrl-C.

use super::print;
use super::progress::Bar;
use crate::settings::Settings;
use oversqlite::{Changed, Client, Status};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

/// How far behind the file must be for a bar.
const LONG: i64 = 1_000;

pub(super) async fn run(database: &Path, poll: u64, as_json: bool) -> anyhow::Result<ExitCode> {
    let config = Settings::load(database)?
        .config(database)?
        .poll_interval(std::time::Duration::from_secs(poll.max(1)));
    let client = Client::open(config).await?;
    let mut changes = client.changes();
    let mut status = client.status_stream();
    client.start()?;
    let mut shown = None;
    let mut bar: Option<Bar> = None;
    let aside = |bar: &Option<Bar>, print: &dyn Fn()| match bar {
        Some(bar) => bar.aside(print),
        None => print(),
    };
    let mut terminated = Terminated::listen()?;
    loop {
        tokio::select! {
            event = changes.next() => match event {
                Some(event) => aside(&bar, &|| print_change(as_json, &event)),
                None => break,
            },
            changed = status.changed() => {
                if changed.is_err() {
                    break;
                }
                let now = status.borrow_and_update().clone();
                let news = (now.connection, now.stalled_reason.clone(), now.unsent, now.rejected);
                if shown.as_ref() != Some(&news) {
                    aside(&bar, &|| print_news(as_json, &now));
                    shown = Some(news);
                }
                // A pass over everything says itself how far it is.
                let is_long = now
                    .behind_by
                    .map_or(now.progress.is_some(), |behind| behind >= LONG);
                if is_long && now.stalled_reason.is_none() {
                    let bar = bar.get_or_insert_with(|| Bar::positions("downloading", as_json));
                    bar.show(&now, now.unsent);
                } else if now.behind_by == Some(0) && let Some(bar) = bar.take() {
                    bar.finish();
                }
            }
            () = terminated.wait() => break,
        }
    }
    if let Some(bar) = bar {
        bar.finish();
    }
    client.stop().await;
    Ok(ExitCode::SUCCESS)
}

fn print_change(as_json: bool, event: &Changed) {
    let text = match event {
        Changed::Rows { table, keys } => format!("changed {table}: {}", keys.join(", ")),
        Changed::Missed => "changed: more than could be listed".to_owned(),
    };
    print(as_json, event, &text);
}

fn print_news(as_json: bool, status: &Status) {
    let value = json!({
        "type": "status",
        "connection": status.connection,
        "unsent": status.unsent,
        "rejected": status.rejected,
        "behind_by": status.behind_by,
        "stalled_reason": status.stalled_reason,
    });
    let connection = value["connection"].as_str().unwrap_or_default();
    let mut text = format!("{connection}, {} unsent", status.unsent);
    if status.rejected > 0 {
        text.push_str(&format!(", {} rejected", status.rejected));
    }
    if let Some(reason) = &status.stalled_reason {
        text.push_str(&format!(" ({reason})"));
    }
    print(as_json, &value, &text);
}

/// Ctrl-C, or SIGTERM where there is such a thing.
struct Terminated {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Terminated {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?,
        })
    }

    async fn wait(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}
