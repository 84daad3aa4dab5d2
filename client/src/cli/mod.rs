//! The command line of `oversqlite`: arguments in, text or JSON out, an exit
//! code.

mod init;
mod lists;

use crate::settings::Settings;
use clap::{Parser, Subcommand};
use oversqlite::{Changed, Client, Error, Inspection, NetworkError, SetupError, SignOut, Status};
use serde::Serialize;
use serde_json::json;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Keeps an SQLite file the same on all devices of one user.
///
/// Start with `init`, once per file; then `sync` exchanges changes once, and
/// `watch` keeps doing it. Any program may write to the file meanwhile.
#[derive(Debug, Parser)]
#[command(name = "oversqlite", version, after_help = EXIT_CODES)]
struct Arguments {
    /// The application's SQLite file.
    #[arg(long, value_name = "FILE", global = true, default_value = "app.db")]
    db: PathBuf,
    /// One JSON object per line instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  the file or the system failed
  2  wrong arguments, or a table, file or server that does not fit (the message says what to do)
  3  the server could not be reached, or asks for patience
  4  the server refused the token, or there is none
  5  done, but rejected edits are in the file (see `rejected`)
  6  sign-out: unsent or rejected edits are in the file; nothing was done
  7  another process synchronises the file: it sends what is in it, too";

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the client's tables and triggers in the file and remember how to
    /// reach the server.
    Init(init::Init),
    /// Upload and download until everything has been exchanged.
    Sync,
    /// Exchange changes as they happen, and print what other devices change,
    /// until Ctrl-C.
    Watch {
        /// Seconds between looks at the server when no hint has come.
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        poll: u64,
    },
    /// Run SQL in the file and print the rows it gives; the edits are
    /// synchronised like any other program's.
    Sql {
        /// One or more statements.
        sql: String,
    },
    /// Show how things stand, without the network.
    Status,
    /// Local edits that the server can never take: list them with the reason,
    /// try them again, give them up, or export them.
    Rejected {
        #[command(subcommand)]
        action: Option<lists::RejectedAction>,
    },
    /// Conflicts of the past, with what lost: list them, get something back, or
    /// give it up.
    Conflicts {
        #[command(subcommand)]
        action: Option<lists::ConflictAction>,
    },
    /// End the user's time on this device: empty the synchronised tables and
    /// remove everything of the client. Refuses while edits are unsent.
    SignOut {
        /// Synchronise first.
        #[arg(long, conflicts_with = "discard")]
        sync: bool,
        /// Give up what only this device has.
        #[arg(long)]
        discard: bool,
    },
}

/// Runs the command line.
pub(crate) async fn run() -> ExitCode {
    let arguments = Arguments::parse();
    match execute(&arguments).await {
        Ok(code) => code,
        Err(error) => {
            let code = code_of(&error);
            if arguments.json {
                println!(
                    "{}",
                    json!({"type": "error", "message": format!("{error:#}")})
                );
            }
            eprintln!("oversqlite: {error:#}");
            ExitCode::from(code)
        }
    }
}

fn code_of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Error>() {
        Some(Error::Setup(SetupError::Unsent { .. })) => 6,
        Some(Error::Setup(SetupError::InUse { .. })) => 7,
        Some(Error::Setup(_)) => 2,
        Some(Error::Network(NetworkError::Unauthorised | NetworkError::Token(_))) => 4,
        Some(Error::Network(NetworkError::Unreachable(_) | NetworkError::Overloaded { .. })) => 3,
        _ => 1,
    }
}

