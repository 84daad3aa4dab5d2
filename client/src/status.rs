//! A truthful answer to "is my data safe, and is this screen current?".

use crate::clock::unix_now;
use crate::error::{Error, NetworkError};
use crate::pause::{self, Paused};
use crate::progress::{Pass, Progress};
use crate::state::State;
use oversync_shared::ServerId;
use rusqlite::Connection;
use serde::Serialize;

/// Whether and how this process hears of other devices' changes. The states that
/// mean "connected" are only shown while things move: see
/// [`ConnectionState::Stalled`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// The engine does not run.
    #[default]
    Stopped,
    /// Another process synchronises the file; this one captures edits, and takes
    /// over when that one ends.
    Standby,
    /// No connection; it is being sought.
    Offline,
    /// Connected: hints arrive over a WebSocket.
    Online,
    /// No WebSocket gets through: one request waits at the server for news.
    LongPoll,
    /// Neither gets through, or polling was asked for: the server is asked every
    /// [`Config::poll_interval`](crate::Config::poll_interval).
    Polling,
    /// The server can be reached, and yet nothing moves, neither up nor down:
    /// [`Status::stalled_reason`] says why.
    Stalled,
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
    /// How many places of the user's stream lie between the cursor and the newest head
    /// that is known; none before a pass over everything has been completed, also of the
    /// history that a restored server has begun: it leaves out places without number.
    pub behind_by: Option<i64>,
    /// How far a download of many pages has got; none outside of one.
    pub progress: Option<Progress>,
    /// Rows with an edit that the server has not acknowledged.
    pub unsent: i64,
    /// For how many seconds the oldest of them has been waiting; none when there
    /// is none. Counted by the wall clock, from when the client first saw it.
    pub oldest_unsent_age: Option<i64>,
    /// What the application holds back.
    pub paused: Paused,
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
    /// Why nothing moves, or not all that could: the last error, uploads that the
    /// server refuses as a whole, a pause that holds something back, edits that all
    /// wait for a rejected one, or for their table to be listed again.
    pub stalled_reason: Option<String>,
    /// The history that the cursor is a place of.
    #[serde(skip)]
    pub(crate) epoch: Option<String>,
}

impl Status {
    /// For how many seconds that has been, by the device's clock now; 0 when the
    /// clock was set back since.
    pub fn last_confirmed_age(&self) -> Option<i64> {
        let age = unix_now().saturating_sub(self.last_confirmed_at?);
        Some(age.max(0))
    }
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
        epoch: state.epoch.clone(),
        progress: Progress::of(&state),
        last_confirmed_at: state.last_confirmed_at,
        paused: pause::read(conn)?,
        ..Status::default()
    };
    let (mut waiting, mut oldest, mut unlisted) = (0, None::<i64>, false);
    conn.prepare_cached(COUNTS)?.query_row([], |row| {
        status.unsent = row.get(0)?;
        status.rejected = row.get(1)?;
        status.conflicts = row.get(2)?;
        status.parked = row.get(3)?;
        waiting = row.get(4)?;
        oldest = row.get(5)?;
        unlisted = row.get(6)?;
        Ok(())
    })?;
    if status.unsent > 0 {
        // A clock that was set back makes nothing younger than new.
        let age = oldest.map_or(0, |oldest| unix_now().saturating_sub(oldest).max(0));
        status.oldest_unsent_age = Some(age);
    }
    status.stalled_reason = held_up(&status, waiting, unlisted).map(str::to_owned);
    Ok(status)
}

/// What the file says about why something waits.
fn held_up(status: &Status, waiting: i64, unlisted: bool) -> Option<&'static str> {
    match (status.paused.uploads, status.paused.downloads) {
        (true, true) => Some("uploads and downloads are paused"),
        (true, false) if status.unsent > 0 => Some("uploads are paused"),
        (false, true) => Some("downloads are paused"),
        _ if status.unsent > 0 && waiting == status.unsent => {
            Some("every unsent edit waits for a row that is in the rejected list")
        }
        _ if unlisted => Some("edits of a table that is no longer listed wait until it is again"),
        _ => None,
    }
}

/// What the engine adds to the file's part.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live {
    pub(crate) head: ServerId,
    /// The history that the head is a place of, where the server says.
    pub(crate) epoch: Option<String>,
    pub(crate) connection: ConnectionState,
    pub(crate) stalled: Option<Stalled>,
    /// The pages being downloaded, and how far they have got.
    pub(crate) pass: Option<(Pass, Progress)>,
}

/// Why the engine has stopped in the middle.
#[derive(Debug, Clone)]
pub(crate) struct Stalled {
    pub(crate) reason: String,
    extent: Extent,
}

/// What does not move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// No request gets through, whatever the way to hear news looks like.
    Unreachable,
    /// The server answers, and nothing moves.
    Everything,
    /// Downloads go on.
    Uploads,
}

impl Stalled {
    pub(crate) fn by(error: &Error) -> Self {
        Self {
            reason: error.to_string(),
            extent: match error {
                Error::Network(NetworkError::Unreachable(_)) => Extent::Unreachable,
                _ => Extent::Everything,
            },
        }
    }

    /// The server does not take what is uploaded; the rest goes on.
    pub(crate) fn uploads_by(error: &Error) -> Self {
        Self {
            reason: format!("uploads are refused: {error}"),
            extent: Extent::Uploads,
        }
    }
}

impl Live {
    /// A head that a reply or a hint told. A message without an epoch is of the same
    /// history as the one before.
    pub(crate) fn saw_head(&mut self, head: ServerId, epoch: Option<&str>) {
        if epoch.is_some() && epoch != self.epoch.as_deref() {
            self.head = head;
            self.epoch = epoch.map(str::to_owned);
        } else {
            self.head = self.head.max(head);
        }
    }

    /// Places from the file's cursor to the head, where both are of one history.
    fn behind(&self, status: &Status) -> Option<i64> {
        let is_another = match (&self.epoch, &status.epoch) {
            (Some(told), Some(known)) => told != known,
            _ => false,
        };
        let is_known = status.hydrated && !is_another;
        is_known.then(|| (self.head.get() - status.cursor).max(0))
    }

    pub(crate) fn complete(&self, mut status: Status) -> Status {
        // Newer than what was last read, perhaps.
        if let Some((_, progress)) = &self.pass {
            status.cursor = status.cursor.max(progress.done);
            status.progress = Some(*progress);
        }
        status.behind_by = self.behind(&status);
        let both_paused = status.paused.uploads && status.paused.downloads;
        let extent = self.stalled.as_ref().map(|stalled| stalled.extent);
        status.connection = match (self.connection, extent) {
            (
                ConnectionState::Online | ConnectionState::LongPoll | ConnectionState::Polling,
                extent,
            ) => match extent {
                Some(Extent::Unreachable) => ConnectionState::Offline,
                Some(Extent::Everything) => ConnectionState::Stalled,
                // Downloads are all that is left, and they are held back.
                Some(Extent::Uploads) if status.paused.downloads => ConnectionState::Stalled,
                _ if both_paused => ConnectionState::Stalled,
                _ => self.connection,
            },
            (other, _) => other,
        };
        if let Some(stalled) = &self.stalled {
            status.stalled_reason = Some(stalled.reason.clone());
        }
        status
    }
}
