//! The command line of `oversqlite`: arguments in, text or JSON out, an exit
//! code.

mod doctor;
mod export;
mod init;
mod lists;
mod progress;
mod watch;

use crate::settings::Settings;
use clap::{Parser, Subcommand};
use oversqlite::{Client, Direction, Error, Inspection, NetworkError, SetupError, SignOut, Status};
use progress::Bar;
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
  0  done; `doctor`: all is well
  1  the file or the system failed
  2  wrong arguments, or a table, file or server that does not fit (the message says what to do)
  3  the server could not be reached, or asks for patience
  4  the server refused the token, or there is none
  5  done, but rejected edits are in the file (see `rejected`)
  6  sign-out: unsent or rejected edits are in the file; nothing was done
  7  another process synchronises the file: it sends what is in it, too
  8  `doctor`: something waits, and goes by itself
  9  `doctor`: something will not go until somebody acts

With --json, a failure is {\"type\":\"error\",\"code\":CODE,\"message\":TEXT} on
standard output.

Environment:
  OVERSQLITE_LOG     which logs go to standard error, as in oversqlite=debug
  OVERSQLITE_TRACES  a collector for traces, OTLP over HTTP, as in http://127.0.0.1:4318";

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
    /// Find out why something is not on the server or not here, and what to do;
    /// without a connection, from the file alone. Changes nothing.
    Doctor {
        /// Explain this row; looks for it in the server's history, from its end.
        #[arg(long, value_name = "TABLE/KEY")]
        row: Option<String>,
    },
    /// Print what only this device has, as JSON lines: refused edits, what lost in
    /// conflicts, unsent edits; all of them unless some are named.
    Export(export::Export),
    /// Hold uploads, downloads or both back, also in other processes, until
    /// `resume`. `sync` is not held back.
    Pause {
        /// Which way.
        #[arg(value_enum, default_value_t = Way::Both)]
        which: Way,
    },
    /// Let uploads, downloads or both go again.
    Resume {
        /// Which way.
        #[arg(value_enum, default_value_t = Way::Both)]
        which: Way,
    },
    /// Local edits that the server can never take: list them with the reason,
    /// try them again, give them up, or export them.
    Rejected {
        #[command(subcommand)]
        action: Option<lists::RejectedAction>,
    },
    /// List what other devices sent and this file cannot take now, with the reason:
    /// an unknown table, a missing parent, a constraint. Each is tried again by itself
    /// when what is in its way has changed.
    Parked,
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

/// What is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Way {
    Uploads,
    Downloads,
    Both,
}

impl From<Way> for Direction {
    fn from(way: Way) -> Self {
        match way {
            Way::Uploads => Self::Uploads,
            Way::Downloads => Self::Downloads,
            Way::Both => Self::Both,
        }
    }
}

/// Arguments that clap cannot judge.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

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
                    json!({"type": "error", "code": code, "message": format!("{error:#}")})
                );
            }
            eprintln!("oversqlite: {error:#}");
            ExitCode::from(code)
        }
    }
}

fn code_of(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() {
        return 2;
    }
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
        Command::Watch { poll } => watch::run(database, *poll, arguments.json).await,
        Command::Sql { sql } => {
            crate::sql::run(database, sql, arguments.json, &mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status => {
            let status = look_at(database)?.status()?;
            print_status(&status, arguments.json);
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor { row } => doctor::run(database, row.as_deref(), arguments.json).await,
        Command::Export(export) => export::run(database, export, arguments.json),
        Command::Pause { which } => hold(database, *which, true, arguments.json).await,
        Command::Resume { which } => hold(database, *which, false, arguments.json).await,
        Command::Rejected { action } => {
            lists::rejected(database, action.as_ref(), arguments.json).await
        }
        Command::Parked => lists::parked(database, arguments.json),
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
    let bar = Bar::positions("synchronising", as_json);
    let mut told = client.status_stream();
    let unsent = told.borrow().unsent;
    let done = {
        let mut work = std::pin::pin!(client.sync());
        loop {
            tokio::select! {
                done = &mut work => break done,
                Ok(()) = told.changed() => bar.show(&told.borrow_and_update(), unsent),
            }
        }
    };
    bar.finish();
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

async fn hold(database: &Path, which: Way, back: bool, as_json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::open(Settings::load(database)?.config(database)?).await?;
    let done = match back {
        true => client.pause(which.into()).await,
        false => client.resume(which.into()).await,
    };
    let paused = client.status().await?.paused;
    client.stop().await;
    done?;
    let word = |held: bool| if held { "paused" } else { "running" };
    print(
        as_json,
        &json!({"type": "held", "uploads": paused.uploads, "downloads": paused.downloads}),
        &format!(
            "uploads {}, downloads {}",
            word(paused.uploads),
            word(paused.downloads)
        ),
    );
    Ok(ExitCode::SUCCESS)
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

fn print_status(status: &Status, as_json: bool) {
    let mut text = format!("user {}, device {}\n", status.user, status.device);
    text.push_str(&match (status.hydrated, status.last_confirmed_age()) {
        (false, _) => format!(
            "position {}: the first pass over the server's changes is not complete, `sync` goes on",
            status.cursor
        ),
        (true, None) => format!("position {} of the server's changes", status.cursor),
        (true, Some(age)) => format!(
            "position {} of the server's changes, which was all there was {}",
            status.cursor,
            ago(age)
        ),
    });
    text.push_str(&format!(
        "\nunsent {}, rejected {}, conflicts {}, parked {}",
        status.unsent, status.rejected, status.conflicts, status.parked
    ));
    if let Some(age) = status.oldest_unsent_age {
        text.push_str(&format!("\noldest unsent edit {}", ago(age)));
    }
    if let Some(reason) = &status.stalled_reason {
        text.push_str(&format!("\nheld up: {reason}"));
    }
    print(as_json, status, &text);
}

/// A span for people.
fn ago(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ ..120 => format!("{seconds} s ago"),
        seconds @ ..7_200 => format!("{} min ago", seconds / 60),
        seconds @ ..172_800 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}
