//! Settings of bounded storage: what is folded, how soon, and who is waited for.
//! The same for all processes of one database.

use super::{Settings, SettingsError, value};
use crate::store::retention::Rules;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How the server keeps a user's log short.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSettings {
    /// Whether the log is folded in the background. Off unless set.
    pub enabled: bool,
    /// Between two passes, in milliseconds; so often is written down, too, how far
    /// devices have read, whether or not anything is folded.
    pub pause_ms: u64,
    /// How long entries stay as they are, in seconds. At least twice the pause: so
    /// long it may take until all processes know how far a device has read.
    pub keep_seconds: u64,
    /// After how many days without a download a device does not count any more: it
    /// synchronises again from the start when it comes back. After so many without
    /// any request, what its changes were is forgotten.
    pub silent_days: u32,
    /// A user's log is left alone while fewer entries than this could be folded.
    pub min_entries: u32,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            pause_ms: 300_000,
            keep_seconds: 3_600,
            silent_days: 90,
            min_entries: 1_000,
        }
    }
}

impl RetentionSettings {
    /// As the job takes them.
    pub(crate) fn rules(&self) -> Rules {
        Rules {
            silent: Duration::from_secs(u64::from(self.silent_days) * 24 * 3_600),
            age: Duration::from_secs(self.keep_seconds),
            at_least: self.min_entries.into(),
        }
    }

    /// Between two passes.
    pub(crate) fn pause(&self) -> Duration {
        Duration::from_millis(self.pause_ms)
    }
}

impl Settings {
    pub(super) fn check_retention(&self) -> Result<(), SettingsError> {
        let RetentionSettings {
            pause_ms,
            min_entries,
            ..
        } = self.retention;
        if pause_ms == 0 {
            return Err(value("retention.pause_ms", "must be at least 1"));
        }
        if min_entries == 0 {
            return Err(value("retention.min_entries", "must be at least 1"));
        }
        Ok(())
    }
}
