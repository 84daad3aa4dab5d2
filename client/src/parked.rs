//! Entries of the stream that cannot be written into a table now.
//!
//! Parked entries delay nobody: the cursor moves on. Each is tried again when
//! the row it waits for arrives, or with the next page when it waits for
//! something that cannot be named.

use crate::error::Error;
use crate::key::{LocalKey, RowRef};
use crate::place::{Parent, Placed, ServerState};
use crate::schema::Table;
use crate::step::Step;
use crate::store::Txn;
use oversync_shared::{RowKey, RowVersion};
use rusqlite::{Connection, params};
use serde::Serialize;
use uuid::Uuid;

/// An entry of another device that cannot be written into a table of this file
/// now. It delays nothing, and is tried again when what is in its way has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parked {
    /// The table, as it is called on the wire; perhaps one this file does not have.
    pub table: String,
    /// The row's key, as it came.
    pub key: String,
    /// The row's version on the server.
    pub version: i64,
    /// The row as it came; none when it has been deleted there.
    pub payload: Option<String>,
    /// A code: `unknown_table`, `bad_key`, `missing_parent`, `blocked`, `refused` or
    /// `foreign_keys`.
    pub reason: String,
    /// In words, where there is more to say: the constraint, the missing row.
    pub detail: String,
}

/// Lists what is parked, by table and key.
pub(crate) fn list(conn: &Connection) -> Result<Vec<Parked>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT wire_table, pk, version, payload, reason, detail FROM _sync_parked
         ORDER BY wire_table, pk",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Parked {
            table: row.get(0)?,
            key: row.get(1)?,
            version: row.get(2)?,
            payload: row.get(3)?,
            reason: row.get(4)?,
            detail: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Why an entry is parked, as a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    UnknownTable,
    BadKey,
    MissingParent,
    Blocked,
    Refused,
    /// Fails the commit, or makes a trigger roll back: not tried again until a
    /// newer entry comes.
    ForeignKeys,
}

impl Why {
    const ALL: [Self; 6] = [
        Self::UnknownTable,
        Self::BadKey,
        Self::MissingParent,
        Self::Blocked,
        Self::Refused,
        Self::ForeignKeys,
    ];

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|why| why.as_str() == text)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::UnknownTable => "unknown_table",
            Self::BadKey => "bad_key",
            Self::MissingParent => "missing_parent",
            Self::Blocked => "blocked",
            Self::Refused => "refused",
            Self::ForeignKeys => "foreign_keys",
        }
    }
}

/// One entry, as it came.
pub(crate) struct Entry<'a> {
    pub(crate) wire_table: &'a str,
    pub(crate) pk: &'a str,
    pub(crate) version: RowVersion,
    pub(crate) payload: Option<&'a str>,
}

fn insert(
    conn: &Connection,
    entry: &Entry<'_>,
    why: Why,
    detail: &str,
    waits: Option<(i64, Option<Uuid>)>,
) -> Result<(), Error> {
    conn.prepare_cached(
        "INSERT INTO _sync_parked
         (wire_table, pk, version, payload, reason, detail, waits_tbl, waits_pk)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (wire_table, pk) DO UPDATE SET version = excluded.version,
         payload = excluded.payload, reason = excluded.reason, detail = excluded.detail,
         waits_tbl = excluded.waits_tbl, waits_pk = excluded.waits_pk
         WHERE excluded.version >= version",
    )?
    .execute(params![
        entry.wire_table,
        entry.pk,
        entry.version.get(),
        entry.payload,
        why.as_str(),
        detail,
        waits.map(|(tbl, _)| tbl),
        waits.and_then(|(_, pk)| pk)
    ])?;
    Step::EntryParked.reached();
    Ok(())
}

/// Parks an entry as it came: no table for it, no row key, or no commit with it.
pub(crate) fn add_unknown(conn: &Connection, entry: &Entry<'_>, why: Why) -> Result<(), Error> {
    insert(conn, entry, why, "", None)
}

/// Parks a row of the server with which no transaction goes through.
pub(crate) fn set_aside(
    conn: &Connection,
    table: &Table,
    state: &ServerState,
) -> Result<(), Error> {
    let entry = Entry {
        wire_table: &table.wire,
        pk: &state.row.key.to_string(),
        version: state.version,
        payload: state.payload.as_deref(),
    };
    insert(conn, &entry, Why::ForeignKeys, "", None)
}

