//! Local edits that can never succeed as they are, each with its reason.
//!
//! A row stands here at most once. It leaves when the application edits it
//! again (the newer edit supersedes the refused one), or when somebody decides.

use crate::capture;
use crate::error::{Error, SetupError};
use crate::key::{LocalKey, RowRef};
use crate::log::{self, Done};
use crate::outbox::Frozen;
use crate::place::{self, Placed, ServerState};
use crate::row;
use crate::schema::Table;
use crate::step::Step;
use crate::store::Txn;
use oversync_shared::reconcile::{Edit, edit};
use oversync_shared::wire::Op;
use oversync_shared::{RowKey, RowVersion};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::HashSet;
use uuid::Uuid;

/// The reason when a key is no UUID.
const BAD_KEY: &str = "bad_key";

/// The reason when a value has no JSON form.
const UNCARRIABLE: &str = "uncarriable_value";

/// One rejected edit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// Its number in the list.
    pub id: i64,
    /// The table.
    pub table: String,
    /// The row's key, as the application spells it.
    pub key: String,
    /// INSERT, UPDATE or DELETE.
    pub op: String,
    /// The row as it was to be sent; none for a delete, or when it cannot be
    /// written as JSON.
    pub payload: Option<String>,
    /// A code: one of the server's, `bad_key` or `uncarriable_value`.
    pub reason: String,
    /// In words.
    pub detail: String,
    /// When, in seconds since 1970.
    pub at: i64,
}

impl Rejected {
    /// One line of JSON, the payload as an object.
    pub fn to_json_line(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            id: i64,
            table: &'a str,
            key: &'a str,
            op: &'a str,
            payload: Option<&'a RawValue>,
            reason: &'a str,
            detail: &'a str,
            at: i64,
        }
        let payload = self.payload.as_deref();
        let line = Line {
            id: self.id,
            table: &self.table,
            key: &self.key,
            op: &self.op,
            payload: payload.and_then(|text| serde_json::from_str(text).ok()),
            reason: &self.reason,
            detail: &self.detail,
            at: self.at,
        };
        serde_json::to_string(&line).expect("BUG: texts and numbers always serialise") + "\n"
    }
}

/// Lists the rejected edits, oldest first.
pub(crate) fn list(conn: &Connection) -> Result<Vec<Rejected>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT x.id, t.name, x.local_key, x.op, x.payload, x.reason, x.detail, x.at
         FROM _sync_rejected AS x JOIN _sync_table AS t ON t.n = x.tbl ORDER BY x.id",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Rejected {
            id: row.get(0)?,
            table: row.get(1)?,
            key: row.get::<_, LocalKey>(2)?.display(),
            op: row.get(3)?,
            payload: row.get(4)?,
            reason: row.get(5)?,
            detail: row.get(6)?,
            at: row.get(7)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

struct Entry<'a> {
    pk: Option<Uuid>,
    op: Op,
    payload: Option<&'a str>,
    base: Option<&'a str>,
    reason: &'a str,
    detail: &'a str,
}

fn insert(txn: &Txn<'_>, tbl: i64, key: &LocalKey, entry: &Entry<'_>) -> Result<(), Error> {
    txn.conn
        .prepare_cached(
            "INSERT INTO _sync_rejected (tbl, pk, local_key, op, payload, base, reason, detail, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            tbl,
            entry.pk,
            key,
            entry.op.as_str(),
            entry.payload,
            entry.base,
            entry.reason,
            entry.detail,
            txn.now
        ])?;
    Step::EditRejected.reached();
    Ok(())
}

/// A frozen change that the server refused.
pub(crate) fn add_frozen(
    txn: &Txn<'_>,
    frozen: &Frozen,
    reason: &str,
    detail: &str,
) -> Result<(), Error> {
    drop_row(txn.conn, frozen.row)?;
    let entry = Entry {
        pk: Some(frozen.row.pk()),
        op: frozen.op,
        payload: frozen.payload.as_deref(),
        base: frozen.base.as_deref(),
        reason,
        detail,
    };
    insert(txn, frozen.row.tbl, &frozen.key, &entry)
}

