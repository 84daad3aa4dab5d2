//! Settings of what one request may carry, and how much of it is in memory at a time.

use documented::DocumentedFields;
use oversync_shared::wire::Limits;
use serde::{Deserialize, Serialize};

/// Largest page of a download (PROTOCOL.md section 4).
pub const MAX_PAGE: usize = 1_000;

/// What one request may carry.
#[derive(Debug, Clone, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Changes per upload.
    pub max_changes: usize,
    /// Bytes of one payload.
    pub max_payload_bytes: usize,
    /// Bytes of an upload's body.
    pub max_body_bytes: usize,
    /// Changes per download page.
    pub max_page: usize,
    /// Bytes of upload bodies in memory at a time; beyond, 503.
    pub max_in_flight_bytes: usize,
    /// Bytes of large answers in memory at a time, while their clients read
    /// them; beyond, those that stand still are cut off, then 503.
    pub max_answer_bytes: usize,
    /// WebSockets open at a time; beyond, 503. Three quarters of the open files that
    /// the system allows the process, unless set.
    pub max_sockets: Option<usize>,
    /// After how many seconds in which a client takes nothing of what is sent to
    /// it its connection ends (on Linux).
    pub stall_seconds: u64,
    /// How often a WebSocket is pinged, in seconds, 5 to 60; a device that lets two
    /// pings pass without a sign of life is let go. Below what anything in between
    /// takes for silence.
    pub ping_seconds: u64,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            max_changes: 1_000,
            max_payload_bytes: 1024 * 1024,
            max_body_bytes: 8 * 1024 * 1024,
            max_page: 1_000,
            max_in_flight_bytes: 256 * 1024 * 1024,
            max_answer_bytes: 64 * 1024 * 1024,
            max_sockets: None,
            stall_seconds: 60,
            ping_seconds: 25,
        }
    }
}

impl LimitSettings {
    /// As devices are told.
    pub fn for_devices(&self) -> Limits {
        Limits {
            max_changes: self.max_changes,
            max_payload_bytes: self.max_payload_bytes,
            max_body_bytes: self.max_body_bytes,
            max_page: self.max_page,
        }
    }
}
