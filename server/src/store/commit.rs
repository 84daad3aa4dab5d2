//! What one upload writes, with the guard under which it may, and what became of it.

use super::{DeviceKey, Revision, UserKey};
use bytestring::ByteString;
use oversync_shared::upload::{Fingerprint, RowAt, RowWrite};
use oversync_shared::wire::Op;
use oversync_shared::{ChangeId, DeviceId, RowVersion, ServerId, UserId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use time::OffsetDateTime;

/// A new entry of the stream, with its payload.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// Its place.
    pub server_id: ServerId,
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
    /// The row as JSON text, as it came; none for a delete.
    pub payload: Option<ByteString>,
}

/// The writing device of a commit.
#[derive(Debug, Clone)]
pub struct DeviceWrite {
    /// Its number.
    pub key: DeviceKey,
    /// Its name.
    pub id: DeviceId,
    /// Its highest change id afterwards.
    pub highest: ChangeId,
    /// Below which it sends no change id again, where it has said so.
    pub settled_below: Option<ChangeId>,
}

/// One upload's writes, or only its guard when `entries` is empty.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Whose.
    pub user: UserKey,
    /// The user's name, for business rows.
    pub user_id: UserId,
    /// The history the decision was made in.
    pub epoch: Arc<str>,
    /// The revision the decision was made at.
    pub revision: Revision,
    /// The user's head afterwards.
    pub head: ServerId,
    /// The device that writes.
    pub device: DeviceWrite,
    /// New entries, dense and ascending.
    pub entries: Vec<NewEntry>,
    /// Rows afterwards.
    pub rows: Vec<RowWrite>,
    /// Entries whose payload the answer shows.
    pub show: Show,
}

/// Entries whose payload an answer shows, and how much it may be.
#[derive(Debug, Clone, Default)]
pub struct Show {
    /// Each with how often it is shown.
    pub entries: BTreeMap<ServerId, usize>,
    /// Bytes of payload in the answer, at most.
    pub max_bytes: usize,
}

/// What became of one [`Commit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Written and durable; or, without entries, proven still true.
    Done {
        /// The payloads asked for with [`Commit::show`].
        shown: HashMap<ServerId, Option<String>>,
        /// When: what its entries are stamped with.
        at: OffsetDateTime,
    },
    /// Another writer was faster, or holds the user's head row: nothing was
    /// written; load and decide again.
    LeftOut,
    /// The payloads to be shown are more than [`Show::max_bytes`]: nothing was
    /// written.
    TooMuchToShow,
}
