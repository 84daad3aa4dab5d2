//! What a server says of itself: its limits, the application's schema versions it
//! takes, and which optional parts it has.

use serde::{Deserialize, Serialize};

/// The body of `GET /sync/schema-version`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SchemaVersion {
    /// The application's schema version this server runs.
    pub schema_version: i64,
}

/// The request header in which a device names its application's schema version.
pub const SCHEMA_VERSION_HEADER: &str = "Oversync-Schema-Version";

/// The body of `GET /sync/capabilities`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Capabilities {
    /// Always `v1`.
    pub protocol: String,
    /// The application this server is configured for.
    pub app_name: String,
    /// The database's history.
    pub epoch: String,
    /// The newest application schema version it takes.
    pub schema_version: i64,
    /// The oldest application schema version it takes.
    pub min_schema_version: i64,
    /// What one request may carry.
    pub limits: Limits,
    /// Names of the optional parts this server has; see [`feature`].
    pub features: Vec<String>,
    /// What one user may have; left out where nothing is limited. Not part of version 1:
    /// clients may ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<UserQuotas>,
}

/// What one user may have, each left out where it is not limited. A change that would
/// pass a limit is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserQuotas {
    /// Live rows, of all tables together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_rows: Option<u64>,
    /// Bytes of the payloads of live rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_bytes: Option<u64>,
    /// Devices that have uploaded and are not revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_devices: Option<u32>,
}

/// What one request may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Limits {
    /// Changes per upload.
    pub max_changes: usize,
    /// Bytes of one payload.
    pub max_payload_bytes: usize,
    /// Bytes of an upload's body.
    pub max_body_bytes: usize,
    /// Changes per download page.
    pub max_page: usize,
}

/// The names in [`Capabilities::features`].
pub mod feature {
    /// Hints over WebSocket.
    pub const WS: &str = "ws";
    /// Long poll.
    pub const WAIT: &str = "wait";
    /// Epochs in replies.
    pub const EPOCH: &str = "epoch";
    /// No gaps: a client may move its cursor to min(`window_until`, `head`)
    /// once `has_more` is false.
    pub const ORDERED_FEED: &str = "ordered_feed";
}
