//! Settings of synchronised tables: where their keys and owners stand, and what they
//! refer to.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

/// A synchronised table.
#[derive(Debug, Clone, Default, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields)]
pub struct TableSettings {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// The key column, where it is not the declared primary key.
    #[serde(default)]
    pub key_column: Option<String>,
    /// The column that holds the owning user. One of type uuid holds the names that
    /// are UUIDs in lower case with dashes; rows of other users fail.
    #[serde(default)]
    pub owner_column: Option<String>,
    /// Whether a handler of the host application writes its rows, in place of
    /// the generic projection. It needs no business table then.
    #[serde(default)]
    pub handled: bool,
    /// Foreign keys that no business table declares.
    #[serde(default)]
    pub references: Vec<ReferenceSettings>,
}

/// A foreign key that no business table declares.
#[derive(Debug, Clone, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields)]
pub struct ReferenceSettings {
    /// The referencing column.
    pub column: String,
    /// The table referred to: `table` in the same schema, or `schema.table`.
    /// It may be one that is not synchronised, as long as it exists.
    pub table: String,
    /// The column referred to; the (primary) key unless set.
    #[serde(default)]
    pub ref_column: Option<String>,
}

/// The tables of the README's example: a user's posts.
pub(super) fn example_tables() -> Vec<TableSettings> {
    let author = ReferenceSettings {
        column: "author_id".into(),
        table: "users".into(),
        ref_column: None,
    };
    let table = |name: &str, references| TableSettings {
        schema: "business".into(),
        table: name.into(),
        references,
        ..TableSettings::default()
    };
    vec![table("users", vec![]), table("posts", vec![author])]
}
