//! Settings of bounded storage: what is folded, how soon, and who is waited for.
//! The same for all processes of one database.

use super::{Settings, SettingsError, value};
use crate::store::retention::{Removed, Rules};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The longest time that is taken, in days: PostgreSQL counts back from today no further
/// than some millions, and a time that it cannot count ends folding for good.
const MAX_DAYS: u32 = 100_000;

/// How the server keeps a user's log short.
#[derive(Debug, Clone, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSettings {
    /// Whether the log is folded in the background. Off unless set.
    pub enabled: bool,
    /// Between two passes, in milliseconds; so often is written down, too, how far
    /// devices have read, whether or not anything is folded.
    pub pause_ms: u64,
    /// How long entries stay as they are, in seconds, also parts of one. At least twice
    /// the pause: so long it may take until all processes know how far a device has read.
    /// At most 100,000 days, which are 8,640,000,000 seconds.
    pub keep_seconds: f64,
    /// After how many days without a download a device does not count any more: it
    /// synchronises again from the start when it comes back. After so many without
    /// any request, what its changes were is forgotten. At most 100,000.
    pub silent_days: u32,
    /// A user's log is left alone while fewer entries than this could be folded.
    pub min_entries: u32,
    /// Whether what folding removes from the log is kept for audit, in a table of its own
    /// from which nothing is ever removed: `oversync history` prints it. What was removed
    /// before this was set is gone.
    pub keep_history: bool,
    /// Whether the server builds those indexes anew of which folding has left a third or
    /// more empty (`REINDEX CONCURRENTLY`, beside everybody else). Without it,
    /// that is `oversync fold --compact`. PostgreSQL only.
    pub reindex: bool,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            pause_ms: 300_000,
            keep_seconds: 3_600.0,
            silent_days: 90,
            min_entries: 1_000,
            keep_history: false,
            reindex: true,
        }
    }
}

impl RetentionSettings {
    /// As the job takes them.
    pub(crate) fn rules(&self) -> Rules {
        Rules {
            silent: Duration::from_secs(u64::from(self.silent_days) * 24 * 3_600),
            age: self.keep().unwrap_or(Duration::MAX),
            at_least: self.min_entries.into(),
            removed: match self.keep_history {
                true => Removed::Kept,
                false => Removed::Gone,
            },
            reindexes: self.reindex,
        }
    }

    /// How long entries stay; `None` for what is no time.
    fn keep(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.keep_seconds).ok()
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
            silent_days,
            ..
        } = self.retention;
        if pause_ms == 0 {
            return Err(value("retention.pause_ms", "must be at least 1"));
        }
        if min_entries == 0 {
            return Err(value("retention.min_entries", "must be at least 1"));
        }
        if silent_days > MAX_DAYS {
            let problem = format!("must be at most {MAX_DAYS}");
            return Err(value("retention.silent_days", &problem));
        }
        let longest = Duration::from_secs(u64::from(MAX_DAYS) * 24 * 3_600);
        if self.retention.keep().is_none_or(|keep| keep > longest) {
            let problem = format!("must be a time in seconds, at most {}", longest.as_secs());
            return Err(value("retention.keep_seconds", &problem));
        }
        match self.retention.enabled {
            true => self.check_folding(),
            false => Ok(()),
        }
    }

    /// What must hold where something is folded: in the background, or by hand.
    pub(crate) fn check_folding(&self) -> Result<(), SettingsError> {
        let pause_ms = self.retention.pause_ms;
        let keep = self.retention.keep().unwrap_or(Duration::MAX);
        if keep < self.retention.pause().saturating_mul(2) {
            let problem = format!(
                "is {}, less than twice retention.pause_ms, which is {pause_ms}: entries would be \
                 folded before every process knows how far devices have read",
                self.retention.keep_seconds
            );
            return Err(value("retention.keep_seconds", &problem));
        }
        Ok(())
    }
}
