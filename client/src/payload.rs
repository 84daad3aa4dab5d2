//! Values on the wire: SQLite's to JSON text and back (PROTOCOL.md section 6a).
//!
//! Numbers keep all their digits in both directions: integers never pass
//! through floating point, reals are written with the shortest digits that read
//! back the same. What cannot be carried is an error with a reason, never a
//! guess.

use crate::key::LocalKey;
use crate::schema::{Affinity, Column, KeyKind, Table};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oversync_shared::RowKey;
use oversync_shared::json::{self, JsonFault, Kind, Reader};
use rusqlite::types::Value;
use std::fmt::Write as _;
use uuid::Uuid;

/// A column's value as SQLite holds it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Plain(Value),
    /// TEXT whose bytes are not UTF-8.
    BrokenText,
}

/// Why a row cannot be written as JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Uncarriable {
    #[error("column \"{0}\" holds text that is not UTF-8")]
    BrokenText(String),
    #[error("column \"{0}\" holds a BLOB but is not declared BLOB")]
    BlobElsewhere(String),
    #[error("column \"{0}\" is declared BLOB but holds text, which could not be told from base64")]
    TextInBlob(String),
}

/// Why a payload cannot be written into a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPayload {
    #[error(transparent)]
    Json(#[from] JsonFault),
    #[error("column \"{0}\" is declared BLOB, and its value is not base64")]
    NotBase64(String),
}

/// Writes a row as one JSON object. `extra` holds members of columns this
/// application does not know, as JSON text, and those that wait until they can be
/// written into a column: such a one is sent as long as the column is NULL.
pub(crate) fn write_row(
    table: &Table,
    cells: &[Cell],
    extra: Option<&str>,
) -> Result<String, Uncarriable> {
    let mut out = String::from("{");
    let kept = extra.and_then(|extra| json::members(extra).ok());
    for (i, (column, cell)) in table.columns.iter().zip(cells).enumerate() {
        if i > 0 {
            out.push(',');
        }
        push_string(&mut out, &column.wire);
        out.push(':');
        if let (Cell::Plain(Value::Null), Some(kept)) = (cell, &kept) {
            let waits = kept.iter().find(|(name, _)| *name == column.wire);
            out.push_str(waits.map_or("null", |(_, value)| value));
            continue;
        }
        let key_bytes = match cell {
            Cell::Plain(Value::Blob(bytes)) if i == table.key => Uuid::from_slice(bytes).ok(),
            _ => None,
        };
        match key_bytes {
            Some(uuid) => push_string(&mut out, &RowKey::new(uuid).to_string()),
            None => push_cell(&mut out, column, cell)?,
        }
    }
    push_extra(&mut out, table, extra);
    out.push('}');
    Ok(out)
}

/// One column's value as a JSON object, as far as it has a form there.
pub(crate) fn write_value(column: &Column, value: &Value) -> Option<String> {
    let mut out = String::from("{");
    push_string(&mut out, &column.wire);
    out.push(':');
    push_cell(&mut out, column, &Cell::Plain(value.clone())).ok()?;
    out.push('}');
    Some(out)
}

/// An object with these values as further members, as far as they have a form there.
pub(crate) fn with_members(extra: Option<String>, more: Vec<(&Column, &Value)>) -> Option<String> {
    let more = more
        .into_iter()
        .filter_map(|(column, value)| write_value(column, value));
    more.fold(extra, |all, one| match all {
        Some(all) => {
            let (all, one) = (all.strip_suffix('}')?, one.strip_prefix('{')?);
            Some(format!("{all},{one}"))
        }
        None => Some(one),
    })
}

/// Adds the members of columns the table does not have, behind others.
fn push_extra(out: &mut String, table: &Table, extra: Option<&str>) {
    for (name, value) in extra
        .and_then(|extra| json::members(extra).ok())
        .unwrap_or_default()
    {
        if table.column(&name).is_none() {
            out.push(',');
            push_string(out, &name);
            out.push(':');
            out.push_str(value);
        }
    }
}

/// A peer's payload as this table would hold it and write it: keys in this
/// file's spelling, numbers under the column's affinity. Two rows can then be
/// compared by their digits, whoever wrote them.
pub(crate) fn as_stored(
    table: &Table,
    pk: RowKey,
    key: &LocalKey,
    text: &str,
) -> Result<String, BadPayload> {
    let incoming = read_row(table, pk, text)?;
    let mut out = String::from("{");
    for (index, value) in incoming.known {
        let column = &table.columns[index];
        if out.len() > 1 {
            out.push(',');
        }
        push_string(&mut out, &column.wire);
        out.push(':');
        if index == table.key {
            match &key.0 {
                Value::Text(text) => push_string(&mut out, text),
                _ => push_string(&mut out, &pk.to_string()),
            }
        } else {
            let cell = Cell::Plain(converted(column.affinity, value));
            push_cell(&mut out, column, &cell)
                .map_err(|_| BadPayload::NotBase64(column.name.clone()))?;
        }
    }
    push_extra(&mut out, table, incoming.extra.as_deref());
    out.push('}');
    Ok(out)
}

/// What SQLite makes of a value when it stores it, where that is a number: text
/// made of reals is left alone, their spelling is SQLite's secret.
fn converted(affinity: Affinity, value: Value) -> Value {
    match (affinity, value) {
        (Affinity::Real, Value::Integer(n)) => Value::Real(n as f64),
        (Affinity::Text, Value::Integer(n)) => Value::Text(n.to_string()),
        // Only where nothing is lost, as SQLite does.
        (Affinity::Numeric, Value::Real(x)) if x == x.trunc() && x.abs() < 9.2e18 => {
            Value::Integer(x as i64)
        }
        (Affinity::Numeric, Value::Text(text)) => match text.parse::<i64>() {
            Ok(n) => Value::Integer(n),
            Err(_) => Value::Text(text),
        },
        (_, value) => value,
    }
}

