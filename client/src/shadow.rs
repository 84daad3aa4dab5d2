//! Server rows that met an unsent edit, remembered until it is settled, and the
//! conflicts that come of it.

use crate::capture;
use crate::db::Txn;
use crate::error::Error;
use crate::key::RowRef;
use crate::parked;
use crate::payload;
use crate::place::{self, Placed, ServerState};
use crate::rejected;
use crate::resolver::{Conflict, Resolution};
use crate::row::{self, Known};
use crate::schema::Table;
use oversync_shared::reconcile::{Held, Meeting, ShadowAction, Unsent, shadow};
use oversync_shared::{RowKey, RowVersion};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
use std::collections::HashSet;

/// One conflict of the past: what lost is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConflictRecord {
    /// Its number in the list.
    pub id: i64,
    /// The table.
    pub table: String,
    /// The row's key, dashed.
    pub key: String,
    /// The row before the local edit, as JSON.
    pub base: Option<String>,
    /// The row as it stood here; none when it was deleted.
    pub mine: Option<String>,
    /// The row as it stood on the server; none when it was deleted.
    pub theirs: Option<String>,
    /// `theirs`, `mine` or `merged`.
    pub outcome: String,
    /// When, in seconds since 1970.
    pub at: i64,
}

/// Lists the conflicts, oldest first.
pub(crate) fn conflicts(conn: &Connection) -> Result<Vec<ConflictRecord>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT c.id, t.name, c.pk, c.base, c.mine, c.theirs, c.outcome, c.at
         FROM _sync_conflicts AS c JOIN _sync_table AS t ON t.n = c.tbl ORDER BY c.id",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(ConflictRecord {
            id: row.get(0)?,
            table: row.get(1)?,
            key: RowKey::new(row.get(2)?).to_string(),
            base: row.get(3)?,
            mine: row.get(4)?,
            theirs: row.get(5)?,
            outcome: row.get(6)?,
            at: row.get(7)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Remembers a server row, unless a newer one is remembered.
pub(crate) fn remember(conn: &Connection, state: &ServerState) -> Result<(), Error> {
    conn.prepare_cached(
        "INSERT INTO _sync_shadow (tbl, pk, version, payload) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (tbl, pk) DO UPDATE SET version = excluded.version,
         payload = excluded.payload WHERE excluded.version > version",
    )?
    .execute(params![
        state.row.tbl,
        state.row.pk(),
        state.version.get(),
        state.payload
    ])?;
    Ok(())
}

fn drop_shadow(conn: &Connection, row: RowRef) -> Result<(), Error> {
    conn.prepare_cached("DELETE FROM _sync_shadow WHERE tbl = ?1 AND pk = ?2")?
        .execute(params![row.tbl, row.pk()])?;
    Ok(())
}

/// Rows whose table was written, and how many conflicts were decided.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) written: Vec<(RowRef, crate::key::LocalKey)>,
    pub(crate) conflicts: usize,
}

/// Settles every remembered row whose edit is no longer in flight. The log must
/// have been collected.
pub(crate) fn settle_all(txn: &Txn<'_>) -> Result<Settled, Error> {
    let mut settled = Settled::default();
    let waiting = load(txn.conn)?;
    if waiting.is_empty() {
        return Ok(settled);
    }
    place::silently(txn, || {
        for state in &waiting {
            if let Some(table) = txn.tables.by_number(state.row.tbl) {
                settle(txn, table, state, &mut settled)?;
            }
        }
        Ok(())
    })?;
    Ok(settled)
}

fn load(conn: &Connection) -> Result<Vec<ServerState>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT tbl, pk, version, payload FROM _sync_shadow AS s
         WHERE NOT EXISTS (SELECT 1 FROM _sync_outbox AS o WHERE o.tbl = s.tbl AND o.pk = s.pk)
         ORDER BY tbl, pk",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(ServerState {
            row: RowRef {
                tbl: row.get(0)?,
                key: RowKey::new(row.get(1)?),
            },
            version: RowVersion::new(row.get(2)?),
            payload: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A pending edit, as JSON.
struct Mine {
    base: Option<String>,
    /// `None`: deleted.
    row: Option<String>,
}

fn mine(txn: &Txn<'_>, table: &Table, row: RowRef, known: &Known) -> Result<Mine, Error> {
    let base: Option<Option<String>> = txn
        .conn
        .prepare_cached("SELECT base FROM _sync_pending WHERE tbl = ?1 AND pk = ?2")?
        .query_row(params![row.tbl, row.pk()], |row| row.get(0))
        .optional()?;
    let base = match known.unsent {
        Unsent::Rejected => rejected::base_of(txn.conn, row)?,
        _ => base.flatten(),
    };
    let cells = row::read(txn.conn, table, &known.key)?;
    let text = match cells {
        // A row that cannot be written as JSON is shown as an empty one.
        Some(cells) => {
            Some(row::to_payload(txn.conn, table, row, &cells)?.unwrap_or_else(|_| "{}".to_owned()))
        }
        None => None,
    };
    Ok(Mine { base, row: text })
}

