//! Schema and table names: folded the same way on every side.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The schema of a change that names none (PROTOCOL.md section 3).
pub const DEFAULT_SCHEMA: &str = "public";

/// A name that does not match `^[a-z0-9_]+$` after folding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableNameError {
    /// The schema; the text is as it stands after folding.
    #[error("invalid schema name \"{0}\"")]
    Schema(String),
    /// The table; the text is as it stands after folding.
    #[error("invalid table name \"{0}\"")]
    Table(String),
}

/// A synchronised table: schema and name, both lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    /// `public` unless the sender names another.
    pub schema: String,
    /// The table.
    pub table: String,
}

/// Whether the text is one or more of `a`–`z`, `0`–`9`, `_`.
pub fn is_plain_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

impl TableName {
    /// Trims and lower-cases both parts, puts [`DEFAULT_SCHEMA`] for an empty
    /// schema, and checks them, schema first.
    pub fn parse(schema: &str, table: &str) -> Result<Self, TableNameError> {
        let schema = match schema.trim() {
            "" => DEFAULT_SCHEMA.to_owned(),
            named => named.to_lowercase(),
        };
        if !is_plain_name(&schema) {
            return Err(TableNameError::Schema(schema));
        }
        let table = table.trim().to_lowercase();
        if !is_plain_name(&table) {
            return Err(TableNameError::Table(table));
        }
        Ok(Self { schema, table })
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_and_default() {
        let name = TableName::parse(" ", " Users ").expect("valid");
        assert_eq!(name.to_string(), "public.users");
        assert_eq!(
            TableName::parse("a-b", "users"),
            Err(TableNameError::Schema("a-b".into()))
        );
        assert_eq!(
            TableName::parse("a", "users; drop"),
            Err(TableNameError::Table("users; drop".into()))
        );
        assert!(TableName::parse("a", "").is_err());
        // Lower-casing the Kelvin sign gives an ASCII k; only then is it checked.
        assert!(TableName::parse("a", "\u{212a}").is_ok());
    }
}
