//! What a decision says: a verdict for every change, and what is to be written.

use super::change::Fingerprint;
use super::fault::Fault;
use super::view::{RowAt, RowState};
use crate::ids::{ChangeId, RowVersion, ServerId};
use crate::wire::Op;

/// What becomes of one change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// In the stream, by this upload or by an earlier one. No version for the
    /// delete of a row never seen.
    Applied(Option<RowVersion>),
    /// The row has moved on.
    Conflict(CurrentRow),
    /// Cannot be applied as it is.
    Invalid(Fault),
}

/// The row that a conflict shows. Its payload is that of the entry `state.at`:
/// in the log, or in this upload's own plan when above the view's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentRow {
    /// Which row.
    pub row: RowAt,
    /// Its state.
    pub state: RowState,
}

/// A new entry of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the stream.
    pub server_id: ServerId,
    /// The change's position in the request, where its payload is.
    pub position: usize,
    /// The row.
    pub row: RowAt,
    /// What happens to it.
    pub op: Op,
    /// The row's version afterwards.
    pub version: RowVersion,
    /// The device's number for it.
    pub change_id: ChangeId,
    /// Of its content.
    pub fingerprint: Fingerprint,
}

/// A row's state after the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowWrite {
    /// The row.
    pub row: RowAt,
    /// Its version in the view; [`RowVersion::NEVER_SEEN`] for a new row.
    pub base: RowVersion,
    /// Afterwards.
    pub state: RowState,
}

/// What an upload writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Dense and ascending, from the view's head on.
    pub log: Vec<LogEntry>,
    /// One entry per row that changes.
    pub rows: Vec<RowWrite>,
    /// The user's head afterwards.
    pub head: ServerId,
}

/// A verdict per change, in request order, and what to write.
#[derive(Debug, Clone)]
pub struct Decision {
    /// In request order.
    pub verdicts: Vec<Verdict>,
    /// Empty log when nothing is to be written.
    pub plan: Plan,
}
