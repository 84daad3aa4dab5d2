//! Writing one row of the server into an application's table.
//!
//! Updates only the columns the row carries, never by delete and insert, which
//! would cascade. A row that cannot be written now is an outcome with a reason,
//! not an error: the caller parks it. Runs while capture is silent.
//!
//! Every statement says OR ABORT: a conflict clause of the application's schema
//! would skip the row, replace another one, or roll back all that was done.

use crate::error::{Error, StorageError};
use crate::hand::Hand;
use crate::key::{LocalKey, RowRef};
use crate::payload;
use crate::reach;
use crate::row::{self, Known};
use crate::schema::{ForeignKey, Table, quote};
use crate::store::Txn;
use oversync_shared::reconcile::Held;
use oversync_shared::{RowKey, RowVersion};
use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, ErrorCode, params_from_iter};
use std::collections::HashSet;

/// A row as the server has it; no payload for a tombstone.
#[derive(Debug, Clone)]
pub(crate) struct ServerState {
    pub(crate) row: RowRef,
    pub(crate) version: RowVersion,
    pub(crate) payload: Option<String>,
}

impl ServerState {
    pub(crate) fn told(&self) -> Told<'_> {
        Told {
            row: self.row,
            version: self.version,
            payload: self.payload.as_deref(),
        }
    }
}

/// The same, as it stands in a page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told<'p> {
    pub(crate) row: RowRef,
    pub(crate) version: RowVersion,
    pub(crate) payload: Option<&'p str>,
}

impl Told<'_> {
    /// To be kept for longer.
    pub(crate) fn to_state(self) -> ServerState {
        ServerState {
            row: self.row,
            version: self.version,
            payload: self.payload.map(str::to_owned),
        }
    }
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

/// Keeps the capture triggers silent while `work` writes. No other connection ever
/// sees it: the flag is cleared in the same transaction.
pub(crate) fn silently<T>(
    txn: &Txn<'_>,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    txn.conn
        .prepare_cached("UPDATE _sync_guard SET applying = 1")?
        .execute([])?;
    let done = work()?;
    txn.conn
        .prepare_cached("UPDATE _sync_guard SET applying = 0")?
        .execute([])?;
    Ok(done)
}

/// Runs one statement that writes tables of the application; a foreign key that does
/// not hold after it is left to the commit.
///
/// Asked for only when it is needed: the pragma lasts until the commit and makes SQLite
/// prepare every statement of the connection anew, which costs a small page more than its
/// rows. A statement that fails leaves nothing behind, so it can run again. (For that a
/// table must have a trigger, as those that are synchronised have: without one, SQLite
/// may do without a statement journal.)
pub(crate) fn judged_at_commit(
    txn: &Txn<'_>,
    mut statement: impl FnMut() -> rusqlite::Result<usize>,
) -> rusqlite::Result<usize> {
    match statement() {
        Err(error) if breaks_a_foreign_key(&error) => {
            txn.conn.pragma_update(None, "defer_foreign_keys", true)?;
            statement()
        }
        done => done,
    }
}

/// Whether it is a foreign key that a statement fails by: with its own code, or as
/// RESTRICT does by a trigger of SQLite's own, which deferring leaves out.
pub(crate) fn breaks_a_foreign_key(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_CONSTRAINT_FOREIGNKEY, SQLITE_CONSTRAINT_TRIGGER};
    let rusqlite::Error::SqliteFailure(failure, text) = error else {
        return false;
    };
    match failure.extended_code {
        SQLITE_CONSTRAINT_FOREIGNKEY => true,
        SQLITE_CONSTRAINT_TRIGGER => text.as_deref() == Some("FOREIGN KEY constraint failed"),
        _ => false,
    }
}

/// Writes the row. Rows in `assumed` count as present parents.
pub(crate) fn place(
    txn: &Txn<'_>,
    table: &Table,
    state: &ServerState,
    assumed: &HashSet<RowRef>,
) -> Result<Placed, Error> {
    let known = row::known(txn.conn, table, state.row)?;
    let mut hand = Hand::new(txn);
    let placed = place_known(&mut hand, txn, table, state.told(), known, assumed)?;
    hand.flush()?;
    Ok(placed)
}

/// The same, by who has just looked at what is known of the row, and has more to
/// write: versions are recorded when the hand is flushed.
pub(crate) fn place_known<'a>(
    hand: &mut Hand<'a>,
    txn: &'a Txn<'a>,
    table: &Table,
    told: Told<'_>,
    known: Known,
    assumed: &HashSet<RowRef>,
) -> Result<Placed, Error> {
    match told.payload {
        Some(payload) => hand.upsert(table, told, payload, known, assumed),
        None => {
            // It looks at what is known of other rows.
            hand.flush()?;
            delete(txn, table, told, known)
        }
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
        let mut probe = parent_probe(txn, foreign_key)?;
        let values = &incoming.known;
        if missing_parent(txn, table, foreign_key, &mut probe, values, assumed)?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes columns of a row that is here; never its key.
pub(crate) fn update(
    txn: &Txn<'_>,
    table: &Table,
    key: &LocalKey,
    values: &[(usize, Value)],
) -> rusqlite::Result<usize> {
    let Some(bound) = update_values(table, key, values) else {
        return Ok(1);
    };
    let mut statement = txn.conn.prepare_cached(&update_sql(table, values))?;
    judged_at_commit(txn, || statement.execute(params_from_iter(&bound)))
}

/// What [`update_sql`] binds: the values but the key's, which stays as the application
/// spells it, then the key. None where there is nothing to write.
pub(crate) fn update_values<'v>(
    table: &Table,
    key: &'v LocalKey,
    values: &'v [(usize, Value)],
) -> Option<Vec<&'v Value>> {
    let rest = values.iter().filter(|(index, _)| *index != table.key);
    let rest: Vec<&Value> = rest.map(|(_, value)| value).collect();
    (!rest.is_empty()).then(|| rest.into_iter().chain([&key.0]).collect())
}

