//! A row of a business table: how it is found, whose it is, and how its values are
//! written.

use super::lookup;
use super::project::Trouble;
use crate::projection::{Kind, ProjectedColumn, Projection};
use crate::store::StoreError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oversync_shared::json::{Kind as JsonKind, Reader};
use oversync_shared::upload::RowAt;
use oversync_shared::{RowKey, UserId};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter};
use std::collections::{HashMap, HashSet};

/// A row of a business table.
pub(super) struct There {
    /// As the table spells it.
    pub(super) key: Value,
    /// Of the owner column, where there is one.
    pub(super) owner: Option<String>,
}

/// The spellings of a text key that are kept and found: dashed or not, lower or
/// upper case (`hex(randomblob(16))` is the usual one in SQLite).
pub(super) fn spellings(key: RowKey) -> [String; 4] {
    let (dashed, plain) = (key.to_string(), key.uuid().simple().to_string());
    [dashed.to_uppercase(), plain.to_uppercase(), dashed, plain]
}

pub(super) fn find(
    connection: &Connection,
    projection: &Projection,
    key: RowKey,
) -> rusqlite::Result<Option<There>> {
    let table = quoted(&projection.name.table);
    let key_name = quoted(&projection.key.name);
    let owner = projection
        .owner
        .as_ref()
        .map_or("NULL".to_owned(), |owner| quoted(&owner.name));
    let [a, b, c, d] = spellings(key).map(Value::Text);
    let blob = Value::Blob(key.uuid().as_bytes().to_vec());
    connection
        .prepare_cached(&format!(
            "SELECT {key_name}, {owner} FROM {table} WHERE {key_name} IN (?, ?, ?, ?, ?)"
        ))?
        .query_row(params_from_iter([a, b, c, d, blob]), |row| {
            Ok(There {
                key: row.get(0)?,
                owner: as_text(row.get(1)?),
            })
        })
        .optional()
}

/// An owner column may have an affinity that turns a name of digits into a number.
pub(super) fn as_text(value: Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text),
        Value::Integer(number) => Some(number.to_string()),
        Value::Null | Value::Real(_) | Value::Blob(_) => None,
    }
}

/// Whether a column without a type that SQLite knows would keep this text as a
/// number.
pub(super) fn is_number(name: &str) -> bool {
    name.trim().parse::<f64>().is_ok() && name.contains(|c: char| c.is_ascii_digit())
}

pub(super) fn owner_of(
    connection: &Connection,
    table_key: i64,
    key: RowKey,
) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT user_key FROM _oversync_owners WHERE table_key = ?1 AND pk = ?2")?
        .query_row(params![table_key, key.uuid().as_bytes()], |row| row.get(0))
        .optional()
}

/// A payload's value as the column takes it (PROTOCOL.md section 6a).
pub(super) fn value(column: &ProjectedColumn, text: &str) -> Result<Value, Trouble> {
    let name = &column.column.name;
    let bad = |what: &str| Trouble::Data(format!("column {name}: {what}"));
    let mut reader = Reader::new(text);
    match reader.kind().map_err(|fault| bad(&fault.to_string()))? {
        JsonKind::Null => Ok(Value::Null),
        JsonKind::Bool => Ok(Value::Integer(i64::from(text == "true"))),
        JsonKind::Object | JsonKind::Array => Ok(Value::Text(text.to_owned())),
        JsonKind::Number if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') => text
            .parse()
            .map(Value::Integer)
            .map_err(|_| bad("the integer does not fit 64 bits")),
        JsonKind::Number => text
            .parse()
            .map(Value::Real)
            .map_err(|_| bad("not a number")),
        JsonKind::String => {
            let string = reader.string().map_err(|fault| bad(&fault.to_string()))?;
            if column.column.kind != Kind::Bytes {
                // A reference in base64 comes from a device with BLOB keys.
                let as_key = column
                    .is_reference()
                    .then(|| RowKey::parse_base64(&string))
                    .flatten();
                return Ok(Value::Text(
                    as_key.map_or(string.into_owned(), |key| key.to_string()),
                ));
            }
            if column.is_reference() {
                let key = RowKey::parse_reference(&string).ok_or_else(|| bad("not a UUID"))?;
                return Ok(Value::Blob(key.uuid().as_bytes().to_vec()));
            }
            STANDARD
                .decode(&*string)
                .map(Value::Blob)
                .map_err(|_| bad("not base64"))
        }
    }
}

/// Whether the business table has this row for this user: its own, or one that
/// synchronisation gave to nobody.
pub(super) fn is_visible(
    connection: &Connection,
    projection: &Projection,
    table_key: i64,
    user: i64,
    user_id: &UserId,
    row: RowAt,
) -> rusqlite::Result<bool> {
    let Some(there) = find(connection, projection, row.key)? else {
        return Ok(false);
    };
    let (key, owner) = (Some(row.key), there.owner);
    lookup::is_visible(connection, projection, table_key, user, user_id, key, owner)
}

/// Of these rows, those that [`is_visible`] says the user has.
pub(super) fn in_business(
    connection: &mut Connection,
    projections: &HashMap<i64, Projection>,
    user: i64,
    user_id: &UserId,
    rows: &[(i64, RowAt)],
) -> Result<HashSet<RowAt>, StoreError> {
    let tx = connection.transaction()?;
    let mut found = HashSet::new();
    for (table_key, row) in rows {
        if let Some(projection) = projections.get(table_key)
            && is_visible(&tx, projection, *table_key, user, user_id, *row)?
        {
            found.insert(*row);
        }
    }
    Ok(found)
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