async fn execute(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let database = arguments.db.as_path();
    match &arguments.command {
        Command::Init(init) => init::run(database, init, arguments.json).await,
        Command::Sync => sync(database, arguments.json).await,
        Command::Watch { poll } => watch(database, *poll, arguments.json).await,
        Command::Sql { sql } => {
            crate::sql::run(database, sql, arguments.json, &mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status => {
            let status = look_at(database)?.status()?;
            print_status(&status, arguments.json);
            Ok(ExitCode::SUCCESS)
        }
        Command::Rejected { action } => {
            lists::rejected(database, action.as_ref(), arguments.json).await
        }
        Command::Conflicts { action } => {
            lists::conflicts(database, action.as_ref(), arguments.json).await
        }
        Command::SignOut { sync, discard } => {
            let how = match (sync, discard) {
                (true, _) => SignOut::SyncFirst,
                (_, true) => SignOut::Discard,
                _ => SignOut::Refuse,
            };
            sign_out(database, how, arguments.json).await
        }
    }
}

fn look_at(database: &Path) -> anyhow::Result<Inspection> {
    Settings::load(database)?;
    Ok(oversqlite::inspect(database)?)
}

/// One line, or one JSON object. A reader that has gone away (`| head`) ends the
/// output, not the program.
fn print(as_json: bool, value: &impl Serialize, text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = if as_json {
        writeln!(out, "{}", json!(value))
    } else {
        writeln!(out, "{text}")
    };
}

async fn sync(database: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::open(Settings::load(database)?.config(database)?).await?;
    let done = client.sync().await;
    let status = client.status().await?;
    client.stop().await;
    let done = done?;
    print(
        as_json,
        &json!({
            "type": "synced",
            "uploaded": done.uploaded.applied,
            "downloaded": done.downloaded,
            "conflicts": done.uploaded.conflicts,
            "rejected": status.rejected,
            "complete": done.complete,
        }),
        &format!(
            "uploaded {}, downloaded {}, conflicts {}, rejected {}",
            done.uploaded.applied, done.downloaded, done.uploaded.conflicts, status.rejected
        ),
    );
    Ok(if status.rejected > 0 {
        ExitCode::from(5)
    } else {
        ExitCode::SUCCESS
    })
}

async fn sign_out(database: &Path, how: SignOut, as_json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::open(Settings::load(database)?.config(database)?).await?;
    let user = client.user().to_string();
    let done = client.sign_out(how).await;
    client.stop().await;
    done?;
    print(
        as_json,
        &json!({"type": "signed_out", "user": user}),
        &format!("{user} is signed out; `init` begins anew"),
    );
    Ok(ExitCode::SUCCESS)
}

async fn watch(database: &Path, poll: u64, as_json: bool) -> anyhow::Result<ExitCode> {
    let config = Settings::load(database)?
        .config(database)?
        .poll_interval(std::time::Duration::from_secs(poll.max(1)));
    let client = Client::open(config).await?;
    let mut changes = client.changes();
    let mut status = client.status_stream();
    client.start()?;
    let mut shown = None;
    let mut terminated = Terminated::listen()?;
    loop {
        tokio::select! {
            event = changes.next() => match event {
                Some(event) => print_change(as_json, &event),
                None => break,
            },
            changed = status.changed() => {
                if changed.is_err() {
                    break;
                }
                let now = status.borrow_and_update().clone();
                let news = (now.connection, now.stalled_reason.clone(), now.unsent, now.rejected);
                if shown.as_ref() != Some(&news) {
                    print_news(as_json, &now);
                    shown = Some(news);
                }
            }
            () = terminated.wait() => break,
        }
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

fn print_status(status: &Status, as_json: bool) {
    let text = format!(
        "user {}, device {}\ncursor {}, {}\nunsent {}, rejected {}, conflicts {}, parked {}\nlast confirmed {}{}{}",
        status.user,
        status.device,
        status.cursor,
        if status.hydrated {
            "complete"
        } else {
            "first pass not completed"
        },
        status.unsent,
        status.rejected,
        status.conflicts,
        status.parked,
        status.last_confirmed_at.map_or_else(
            || "never".to_owned(),
            |at| format!("at {at} (seconds since 1970)")
        ),
        status.oldest_unsent_age.map_or_else(String::new, |age| {
            format!("\noldest unsent edit {age} s ago")
        }),
        status
            .stalled_reason
            .as_ref()
            .map_or_else(String::new, |reason| format!("\nheld up: {reason}")),
    );
    print(as_json, status, &text);
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