/// A row that has no JSON form.
pub(crate) fn add_uncarriable(
    txn: &Txn<'_>,
    row: RowRef,
    key: &LocalKey,
    base: Option<&str>,
    detail: &str,
) -> Result<(), Error> {
    drop_row(txn.conn, row)?;
    let entry = Entry {
        pk: Some(row.pk()),
        op: Op::Update,
        payload: None,
        base,
        reason: UNCARRIABLE,
        detail,
    };
    insert(txn, row.tbl, key, &entry)
}

/// A row whose key is no UUID.
pub(crate) fn add_bad_key(txn: &Txn<'_>, table: &Table, key: &LocalKey) -> Result<(), Error> {
    let detail = format!(
        "the key of a synchronised row must be a UUID; {} is none",
        key.display()
    );
    add_for_its_key(txn, table, key, &detail)
}

/// A row whose key is another spelling of the key of a row that is there. Without
/// `pk`, which names the other one's edits.
pub(crate) fn add_twin(
    txn: &Txn<'_>,
    table: &Table,
    key: &LocalKey,
    other: &LocalKey,
) -> Result<(), Error> {
    let detail = format!(
        "{} and {} are two spellings of one UUID, and the row {} is there already",
        key.display(),
        other.display(),
        other.display()
    );
    add_for_its_key(txn, table, key, &detail)
}

fn add_for_its_key(
    txn: &Txn<'_>,
    table: &Table,
    key: &LocalKey,
    detail: &str,
) -> Result<(), Error> {
    let entry = Entry {
        pk: None,
        op: Op::Insert,
        payload: None,
        base: None,
        reason: BAD_KEY,
        detail,
    };
    insert(txn, table.n, key, &entry)
}

/// The keys of a table that were refused for themselves.
pub(crate) fn twins(conn: &Connection, table: &Table) -> Result<Vec<LocalKey>, Error> {
    let sql = "SELECT local_key FROM _sync_rejected WHERE tbl = ?1 AND pk IS NULL ORDER BY id";
    let mut statement = conn.prepare_cached(sql)?;
    let keys = statement.query_map([table.n], |row| row.get(0))?;
    Ok(keys.collect::<Result<_, _>>()?)
}

/// The refusal of [`add_twin`] is to be judged anew.
pub(crate) fn drop_twin(conn: &Connection, table: &Table, key: &LocalKey) -> Result<(), Error> {
    let sql = "DELETE FROM _sync_rejected WHERE tbl = ?1 AND local_key IS ?2 AND pk IS NULL";
    conn.prepare_cached(sql)?.execute(params![table.n, key])?;
    Ok(())
}

/// The base image that the refused edit of a row was made on.
pub(crate) fn base_of(conn: &Connection, row: RowRef) -> Result<Option<String>, Error> {
    Ok(conn
        .prepare_cached("SELECT base FROM _sync_rejected WHERE tbl = ?1 AND pk = ?2")?
        .query_row(params![row.tbl, row.pk()], |row| row.get(0))
        .optional()?
        .flatten())
}

/// The row's edit has been superseded.
pub(crate) fn drop_row(conn: &Connection, row: RowRef) -> Result<(), Error> {
    conn.prepare_cached("DELETE FROM _sync_rejected WHERE tbl = ?1 AND pk = ?2")?
        .execute(params![row.tbl, row.pk()])?;
    Ok(())
}

/// The same, for a key that is no UUID.
pub(crate) fn drop_key(conn: &Connection, table: &Table, key: &LocalKey) -> Result<(), Error> {
    conn.prepare_cached("DELETE FROM _sync_rejected WHERE tbl = ?1 AND local_key IS ?2")?
        .execute(params![table.n, key])?;
    Ok(())
}

struct Found {
    tbl: i64,
    pk: Option<Uuid>,
    key: LocalKey,
    base: Option<String>,
}

