//! Local edits that can never succeed as they are, each with its reason.
//!
//! A row stands here at most once. It leaves when the application edits it
//! again (the newer edit supersedes the refused one), or when somebody decides.

use crate::db::Txn;
use crate::error::Error;
use crate::key::{LocalKey, RowRef};
use crate::outbox::Frozen;
use crate::schema::Table;
use oversync_shared::wire::Op;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
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
    let entry = Entry {
        pk: None,
        op: Op::Insert,
        payload: None,
        base: None,
        reason: BAD_KEY,
        detail: &detail,
    };
    insert(txn, table.n, key, &entry)
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
