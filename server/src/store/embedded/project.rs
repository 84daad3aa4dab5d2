//! Writing rows into business tables of the same file, inside the upload's
//! transaction, each row under its own savepoint.
//!
//! The connection does not enforce foreign keys: references between
//! synchronised tables have been checked when the upload was decided, and a
//! deferred one failing at COMMIT would take everybody's upload with it.

use super::business_row::{There, find, is_number, owner_of, quoted, spellings, value};
use super::{Tables, handled, standing};
use crate::projection::{Handled, Kind, NOT_UNIQUE, NOT_YOURS, NUMBER_NAME, Projection};
use crate::store::handler::{Before, Row};
use crate::store::{StoreError, op_code};
use oversync_shared::json::{self, Reader};
use oversync_shared::wire::Op;
use oversync_shared::{RowKey, RowVersion, TableName, UserId};
use rusqlite::types::Value;
use rusqlite::{Connection, Transaction, params, params_from_iter};
use std::collections::HashSet;

/// A row to be written or removed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) user: i64,
    pub(super) user_id: &'a UserId,
    pub(super) writer: Writer<'a>,
    pub(super) before: Before,
    pub(super) table_key: i64,
    pub(super) key: RowKey,
    pub(super) version: RowVersion,
    pub(super) op: Op,
    /// `None` removes the row.
    pub(super) payload: Option<&'a str>,
    pub(super) tables: &'a Tables,
}

/// Who writes the rows of a table.
#[derive(Debug, Clone, Copy)]
pub(super) enum Writer<'a> {
    Projection(&'a Projection),
    Handler(&'a Handled),
}

impl Writer<'_> {
    fn name(&self) -> &TableName {
        match self {
            Self::Projection(projection) => &projection.name,
            Self::Handler(handled) => &handled.name,
        }
    }

    fn rank(&self) -> usize {
        match self {
            Self::Projection(projection) => projection.rank,
            Self::Handler(handled) => handled.rank,
        }
    }
}

/// Why a row could not be written.
pub(super) enum Trouble {
    /// The data; the text for the failure list.
    Data(String),
    /// The database.
    Store(StoreError),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let code = error.sqlite_error_code();
        // Everything else is the row's: constraints, triggers that raise,
        // generated columns that cannot be computed, a table that has changed.
        let is_ours = matches!(
            code,
            Some(
                ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::OutOfMemory
                    | ErrorCode::ReadOnly
                    | ErrorCode::OperationInterrupted
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::DatabaseCorrupt
                    | ErrorCode::DiskFull
                    | ErrorCode::CannotOpen
                    | ErrorCode::NotADatabase
            )
        );
        if is_ours {
            return Self::Store(error.into());
        }
        let extended = error.sqlite_error().map(|cause| cause.extended_code);
        let unique = [
            rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE,
            rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY,
        ];
        if extended.is_some_and(|code| unique.contains(&code)) {
            return Self::Data(NOT_UNIQUE.to_owned());
        }
        Self::Data(error.to_string())
    }
}

/// Rows whose own triggers took the whole transaction back; they are recorded
/// and not tried.
pub(super) type GivenUp = HashSet<(i64, i64, RowKey)>;

/// How projecting ended.
pub(super) enum Projected {
    /// Everything is written, or recorded: so many rows.
    Done(usize),
    /// A trigger or conflict clause of the business table rolled the whole
    /// transaction back while this row was written.
    RolledBack(i64, i64, RowKey),
}

