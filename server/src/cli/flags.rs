//! What can stand on the command line: commands, their flags, and what each says of
//! itself. Flags that are settings are printed as settings are.

use super::doctor::DoctorFlags;
use crate::recovery::{STEP, step};
use crate::settings::LogFormat;
use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Keeps one user's SQLite data the same on all that user's devices.
#[derive(Debug, Parser)]
#[command(name = "oversync", version, about)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the sync server until SIGTERM or Ctrl-C.
    Serve(Flags),
    /// Print the effective settings, secrets hidden.
    Config(ConfigFlags),
    /// Recompute everything from the log, beside running servers, and compare.
    ///
    /// Exit code 0: all is right; 1: a difference was found; 2: cannot run.
    Verify(VerifyFlags),
    /// Say what is wrong with a server, its database, or one user's data, and what to do.
    ///
    /// Reads the settings and the database, whether a server runs or not, and asks the
    /// running one. Changes nothing. Exit code 0: all is well; 1: something was found;
    /// 2: it could not look.
    Doctor(Box<DoctorFlags>),
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
    /// Copy the whole database into one file, beside a running server.
    ///
    /// The embedded store: one SQLite file, checked. PostgreSQL: `pg_dump`, found on
    /// PATH and not older than the database server, in its custom format, and a
    /// manifest beside it (PATH.manifest.json). The file has its name when it is
    /// whole, and only its owner may read it. Exit code 0: made; 2: not made, and what
    /// was at PATH is there still.
    Backup(BackupFlags),
    /// Put a backup back, as a new history; no server may run on the database.
    ///
    /// The database gets a new epoch, and every user's stream goes on far above what the
    /// lost history can have used. Devices notice, keep what they have, and offer again
    /// what the server lacks. Exit code 0: restored; 2: not restored, and what was there
    /// is there still (where it says that a new history has not begun, run it again with
    /// --in-place: no server starts before).
    Restore(RestoreFlags),
    /// Move the embedded store to PostgreSQL; no server may run on either.
    ///
    /// Devices notice nothing: epoch, cursors and change ids are the same. Business
    /// tables that exist in the new database are filled from the synchronised rows, and
    /// everything is verified. The file is not written. Exit code 0: moved; 2: not moved,
    /// and no server starts on what arrived: begin again with an empty database.
    Migrate(MigrateFlags),
    /// Print all that was ever written to a user's rows, as JSON lines, beside running
    /// servers.
    ///
    /// The log, and what folding has moved out of it where `retention.keep_history` is
    /// set, together in the order of the stream.
    History(HistoryFlags),
    /// List a user's devices: those that have uploaded, and those that are revoked.
    Devices(UserFlags),
}