fn settle(
    txn: &Txn<'_>,
    table: &Table,
    state: &ServerState,
    settled: &mut Settled,
) -> Result<(), Error> {
    let known = row::known(txn.conn, table, state.row)?;
    let theirs = state.payload.as_deref();
    let mine = match known.unsent {
        Unsent::Pending | Unsent::Rejected => mine(txn, table, state.row, &known)?,
        _ => Mine {
            base: None,
            row: None,
        },
    };
    let meeting = if payload::same(mine.row.as_deref(), theirs) {
        Meeting::SameContent
    } else if mine.base.is_some() && payload::same(mine.base.as_deref(), theirs) {
        Meeting::UnchangedSinceBase
    } else {
        Meeting::BothChanged
    };
    match shadow(state.version, known.held, known.unsent, meeting) {
        ShadowAction::Keep => return Ok(()),
        ShadowAction::Drop => {}
        ShadowAction::Apply => write(txn, table, state, settled)?,
        ShadowAction::Adopt => {
            hold(txn, table, state, &known)?;
            rejected::drop_row(txn.conn, state.row)?;
            capture::remove(txn.conn, state.row)?;
        }
        ShadowAction::Rebase => {
            hold(txn, table, state, &known)?;
            rebase(txn, state, &known)?;
        }
        ShadowAction::Resolve => {
            let resolution = txn.resolver.resolve(&Conflict {
                table: &table.name,
                key: state.row.key,
                base: mine.base.as_deref(),
                mine: mine.row.as_deref(),
                theirs,
                theirs_version: state.version,
            });
            record(txn, state, &mine, &resolution)?;
            settled.conflicts += 1;
            carry_out(txn, table, state, &known, resolution, settled)?;
        }
    }
    drop_shadow(txn.conn, state.row)
}

fn carry_out(
    txn: &Txn<'_>,
    table: &Table,
    state: &ServerState,
    known: &Known,
    resolution: Resolution,
    settled: &mut Settled,
) -> Result<(), Error> {
    match resolution {
        Resolution::Theirs => {
            rejected::drop_row(txn.conn, state.row)?;
            capture::remove(txn.conn, state.row)?;
            write(txn, table, state, settled)
        }
        Resolution::Mine => {
            hold(txn, table, state, known)?;
            rebase(txn, state, known)
        }
        Resolution::Merged(payload) => {
            let merged = ServerState {
                payload: Some(payload),
                ..state.clone()
            };
            match place::place(txn, table, &merged, &HashSet::new())? {
                Placed::Done(key) => settled.written.push((state.row, key)),
                // A merge that this file refuses: the local row stands.
                refused => tracing::warn!(table = table.name, ?refused, "merged row refused"),
            }
            hold(txn, table, state, known)?;
            rebase(txn, state, known)
        }
    }
}

/// The server's row becomes what this device has.
fn write(
    txn: &Txn<'_>,
    table: &Table,
    state: &ServerState,
    settled: &mut Settled,
) -> Result<(), Error> {
    match place::place(txn, table, state, &HashSet::new())? {
        Placed::Done(key) => {
            settled.written.push((state.row, key));
            Ok(())
        }
        refused => parked::add(txn.conn, table, state, &refused),
    }
}

/// The server's version is held; the local row stays as it is.
fn hold(txn: &Txn<'_>, table: &Table, state: &ServerState, known: &Known) -> Result<(), Error> {
    let held = Held {
        version: state.version,
        deleted: state.payload.is_none(),
    };
    row::hold(txn.conn, table, state.row, &known.key, held)?;
    if let Some(text) = &state.payload
        && let Ok(incoming) = payload::read_row(table, state.row.key, text)
    {
        row::set_extra(txn.conn, state.row, incoming.extra.as_deref())?;
    }
    Ok(())
}

/// The edit stands, based on the server's row from now on; a refused one is
/// tried again.
fn rebase(txn: &Txn<'_>, state: &ServerState, known: &Known) -> Result<(), Error> {
    rejected::drop_row(txn.conn, state.row)?;
    capture::add(txn.conn, state.row, &known.key, 0, None)?;
    txn.conn
        .prepare_cached("UPDATE _sync_pending SET base = ?3 WHERE tbl = ?1 AND pk = ?2")?
        .execute(params![state.row.tbl, state.row.pk(), state.payload])?;
    Ok(())
}

/// A delete of the server carries off a child whose own edit was refused: asks
/// the resolver, and keeps what is lost. Tells whether the delete may go on.
pub(crate) fn gives_way(
    txn: &Txn<'_>,
    table: &Table,
    row: RowRef,
    known: &Known,
) -> Result<bool, Error> {
    let mine = mine(txn, table, row, known)?;
    let gone = ServerState {
        row,
        version: known.held.version,
        payload: None,
    };
    let resolution = txn.resolver.resolve(&Conflict {
        table: &table.name,
        key: row.key,
        base: mine.base.as_deref(),
        mine: mine.row.as_deref(),
        theirs: None,
        theirs_version: gone.version,
    });
    if resolution != Resolution::Theirs {
        return Ok(false);
    }
    record(txn, &gone, &mine, &resolution)?;
    rejected::drop_row(txn.conn, row)?;
    Ok(true)
}

fn record(
    txn: &Txn<'_>,
    state: &ServerState,
    mine: &Mine,
    resolution: &Resolution,
) -> Result<(), Error> {
    txn.conn
        .prepare_cached(
            "INSERT INTO _sync_conflicts
             (tbl, pk, base, mine, theirs, theirs_version, outcome, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            state.row.tbl,
            state.row.pk(),
            mine.base,
            mine.row,
            state.payload,
            state.version.get(),
            resolution.name(),
            txn.now
        ])?;
    Ok(())
}
