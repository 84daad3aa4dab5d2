//! Errors, in three families: what the caller can mend ([`SetupError`]), what
//! the file did ([`StorageError`]), what the network or the server did
//! ([`NetworkError`]). The engine retries the last two; nobody retries the
//! first.

use oversync_shared::ServerId;
use rusqlite::ErrorCode;
use std::path::PathBuf;
use std::time::Duration;

/// Anything that can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's: configuration or schema; the message says what to do.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The file's.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The network's or the server's.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The client has been stopped.
    #[error("the client has been stopped")]
    Stopped,
}

impl Error {
    /// Whether one row of several has made their transaction fail, and nobody can
    /// tell from the error which.
    pub(crate) fn is_of_one_row(&self) -> bool {
        self.is_foreign_key() || matches!(self, Self::Storage(StorageError::RolledBack(_)))
    }

    /// Whether a commit was refused because of foreign keys.
    pub(crate) fn is_foreign_key(&self) -> bool {
        let Self::Storage(StorageError::Sqlite(error)) = self else {
            return false;
        };
        error
            .sqlite_error()
            .is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY)
    }

    /// Whether the server has answered and does not take this request as it is:
    /// what goes the other way may well succeed.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Network(
                NetworkError::Refused { .. }
                    | NetworkError::SchemaVersion { .. }
                    | NetworkError::Protocol(_)
            )
        )
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy) => StorageError::Busy.into(),
            _ => StorageError::Sqlite(error).into(),
        }
    }
}

/// What the caller can mend.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A certificate that is to be believed cannot be read.
    #[error("certificates: {why}; they are given in PEM, as in `-----BEGIN CERTIFICATE-----`")]
    Certificate {
        /// What is wrong.
        why: String,
    },
    /// A listed table does not exist.
    #[error(
        "table \"{table}\" does not exist in this file: create it before opening the client, or leave it out of the list"
    )]
    MissingTable {
        /// As listed.
        table: String,
    },
    /// A listed name is not a table that can have triggers.
    #[error("\"{table}\" is a {kind}: list the ordinary tables behind it instead")]
    NotATable {
        /// As listed.
        table: String,
        /// `view`, `virtual table`, …
        kind: String,
    },
    /// The table has no declared key.
    #[error(
        "table \"{table}\" has no primary key: declare one, for example `id TEXT PRIMARY KEY NOT NULL` with a UUID"
    )]
    NoKey {
        /// As listed.
        table: String,
    },
    /// The key has more than one column.
    #[error(
        "table \"{table}\" has a composite key ({columns}): add a column with a UUID, UNIQUE, and name it as key column"
    )]
    CompositeKey {
        /// As listed.
        table: String,
        /// Its columns.
        columns: String,
    },
    /// The key is an integer.
    #[error(
        "table \"{table}\" has the INTEGER key \"{column}\": every device would hand out the same numbers; declare it `TEXT PRIMARY KEY NOT NULL` with a UUID, or `BLOB` of 16 bytes"
    )]
    IntegerKey {
        /// As listed.
        table: String,
        /// The key column.
        column: String,
    },
    /// The key is neither TEXT nor BLOB.
    #[error(
        "key column \"{column}\" of table \"{table}\" is declared \"{declared}\": declare it TEXT (a UUID in any spelling) or BLOB (its 16 bytes)"
    )]
    KeyType {
        /// As listed.
        table: String,
        /// The key column.
        column: String,
        /// Its declared type.
        declared: String,
    },
    /// The named key column is not there, or not unique.
    #[error(
        "table \"{table}\" has no column \"{column}\" that is its primary key or UNIQUE by itself: name another key column, or make it unique"
    )]
    KeyColumn {
        /// As listed.
        table: String,
        /// The column.
        column: String,
    },
    /// Two tables have one name on the wire.
    #[error(
        "tables \"{first}\" and \"{second}\" would have the same name on the server: rename one of them"
    )]
    TableClash {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// Two columns of a table have one name on the wire.
    #[error(
        "columns \"{first}\" and \"{second}\" of table \"{table}\" would have the same name on the server: rename one of them"
    )]
    ColumnClash {
        /// The table.
        table: String,
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// The name cannot be used on the wire, or is ours.
    #[error("table name \"{table}\" cannot be synchronised: {why}")]
    TableName {
        /// As listed.
        table: String,
        /// Why, and what to do.
        why: String,
    },
    /// No table is listed.
    #[error("no table is listed: name at least one with Config::table")]
    NoTables,
    /// The file belongs to somebody else.
    #[error(
        "this file belongs to {what} \"{stored}\", not \"{given}\": {}",
        foreign_hint(what)
    )]
    Foreign {
        /// `user`, `device` or `schema`.
        what: &'static str,
        /// What the file says.
        stored: String,
        /// What the caller says.
        given: String,
    },
    /// Another process synchronises this file; edits are captured all the same.
    #[error(
        "{} is being synchronised by another client, which sends what is written here, too; an engine (Client::start, `oversqlite watch`) waits for its end and takes over",
        path.display()
    )]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The address of the server cannot be used.
    #[error("\"{url}\" is no address of a server: {why}")]
    Url {
        /// As given.
        url: String,
        /// Why.
        why: String,
    },
    /// A merge policy names a table or a column that is not synchronised.
    #[error("a merge policy names {what}, which is not there: is it spelt as in the schema?")]
    MergePolicy {
        /// The table, or the table and the column.
        what: String,
    },
    /// A list has no entry of this number.
    #[error("there is no {list} {id}: it may have been settled since it was listed")]
    NoSuchEntry {
        /// `conflict` or `rejected edit`.
        list: &'static str,
        /// The number.
        id: i64,
    },
    /// What lost in a conflict cannot be written back.
    #[error("conflict {id} cannot be restored: {why}")]
    CannotRestore {
        /// Its number.
        id: i64,
        /// Which constraint of the file is in the way.
        why: String,
    },
    /// A rejected edit cannot be taken back.
    #[error("rejected edit {id} cannot be dropped: {why}")]
    CannotDrop {
        /// Its number.
        id: i64,
        /// What is in the way.
        why: String,
    },
    /// Signing out would lose what only this device has.
    #[error(
        "{unsent} edits are unsent and {rejected} rejected: send them first, or give them up explicitly"
    )]
    Unsent {
        /// Rows with an edit that the server has not acknowledged.
        unsent: i64,
        /// Edits in the rejected list.
        rejected: i64,
    },
    /// Rows of a table that is not synchronised refer to the user's.
    #[error("signing out cannot empty the synchronised tables: {why}")]
    CannotSignOut {
        /// What SQLite says.
        why: String,
    },
    /// A blocking call on a thread of an async runtime.
    #[error("a blocking call inside an async program: use oversqlite::Client there")]
    InsideRuntime,
    /// The engine runs already.
    #[error("the engine has been started already")]
    AlreadyStarted,
    /// Not allowed in this state.
    #[error("{0}")]
    Other(String),
}

