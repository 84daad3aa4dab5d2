//! Everything that was ever written to a user's rows, as far as it is kept: the log,
//! and what folding has moved to the history (`retention.keep_history`).
//!
//! Entries never change, and one that folding moves is in one of the two at any moment:
//! step by step in the order of the stream, none is missed and none comes twice, also
//! while servers write and fold.

use super::moment;
use oversync_shared::wire::Op;
use oversync_shared::{ChangeId, DeviceId, RowKey, RowVersion, ServerId, TableName};
use time::OffsetDateTime;

/// Entries read at a time.
pub(super) const STEP: i64 = 200;

/// Bytes of payload read at a time, about.
pub(super) const STEP_BYTES: usize = 4 * 1024 * 1024;

/// Which entries are wanted; all, where nothing is named.
#[derive(Debug, Clone, Default)]
pub struct Only {
    /// Of this table.
    pub table: Option<TableName>,
    /// Of rows with this key.
    pub key: Option<RowKey>,
    /// Taken at this time or later.
    pub since: Option<OffsetDateTime>,
}

impl Only {
    /// Microseconds since 1970, as times are stored.
    pub(super) fn since_micros(&self) -> Option<i64> {
        let nanos = self.since?.unix_timestamp_nanos();
        Some((nanos / 1_000) as i64)
    }
}

/// An entry as it was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// Its place in the stream.
    pub server_id: ServerId,
    /// Its table.
    pub table: TableName,
    /// What happened.
    pub op: Op,
    /// The row.
    pub key: RowKey,
    /// The row's version afterwards.
    pub version: RowVersion,
    /// The device that sent it; `server` for the server itself.
    pub device: String,
    /// The device's number for it.
    pub change_id: ChangeId,
    /// When it was taken; `None` for no time at all.
    pub ts: Option<OffsetDateTime>,
    /// The row as JSON text, as it came; none for a delete.
    pub payload: Option<String>,
    /// Whether folding has removed it from the log.
    pub is_folded: bool,
}

/// The name of a device as it is stored; that of the server has no row of its own
/// everywhere.
pub(super) fn device_name(key: i64, name: Option<String>) -> String {
    match (key, name) {
        (_, Some(name)) => name,
        (0, None) => DeviceId::server().as_str().to_owned(),
        (key, None) => format!("device {key}, which is not known any more"),
    }
}

pub(super) fn time_from(micros: Option<i64>) -> Option<OffsetDateTime> {
    moment(micros?).ok()
}
