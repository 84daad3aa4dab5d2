//! Who holds the values that payloads refer to, in columns that are not keys.
//!
//! A value is turned into what projection would write, and compared by the
//! column's affinity and collation, as SQLite's own foreign keys do. A value that
//! cannot be written is nowhere.

use super::Tables;
use super::business_row::{as_text, owner_of, quoted, spellings, value};
use crate::projection::{Lookup, ProjectedColumn, Projection};
use crate::store::{Referred, StoreError};
use oversync_shared::upload::{ColumnValue, Holder};
use oversync_shared::{RowKey, UserId};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use std::collections::HashMap;
use uuid::Uuid;

/// The holders of these values, at most `at_most` each.
pub(super) fn holders(
    connection: &mut Connection,
    tables: &Tables,
    user: i64,
    user_id: &UserId,
    values: Vec<Referred>,
    at_most: usize,
) -> Result<HashMap<Referred, Vec<Holder>>, StoreError> {
    let tx = connection.transaction()?;
    let mut found = HashMap::new();
    for referred in values {
        let Some(lookup) = tables.lookups.get(&referred.0) else {
            continue;
        };
        let wanted = wanted(lookup, &referred.1);
        if wanted.is_empty() {
            continue;
        }
        let owned = lookup.registered.and_then(|table| {
            let table_key = tables.keys[table.index()];
            Some((tables.projections.get(&table_key)?, table_key))
        });
        let (key, owner) = owned.map_or(("NULL".to_owned(), "NULL".to_owned()), |(table, _)| {
            let owner = table.owner.as_ref();
            (
                quoted(&table.key.name),
                owner.map_or("NULL".to_owned(), |owner| quoted(&owner.name)),
            )
        });
        let sql = format!(
            "SELECT {key}, {owner} FROM {table} WHERE {column} IN ({places})",
            table = quoted(&lookup.table.table),
            column = quoted(&lookup.column.name),
            places = vec!["?"; wanted.len()].join(", "),
        );
        let mut statement = tx.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(wanted))?;
        let mut holders = Vec::new();
        while let Some(row) = rows.next()? {
            let key = key_of(&row.get(0)?);
            let owner = as_text(row.get(1)?);
            let counts = match owned {
                None => true,
                Some((projection, table_key)) => {
                    is_visible(&tx, projection, table_key, user, user_id, key, owner)?
                }
            };
            if counts {
                holders.push(key.map_or(Holder::Other, Holder::Row));
            }
            if holders.len() == at_most {
                break;
            }
        }
        if !holders.is_empty() {
            found.insert(referred, holders);
        }
    }
    Ok(found)
}

/// What the column may hold for this value; nothing when it cannot.
fn wanted(lookup: &Lookup, wanted: &ColumnValue) -> Vec<Value> {
    let column = ProjectedColumn {
        column: lookup.column.clone(),
        wire_name: String::new(),
        refers_to: Vec::new(),
    };
    let Ok(plain) = value(&column, wanted.json()) else {
        return Vec::new();
    };
    let is_uuid = lookup.column.type_name.eq_ignore_ascii_case("uuid");
    let mut all = vec![plain];
    if let Some(key) = RowKey::parse_reference(wanted.sent()).filter(|_| is_uuid) {
        all.extend(spellings(key).map(Value::Text));
        all.push(Value::Blob(key.uuid().as_bytes().to_vec()));
    }
    all
}

/// The key that a column of keys holds, in any spelling.
pub(super) fn key_of(value: &Value) -> Option<RowKey> {
    match value {
        Value::Text(text) => RowKey::parse(text),
        Value::Blob(bytes) => Uuid::from_slice(bytes).ok().map(RowKey::new),
        Value::Null | Value::Integer(_) | Value::Real(_) => None,
    }
}

/// Whether this user may see the business row: its own, or, where no column says
/// whose a row is, one that synchronisation gave to nobody.
pub(super) fn is_visible(
    connection: &Connection,
    projection: &Projection,
    table_key: i64,
    user: i64,
    user_id: &UserId,
    key: Option<RowKey>,
    owner: Option<String>,
) -> rusqlite::Result<bool> {
    if projection.owner.is_some() {
        return Ok(owner.as_deref() == Some(user_id.as_str()));
    }
    let Some(key) = key else { return Ok(true) };
    Ok(owner_of(connection, table_key, key)?.is_none_or(|owner| owner == user))
}
