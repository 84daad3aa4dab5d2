//! Settings of NATS, by which processes tell each other of commits.

use super::{Secret, Settings, SettingsError, value};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where processes of one deployment meet; PostgreSQL's LISTEN and NOTIFY unless a
/// server is set.
#[derive(Debug, Clone, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct NatsSettings {
    /// As in `nats://user:password@host:4222`, or `tls://…`; never printed.
    pub url: Option<Secret>,
    /// The subject of this deployment, letters, digits, `-`, `_` and dots between.
    /// The database's epoch is added to it.
    pub subject: String,
    /// A file with a user's JWT and key, as NATS makes them.
    pub credentials_file: Option<PathBuf>,
}

impl Default for NatsSettings {
    fn default() -> Self {
        Self {
            url: None,
            subject: "oversync.heads".to_owned(),
            credentials_file: None,
        }
    }
}

impl Settings {
    pub(super) fn check_nats(&self) -> Result<(), SettingsError> {
        let Some(url) = &self.nats.url else {
            return Ok(());
        };
        let parsed = url::Url::parse(url.expose()).ok();
        let is_nats = parsed
            .as_ref()
            .is_some_and(|url| ["nats", "tls"].contains(&url.scheme()) && url.has_host());
        if !is_nats {
            let problem = "is no address of a NATS server, as in nats://127.0.0.1:4222";
            return Err(value("nats.url", problem));
        }
        let is_word = |word: &str| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            !word.is_empty() && word.chars().all(is_plain)
        };
        if !self.nats.subject.split('.').all(is_word) {
            let problem = "may have letters, digits, - and _, and dots between";
            return Err(value("nats.subject", problem));
        }
        if self.database_url.starts_with("sqlite:") {
            let problem = "is set, but the embedded store serves one process only";
            return Err(value("nats.url", problem));
        }
        Ok(())
    }
}