/// The entry, after every newer edit has been looked at: an edit that has been
/// superseded is no longer listed.
fn find(txn: &Txn<'_>, id: i64) -> Result<Found, Error> {
    capture::collect(txn)?;
    let found = txn
        .conn
        .prepare_cached("SELECT tbl, pk, local_key, base FROM _sync_rejected WHERE id = ?1")?
        .query_row([id], |row| {
            Ok(Found {
                tbl: row.get(0)?,
                pk: row.get(1)?,
                key: row.get(2)?,
                base: row.get(3)?,
            })
        })
        .optional()?;
    found.ok_or_else(|| {
        SetupError::NoSuchEntry {
            list: "rejected edit",
            id,
        }
        .into()
    })
}

fn remove(conn: &Connection, id: i64) -> Result<(), Error> {
    conn.prepare_cached("DELETE FROM _sync_rejected WHERE id = ?1")?
        .execute([id])?;
    Ok(())
}

/// Makes the edit a pending one again: what is sent is the row as it stands.
pub(crate) fn retry(txn: &Txn<'_>, id: i64) -> Result<(), Error> {
    let found = find(txn, id)?;
    if found.pk.is_none() && txn.tables.by_number(found.tbl).is_none() {
        // Whether the key is one by now, only its table can tell.
        return Ok(());
    }
    remove(txn.conn, id)?;
    Step::RejectedRetried.reached();
    match found.pk {
        Some(pk) => {
            let row = RowRef {
                tbl: found.tbl,
                key: RowKey::new(pk),
            };
            capture::add(txn, row, &found.key, 0, found.base.as_deref())?;
            // What was refused has been tried: it is no new row any more.
            capture::was_known(txn.conn, row)
        }
        // A key that was refused for itself is judged again when the log is read.
        None => log::note(txn.conn, found.tbl, Done::Inserted, &found.key),
    }
}

/// [`retry`] for every entry.
pub(crate) fn retry_all(txn: &Txn<'_>) -> Result<usize, Error> {
    capture::collect(txn)?;
    let mut statement = txn
        .conn
        .prepare_cached("SELECT id FROM _sync_rejected ORDER BY id")?;
    let ids = statement.query_map([], |row| row.get(0))?;
    let ids: Vec<i64> = ids.collect::<Result<_, _>>()?;
    for id in &ids {
        retry(txn, *id)?;
    }
    Ok(ids.len())
}

/// Puts the row back to what the server has. Returns the row that was written.
pub(crate) fn give_up(txn: &Txn<'_>, id: i64) -> Result<Vec<(RowRef, LocalKey)>, Error> {
    let cannot = |why: &str| SetupError::CannotDrop {
        id,
        why: why.to_owned(),
    };
    let found = find(txn, id)?;
    let table = txn
        .tables
        .by_number(found.tbl)
        .ok_or_else(|| cannot("its table is no longer synchronised"))?;
    let Some(pk) = found.pk else {
        // The server has never heard of a row with such a key.
        place::silently(txn, || Ok(place::delete_plainly(txn, table, &found.key)?))?;
        remove(txn.conn, id)?;
        Step::RejectedDropped.reached();
        return Ok(Vec::new());
    };
    let row = RowRef {
        tbl: found.tbl,
        key: RowKey::new(pk),
    };
    let known = row::known(txn.conn, table, row)?;
    let on_server = edit(false, known.remembered()) != Edit::Nothing;
    if on_server && found.base.is_none() {
        return Err(cannot("it is not known on this device what the server has").into());
    }
    let state = ServerState {
        row,
        version: known.held.version,
        payload: found.base.filter(|_| on_server),
    };
    let placed = place::silently(txn, || place::place(txn, table, &state, &HashSet::new()))?;
    let key = match placed {
        Placed::Done(key) => key,
        Placed::MissingParent { detail: why, .. } | Placed::Blocked(why) | Placed::Refused(why) => {
            return Err(cannot(&why).into());
        }
    };
    if state.version == RowVersion::NEVER_SEEN {
        row::forget(txn.conn, row)?;
    }
    remove(txn.conn, id)?;
    // Rows that waited for it get the server's own answer now.
    capture::parent_arrived(txn.conn, row)?;
    Step::RejectedDropped.reached();
    Ok(vec![(row, key)])
}
