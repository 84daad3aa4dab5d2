//! The messages of the protocol, as both sides write them.
//!
//! Shapes, field names and codes are fixed by PROTOCOL.md. Payloads are raw
//! JSON text: they are carried digit for digit and never pass through floating
//! point. The server reads uploads with its own scanner ([`crate::json`]); these
//! types are what it writes, and what a device writes and reads. Uploads, downloads
//! and errors stand here; `capabilities`, `hints` and `sign_in` beside them.

mod capabilities;
mod hints;
mod sign_in;

pub use capabilities::{
    Capabilities, Limits, SCHEMA_VERSION_HEADER, SchemaVersion, UserQuotas, feature,
};
pub use hints::{
    ByeReason, ClientMessage, ServerMessage, WS_BEARER_PREFIX, WS_MAX_CLIENT_FRAME, WS_SUBPROTOCOL,
};
pub use sign_in::{SignInReply, SignInRequest};

use crate::ids::{ChangeId, RowVersion, ServerId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What happens to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum Op {
    /// A new row, as the sender sees it; to the version gate the same as an update.
    Insert,
    /// A changed row.
    Update,
    /// A removed row.
    Delete,
}

impl Op {
    /// `INSERT`, `UPDATE` or `DELETE`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }

    /// Reads the operation, trimmed and in any case.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        [Self::Insert, Self::Update, Self::Delete]
            .into_iter()
            .find(|op| text.eq_ignore_ascii_case(op.as_str()))
    }

    /// Whether the row is there afterwards.
    pub const fn is_upsert(self) -> bool {
        !matches!(self, Self::Delete)
    }
}

/// One change of an upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UploadChange {
    /// The device's number for this change.
    pub source_change_id: ChangeId,
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// What happens to the row.
    pub op: Op,
    /// The row's key, dashed lower case.
    pub pk: String,
    /// The version the device believes the row has on the server.
    pub server_version: RowVersion,
    /// The whole row; absent for a delete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
}

/// The body of `POST /sync/upload`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct UploadRequest {
    /// Informative; the server ignores it.
    #[serde(default)]
    pub last_server_seq_seen: ServerId,
    /// At most the server's `max_changes`.
    #[serde(default)]
    pub changes: Vec<UploadChange>,
    /// When given, the server refuses the upload unless its epoch is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// The device will never again send a change id below this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_below: Option<ChangeId>,
}

/// The answer to an upload: one status per change, matched by position.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UploadReply {
    /// False when the batch was too large or named an unregistered table.
    pub accepted: bool,
    /// The user's head after this upload.
    pub highest_server_seq: ServerId,
    /// In request order.
    pub statuses: Vec<ChangeStatus>,
    /// The database's history (absent from a plain v1 server).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub epoch: Option<String>,
    /// The user's head (absent from a plain v1 server).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub head: Option<ServerId>,
    /// The calling device's highest change id on record (absent from a plain
    /// v1 server, and while there is none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub highest_source_change_id: Option<ChangeId>,
}

/// What became of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum StatusKind {
    /// In the stream, now or already before.
    Applied,
    /// The row has moved on; the current row comes along.
    Conflict,
    /// The change cannot be applied as it is.
    Invalid,
}

impl StatusKind {
    /// `applied`, `conflict` or `invalid`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
        }
    }
}

/// The answer to one change.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChangeStatus {
    /// Of the change, as sent.
    pub source_change_id: ChangeId,
    /// The outcome.
    pub status: StatusKind,
    /// The row's version after this change; only when applied, and absent for
    /// the delete of a row never seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub new_server_version: Option<RowVersion>,
    /// The row as it stands; only with a conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub server_row: Option<ServerRow>,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub message: Option<String>,
    /// Only when invalid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub invalid: Option<InvalidDetail>,
}

/// Why a change is invalid, as a code and its details.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InvalidDetail {
    /// One of the codes of PROTOCOL.md section 3; see [`reason`].
    #[cfg_attr(
        feature = "openapi",
        schema(
            pattern = "^(fk_missing|bad_payload|precheck_error|internal_error|unregistered_table|batch_too_large)$"
        )
    )]
    pub reason: String,
    /// Depends on the reason.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Object, required = true))]
    pub details: serde_json::Value,
}

/// The codes of [`InvalidDetail::reason`].
pub mod reason {
    /// A referenced row does not exist; details name it.
    pub const FK_MISSING: &str = "fk_missing";
    /// The change itself is malformed.
    pub const BAD_PAYLOAD: &str = "bad_payload";
    /// A check before the write failed.
    pub const PRECHECK_ERROR: &str = "precheck_error";
    /// Nothing the sender can mend.
    pub const INTERNAL_ERROR: &str = "internal_error";
    /// The table is not registered for synchronisation.
    pub const UNREGISTERED_TABLE: &str = "unregistered_table";
    /// More changes than one upload may carry.
    pub const BATCH_TOO_LARGE: &str = "batch_too_large";
}

