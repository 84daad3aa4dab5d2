//! One row of an application's table: reading, writing, and what is known about
//! it in the `_sync_` tables.

use crate::error::Error;
use crate::key::{LocalKey, RowRef};
use crate::payload::{self, Cell, Uncarriable};
use crate::schema::{Table, quote};
use oversync_shared::RowVersion;
use oversync_shared::reconcile::{Held, Unsent};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Row, params};
use std::sync::LazyLock;

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Plain(Value::Null),
        ValueRef::Integer(n) => Cell::Plain(Value::Integer(n)),
        ValueRef::Real(x) => Cell::Plain(Value::Real(x)),
        ValueRef::Blob(bytes) => Cell::Plain(Value::Blob(bytes.to_vec())),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Cell::Plain(Value::Text(text.to_owned())),
            Err(_) => Cell::BrokenText,
        },
    }
}

pub(crate) fn cells(row: &Row<'_>, count: usize) -> rusqlite::Result<Vec<Cell>> {
    (0..count).map(|i| row.get_ref(i).map(cell)).collect()
}

/// The row's cells, in the order of the table's columns.
pub(crate) fn read(
    conn: &Connection,
    table: &Table,
    key: &LocalKey,
) -> Result<Option<Vec<Cell>>, Error> {
    let columns: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
    let sql = format!(
        "SELECT {} FROM {} WHERE {} IS ?1",
        columns.join(", "),
        table.quoted(),
        table.quoted_key()
    );
    Ok(conn
        .prepare_cached(&sql)?
        .query_row([key], |row| cells(row, columns.len()))
        .optional()?)
}

pub(crate) fn exists(conn: &Connection, table: &Table, key: &LocalKey) -> Result<bool, Error> {
    Ok(presence(conn, table)?.exists([key])?)
}

/// Asks whether a row with a key is here.
pub(crate) fn presence<'c>(
    conn: &'c Connection,
    table: &Table,
) -> Result<CachedStatement<'c>, Error> {
    let sql = format!(
        "SELECT 1 FROM {} WHERE {} IS ?1",
        table.quoted(),
        table.quoted_key()
    );
    Ok(conn.prepare_cached(&sql)?)
}

/// The row as a payload, with the columns this application does not know.
pub(crate) fn to_payload(
    conn: &Connection,
    table: &Table,
    row: RowRef,
    cells: &[Cell],
) -> Result<Result<String, Uncarriable>, Error> {
    let extra = extra(conn, row)?;
    Ok(payload::write_row(table, cells, extra.as_deref()))
}

/// The columns of a row that this application does not know, as a JSON object.
pub(crate) fn extra(conn: &Connection, row: RowRef) -> Result<Option<String>, Error> {
    Ok(conn
        .prepare_cached("SELECT payload FROM _sync_extra WHERE tbl = ?1 AND pk = ?2")?
        .query_row(params![row.tbl, row.pk()], |row| row.get(0))
        .optional()?)
}

/// Whether any row has such columns.
pub(crate) fn any_extra(conn: &Connection) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _sync_extra)";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// Everything the device knows about a row, beside the row itself.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) held: Held,
    pub(crate) unsent: Unsent,
    /// The application's spelling of the key.
    pub(crate) key: LocalKey,
    /// The version held before the pass over everything that is under way, until that
    /// names the row.
    pub(crate) lost_version: RowVersion,
}

impl Known {
    /// What the server holds as far as the device remembers, also while a new
    /// pass over everything has not reached the row yet.
    pub(crate) fn remembered(&self) -> Held {
        Held {
            version: self.held.version.max(self.lost_version),
            ..self.held
        }
    }
}

const KNOWN: &str = include_str!("../../migrations/device/known.sql");

pub(crate) fn known(conn: &Connection, table: &Table, row: RowRef) -> Result<Known, Error> {
    let found = conn
        .prepare_cached(KNOWN)?
        .query_row(params![row.tbl, row.pk()], |found| {
            let version: Option<i64> = found.get(0)?;
            let deleted: Option<bool> = found.get(1)?;
            let lost: Option<i64> = found.get(2)?;
            let key: LocalKey = found.get(3)?;
            let (in_flight, pending, rejected): (bool, bool, bool) =
                (found.get(4)?, found.get(5)?, found.get(6)?);
            Ok(Known {
                held: Held {
                    version: RowVersion::new(version.unwrap_or(0)),
                    deleted: deleted.unwrap_or(false),
                },
                unsent: if in_flight {
                    Unsent::InFlight
                } else if pending {
                    Unsent::Pending
                } else if rejected {
                    Unsent::Rejected
                } else {
                    Unsent::None
                },
                key,
                lost_version: RowVersion::new(lost.unwrap_or(0)),
            })
        })?;
    let unspelt = found.key.0 == Value::Null;
    Ok(Known {
        key: if unspelt {
            LocalKey::usual(row.key, table.key_kind)
        } else {
            found.key
        },
        ..found
    })
}

/// Records the version held of a row.
pub(crate) fn hold(
    conn: &Connection,
    table: &Table,
    row: RowRef,
    key: &LocalKey,
    held: Held,
) -> Result<(), Error> {
    let spelling = Some(key).filter(|key| !key.is_usual(row.key, table.key_kind));
    hold_as_spelt(conn, row, spelling, held)
}

/// Values that recording one version takes.
pub(crate) const HOLD_COLUMNS: usize = 5;

/// Records this many versions: table, key, spelling, version and tombstone of each.
pub(crate) fn hold_sql(rows: usize) -> String {
    format!(
        "INSERT INTO _sync_row (tbl, pk, local_key, version, deleted) VALUES {} \
         ON CONFLICT (tbl, pk) DO UPDATE SET local_key = excluded.local_key, \
         version = excluded.version, deleted = excluded.deleted, lost_version = 0",
        vec!["(?, ?, ?, ?, ?)"; rows].join(", ")
    )
}

/// The same, with the key's spelling where it is not the usual one; or, of a
/// table that is not listed, whatever it is.
pub(crate) fn hold_as_spelt(
    conn: &Connection,
    row: RowRef,
    spelling: Option<&LocalKey>,
    held: Held,
) -> Result<(), Error> {
    static ONE: LazyLock<String> = LazyLock::new(|| hold_sql(1));
    conn.prepare_cached(&ONE)?.execute(params![
        row.tbl,
        row.pk(),
        spelling,
        held.version.get(),
        held.deleted
    ])?;
    if held.deleted {
        set_extra(conn, row, None)?;
    }
    Ok(())
}

/// Forgets that the server ever knew the row.
pub(crate) fn forget(conn: &Connection, row: RowRef) -> Result<(), Error> {
    conn.prepare_cached("DELETE FROM _sync_row WHERE tbl = ?1 AND pk = ?2")?
        .execute(params![row.tbl, row.pk()])?;
    Ok(())
}

/// Keeps the columns this application does not know.
pub(crate) fn set_extra(conn: &Connection, row: RowRef, extra: Option<&str>) -> Result<(), Error> {
    match extra {
        Some(extra) => conn
            .prepare_cached(
                "INSERT INTO _sync_extra (tbl, pk, payload) VALUES (?1, ?2, ?3)
                 ON CONFLICT (tbl, pk) DO UPDATE SET payload = excluded.payload",
            )?
            .execute(params![row.tbl, row.pk(), extra])?,
        None => conn
            .prepare_cached("DELETE FROM _sync_extra WHERE tbl = ?1 AND pk = ?2")?
            .execute(params![row.tbl, row.pk()])?,
    };
    Ok(())
}
