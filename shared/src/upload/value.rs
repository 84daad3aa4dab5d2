//! A value that a payload names a row by, or is named by, in a column that is not
//! a key.
//!
//! It is kept once, however many ask for it, and never when it is long: such
//! texts are beside the memory that an upload's body was promised.

use crate::catalog::Compared;
use crate::json::{Kind, Reader};
use crate::key::RowKey;
use std::sync::Arc;

/// The longest value that can name a row, in bytes, however it is escaped: more than
/// PostgreSQL's indexes hold (2,704), by which a referenced column is unique. A
/// longer one is simply nowhere.
pub const MAX_VALUE_BYTES: usize = 4_096;

/// A value that a payload names a row by, or is named by. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ColumnValue(Arc<Parts>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Parts {
    json: Box<str>,
    /// Of a string with escapes.
    unescaped: Option<Box<str>>,
    /// Of a UUID, where they are the same in any spelling.
    key: Option<Box<str>>,
}

/// What a payload's column says.
pub(super) enum Read {
    /// Null or the empty string, which name nothing.
    Nothing,
    /// More than a row can be named by; as sent.
    TooLong(String),
    Value(ColumnValue),
}

impl ColumnValue {
    /// `json` must have been checked.
    pub(super) fn read(json: &str, compared: Compared) -> Read {
        let mut reader = Reader::new(json);
        let unescaped = match reader.kind() {
            Ok(Kind::Null) => return Read::Nothing,
            Ok(Kind::String) if json == "\"\"" => return Read::Nothing,
            // Six bytes an escape.
            _ if json.len() > 6 * MAX_VALUE_BYTES + 2 => return Read::TooLong(sent(json)),
            Ok(Kind::String) if json.contains('\\') => {
                let text = reader.string().expect("BUG: the payload has been checked");
                if text.len() > MAX_VALUE_BYTES {
                    return Read::TooLong(sent(json));
                }
                Some(Box::from(&*text))
            }
            _ if json.len() > MAX_VALUE_BYTES => return Read::TooLong(sent(json)),
            _ => None,
        };
        let parts = Parts {
            json: json.into(),
            unescaped,
            key: None,
        };
        let key = match compared {
            Compared::AsKey => RowKey::parse_reference(parts.sent()),
            Compared::AsText => None,
        };
        Read::Value(Self(Arc::new(Parts {
            key: key.map(|key| key.to_string().into()),
            ..parts
        })))
    }

    /// The JSON text of the payload.
    pub fn json(&self) -> &str {
        &self.0.json
    }

    /// As sent: a string without its quotes and escapes.
    pub fn sent(&self) -> &str {
        self.0.sent()
    }

    /// What is the same when two values of one upload are.
    pub fn compared(&self) -> &str {
        self.0.key.as_deref().unwrap_or_else(|| self.sent())
    }
}

impl Parts {
    fn sent(&self) -> &str {
        match &self.unescaped {
            Some(text) => text,
            None => quoted(&self.json).unwrap_or(&self.json),
        }
    }
}

/// What stands between quotes.
fn quoted(json: &str) -> Option<&str> {
    json.strip_prefix('"')?.strip_suffix('"')
}

/// As sent, for the answer: that is no longer than the body was.
fn sent(json: &str) -> String {
    let mut reader = Reader::new(json);
    match reader.kind() {
        Ok(Kind::String) => {
            let text = reader.string().expect("BUG: the payload has been checked");
            text.to_string()
        }
        _ => json.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<ColumnValue> {
        match ColumnValue::read(json, Compared::AsText) {
            Read::Value(value) => Some(value),
            Read::Nothing | Read::TooLong(_) => None,
        }
    }

    #[test]
    fn a_value_is_told_without_its_quotes_and_escapes() {
        for (json, sent) in [
            ("\"a b\"", "a b"),
            ("\"a\\u0062\"", "ab"),
            ("\"\\\"\"", "\""),
            ("1.50", "1.50"),
            ("{\"a\":\"\\n\"}", "{\"a\":\"\\n\"}"),
        ] {
            let value = read(json).expect("a value");
            assert_eq!(
                (value.json(), value.sent(), value.compared()),
                (json, sent, sent)
            );
        }
        assert!(read("null").is_none() && read("\"\"").is_none());
    }

    #[test]
    fn a_long_value_is_not_kept() {
        let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
        assert!(read(&text(MAX_VALUE_BYTES)).is_some());
        let long = text(MAX_VALUE_BYTES + 1);
        let Read::TooLong(shown) = ColumnValue::read(&long, Compared::AsKey) else {
            panic!("it is longer than the limit");
        };
        assert_eq!(shown, "x".repeat(MAX_VALUE_BYTES - 1));
        // However it is spelled.
        let escaped = |count: usize| format!("\"{}\"", "\\u0061".repeat(count));
        assert!(read(&escaped(MAX_VALUE_BYTES)).is_some());
        assert!(read(&escaped(MAX_VALUE_BYTES + 1)).is_none());
        assert!(matches!(
            ColumnValue::read(&escaped(MAX_VALUE_BYTES + 1), Compared::AsText),
            Read::TooLong(shown) if shown == "a".repeat(MAX_VALUE_BYTES + 1)
        ));
    }
}
