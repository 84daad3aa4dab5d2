//! SQL expressions over business tables, built from the catalogue's names.
//!
//! Projection writes with them, lookups and `verify` compare with them, so that
//! they mean the same. No text of a client is ever part of one.

use crate::projection::{Column, Kind, Projection};
use sqlx::Postgres;

/// Whether a business row (`b`) belongs to the user of this name.
pub(super) fn is_owner(owner: &Column, name: &str) -> String {
    format!("{} = {name}", owner_name("b", owner))
}

/// The owner of a business row, called `row`, byte for byte: a cast to a column's
/// type could make a name somebody else's, by cutting it or by taking two spellings
/// of a UUID for one, and so could a column's collation.
pub(super) fn owner_name(row: &str, owner: &Column) -> String {
    format!("{row}.{}::text COLLATE \"C\"", quoted(&owner.name))
}

/// Statements built from the database's own catalogue: names are quoted, and no
/// text of a client is part of them.
pub(super) fn query(
    sql: &str,
) -> sqlx::query::Query<'static, Postgres, sqlx::postgres::PgArguments> {
    sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()))
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn quoted_table(projection: &Projection) -> String {
    format!(
        "{}.{}",
        quoted(&projection.name.schema),
        quoted(&projection.name.table)
    )
}

/// A key as its column holds it.
pub(super) fn key_value(uuid: &str, kind: Kind) -> String {
    match kind {
        Kind::Bytes => format!("uuid_send({uuid})"),
        Kind::Uuid => uuid.to_owned(),
        _ => format!("{uuid}::text"),
    }
}

/// A payload's column as the table's column takes it, with the payload as
/// `w.payload`.
pub(super) fn column_value(
    wire_name: &str,
    type_name: &str,
    kind: Kind,
    is_reference: bool,
) -> String {
    let name = format!("'{}'", wire_name.replace('\'', "''"));
    let text = format!("(w.payload ->> {name})");
    match kind {
        _ if is_reference => key_value(&format!("oversync.to_uuid({text})"), kind),
        Kind::Uuid => format!("oversync.to_uuid({text})"),
        Kind::Timestamp => format!("oversync.to_time(w.payload -> {name})::{type_name}"),
        Kind::Bytes => format!("decode({text}, 'base64')"),
        // JSON has no infinity; devices write a number that is one (section 6a).
        Kind::Real => format!(
            "CASE {text} WHEN '9e999' THEN 'Infinity' WHEN '-9e999' THEN '-Infinity' ELSE {text} END::{type_name}"
        ),
        Kind::Text
        | Kind::Integer
        | Kind::Numeric
        | Kind::Boolean
        | Kind::Json
        | Kind::FromText
        | Kind::Array => format!("{text}::{type_name}"),
    }
}