/// Writes what can be written, parents first; records what cannot.
pub(super) fn project(
    tx: &Transaction<'_>,
    mut work: Vec<Work<'_>>,
    given_up: &GivenUp,
    ts: i64,
) -> Result<Projected, StoreError> {
    work.sort_by_key(|work| {
        let rank = work.writer.rank() as i64;
        if work.payload.is_some() {
            (false, rank)
        } else {
            (true, -rank)
        }
    });
    let mut failed = Vec::new();
    for work in &work {
        let id = (work.user, work.table_key, work.key);
        if given_up.contains(&id) {
            failed.push((work, ROLLED_BACK.to_owned()));
            continue;
        }
        match attempt(tx, work)? {
            Attempt::Written => clear(tx, work)?,
            Attempt::Failed(error) => failed.push((work, error)),
            Attempt::RolledBack => return Ok(Projected::RolledBack(id.0, id.1, id.2)),
        }
    }
    let mut recorded = 0;
    for (work, error) in failed {
        // A unique value may have been freed by a later row of the upload.
        let is_ours = matches!(work.writer, Writer::Projection(_));
        if is_ours && error == NOT_UNIQUE {
            match attempt(tx, work)? {
                Attempt::Written => {
                    clear(tx, work)?;
                    continue;
                }
                Attempt::RolledBack => {
                    return Ok(Projected::RolledBack(work.user, work.table_key, work.key));
                }
                Attempt::Failed(_) => {}
            }
        }
        tracing::warn!(table = %work.writer.name(), error, "a row could not be projected");
        record(tx, work, &error, ts)?;
        recorded += 1;
    }
    Ok(Projected::Done(recorded))
}

/// The text of a failure whose own triggers rolled everything back.
pub(super) const ROLLED_BACK: &str =
    "a trigger or conflict clause of the business table rolled back";

/// What came of writing one row.
pub(super) enum Attempt {
    Written,
    /// Nothing of the row is written.
    Failed(String),
    /// Nothing of the transaction is left.
    RolledBack,
}

pub(super) fn attempt(tx: &Transaction<'_>, work: &Work<'_>) -> Result<Attempt, StoreError> {
    tx.execute_batch("SAVEPOINT projection")?;
    let written = match work.writer {
        Writer::Projection(projection) => {
            write(tx, work, projection).and_then(|()| standing::check(tx, work, projection))
        }
        Writer::Handler(handled) => {
            let row = Row {
                user: work.user_id,
                key: work.key,
                version: work.version,
                payload: work.payload,
                before: work.before,
            };
            handled::write(tx, handled, row)
        }
    };
    match written {
        // A handler may have ended the transaction, whatever it says.
        Ok(()) if tx.is_autocommit() => Ok(Attempt::RolledBack),
        Ok(()) => {
            tx.execute_batch("RELEASE projection")?;
            Ok(Attempt::Written)
        }
        Err(_) if tx.is_autocommit() => Ok(Attempt::RolledBack),
        Err(Trouble::Data(error)) => {
            tx.execute_batch("ROLLBACK TO projection; RELEASE projection")?;
            Ok(Attempt::Failed(error))
        }
        Err(Trouble::Store(error)) => Err(error),
    }
}

fn write(tx: &Transaction<'_>, work: &Work<'_>, projection: &Projection) -> Result<(), Trouble> {
    let Projection { key, name, .. } = projection;
    let (table, key_name) = (quoted(&name.table), quoted(&key.name));
    let there = find(tx, projection, work.key)?;
    let mine = is_mine(tx, work, projection, there.as_ref())?;
    let Some(payload) = work.payload else {
        if let Some(there) = there.filter(|_| mine) {
            tx.prepare_cached(&format!("DELETE FROM {table} WHERE {key_name} = ?1"))?
                .execute([there.key])?;
        }
        if mine {
            release(tx, work)?;
        }
        return Ok(());
    };
    if let Some(owner) = &projection.owner
        && owner.type_name.eq_ignore_ascii_case("uuid")
        && is_number(work.user_id.as_str())
    {
        return Err(Trouble::Data(NUMBER_NAME.to_owned()));
    }
    if !mine {
        return Err(Trouble::Data(NOT_YOURS.to_owned()));
    }
    let members = json::members(payload).map_err(|fault| Trouble::Data(fault.to_string()))?;
    work.tables
        .unknown
        .look(projection, members.iter().map(|(name, _)| name));
    let mut names = Vec::new();
    let mut values = Vec::new();
    for column in &projection.columns {
        if let Some((_, text)) = members
            .iter()
            .find(|(name, _)| *name == column.wire_name.as_str())
        {
            names.push(quoted(&column.column.name));
            values.push(value(column, text)?);
        }
    }
    if let Some(there) = there {
        if !names.is_empty() {
            let sets: Vec<String> = names.iter().map(|name| format!("{name} = ?")).collect();
            let sql = format!(
                "UPDATE OR ABORT {table} SET {} WHERE {key_name} = ?",
                sets.join(", ")
            );
            values.push(there.key);
            tx.prepare_cached(&sql)?.execute(params_from_iter(values))?;
        }
        return Ok(());
    }
    names.push(key_name);
    values.push(own_key(work, projection, &members));
    if let Some(owner) = &projection.owner {
        names.push(quoted(&owner.name));
        values.push(Value::Text(work.user_id.to_string()));
    }
    let places = vec!["?"; names.len()].join(", ");
    let sql = format!(
        "INSERT OR ABORT INTO {table} ({}) VALUES ({places})",
        names.join(", ")
    );
    tx.prepare_cached(&sql)?.execute(params_from_iter(values))?;
    if projection.owner.is_none() {
        tx.prepare_cached(
            "INSERT INTO _oversync_owners (table_key, pk, user_key) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )?
        .execute(params![work.table_key, work.key.uuid().as_bytes(), work.user])?;
    }
    Ok(())
}

/// Whether this user may write or remove the row.
fn is_mine(
    connection: &Connection,
    work: &Work<'_>,
    projection: &Projection,
    there: Option<&There>,
) -> rusqlite::Result<bool> {
    if projection.owner.is_some() {
        let owner = there.map(|there| there.owner.as_deref());
        return Ok(owner.is_none_or(|owner| owner == Some(work.user_id.as_str())));
    }
    let owner = owner_of(connection, work.table_key, work.key)?;
    Ok(match owner {
        Some(owner) => owner == work.user,
        // Nobody has synchronised it: it may be made, not taken.
        None => there.is_none(),
    })
}

fn release(tx: &Transaction<'_>, work: &Work<'_>) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "DELETE FROM _oversync_owners WHERE table_key = ?1 AND pk = ?2 AND user_key = ?3",
    )?
    .execute(params![
        work.table_key,
        work.key.uuid().as_bytes(),
        work.user
    ])?;
    Ok(())
}