fn push_cell(out: &mut String, column: &Column, cell: &Cell) -> Result<(), Uncarriable> {
    let name = || column.name.clone();
    match cell {
        Cell::BrokenText => return Err(Uncarriable::BrokenText(name())),
        Cell::Plain(Value::Null) => out.push_str("null"),
        Cell::Plain(Value::Integer(n)) => {
            let _ = write!(out, "{n}");
        }
        Cell::Plain(Value::Real(x)) => push_real(out, *x),
        Cell::Plain(Value::Text(_)) if column.blob => return Err(Uncarriable::TextInBlob(name())),
        Cell::Plain(Value::Text(text)) => push_string(out, text),
        Cell::Plain(Value::Blob(bytes)) if column.blob => {
            out.push('"');
            STANDARD.encode_string(bytes, out);
            out.push('"');
        }
        Cell::Plain(Value::Blob(_)) => return Err(Uncarriable::BlobElsewhere(name())),
    }
    Ok(())
}

/// The shortest digits that read back the same, always with a point or an
/// exponent. JSON has no infinity: 9e999 reads back as one.
fn push_real(out: &mut String, x: f64) {
    if x == f64::INFINITY {
        out.push_str("9e999");
    } else if x == f64::NEG_INFINITY {
        out.push_str("-9e999");
    } else {
        let _ = write!(out, "{x:?}");
    }
}

fn push_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("BUG: a string always serialises"));
}

/// A payload sorted into what the local table knows and what it does not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Incoming {
    /// Index of a column, and its value.
    pub(crate) known: Vec<(usize, Value)>,
    /// The other members as a JSON object, if there are any.
    pub(crate) extra: Option<String>,
}

/// Reads a peer's payload for a table. Checked completely first: everything a
/// peer sends is untrusted.
pub(crate) fn read_row(table: &Table, pk: RowKey, text: &str) -> Result<Incoming, BadPayload> {
    let mut known = Vec::with_capacity(table.columns.len());
    let mut extra = String::new();
    for (name, value) in json::checked_members(text)? {
        match table.column(&name) {
            // Column names fold: a second spelling of a column is ignored.
            Some(index) if known.iter().any(|(seen, _)| *seen == index) => {}
            Some(index) if index == table.key => known.push((index, read_key(table, pk, value)?)),
            Some(index) => known.push((index, read_value(&table.columns[index], value)?)),
            None => {
                extra.push(if extra.is_empty() { '{' } else { ',' });
                push_string(&mut extra, &name);
                extra.push(':');
                extra.push_str(value);
            }
        }
    }
    if !known.iter().any(|(index, _)| *index == table.key) {
        let usual = LocalKey::usual(pk, table.key_kind);
        known.push((table.key, usual.0));
    }
    if !extra.is_empty() {
        extra.push('}');
    }
    Ok(Incoming {
        known,
        extra: Some(extra).filter(|extra| !extra.is_empty()),
    })
}

/// The key as the sender spells it, when it names the same row; else ours.
fn read_key(table: &Table, pk: RowKey, raw: &str) -> Result<Value, JsonFault> {
    let mut reader = Reader::new(raw);
    if table.key_kind == KeyKind::Text && reader.kind()? == Kind::String {
        let text = reader.string()?;
        if RowKey::parse(&text) == Some(pk) {
            return Ok(Value::Text(text.into_owned()));
        }
    }
    Ok(LocalKey::usual(pk, table.key_kind).0)
}

fn read_value(column: &Column, raw: &str) -> Result<Value, BadPayload> {
    let mut reader = Reader::new(raw);
    Ok(match reader.kind()? {
        Kind::Null => Value::Null,
        Kind::Bool => Value::Integer(i64::from(raw.trim() == "true")),
        Kind::Number => read_number(raw.trim()),
        Kind::String if column.blob => {
            let text = reader.string()?;
            // A reference to a BLOB key may come in any spelling of the UUID.
            let reference = RowKey::parse_reference(&text).filter(|_| column.reference);
            let bytes = match reference {
                Some(key) => Some(key.uuid().as_bytes().to_vec()),
                None => STANDARD.decode(text.as_bytes()).ok(),
            };
            Value::Blob(bytes.ok_or_else(|| BadPayload::NotBase64(column.name.clone()))?)
        }
        Kind::String => Value::Text(reader.string()?.into_owned()),
        Kind::Object | Kind::Array if column.blob => {
            return Err(BadPayload::NotBase64(column.name.clone()));
        }
        // Another client's structured column: kept as its JSON text.
        Kind::Object | Kind::Array => Value::Text(raw.to_owned()),
    })
}

fn read_number(digits: &str) -> Value {
    let integer = !digits.contains(['.', 'e', 'E']);
    match digits.parse::<i64>() {
        // "-0" has no point but is no integer of SQLite either way.
        Ok(n) if integer => Value::Integer(n),
        _ => Value::Real(digits.parse().unwrap_or(f64::NAN)),
    }
}

/// Whether two payloads are the same JSON value; absent ones are deleted rows.
pub(crate) fn same(a: Option<&str>, b: Option<&str>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            let (mut left, mut right) = (Vec::new(), Vec::new());
            json::canonicalise(a, &mut left).is_ok()
                && json::canonicalise(b, &mut right).is_ok()
                && left == right
        }
        _ => false,
    }
}
