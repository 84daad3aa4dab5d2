//! Writing one row of the server into an application's table.
//!
//! Updates only the columns the row carries, never by delete and insert, which
//! would cascade. A row that cannot be written now is an outcome with a reason,
//! not an error: the caller parks it. Runs while capture is silent.
//!
//! Every statement says OR ABORT: a conflict clause of the application's schema
//! would skip the row, replace another one, or roll back all that was done.

use crate::db::Txn;
use crate::error::{Error, StorageError};
use crate::key::{LocalKey, RowRef};
use crate::log;
use crate::payload;
use crate::row::{self, Known};
use crate::schema::{ForeignKey, OnDelete, Table, quote};
use crate::shadow;
use crate::step::Step;
use oversync_shared::reconcile::{Held, Unsent};
use oversync_shared::{RowKey, RowVersion};
use rusqlite::types::Value;
use rusqlite::{ErrorCode, params_from_iter};
use std::collections::HashSet;

/// A row as the server has it; no payload for a tombstone.
#[derive(Debug, Clone)]
pub(crate) struct ServerState {
    pub(crate) row: RowRef,
    pub(crate) version: RowVersion,
    pub(crate) payload: Option<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Placed {
    /// Written, and its version recorded; the key is as the table has it.
    Done(LocalKey),
    /// A row it refers to is not here.
    MissingParent { parent: Parent, detail: String },
    /// Rows that refer to it stand in the way of its delete.
    Blocked(String),
    /// A constraint of this file, or a value that cannot be read.
    Refused(String),
}

/// Which row would help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    Row(RowRef),
    /// Some row of the table with this number.
    AnyOf(i64),
    /// A row of a table that is not synchronised.
    Unsynchronised,
}

/// Keeps the capture triggers silent, and foreign keys unjudged until the
/// commit, while `work` writes. No other connection ever sees it: the flag is
/// cleared in the same transaction.
pub(crate) fn silently<T>(
    txn: &Txn<'_>,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    txn.conn.pragma_update(None, "defer_foreign_keys", true)?;
    txn.conn
        .prepare_cached("UPDATE _sync_guard SET applying = 1")?
        .execute([])?;
    let done = work()?;
    txn.conn
        .prepare_cached("UPDATE _sync_guard SET applying = 0")?
        .execute([])?;
    Ok(done)
}

/// Writes the row. Rows in `assumed` count as present parents.
pub(crate) fn place(
    txn: &Txn<'_>,
    table: &Table,
    state: &ServerState,
    assumed: &HashSet<RowRef>,
) -> Result<Placed, Error> {
    let known = row::known(txn.conn, table, state.row)?;
    place_known(txn, table, state, known, assumed)
}

/// The same, by who has just looked at what is known of the row.
pub(crate) fn place_known(
    txn: &Txn<'_>,
    table: &Table,
    state: &ServerState,
    known: Known,
    assumed: &HashSet<RowRef>,
) -> Result<Placed, Error> {
    match &state.payload {
        Some(payload) => upsert(txn, table, state, payload, known, assumed),
        None => delete(txn, table, state, known),
    }
}

