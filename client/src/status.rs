//! A truthful answer to "is my data safe, and is this screen current?".

use crate::error::Error;
use crate::state::State;
use oversync_shared::ServerId;
use rusqlite::Connection;
use serde::Serialize;

/// Where the connection for hints stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// The engine does not run.
    #[default]
    Stopped,
    /// No connection; it is being sought.
    Offline,
    /// Connected: hints arrive.
    Online,
    /// Asked to poll only.
    Polling,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Status {
    /// The user whose data this file holds.
    pub user: String,
    /// This installation.
    pub device: String,
    /// Whether the first pass over the server's data has been completed.
    pub hydrated: bool,
    /// The last server id applied.
    pub cursor: i64,
    /// How many server ids lie between the cursor and the newest head that is
    /// known.
    pub behind_by: i64,
    /// Rows with an edit that the server has not acknowledged.
    pub unsent: i64,
    /// Edits that can never succeed as they are.
    pub rejected: i64,
    /// Conflicts decided, and kept.
    pub conflicts: i64,
    /// Entries of other devices that cannot be written here now.
    pub parked: i64,
    /// When the server last confirmed that there was nothing more to download,
    /// in seconds since 1970.
    pub last_confirmed_at: Option<i64>,
    /// The connection for hints.
    pub connection: ConnectionState,
    /// Why nothing moves, while nothing moves.
    pub stalled_reason: Option<String>,
}

const COUNTS: &str = include_str!("../../migrations/device/counts.sql");

/// Reads the part that stands in the file.
pub(crate) fn read(conn: &Connection) -> Result<Status, Error> {
    let state = State::load(conn)?;
    let mut status = Status {
        user: state.user.to_string(),
        device: state.device.to_string(),
        hydrated: state.hydrated,
        cursor: state.cursor.get(),
        last_confirmed_at: state.last_confirmed_at,
        ..Status::default()
    };
    conn.prepare_cached(COUNTS)?.query_row([], |row| {
        status.unsent = row.get(0)?;
        status.rejected = row.get(1)?;
        status.conflicts = row.get(2)?;
        status.parked = row.get(3)?;
        Ok(())
    })?;
    Ok(status)
}

/// What the engine adds to the file's part.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live {
    pub(crate) head: ServerId,
    pub(crate) connection: ConnectionState,
    pub(crate) stalled_reason: Option<String>,
}

impl Live {
    pub(crate) fn complete(&self, mut status: Status) -> Status {
        status.behind_by = (self.head.get() - status.cursor).max(0);
        status.connection = self.connection;
        status.stalled_reason.clone_from(&self.stalled_reason);
        status
    }
}