/// Parks an entry that could not be placed.
pub(crate) fn add(
    conn: &Connection,
    table: &Table,
    state: &ServerState,
    outcome: &Placed,
) -> Result<(), Error> {
    let (why, detail, waits) = match outcome {
        Placed::Done(_) => return Ok(()),
        Placed::MissingParent { parent, detail } => {
            let waits = match parent {
                Parent::Row(row) => Some((row.tbl, Some(row.pk()))),
                Parent::AnyOf(tbl) => Some((*tbl, None)),
                Parent::Unsynchronised => None,
            };
            let why = match waits {
                Some(_) => Why::MissingParent,
                None => Why::Refused,
            };
            (why, detail, waits)
        }
        Placed::Blocked(detail) => (Why::Blocked, detail, None),
        Placed::Refused(detail) => (Why::Refused, detail, None),
    };
    let pk = state.row.key.to_string();
    let entry = Entry {
        wire_table: &table.wire,
        pk: &pk,
        version: state.version,
        payload: state.payload.as_deref(),
    };
    insert(conn, &entry, why, detail, waits)
}

/// Whether anything is parked.
pub(crate) fn is_any(conn: &Connection) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _sync_parked)";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// The row has reached this version by another way.
pub(crate) fn overtaken(
    conn: &Connection,
    table: &Table,
    row: RowRef,
    version: RowVersion,
) -> Result<(), Error> {
    conn.prepare_cached(
        "DELETE FROM _sync_parked WHERE wire_table = ?1 AND pk = ?2 AND version <= ?3",
    )?
    .execute(params![table.wire, row.key.to_string(), version.get()])?;
    Ok(())
}

/// Entries that waited for one of these rows.
pub(crate) fn waiting_for(txn: &Txn<'_>, arrived: &[RowRef]) -> Result<Vec<ServerState>, Error> {
    let mut any = txn
        .conn
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM _sync_parked WHERE waits_tbl IS NOT NULL)")?;
    if !any.query_row([], |row| row.get::<_, bool>(0))? {
        return Ok(Vec::new());
    }
    let mut statement = txn.conn.prepare_cached(
        "SELECT wire_table, pk, version, payload FROM _sync_parked
         WHERE waits_tbl = ?1 AND (waits_pk = ?2 OR waits_pk IS NULL)",
    )?;
    let mut found = Vec::new();
    for row in arrived {
        let rows = statement.query_map(params![row.tbl, row.pk()], raw)?;
        found.extend(readable(txn, rows.collect::<Result<_, _>>()?));
    }
    Ok(found)
}

/// Entries that waited for one of these rows wait for nothing that has a name: they
/// are tried again with the rest.
pub(crate) fn let_go(conn: &Connection, arrived: &[(RowRef, LocalKey)]) -> Result<(), Error> {
    let mut statement = conn.prepare_cached(
        "UPDATE _sync_parked SET waits_tbl = NULL, waits_pk = NULL
         WHERE waits_tbl = ?1 AND (waits_pk = ?2 OR waits_pk IS NULL)",
    )?;
    for (row, _) in arrived {
        statement.execute(params![row.tbl, row.pk()])?;
    }
    Ok(())
}

/// Entries of known tables that wait for something without a name.
pub(crate) fn to_retry(txn: &Txn<'_>) -> Result<Vec<ServerState>, Error> {
    let mut statement = txn.conn.prepare_cached(
        "SELECT wire_table, pk, version, payload FROM _sync_parked
         WHERE wire_table = ?1 AND waits_tbl IS NULL AND reason <> 'foreign_keys'",
    )?;
    let mut found = Vec::new();
    for table in txn.tables.iter() {
        let rows = statement.query_map([&table.wire], raw)?;
        found.extend(readable(txn, rows.collect::<Result<_, _>>()?));
    }
    Ok(found)
}

type Raw = (String, String, i64, Option<String>);

fn raw(row: &rusqlite::Row<'_>) -> rusqlite::Result<Raw> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn readable(txn: &Txn<'_>, rows: Vec<Raw>) -> Vec<ServerState> {
    rows.into_iter()
        .filter_map(|(wire, pk, version, payload)| {
            Some(ServerState {
                row: RowRef::new(txn.tables.by_wire(&wire)?, RowKey::parse(&pk)?),
                version: RowVersion::new(version),
                payload,
            })
        })
        .collect()
}
