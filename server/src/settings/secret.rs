//! Texts that are never printed, where they come from, and those that everybody knows.

use super::{SettingsError, value};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// The secret of `--dev`, so that tokens outlive a restart while developing.
pub(super) const DEV_SECRET: &str = "oversync-development-secret-for-dev-mode-only";

/// The operators' token of `--dev`, where they have a listener.
pub(super) const DEV_ADMIN_TOKEN: &str = "oversync-development-operators-token-for-dev-mode-only";

/// Secrets that stand in documentation; refused except in development.
pub(super) const KNOWN_SECRETS: &[&str] = &[
    DEV_SECRET,
    DEV_ADMIN_TOKEN,
    "your-256-bit-secret",
    "your-secret-key-change-in-production",
    "a-string-secret-at-least-256-bits-long",
    "change-me-change-me-change-me-change-me",
];

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// Prints a database URL with its password hidden, wherever in it that stands.
pub(super) fn without_password<S: serde::Serializer>(
    url: &str,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let Ok(mut parsed) = url::Url::parse(url) else {
        // A file, or something that nobody can use: a password may be anywhere in it.
        let scheme = url.split("://").next().unwrap_or_default();
        return match scheme {
            "sqlite" => serializer.serialize_str(url),
            other => serializer.serialize_str(&format!("{other}://***")),
        };
    };
    // An @ behind the host: what stands in the password has cut it short.
    let behind = &parsed[url::Position::BeforePath..];
    if parsed.scheme() != "sqlite" && (behind.contains('@') || parsed.fragment().is_some()) {
        return serializer.serialize_str(&format!("{}://***", parsed.scheme()));
    }
    let stands_before = parsed.password().is_some();
    if stands_before && parsed.set_password(Some("***")).is_err() {
        return serializer.serialize_str(&format!("{}://***", parsed.scheme()));
    }
    let hidden = parsed.query().and_then(hidden_query);
    if let Some(query) = &hidden {
        parsed.set_query(Some(query));
    }
    match stands_before || hidden.is_some() {
        true => serializer.serialize_str(parsed.as_str()),
        false => serializer.serialize_str(url),
    }
}

/// A query whose passwords are hidden; `None` where there are none.
fn hidden_query(query: &str) -> Option<String> {
    let is_secret = |pair: &str| {
        let name = url::form_urlencoded::parse(pair.as_bytes()).next();
        name.is_some_and(|(name, _)| name.to_ascii_lowercase().contains("password"))
    };
    query.split('&').any(is_secret).then(|| {
        let pairs = query.split('&').map(|pair| match is_secret(pair) {
            true => format!("{}=***", pair.split('=').next().unwrap_or_default()),
            false => pair.to_owned(),
        });
        pairs.collect::<Vec<_>>().join("&")
    })
}

/// Reads a secret from its file, where the settings name one.
pub(super) fn from_file(
    (name, secret): (&'static str, &mut Option<Secret>),
    (setting, path): (&'static str, Option<&Path>),
) -> Result<(), SettingsError> {
    let Some(path) = path else { return Ok(()) };
    if secret.is_some() {
        return Err(value(
            setting,
            &format!("is set together with {name}; set one of them"),
        ));
    }
    let text = std::fs::read_to_string(path).map_err(|error| SettingsError::File {
        setting,
        path: path.display().to_string(),
        error,
    })?;
    *secret = Some(Secret::new(text.trim()));
    Ok(())
}

pub(super) fn is_known(secret: &[u8]) -> bool {
    KNOWN_SECRETS.iter().any(|known| known.as_bytes() == secret)
}