#[derive(Debug, Args)]
pub(super) struct ConfigFlags {
    /// Print what there is to set, with the defaults, as Markdown.
    #[arg(long)]
    pub(super) manual: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

#[derive(Debug, Args)]
pub(super) struct DeviceFlags {
    /// The device's name, the `did` of its tokens.
    #[arg(long, value_name = "DEVICE")]
    pub(super) device: String,
    #[command(flatten)]
    pub(super) user: UserFlags,
}

#[derive(Debug, Args)]
pub(super) struct UserFlags {
    /// The user's name, the `sub` of the tokens.
    #[arg(long, value_name = "USER")]
    pub(super) user: String,
    #[command(flatten)]
    pub(super) flags: Flags,
}

#[derive(Debug, Args)]
pub(super) struct HistoryFlags {
    #[command(flatten)]
    pub(super) user: UserFlags,
    /// Only of this table: TABLE in the schema public, or SCHEMA.TABLE.
    #[arg(long, value_name = "TABLE")]
    pub(super) table: Option<String>,
    /// Only of rows with this key.
    #[arg(long, value_name = "UUID")]
    pub(super) pk: Option<String>,
    /// Only what was taken at this time or later, as in 2026-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct FoldFlags {
    /// Only say what could be folded now.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Then give unused space back to the file system.
    ///
    /// The embedded store's file is written anew: that needs twice its size of free room
    /// meanwhile. On PostgreSQL our indexes are built anew, beside running servers. May
    /// take minutes.
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) compact: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

#[derive(Debug, Args)]
pub(super) struct BackupFlags {
    /// The file to be made.
    #[arg(long, value_name = "PATH")]
    pub(super) to: PathBuf,
    /// Write over a file that is there.
    #[arg(long)]
    pub(super) force: bool,
    /// Print the manifest as JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

#[derive(Debug, Args)]
pub(super) struct RestoreFlags {
    /// The backup: a file that `oversync backup` has made.
    #[arg(long, value_name = "PATH", required_unless_present = "in_place")]
    pub(super) from: Option<PathBuf>,
    /// In place of what is there. The embedded store's old file is kept under another
    /// name; on PostgreSQL, what the dump names is dropped first. Devices that are
    /// revoked now stay so.
    #[arg(long)]
    pub(super) replace: bool,
    /// The database was restored by other means (PITR, a base backup, a copied file):
    /// only begin the new history.
    #[arg(long, conflicts_with_all = ["from", "replace"])]
    pub(super) in_place: bool,
    /// By how much every stream goes up: more than one user can have committed since
    /// the backup was made.
    #[arg(long, value_name = "PLACES", default_value_t = STEP, value_parser = step)]
    pub(super) step: i64,
    /// Print what was done as JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

#[derive(Debug, Args)]
pub(super) struct MigrateFlags {
    /// The embedded store's file.
    #[arg(long, value_name = "sqlite://FILE")]
    pub(super) from: String,
    /// The PostgreSQL database [default: database_url of the settings].
    ///
    /// What stands here can be read by everybody on the machine while the program runs:
    /// a URL with a password belongs into `database_url` of the settings file or into
    /// the environment, as OVERSYNC_DATABASE_URL.
    #[arg(long, value_name = "URL")]
    pub(super) to: Option<String>,
    /// Take back a move, while nothing has been written into the new database: servers
    /// may start on the file again, and no longer there.
    #[arg(long)]
    pub(super) undo: bool,
    /// Print what was moved as JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

#[derive(Debug, Args)]
pub(super) struct VerifyFlags {
    /// Only this user.
    #[arg(long, value_name = "USER")]
    pub(super) user: Option<String>,
    /// Report every difference (up to 1000), not only the first.
    #[arg(long)]
    pub(super) all: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// Flags win over the environment (`OVERSYNC_…`), which wins over the file.
#[derive(Debug, Args)]
pub(super) struct Flags {
    /// Settings file, TOML.
    #[arg(long, env = "OVERSYNC_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) settings: SettingFlags,
}

#[derive(Debug, Args, Serialize)]
pub(super) struct SettingFlags {
    /// Development: example tables, known secret, POST /signin.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) dev: bool,
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) listen: Option<SocketAddr>,
    /// sqlite://FILE or postgres://USER:PASSWORD@HOST/NAME [default: sqlite://data/oversync.db].
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) database_url: Option<String>,
    /// File with the secret that signs tokens.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) jwt_secret_file: Option<PathBuf>,
    /// SQL to run at start, before anything else.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) schema_file: Option<PathBuf>,
    /// Name told to devices.
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) app_name: Option<String>,
    /// Address and port for operators; off unless given, needs a token.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) admin_listen: Option<SocketAddr>,
    /// File with the token that operators show.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) admin_token_file: Option<PathBuf>,
    /// HTTP worker threads [default: the number of cores].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workers: Option<usize>,
    /// Upload without actors and caches (slower; to show that order does not hang on them).
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) bypass_actors: bool,
    /// Which logs to write, as in info,oversync=debug [default: info].
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) log: Option<String>,
    /// How to write logs [default: text].
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) log_format: Option<LogFormat>,
}
