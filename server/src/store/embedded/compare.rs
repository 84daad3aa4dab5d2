//! Business rows compared with what their payloads are projected to, by the
//! same conversion that wrote them.

use super::business_row::{There, find, owner_of, quoted, value};
use super::project::Trouble;
use crate::projection::{Kind, ProjectedColumn, Projection};
use crate::store::StoreError;
use crate::store::audit::{BusinessFault, TableKey};
use oversync_shared::upload::RowState;
use oversync_shared::{RowKey, UserId, json};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params};

/// What differs of these rows of one user.
pub(super) fn compare(
    connection: &Connection,
    projection: &Projection,
    table: TableKey,
    user: i64,
    user_id: &UserId,
    rows: &[(RowKey, RowState)],
) -> Result<Vec<(RowKey, BusinessFault)>, StoreError> {
    let mut faults = Vec::new();
    for (key, state) in rows {
        let there = find(connection, projection, *key)?;
        let is_mine = if projection.owner.is_some() {
            there
                .as_ref()
                .is_some_and(|there| there.owner.as_deref() == Some(user_id.as_str()))
        } else {
            owner_of(connection, table.0, *key)? == Some(user)
        };
        let fault = if state.deleted {
            is_mine.then_some(BusinessFault::NotGone)
        } else {
            match there {
                None => Some(BusinessFault::Missing),
                Some(_) if !is_mine => Some(BusinessFault::NotOwned),
                Some(there) => values(connection, projection, user, *state, &there)?,
            }
        };
        faults.extend(fault.map(|fault| (*key, fault)));
    }
    Ok(faults)
}

/// The first column with another value.
fn values(
    connection: &Connection,
    projection: &Projection,
    user: i64,
    state: RowState,
    there: &There,
) -> Result<Option<BusinessFault>, StoreError> {
    let payload: Option<Option<String>> = connection
        .prepare_cached("SELECT payload FROM _oversync_log WHERE user_key = ?1 AND server_id = ?2")?
        .query_row(params![user, state.at.get()], |row| row.get(0))
        .optional()?;
    let Some(payload) = payload.flatten() else {
        return Ok(None);
    };
    let members = match json::members(&payload) {
        Ok(members) => members,
        Err(fault) => return Ok(Some(BusinessFault::Unprojectable(fault.to_string()))),
    };
    for column in &projection.columns {
        let Some((_, text)) = members
            .iter()
            .find(|(name, _)| *name == column.wire_name.as_str())
        else {
            continue;
        };
        let recomputed = match value(column, text) {
            Ok(value) => stored(column, value),
            Err(Trouble::Data(error)) => return Ok(Some(BusinessFault::Unprojectable(error))),
            Err(Trouble::Store(error)) => return Err(error),
        };
        // The column lends the value its affinity, as it does when it is stored.
        let (name, key) = (quoted(&column.column.name), quoted(&projection.key.name));
        let sql = format!(
            "SELECT {name} IS ?1 COLLATE BINARY, {name} FROM {table} WHERE {key} = ?2",
            table = quoted(&projection.name.table)
        );
        let (is_same, recorded): (bool, Value) = connection
            .prepare_cached(&sql)?
            .query_row(params![recomputed, there.key], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        if !is_same {
            return Ok(Some(BusinessFault::Value {
                column: column.wire_name.clone(),
                recorded: words(&recorded),
                recomputed: words(&recomputed),
            }));
        }
    }
    Ok(None)
}

/// A REAL column keeps integers as floating point numbers, exact or not;
/// comparing does not make them so.
fn stored(column: &ProjectedColumn, value: Value) -> Value {
    match value {
        Value::Integer(number) if column.column.kind == Kind::Real => Value::Real(number as f64),
        other => other,
    }
}

fn words(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Integer(number) => Some(number.to_string()),
        Value::Real(number) => Some(format!("{number:?}")),
        Value::Text(text) => Some(format!("{text:?}")),
        Value::Blob(bytes) => Some(
            bytes
                .iter()
                .fold("x'".to_owned(), |hex, byte| format!("{hex}{byte:02x}"))
                + "'",
        ),
    }
}