/// Whether every row this one refers to is here or in `assumed`.
pub(crate) fn has_parents(
    txn: &Txn<'_>,
    state: &ServerState,
    assumed: &HashSet<RowRef>,
) -> Result<bool, Error> {
    let (Some(table), Some(text)) = (txn.tables.by_number(state.row.tbl), &state.payload) else {
        return Ok(false);
    };
    let Ok(incoming) = payload::read_row(table, state.row.key, text) else {
        return Ok(false);
    };
    for foreign_key in &table.parents {
        if missing_parent(txn, table, foreign_key, &incoming.known, assumed)?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn upsert(
    txn: &Txn<'_>,
    table: &Table,
    state: &ServerState,
    text: &str,
    known: Known,
    assumed: &HashSet<RowRef>,
) -> Result<Placed, Error> {
    let incoming = match payload::read_row(table, state.row.key, text) {
        Ok(incoming) => incoming,
        Err(why) => return Ok(Placed::Refused(why.to_string())),
    };
    for foreign_key in &table.parents {
        if let Some(missing) = missing_parent(txn, table, foreign_key, &incoming.known, assumed)? {
            return Ok(missing);
        }
    }
    let present = row::exists(txn.conn, table, &known.key)?;
    let (written, key) = if present {
        (update(txn, table, &known.key, &incoming.known), known.key)
    } else {
        let spelt = incoming.known.iter().find(|(index, _)| *index == table.key);
        let (_, value) = spelt.expect("BUG: a payload that was read names its key");
        (insert(txn, table, &incoming.known), LocalKey(value.clone()))
    };
    if let Some(refused) = judge(txn, written)? {
        return Ok(refused);
    }
    let held = Held {
        version: state.version,
        deleted: false,
    };
    row::hold(txn.conn, table, state.row, &key, held)?;
    row::set_extra(txn.conn, state.row, incoming.extra.as_deref())?;
    Ok(Placed::Done(key))
}

/// Writes columns of a row that is here; never its key.
pub(crate) fn update(
    txn: &Txn<'_>,
    table: &Table,
    key: &LocalKey,
    values: &[(usize, Value)],
) -> rusqlite::Result<usize> {
    // The key stays as the application spells it.
    let values: Vec<&(usize, Value)> = values.iter().filter(|(i, _)| *i != table.key).collect();
    if values.is_empty() {
        // Nothing is what there was to write.
        return Ok(1);
    }
    let sets: Vec<String> = values
        .iter()
        .map(|(i, _)| format!("{} = ?", quote(&table.columns[*i].name)))
        .collect();
    let sql = format!(
        "UPDATE OR ABORT {} SET {} WHERE {} = ?",
        table.quoted(),
        sets.join(", "),
        table.quoted_key()
    );
    let bound = values.iter().map(|(_, value)| value).chain([&key.0]);
    txn.conn
        .prepare_cached(&sql)?
        .execute(params_from_iter(bound))
}

pub(crate) fn insert(
    txn: &Txn<'_>,
    table: &Table,
    values: &[(usize, Value)],
) -> rusqlite::Result<usize> {
    let names: Vec<String> = values
        .iter()
        .map(|(i, _)| quote(&table.columns[*i].name))
        .collect();
    let sql = format!(
        "INSERT OR ABORT INTO {} ({}) VALUES ({})",
        table.quoted(),
        names.join(", "),
        vec!["?"; values.len()].join(", ")
    );
    let bound = values.iter().map(|(_, value)| value);
    txn.conn
        .prepare_cached(&sql)?
        .execute(params_from_iter(bound))
}

/// Why a statement that succeeded has written nothing.
pub(crate) const IGNORED: &str = "a trigger of the application leaves the row out";

/// Tells what this file's schema refuses from what the file cannot do. A failed
/// statement leaves nothing behind; unless it was a trigger that rolls back, which
/// ends the transaction, and with it everything that was done.
fn judge(txn: &Txn<'_>, written: rusqlite::Result<usize>) -> Result<Option<Placed>, Error> {
    let error = match written {
        Ok(0) => return Ok(Some(Placed::Refused(IGNORED.to_owned()))),
        Ok(_) => return Ok(None),
        Err(error) => error,
    };
    if txn.conn.is_autocommit() {
        return Err(StorageError::RolledBack(error).into());
    }
    match error.sqlite_error_code() {
        // The last one: what only the application's own connections know, such as
        // a function that its triggers call.
        Some(
            ErrorCode::ConstraintViolation
            | ErrorCode::TypeMismatch
            | ErrorCode::TooBig
            | ErrorCode::Unknown,
        ) => Ok(Some(Placed::Refused(error.to_string()))),
        _ => Err(error.into()),
    }
}

/// A parent that is neither here nor assumed.
fn missing_parent(
    txn: &Txn<'_>,
    table: &Table,
    foreign_key: &ForeignKey,
    values: &[(usize, Value)],
    assumed: &HashSet<RowRef>,
) -> Result<Option<Placed>, Error> {
    let mut wanted = Vec::with_capacity(foreign_key.columns.len());
    for name in &foreign_key.columns {
        let value = values
            .iter()
            .find(|(i, _)| table.columns[*i].name.eq_ignore_ascii_case(name));
        match value {
            // Not carried: the row keeps what it has.
            None | Some((_, Value::Null)) => return Ok(None),
            Some((_, value)) => wanted.push(value),
        }
    }
    let conditions: Vec<String> = foreign_key
        .parent_columns
        .iter()
        .map(|name| format!("{} = ?", quote(name)))
        .collect();
    let sql = format!(
        "SELECT 1 FROM {} WHERE {}",
        quote(&foreign_key.parent),
        conditions.join(" AND ")
    );
    if txn
        .conn
        .prepare_cached(&sql)?
        .exists(params_from_iter(wanted.iter()))?
    {
        return Ok(None);
    }
    let refers_to_itself = foreign_key.parent.eq_ignore_ascii_case(&table.name)
        && foreign_key
            .parent_columns
            .iter()
            .zip(&wanted)
            .all(|(name, wanted)| {
                values.iter().any(|(i, value)| {
                    table.columns[*i].name.eq_ignore_ascii_case(name) && value == *wanted
                })
            });
    if refers_to_itself {
        return Ok(None);
    }
    let parent = which_parent(txn, foreign_key, &wanted);
    if let Parent::Row(row) = parent
        && assumed.contains(&row)
    {
        return Ok(None);
    }
    let shown: Vec<String> = wanted
        .iter()
        .map(|value| LocalKey((*value).clone()).display())
        .collect();
    Ok(Some(Placed::MissingParent {
        parent,
        detail: format!("no row in {} with {}", foreign_key.parent, shown.join(", ")),
    }))
}

fn which_parent(txn: &Txn<'_>, foreign_key: &ForeignKey, wanted: &[&Value]) -> Parent {
    let Some(parent) = txn.tables.by_name(&foreign_key.parent) else {
        return Parent::Unsynchronised;
    };
    let by_key = matches!(&foreign_key.parent_columns[..],
        [only] if only.eq_ignore_ascii_case(&parent.key_column().name));
    let key = match wanted {
        [Value::Text(text)] if by_key => RowKey::parse(text),
        [Value::Blob(bytes)] if by_key => uuid::Uuid::from_slice(bytes).ok().map(RowKey::new),
        _ => None,
    };
    key.map_or(Parent::AnyOf(parent.n), |key| {
        Parent::Row(RowRef::new(parent, key))
    })
}

fn delete(
    txn: &Txn<'_>,
    table: &Table,
    state: &ServerState,
    known: Known,
) -> Result<Placed, Error> {
    if table.children.is_empty() {
        return delete_row(txn, table, state, known);
    }
    // What was settled for the children holds only if the delete happens.
    txn.conn.execute_batch("SAVEPOINT carry")?;
    let placed = delete_row(txn, table, state, known)?;
    txn.conn.execute_batch(match placed {
        Placed::Done(_) => "RELEASE carry",
        _ => "ROLLBACK TO carry; RELEASE carry",
    })?;
    Ok(placed)
}

fn delete_row(
    txn: &Txn<'_>,
    table: &Table,
    state: &ServerState,
    known: Known,
) -> Result<Placed, Error> {
    let mut carried_off = Vec::new();
    if let Some(why) = reach(txn, table, &known.key, &mut carried_off)? {
        return Ok(Placed::Blocked(why));
    }
    // What the foreign-key actions do to other rows is this device's own edit.
    for (child, key) in &carried_off {
        note(txn, child, key)?;
    }
    let here = row::exists(txn.conn, table, &known.key)?;
    let deleted = delete_plainly(txn, table, &known.key);
    if let Some(refused) = judge(txn, deleted.map(|count| count.max(usize::from(!here))))? {
        return Ok(refused);
    }
    let held = Held {
        version: state.version,
        deleted: true,
    };
    row::hold(txn.conn, table, state.row, &known.key, held)?;
    Ok(Placed::Done(known.key))
}

/// Deletes a row as the application would; tells how many there were.
pub(crate) fn delete_plainly(
    txn: &Txn<'_>,
    table: &Table,
    key: &LocalKey,
) -> rusqlite::Result<usize> {
    let sql = format!(
        "DELETE FROM {} WHERE {} = ?1",
        table.quoted(),
        table.quoted_key()
    );
    txn.conn.prepare_cached(&sql)?.execute([key])
}

/// Follows the foreign-key actions of a delete: collects the synchronised rows
/// they reach, and says why they must not run.
fn reach<'t>(
    txn: &Txn<'t>,
    table: &'t Table,
    key: &LocalKey,
    found: &mut Vec<(&'t Table, LocalKey)>,
) -> Result<Option<String>, Error> {
    for foreign_key in &table.children {
        let child = txn.tables.by_name(&foreign_key.child);
        for child_key in children(txn, table, key, foreign_key, child)? {
            if foreign_key.on_delete == OnDelete::Refuse {
                return Ok(Some(format!("rows of {} refer to it", foreign_key.child)));
            }
            let Some(child) = child else { continue };
            if found
                .iter()
                .any(|(seen, other)| seen.n == child.n && *other == child_key)
            {
                continue;
            }
            if let Some(canonical) = child_key.canonical(child.key_kind) {
                let known = row::known(txn.conn, child, RowRef::new(child, canonical))?;
                let refused = known.unsent == Unsent::Rejected;
                let gives_way = match (foreign_key.on_delete, refused) {
                    // The child stays, without its parent, and is sent again.
                    (OnDelete::Set, true) => true,
                    (_, true) => {
                        shadow::gives_way(txn, child, RowRef::new(child, canonical), &known)?
                    }
                    (_, false) => known.unsent == Unsent::None,
                };
                if !gives_way {
                    return Ok(Some(format!(
                        "row {} of {} refers to it and has an unsent edit",
                        child_key.display(),
                        child.name
                    )));
                }
            }
            found.push((child, child_key.clone()));
            if foreign_key.on_delete == OnDelete::Cascade
                && let Some(why) = reach(txn, child, &child_key, found)?
            {
                return Ok(Some(why));
            }
        }
    }
    Ok(None)
}

/// The keys of the rows that refer to a row, except the row itself; of a table
/// that is not synchronised, at most one NULL that stands for "some".
fn children(
    txn: &Txn<'_>,
    table: &Table,
    key: &LocalKey,
    foreign_key: &ForeignKey,
    child: Option<&Table>,
) -> Result<Vec<LocalKey>, Error> {
    let joins: Vec<String> = foreign_key
        .columns
        .iter()
        .zip(&foreign_key.parent_columns)
        .map(|(from, to)| format!("p.{} = c.{}", quote(to), quote(from)))
        .collect();
    let own = foreign_key.child.eq_ignore_ascii_case(&table.name);
    let sql = format!(
        "SELECT {} FROM {} AS p JOIN {} AS c ON {} WHERE p.{} = ?1 {} {}",
        child.map_or("NULL".to_owned(), |child| format!(
            "c.{}",
            child.quoted_key()
        )),
        table.quoted(),
        quote(&foreign_key.child),
        joins.join(" AND "),
        table.quoted_key(),
        if own {
            format!("AND c.{} IS NOT ?1", table.quoted_key())
        } else {
            String::new()
        },
        if child.is_none() { "LIMIT 1" } else { "" },
    );
    let mut statement = txn.conn.prepare_cached(&sql)?;
    let rows = statement.query_map([key], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Does what the silent triggers would have done for a row that a foreign-key
/// action is about to change.
fn note(txn: &Txn<'_>, table: &Table, key: &LocalKey) -> Result<(), Error> {
    let images = 0..table.columns.len();
    let images: Vec<usize> = images
        .filter(|i| *i == table.key || table.has_images())
        .collect();
    let logged: Vec<String> = images.iter().map(|i| log::column(table, *i)).collect();
    let columns: Vec<String> = images
        .iter()
        .map(|i| quote(&table.columns[*i].name))
        .collect();
    let sql = format!(
        "INSERT INTO {} (op, {}) SELECT 3, {} FROM {} WHERE {} = ?1",
        log::name(table.n),
        logged.join(", "),
        columns.join(", "),
        table.quoted(),
        table.quoted_key(),
    );
    txn.conn.prepare_cached(&sql)?.execute([key])?;
    Step::CascadeNoted.reached();
    Ok(())
}