fn foreign_hint(what: &str) -> &'static str {
    match what {
        "user" => "sign that user out first, or use another file",
        _ => "use another file",
    }
}

/// What the file did.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Another connection writes, and has not ended its transaction in time.
    #[error(
        "the file is locked: another connection has held a write transaction for longer than this one waits; commit it before calling the client, or retry"
    )]
    Busy,
    /// SQLite's error.
    #[error("SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A trigger of the application rolled the client's transaction back.
    #[error("a trigger of the application rolled back what was being applied: {0}")]
    RolledBack(#[source] rusqlite::Error),
    /// The operating system's.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

/// What the network or the server did.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NetworkError {
    /// No answer: refused, cut, timed out.
    #[error("server unreachable: {0}")]
    Unreachable(String),
    /// The token provider has no token.
    #[error("no token: {0}")]
    Token(String),
    /// The server refused the token, and a fresh one too.
    #[error("the server refused the token")]
    Unauthorised,
    /// The server asks for patience.
    #[error("server overloaded")]
    Overloaded {
        /// How long to wait, when it says so.
        retry_after: Option<Duration>,
    },
    /// The body was too large.
    #[error("request too large")]
    TooLarge {
        /// The server's limit, when it says so.
        limit_bytes: Option<u64>,
    },
    /// The server's database has another history than this file.
    #[error("the server's history has changed")]
    EpochMismatch {
        /// The server's.
        epoch: Option<String>,
    },
    /// The cursor lies below what the server keeps.
    #[error("the server has pruned its history up to {floor:?}")]
    HistoryPruned {
        /// The retention floor.
        floor: Option<ServerId>,
    },
    /// The application's schema is too old or too new for this server.
    #[error("the server takes schema versions {min:?} to {max:?}")]
    SchemaVersion {
        /// Oldest accepted.
        min: Option<i64>,
        /// Newest accepted.
        max: Option<i64>,
    },
    /// Another refusal.
    #[error("server answered {status} {code}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// `error` of the body.
        code: String,
        /// `message` of the body.
        message: String,
    },
    /// An answer that breaks the protocol.
    #[error("answer against the protocol: {0}")]
    Protocol(String),
}

impl NetworkError {
    /// How long the server asked to stay away.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after } => *retry_after,
            _ => None,
        }
    }
}
