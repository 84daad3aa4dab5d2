//! Backup, restore and move: what an operator does with a server's whole database.
//!
//! `backup.rs` makes a copy beside a running server; `restore.rs` puts one back, as a new
//! history; `moving.rs` carries one over to PostgreSQL. `programs.rs` runs PostgreSQL's
//! own programs, `listing.rs` is what a dump holds, `script.rs` what is made of it; `apart.rs` keeps what
//! blocks away from who waits. What the databases are asked for is in
//! [`store::recovery`](crate::store). Called by the command line only.

mod apart;
mod backup;
mod listing;
mod moving;
mod programs;
mod restore;
mod script;

pub(crate) use backup::{Existing, backup};
pub(crate) use moving::{migrate, undo};
pub(crate) use restore::{STEP, Source, restore, step};

use crate::store::recovery::{Contents, Far, NotBegun};
use crate::store::{OpenError, StoreError};
use crate::verify::VerifyError;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Which store a backup was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One SQLite file; the manifest is in it.
    Embedded,
    /// A dump in PostgreSQL's custom format; the manifest is beside it.
    Postgres,
}

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The store.
    pub store: Kind,
    /// When it was made, RFC 3339; the data is as it was then, or a little later.
    pub taken_at: String,
    /// The version of the program that made it.
    pub made_by: String,
    /// What it holds.
    #[serde(flatten)]
    pub contents: Contents,
    /// Bytes of the dump beside which it stands; none where it is in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The database.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is a file already.
    #[error("{0} is there already; --force writes over it")]
    Exists(PathBuf),
    /// A file.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The backup would be the database.
    #[error("{0} is the database itself: name another file")]
    Itself(PathBuf),
    /// There is nothing to copy.
    #[error("database_url: there is no file {0}")]
    NoDatabase(PathBuf),
    /// There is no backup.
    #[error("--from: there is no file {0}")]
    NoBackup(PathBuf),
    /// There is something already where a backup is to go.
    #[error("{0} is not empty; --replace puts the backup in place of what is there")]
    Occupied(String),
    /// A new history cannot begin.
    #[error(transparent)]
    NotBegun(#[from] NotBegun),
    /// The data is there; no server starts on it yet.
    #[error(
        "the backup has been put back, but a new history has not begun: {0}; then run `oversync restore --in-place`"
    )]
    HalfDone(NotBegun),
    /// A move came to nothing.
    #[error("{0}")]
    NotMoved(String),
    /// What was moved cannot be filled in or looked at.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Somebody wanted it to end.
    #[error("stopped by a signal: nothing was made, and nothing was changed")]
    Stopped,
    /// Somebody wanted it to end, and what was done last may have been done.
    #[error(
        "stopped by a signal at the very end: if a server refuses to start on the database, the backup is in it; \
         then run `oversync restore --in-place`"
    )]
    StoppedLate,
    /// A dump has not come in.
    #[error("{0}; nothing was changed: once that is mended, run the restore again")]
    NotReplayed(Box<RecoveryError>),
    /// What ended a dump's transaction has failed, after the database may have heard it.
    #[error(
        "{0}; it was at the very end: if a server refuses to start on the database, the backup is in it; \
         then run `oversync restore --in-place`, otherwise the restore again"
    )]
    CutLate(Box<RecoveryError>),
    /// A dump that holds large objects cannot be played in one transaction.
    #[error(
        "{0} holds large objects: PostgreSQL restores those in transactions of their own, so that the whole \
         cannot come in at once; move them out of the database (SELECT lo_unlink(oid) FROM pg_largeobject_metadata \
         removes them), or use a base backup of the whole cluster (pg_basebackup) and `oversync restore --in-place`"
    )]
    LargeObjects(String),
    /// One of PostgreSQL's programs is not here.
    #[error(
        "{0} was not found on PATH: install PostgreSQL's client programs (apt-get install postgresql-client)"
    )]
    NoProgram(&'static str),
    /// One of PostgreSQL's programs is too old.
    #[error(
        "{program} is of version {found}, the database server of {server}: install the client programs of {server} or later"
    )]
    OldProgram {
        /// Which.
        program: &'static str,
        /// Its major version.
        found: u32,
        /// The server's.
        server: u32,
    },
    /// One of PostgreSQL's programs did not succeed.
    #[error("{program} failed: {said}")]
    Program {
        /// Which.
        program: &'static str,
        /// Its last words.
        said: String,
    },
    /// The database URL.
    #[error("database_url: {0}")]
    Url(String),
}

impl From<StoreError> for RecoveryError {
    fn from(error: StoreError) -> Self {
        Self::Open(error.into())
    }
}

impl RecoveryError {
    fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::File { path, error }
    }
}

/// Is told how far something is.
pub(crate) type Progress<'a> = &'a mut (dyn FnMut(Far) + Send);
