//! What a running server takes over from changed settings: what one request may
//! carry, how much one user may have, how much one user and one address may ask for,
//! which logs are written. The rest needs a restart, and is named.
//!
//! Keys and certificates need no order: their files are watched.

use crate::service::SyncService;
use crate::settings::{LimitSettings, Settings};

/// Bounds of the memory and connections of a process, made with it.
fn fixed(limits: &LimitSettings) -> [(&'static str, u64); 4] {
    [
        (
            "limits.max_in_flight_bytes",
            limits.max_in_flight_bytes as u64,
        ),
        ("limits.max_answer_bytes", limits.max_answer_bytes as u64),
        ("limits.stall_seconds", limits.stall_seconds),
        (
            "limits.max_sockets",
            limits.max_sockets.unwrap_or_default() as u64,
        ),
    ]
}

impl SyncService {
    /// Takes over what can be changed while it runs, for requests from now on; returns
    /// the settings that differ and need a restart. A device learns of new limits with
    /// its next question for the server's capabilities; until then its batches shrink
    /// when they are refused.
    pub fn reload(&self, wanted: &Settings) -> Vec<String> {
        let before = self.settings();
        let mut limits = wanted.limits.clone();
        limits.max_in_flight_bytes = before.limits.max_in_flight_bytes;
        limits.max_answer_bytes = before.limits.max_answer_bytes;
        limits.stall_seconds = before.limits.stall_seconds;
        limits.max_sockets = before.limits.max_sockets;
        // Else such an upload would wait for room that never comes.
        limits.max_body_bytes = limits.max_body_bytes.min(limits.max_in_flight_bytes);
        self.take_over(limits, &wanted.quotas, &wanted.rates);

        let limits = fixed(&before.limits).into_iter().zip(fixed(&wanted.limits));
        limits
            .filter(|(before, wanted)| before != wanted)
            .map(|((name, _), _)| name.to_owned())
            .chain(differences(before, wanted))
            .collect()
    }
}

/// The other settings that differ, by name. Secrets are compared by their files, if
/// those are what is set: their texts never leave their type.
fn differences(before: &Settings, wanted: &Settings) -> Vec<String> {
    let table = |settings: &Settings| -> toml::Table {
        let mut table: toml::Table = settings
            .to_toml()
            .parse()
            .expect("BUG: printed settings are TOML");
        for taken_over in ["limits", "quotas", "rates", "log"] {
            table.remove(taken_over);
        }
        table
    };
    let (before, wanted) = (table(before), table(wanted));
    let names: std::collections::BTreeSet<&String> = before.keys().chain(wanted.keys()).collect();
    names
        .into_iter()
        .filter(|name| before.get(*name) != wanted.get(*name))
        .cloned()
        .collect()
}