/// A row as the server has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerRow {
    /// The schema.
    pub schema_name: String,
    /// The table.
    pub table_name: String,
    /// The key, dashed lower case.
    pub id: String,
    /// The current version.
    pub server_version: RowVersion,
    /// Whether the row is a tombstone.
    pub deleted: bool,
    /// The row; null for a tombstone.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, serde_json::Value>>, required = true))]
    pub payload: Option<Box<RawValue>>,
}

/// One entry of the change stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DownloadChange {
    /// Its position.
    pub server_id: ServerId,
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// What happened to the row.
    pub op: Op,
    /// The row's key, dashed lower case.
    pub pk: String,
    /// The whole row; absent for a delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, serde_json::Value>, required = false))]
    pub payload: Option<Box<RawValue>>,
    /// The row's version at this change.
    pub server_version: RowVersion,
    /// Whether the row was a tombstone after this change.
    pub deleted: bool,
    /// The device that sent it.
    pub source_id: String,
    /// That device's number for it.
    pub source_change_id: ChangeId,
    /// When the server took it, RFC 3339 UTC; informative.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = true))]
    pub ts: String,
}

/// A page of the change stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DownloadReply {
    /// Ascending by server id.
    pub changes: Vec<DownloadChange>,
    /// Whether the window holds more visible changes than this page.
    pub has_more: bool,
    /// Where the next page starts.
    pub next_after: ServerId,
    /// The upper bound of the paged download; send it back as `until`.
    pub window_until: ServerId,
    /// The database's history (absent from a plain v1 server).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub epoch: Option<String>,
    /// The user's head (absent from a plain v1 server).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub head: Option<ServerId>,
    /// The calling device's highest change id on record (absent from a plain
    /// v1 server, and while there is none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub highest_source_change_id: Option<ChangeId>,
}

/// The body of every error.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// A code of PROTOCOL.md section 1.
    pub error: String,
    /// In words.
    pub message: String,
    /// With `request_too_large`: the limit in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub limit_bytes: Option<u64>,
    /// With `history_pruned`: the retention floor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub floor: Option<ServerId>,
    /// With `epoch_mismatch`: the server's epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub epoch: Option<String>,
    /// With `schema_version_unsupported`: the newest version the server knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub schema_version: Option<i64>,
    /// With `schema_version_unsupported`: the oldest version it still takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub min_schema_version: Option<i64>,
}

/// The codes of [`ErrorBody::error`].
pub mod error_code {
    /// 401, one identical body for every token fault.
    pub const AUTHENTICATION_FAILED: &str = "authentication_failed";
    /// 404.
    pub const NOT_FOUND: &str = "not_found";
    /// 405.
    pub const METHOD_NOT_ALLOWED: &str = "method_not_allowed";
    /// 400.
    pub const INVALID_REQUEST: &str = "invalid_request";
    /// 403, WebSocket upgrade from a foreign page.
    pub const ORIGIN_NOT_ALLOWED: &str = "origin_not_allowed";
    /// 409, the database has another history than the device believes.
    pub const EPOCH_MISMATCH: &str = "epoch_mismatch";
    /// 409, the application is too old or too new for this server.
    pub const SCHEMA_VERSION_UNSUPPORTED: &str = "schema_version_unsupported";
    /// 410, the cursor lies below the retention floor.
    pub const HISTORY_PRUNED: &str = "history_pruned";
    /// 413, with `limit_bytes`.
    pub const REQUEST_TOO_LARGE: &str = "request_too_large";
    /// 415, a Content-Encoding other than identity.
    pub const UNSUPPORTED_ENCODING: &str = "unsupported_encoding";
    /// 429 or 503, with Retry-After.
    pub const OVERLOADED: &str = "overloaded";
    /// 500 on the way to an upload's answer.
    pub const UPLOAD_FAILED: &str = "upload_failed";
    /// 500 on the way to a download's answer.
    pub const DOWNLOAD_FAILED: &str = "download_failed";
}

/// The header with which a device says up to which place it has applied changes, and
/// how many milliseconds ago: `17; age=250`. For the server's metrics; ignorable.
pub const APPLIED_HEADER: &str = "Oversync-Applied";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_has_a_null_payload_and_a_delete_none() {
        let row = ServerRow {
            schema_name: "public".into(),
            table_name: "t".into(),
            id: "x".into(),
            server_version: RowVersion::new(2),
            deleted: true,
            payload: None,
        };
        assert_eq!(
            serde_json::to_string(&row).expect("serialises"),
            r#"{"schema_name":"public","table_name":"t","id":"x","server_version":2,"deleted":true,"payload":null}"#
        );
    }
}