/// The key as the application spells it, when the payload names it.
fn own_key(
    work: &Work<'_>,
    projection: &Projection,
    members: &[(std::borrow::Cow<'_, str>, &str)],
) -> Value {
    if projection.key.kind == Kind::Bytes {
        return Value::Blob(work.key.uuid().as_bytes().to_vec());
    }
    let wire_name = projection.key.name.to_lowercase();
    let spelled = members.iter().find(|(name, _)| *name == wire_name.as_str());
    let spelled = spelled.and_then(|(_, text)| Reader::new(text).string().ok());
    match spelled {
        Some(text) if spellings(work.key).contains(&text.to_string()) => {
            Value::Text(text.into_owned())
        }
        _ => Value::Text(work.key.to_string()),
    }
}

pub(super) fn clear(tx: &Transaction<'_>, work: &Work<'_>) -> Result<(), StoreError> {
    tx.prepare_cached(
        "DELETE FROM _oversync_failures WHERE user_key = ?1 AND table_key = ?2 AND pk = ?3",
    )?
    .execute(params![
        work.user,
        work.table_key,
        work.key.uuid().as_bytes()
    ])?;
    Ok(())
}

/// Under the user's next number; a failure of the same row and version keeps its
/// own.
fn record(tx: &Transaction<'_>, work: &Work<'_>, error: &str, ts: i64) -> Result<(), StoreError> {
    let known = tx
        .prepare_cached(
            "UPDATE _oversync_failures SET error = ?5 \
             WHERE user_key = ?1 AND table_key = ?2 AND pk = ?3 AND attempted_version = ?4",
        )?
        .execute(params![
            work.user,
            work.table_key,
            work.key.uuid().as_bytes(),
            work.version.get(),
            error
        ])?;
    if known > 0 {
        return Ok(());
    }
    let number: i64 = tx
        .prepare_cached(
            "UPDATE _oversync_users SET last_failure = last_failure + 1 WHERE user_key = ?1 RETURNING last_failure",
        )?
        .query_row([work.user], |row| row.get(0))?;
    tx.prepare_cached(
        "INSERT INTO _oversync_failures \
         (user_key, id, table_key, pk, attempted_version, op, payload, error, first_seen) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        work.user,
        number,
        work.table_key,
        work.key.uuid().as_bytes(),
        work.version.get(),
        op_code(work.op),
        work.payload,
        error,
        ts
    ])?;
    Ok(())
}
