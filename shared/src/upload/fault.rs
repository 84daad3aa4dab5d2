//! Why a change is invalid: one variant per rule, one place for its text.
//!
//! Codes, texts and details are those of PROTOCOL.md section 3.

use super::room::{Exceeded, Quota};
use crate::ids::ChangeId;
use crate::json::JsonFault;
use crate::key::RowKey;
use crate::names::{TableName, TableNameError};
use crate::wire::{InvalidDetail, Op, reason};
use serde_json::json;

/// Why one change of an upload is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The schema or table name is malformed.
    Name(TableNameError),
    /// The table is not registered; also makes the reply's `accepted` false.
    Unregistered(TableName),
    /// Not INSERT, UPDATE or DELETE; the text is trimmed and upper-cased.
    Operation(String),
    /// The key is no UUID; the text is as sent.
    Key(String),
    /// An INSERT or UPDATE without a payload.
    PayloadMissing(Op),
    /// The payload has more bytes than the limit.
    PayloadTooLarge {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The payload is not a JSON object.
    PayloadNotObject,
    /// The payload is too deep, has a duplicate key or a lone surrogate.
    PayloadMalformed(JsonFault),
    /// A DELETE with a payload.
    DeleteWithPayload,
    /// The change id was used before for other content, and there is no row to
    /// show.
    ReusedId(ChangeId),
    /// Referenced rows do not exist; each `schema.table:value`.
    ForeignKeyMissing(Vec<String>),
    /// A reference to a registered table that is no UUID in any spelling.
    ReferenceNotKey {
        /// The referring row's table.
        table: TableName,
        /// The referring row.
        key: RowKey,
    },
    /// The change names a version of a row that the server has never seen.
    NoServerRow {
        /// The row's table.
        table: TableName,
        /// The row.
        key: RowKey,
    },
    /// The user has as much as it may have.
    QuotaExceeded(Exceeded),
    /// The whole batch has more changes than the limit.
    BatchTooLarge {
        /// Changes sent.
        changes: usize,
        /// The limit.
        limit: usize,
    },
}

impl Fault {
    /// The code for `invalid.reason`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Name(_)
            | Self::Operation(_)
            | Self::Key(_)
            | Self::PayloadMissing(_)
            | Self::PayloadTooLarge { .. }
            | Self::PayloadNotObject
            | Self::PayloadMalformed(_)
            | Self::DeleteWithPayload
            | Self::ReusedId(_)
            | Self::ReferenceNotKey { .. } => reason::BAD_PAYLOAD,
            Self::Unregistered(_) => reason::UNREGISTERED_TABLE,
            Self::ForeignKeyMissing(_) => reason::FK_MISSING,
            Self::NoServerRow { .. } => reason::INTERNAL_ERROR,
            Self::QuotaExceeded(_) => reason::PRECHECK_ERROR,
            Self::BatchTooLarge { .. } => reason::BATCH_TOO_LARGE,
        }
    }

    /// The text for `message`; a missing parent has none.
    pub fn message(&self) -> Option<String> {
        Some(match self {
            Self::Name(error) => format!("bad_payload: {error}"),
            Self::Unregistered(table) => format!("table not registered {table}"),
            Self::Operation(op) => format!("invalid operation: {op}"),
            Self::Key(text) => format!("bad_payload: invalid UUID format: {text}"),
            Self::PayloadMissing(op) => format!("payload required for {} operation", op.as_str()),
            Self::PayloadTooLarge { bytes, limit } => {
                format!("bad_payload: payload too large: {bytes} > {limit}")
            }
            Self::PayloadNotObject => "invalid JSON payload".to_owned(),
            Self::PayloadMalformed(fault) => format!("bad_payload: {fault}"),
            Self::DeleteWithPayload => "DELETE must not include payload".to_owned(),
            Self::ReusedId(id) => format!("source_change_id {id} was used for another change"),
            Self::ForeignKeyMissing(_) => return None,
            Self::ReferenceNotKey { table, key } => format!("bad payload for {table} pk={key}"),
            Self::NoServerRow { table, key } => {
                format!("conflict without server_row for {table} pk={key}")
            }
            Self::QuotaExceeded(exceeded) => {
                let Exceeded {
                    quota,
                    limit,
                    used,
                    adds,
                } = exceeded;
                let name = quota.as_str();
                match quota {
                    Quota::Rows | Quota::Bytes => {
                        format!("quota exceeded: {name} {limit}, in use {used}, this change {adds}")
                    }
                    Quota::Devices => {
                        format!("quota exceeded: {name} {limit}, in use {used}, this one is new")
                    }
                }
            }
            Self::BatchTooLarge { changes, limit } => {
                format!("batch too large: changes={changes} limit={limit}")
            }
        })
    }

    /// Code and details as the reply carries them.
    pub fn detail(&self) -> InvalidDetail {
        let details = match self {
            Self::ForeignKeyMissing(missing) => json!({ "missing": missing }),
            Self::Unregistered(table) => json!({ "schema": table.schema, "table": table.table }),
            _ => json!({ "error": self.message() }),
        };
        InvalidDetail {
            reason: self.reason().to_owned(),
            details,
        }
    }
}