/// Binds the values but the key's, then the key.
pub(crate) fn update_sql(table: &Table, values: &[(usize, Value)]) -> String {
    let sets: Vec<String> = values
        .iter()
        .filter(|(index, _)| *index != table.key)
        .map(|(index, _)| format!("{} = ?", quote(&table.columns[*index].name)))
        .collect();
    format!(
        "UPDATE OR ABORT {} SET {} WHERE {} = ?",
        table.quoted(),
        sets.join(", "),
        table.quoted_key()
    )
}

pub(crate) fn insert(
    txn: &Txn<'_>,
    table: &Table,
    values: &[(usize, Value)],
) -> rusqlite::Result<usize> {
    let bound = values.iter().map(|(_, value)| value);
    let mut statement = txn.conn.prepare_cached(&insert_sql(table, values))?;
    judged_at_commit(txn, || statement.execute(params_from_iter(bound.clone())))
}

/// Binds the values in their order.
pub(crate) fn insert_sql(table: &Table, values: &[(usize, Value)]) -> String {
    let names: Vec<String> = values
        .iter()
        .map(|(index, _)| quote(&table.columns[*index].name))
        .collect();
    format!(
        "INSERT OR ABORT INTO {} ({}) VALUES ({})",
        table.quoted(),
        names.join(", "),
        vec!["?"; values.len()].join(", ")
    )
}

/// Why a statement that succeeded has written nothing.
pub(crate) const IGNORED: &str = "a trigger of the application leaves the row out";

/// Runs one statement that writes a row. A trigger of the application that raises FAIL
/// leaves what was done before it: all of it is undone here.
pub(crate) fn whole(
    conn: &Connection,
    table: &Table,
    write: impl FnOnce() -> rusqlite::Result<usize>,
) -> rusqlite::Result<usize> {
    if !table.fires {
        return write();
    }
    conn.prepare_cached("SAVEPOINT whole")?.execute([])?;
    let written = write();
    // A trigger that raises ROLLBACK takes the savepoint with it.
    if !conn.is_autocommit() {
        if written.is_err() {
            conn.prepare_cached("ROLLBACK TO whole")?.execute([])?;
        }
        conn.prepare_cached("RELEASE whole")?.execute([])?;
    }
    written
}

/// Tells what this file's schema refuses from what the file cannot do. A failed
/// statement leaves nothing behind; unless it was a trigger that rolls back, which
/// ends the transaction, and with it everything that was done.
pub(crate) fn judge(
    txn: &Txn<'_>,
    written: rusqlite::Result<usize>,
) -> Result<Option<Placed>, Error> {
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

/// Asks whether the row that a foreign key refers to is here.
pub(crate) fn parent_probe<'a>(
    txn: &'a Txn<'a>,
    foreign_key: &ForeignKey,
) -> Result<CachedStatement<'a>, Error> {
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
    Ok(txn.conn.prepare_cached(&sql)?)
}

/// A parent that is neither here nor assumed; the probe is the foreign key's.
pub(crate) fn missing_parent(
    txn: &Txn<'_>,
    table: &Table,
    foreign_key: &ForeignKey,
    probe: &mut CachedStatement<'_>,
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
    if probe.exists(params_from_iter(wanted.iter()))? {
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

fn delete(txn: &Txn<'_>, table: &Table, told: Told<'_>, known: Known) -> Result<Placed, Error> {
    if table.children.is_empty() {
        return delete_row(txn, table, told, known);
    }
    // What was settled for the children holds only if the delete happens.
    txn.conn.execute_batch("SAVEPOINT carry")?;
    let placed = delete_row(txn, table, told, known)?;
    txn.conn.execute_batch(match placed {
        Placed::Done(_) => "RELEASE carry",
        _ => "ROLLBACK TO carry; RELEASE carry",
    })?;
    Ok(placed)
}

fn delete_row(txn: &Txn<'_>, table: &Table, told: Told<'_>, known: Known) -> Result<Placed, Error> {
    if let Some(why) = reach::note_delete(txn, table, &known.key)? {
        return Ok(Placed::Blocked(why));
    }
    let here = row::exists(txn.conn, table, &known.key)?;
    let deleted = whole(txn.conn, table, || delete_plainly(txn, table, &known.key));
    if let Some(refused) = judge(txn, deleted.map(|count| count.max(usize::from(!here))))? {
        return Ok(refused);
    }
    let held = Held {
        version: told.version,
        deleted: true,
    };
    row::hold(txn.conn, table, told.row, &known.key, held)?;
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
    let mut statement = txn.conn.prepare_cached(&sql)?;
    judged_at_commit(txn, || statement.execute([key]))
}
