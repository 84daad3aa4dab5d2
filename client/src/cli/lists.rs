//! `oversqlite conflicts` and `oversqlite rejected`: what waits for somebody's
//! decision, looked at and decided on. `oversqlite parked`: what waits by itself.
//!
//! Looking needs nothing but the file; deciding opens a client on it, and sends
//! nothing: what it leaves to be sent goes with the next `sync` or `watch`.

use super::{look_at, print};
use crate::settings::Settings;
use clap::Subcommand;
use oversqlite::{Client, ConflictRecord, Error, Parked, Rejected, SetupError};
use serde_json::json;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(super) enum ConflictAction {
    /// List them, oldest first (the default).
    List,
    /// Show one, with the row before the edit.
    Show {
        /// Its number in the list.
        id: i64,
    },
    /// Write what lost back, as an edit of this device.
    Restore {
        /// Its number in the list.
        id: i64,
    },
    /// Take it off the list: what lost is given up.
    Dismiss {
        /// Its number in the list.
        id: i64,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RejectedAction {
    /// List them, oldest first (the default).
    List,
    /// Send it once more, as the row stands now.
    Retry {
        /// Its number in the list.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        id: Option<i64>,
        /// All of them.
        #[arg(long)]
        all: bool,
    },
    /// Give it up: the row goes back to what the server has, or goes away.
    Drop {
        /// Its number in the list.
        id: i64,
    },
    /// Print them as JSON lines, payloads included.
    Export,
}

async fn client(database: &Path) -> anyhow::Result<Client> {
    Ok(Client::open(Settings::load(database)?.config(database)?).await?)
}

/// Says what was done.
fn done(as_json: bool, list: &str, id: Option<i64>, what: &str) {
    let text = match id {
        Some(id) => format!("{list} {id}: {what}"),
        None => format!("{list}: {what}"),
    };
    let value = json!({"type": what, "list": list, "id": id});
    print(as_json, &value, &text);
}

fn side(row: &Option<String>) -> &str {
    row.as_deref().unwrap_or("deleted")
}

fn conflict_text(entry: &ConflictRecord) -> String {
    format!(
        "{} {}: {} stands\n  mine:   {}\n  theirs: {}\n  lost:   {} (conflict {})",
        entry.table,
        entry.key,
        entry.outcome,
        side(&entry.mine),
        side(&entry.theirs),
        entry.lost.as_deref().unwrap_or("a delete"),
        entry.id,
    )
}

pub(super) async fn conflicts(
    database: &Path,
    action: Option<&ConflictAction>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    match action {
        None | Some(ConflictAction::List) => {
            for entry in look_at(database)?.conflicts()? {
                print(as_json, &entry, &conflict_text(&entry));
            }
        }
        Some(ConflictAction::Show { id }) => {
            let found = look_at(database)?.conflicts()?;
            let entry = found
                .into_iter()
                .find(|entry| entry.id == *id)
                .ok_or_else(|| {
                    Error::from(SetupError::NoSuchEntry {
                        list: "conflict",
                        id: *id,
                    })
                })?;
            let base = entry.base.as_deref().unwrap_or("not known");
            let text = format!("{}\n  before: {base}", conflict_text(&entry));
            print(as_json, &entry, &text);
        }
        Some(ConflictAction::Restore { id }) => {
            let client = client(database).await?;
            let outcome = client.restore_conflict(*id).await;
            client.stop().await;
            outcome?;
            done(as_json, "conflict", Some(*id), "restored");
        }
        Some(ConflictAction::Dismiss { id }) => {
            let client = client(database).await?;
            let outcome = client.dismiss_conflict(*id).await;
            client.stop().await;
            outcome?;
            done(as_json, "conflict", Some(*id), "dismissed");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn rejected_text(entry: &Rejected) -> String {
    format!(
        "{} {} {}: {} {} (rejected {})",
        entry.op, entry.table, entry.key, entry.reason, entry.detail, entry.id
    )
}

pub(super) async fn rejected(
    database: &Path,
    action: Option<&RejectedAction>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    match action {
        None | Some(RejectedAction::List) => {
            for entry in look_at(database)?.rejected()? {
                print(as_json, &entry, &rejected_text(&entry));
            }
        }
        Some(RejectedAction::Export) => {
            let mut out = std::io::stdout().lock();
            for entry in look_at(database)?.rejected()? {
                let _ = out.write_all(entry.to_json_line().as_bytes());
            }
        }
        Some(RejectedAction::Retry { id, .. }) => {
            let client = client(database).await?;
            let outcome = match id {
                Some(id) => client.retry_rejected(*id).await,
                None => client.retry_all_rejected().await.map(drop),
            };
            client.stop().await;
            outcome?;
            done(as_json, "rejected", *id, "to be sent again");
        }
        Some(RejectedAction::Drop { id }) => {
            let client = client(database).await?;
            let outcome = client.drop_rejected(*id).await;
            client.stop().await;
            outcome?;
            done(as_json, "rejected", Some(*id), "dropped");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn parked_text(entry: &Parked) -> String {
    let mut text = format!(
        "{} {} version {}: {}",
        entry.table, entry.key, entry.version, entry.reason
    );
    if !entry.detail.is_empty() {
        text.push_str(&format!(": {}", entry.detail));
    }
    text
}

/// Nothing can be decided here: each is tried again by itself, or waits for another
/// version of the application.
pub(super) fn parked(database: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    for entry in look_at(database)?.parked()? {
        print(as_json, &entry, &parked_text(&entry));
    }
    Ok(ExitCode::SUCCESS)
}
