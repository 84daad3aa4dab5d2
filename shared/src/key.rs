//! Row keys: UUIDs in any of the spellings that clients send.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// The key of one row. Printed and sent lower-case and dashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RowKey(Uuid);

impl RowKey {
    /// Wraps a UUID.
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID.
    pub const fn uuid(self) -> Uuid {
        self.0
    }

    /// Reads dashed, 32 hex digits, braced or `urn:uuid:` text, in any case
    /// (what `pk` may be). `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// Reads a referencing column's value: what [`RowKey::parse`] takes, or
    /// base64 of 16 bytes, which clients with BLOB keys send.
    pub fn parse_reference(text: &str) -> Option<Self> {
        Self::parse(text).or_else(|| Self::parse_base64(text))
    }

    /// Reads base64 of 16 bytes: either alphabet, padded or not.
    pub fn parse_base64(text: &str) -> Option<Self> {
        // 16 bytes are 22 digits, 24 with padding.
        if !(22..=24).contains(&text.len()) {
            return None;
        }
        [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
            .iter()
            .find_map(|engine| engine.decode(text).ok())
            .and_then(|bytes| Uuid::from_slice(&bytes).ok())
            .map(Self)
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        let dashed = "0f8fad5b-d9cb-469f-a165-70867728950e";
        let key = RowKey::parse(dashed).expect("dashed");
        for text in [
            "0F8FAD5B-D9CB-469F-A165-70867728950E",
            "0f8fad5bd9cb469fa16570867728950e",
            "{0f8fad5b-d9cb-469f-a165-70867728950e}",
            "urn:uuid:0f8fad5b-d9cb-469f-a165-70867728950e",
        ] {
            assert_eq!(RowKey::parse(text), Some(key), "{text}");
        }
        let base64 = STANDARD.encode(key.uuid().as_bytes());
        assert_eq!(RowKey::parse(&base64), None);
        assert_eq!(RowKey::parse_reference(&base64), Some(key));
        assert_eq!(
            RowKey::parse_reference(base64.trim_end_matches('=')),
            Some(key)
        );
        assert_eq!(RowKey::parse_reference("42"), None);
        assert_eq!(key.to_string(), dashed);
    }
}
