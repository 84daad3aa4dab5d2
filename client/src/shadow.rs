//! Server rows that met an unsent edit, remembered until it is settled, and the
//! conflicts that come of it.

use crate::apply::Poison;
use crate::capture;
use crate::conflicts::{self, Edits};
use crate::error::Error;
use crate::key::RowRef;
use crate::parked;
use crate::payload;
use crate::place::{self, Placed, ServerState};
use crate::rejected;
use crate::resolver::{Conflict, Resolution};
use crate::row::{self, Known};
use crate::schema::Table;
use crate::step::Step;
use crate::store::{Store, Txn};
use oversync_shared::merge::Stands;
use oversync_shared::reconcile::{self, Held, Meeting, ShadowAction, Unsent, shadow};
use oversync_shared::{RowKey, RowVersion};
use rusqlite::{Connection, OptionalExtension as _, params};
use std::collections::HashSet;

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
    Step::RowRemembered.reached();
    Ok(())
}

fn drop_shadow(conn: &Connection, row: RowRef) -> Result<(), Error> {
    conn.prepare_cached("DELETE FROM _sync_shadow WHERE tbl = ?1 AND pk = ?2")?
        .execute(params![row.tbl, row.pk()])?;
    Ok(())
}

/// Whether further pages are on their way, perhaps with a row that is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum More {
    #[default]
    No,
    Coming,
}

impl More {
    pub(crate) fn of(has_more: bool) -> Self {
        match has_more {
            true => Self::Coming,
            false => Self::No,
        }
    }
}

/// Whether any server row waits for its edit to be settled, in a listed table.
pub(crate) fn is_any(conn: &Connection) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _sync_shadow \
               WHERE tbl IN (SELECT n FROM _sync_table WHERE listed))";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// Rows whose table was written, and in how many conflicts something was lost.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    more: More,
    pub(crate) written: Vec<(RowRef, crate::key::LocalKey)>,
    pub(crate) conflicts: usize,
}

/// Settles every remembered row whose edit is no longer in flight. The log must
/// have been collected. Does nothing where one of them may have failed the
/// transaction before: [`settle_apart`] follows.
pub(crate) fn settle_all(txn: &Txn<'_>, more: More, poison: Poison) -> Result<Settled, Error> {
    let mut settled = Settled {
        more,
        ..Settled::default()
    };
    if poison != Poison::Unknown {
        return Ok(settled);
    }
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

/// Settles the remembered rows, each in its own transaction: foreign keys are judged
/// at the commit, and a trigger of the application may roll all of it back. A row
/// that fails by itself is set aside.
pub(crate) fn settle_apart(store: &mut Store, more: More) -> Result<Settled, Error> {
    let mut total = Settled::default();
    for state in store.read(load)? {
        let one = store.write(|txn| settle_one(txn, &state, more, settle));
        let one = match one {
            Err(error) if error.is_of_one_row() => {
                store.write(|txn| settle_one(txn, &state, more, set_aside))?
            }
            other => other?,
        };
        total.written.extend(one.written);
        total.conflicts += one.conflicts;
    }
    Ok(total)
}

fn settle_one(
    txn: &Txn<'_>,
    state: &ServerState,
    more: More,
    how: fn(&Txn<'_>, &Table, &ServerState, &mut Settled) -> Result<(), Error>,
) -> Result<Settled, Error> {
    let mut settled = Settled {
        more,
        ..Settled::default()
    };
    capture::collect(txn)?;
    if let Some(table) = txn.tables.by_number(state.row.tbl) {
        place::silently(txn, || how(txn, table, state, &mut settled))?;
    }
    Ok(settled)
}

/// Writing the row fails every commit. The server's row is parked; an edit that it
/// met goes to the conflict list: sent again, it would only meet the row again.
fn set_aside(
    txn: &Txn<'_>,
    table: &Table,
    state: &ServerState,
    settled: &mut Settled,
) -> Result<(), Error> {
    let known = row::known(txn.conn, table, state.row)?;
    if known.unsent != Unsent::None {
        let edits = edits(txn, table, state, &known)?;
        record(txn, state, &edits, &Resolution::Theirs, settled)?;
        give_up(txn, state.row)?;
    }
    if state.version > known.held.version {
        parked::set_aside(txn.conn, table, state)?;
    }
    drop_shadow(txn.conn, state.row)
}

/// No edit of the row is left, pending or refused.
fn give_up(txn: &Txn<'_>, row: RowRef) -> Result<(), Error> {
    rejected::drop_row(txn.conn, row)?;
    capture::remove(txn.conn, row)
}

/// Keeps what loses, and counts it.
fn record(
    txn: &Txn<'_>,
    state: &ServerState,
    edits: &Edits,
    resolution: &Resolution,
    settled: &mut Settled,
) -> Result<(), Error> {
    if conflicts::record(txn, state, edits, resolution)? {
        settled.conflicts += 1;
    }
    Ok(())
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

/// The local edit of a row and the server's row, as JSON.
fn edits(txn: &Txn<'_>, table: &Table, state: &ServerState, known: &Known) -> Result<Edits, Error> {
    let row = state.row;
    let theirs = state.payload.as_deref().map(|text| {
        // A row that cannot be read cannot be written either: shown as it came.
        payload::as_stored(table, row.key, &known.key, text).unwrap_or_else(|_| text.to_owned())
    });
    let mut edits = Edits {
        base: None,
        mine: None,
        theirs,
        uncarriable: None,
    };
    if !matches!(known.unsent, Unsent::Pending | Unsent::Rejected) {
        return Ok(edits);
    }
    let base: Option<Option<String>> = txn
        .conn
        .prepare_cached("SELECT base FROM _sync_pending WHERE tbl = ?1 AND pk = ?2")?
        .query_row(params![row.tbl, row.pk()], |row| row.get(0))
        .optional()?;
    let base = match known.unsent {
        Unsent::Rejected => rejected::base_of(txn.conn, row)?,
        _ => base.flatten(),
    };
    // After a rebase the base is the server's row, in its own words.
    edits.base =
        base.map(|text| payload::as_stored(table, row.key, &known.key, &text).unwrap_or(text));
    if let Some(cells) = row::read(txn.conn, table, &known.key)? {
        match row::to_payload(txn.conn, table, row, &cells)? {
            Ok(written) => edits.mine = Some(written),
            Err(why) => {
                edits.mine = Some("{}".to_owned());
                edits.uncarriable = Some(why.to_string());
            }
        }
    }
    Ok(edits)
}

fn settle(
    txn: &Txn<'_>,
    table: &Table,
    state: &ServerState,
    settled: &mut Settled,
) -> Result<(), Error> {
    let known = row::known(txn.conn, table, state.row)?;
    let edits = edits(txn, table, state, &known)?;
    let (base, theirs) = (edits.base.as_deref(), edits.theirs.as_deref());
    // In a history that replaced another one it may well be the same edit.
    let one_edit = known.lost_version > RowVersion::NEVER_SEEN
        || base.is_none()
        || payload::same(base, theirs)
        || txn.resolver.equal_edits_are_one(&table.name);
    let meeting = if one_edit && payload::same(edits.mine.as_deref(), theirs) {
        Meeting::SameContent
    } else if base.is_some() && payload::same(base, theirs) {
        Meeting::UnchangedSinceBase
    } else if theirs.is_none() && is_made_anew(txn, state.row, &known, &edits)? {
        Meeting::MadeAnew
    } else {
        Meeting::BothChanged
    };
    match shadow(state.version, known.held, known.unsent, meeting) {
        ShadowAction::Keep => return Ok(()),
        ShadowAction::Drop => Step::RememberedDropped.reached(),
        ShadowAction::Apply => {
            write(txn, table, state, settled)?;
            Step::RememberedApplied.reached();
        }
        ShadowAction::Adopt => {
            hold(txn, table, state, &known)?;
            give_up(txn, state.row)?;
            Step::EditAdopted.reached();
        }
        ShadowAction::Rebase => {
            hold(txn, table, state, &known)?;
            rebase(txn, state, &known)?;
            Step::EditRebased.reached();
        }
        // Without all its values it can be neither merged nor kept for later:
        // it stands, in the rejected list, and the server's row waits.
        ShadowAction::Resolve if let Some(why) = &edits.uncarriable => {
            if known.unsent == Unsent::Pending {
                capture::remove(txn.conn, state.row)?;
                rejected::add_uncarriable(txn, state.row, &known.key, base, why)?;
            }
            return Ok(());
        }
        ShadowAction::Resolve => {
            let resolution = resolve(txn, table, state, &edits);
            let outcome = carry_out(txn, table, state, &known, resolution, settled)?;
            let Some(resolution) = outcome else {
                return Ok(());
            };
            Step::ConflictDecided.reached();
            record(txn, state, &edits, &resolution, settled)?;
        }
    }
    drop_shadow(txn.conn, state.row)
}

/// What was refused has been tried: it is no new row any more.
fn is_made_anew(txn: &Txn<'_>, row: RowRef, known: &Known, edits: &Edits) -> Result<bool, Error> {
    if known.unsent != Unsent::Pending {
        return Ok(false);
    }
    let knew_row = capture::is_of_known_row(txn.conn, row)?;
    let (exists, version) = (edits.mine.is_some(), known.remembered().version);
    Ok(reconcile::is_made_anew(exists, version, knew_row))
}

fn resolve(txn: &Txn<'_>, table: &Table, state: &ServerState, edits: &Edits) -> Resolution {
    txn.resolver.resolve(&Conflict {
        table: &table.name,
        key: state.row.key,
        base: edits.base.as_deref(),
        mine: edits.mine.as_deref(),
        theirs: edits.theirs.as_deref(),
        theirs_version: state.version,
    })
}

/// Carries a decision out, and tells which one it became: a merged row that this
/// file refuses gives way to the server's; one whose parent may come with the
/// next page waits, and nothing is decided yet.
fn carry_out(
    txn: &Txn<'_>,
    table: &Table,
    state: &ServerState,
    known: &Known,
    resolution: Resolution,
    settled: &mut Settled,
) -> Result<Option<Resolution>, Error> {
    let merged = match &resolution {
        Resolution::Theirs => None,
        Resolution::Mine => {
            let extra = row::extra(txn.conn, state.row)?;
            hold(txn, table, state, known)?;
            if state.payload.is_none() {
                // The row is made anew, with the columns that only others know.
                row::set_extra(txn.conn, state.row, extra.as_deref())?;
            }
            rebase(txn, state, known)?;
            return Ok(Some(resolution));
        }
        Resolution::Merged(row) => Some(row),
        Resolution::Fields(merged) => match merged.stands {
            // Written from the server's own text below.
            Stands::Theirs => None,
            Stands::Mine | Stands::Mixed => Some(&merged.row),
        },
    };
    if let Some(row) = merged {
        let merged = ServerState {
            payload: Some(row.clone()),
            ..state.clone()
        };
        match place::place(txn, table, &merged, &HashSet::new())? {
            Placed::Done(key) => {
                let known = Known {
                    key: key.clone(),
                    ..known.clone()
                };
                rebase(txn, state, &known)?;
                settled.written.push((state.row, key));
                return Ok(Some(resolution));
            }
            Placed::MissingParent { .. } if settled.more == More::Coming => return Ok(None),
            refused => tracing::warn!(table = table.name, ?refused, "merged row refused"),
        }
    }
    give_up(txn, state.row)?;
    write(txn, table, state, settled)?;
    Ok(Some(match resolution {
        Resolution::Fields(fields) if fields.stands == Stands::Theirs => Resolution::Fields(fields),
        _ => Resolution::Theirs,
    }))
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
    capture::add(txn, state.row, &known.key, 0, None)?;
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
    let gone = ServerState {
        row,
        version: known.held.version,
        payload: None,
    };
    let edits = edits(txn, table, &gone, known)?;
    if edits.uncarriable.is_some() {
        return Ok(false);
    }
    let resolution = resolve(txn, table, &gone, &edits);
    if resolution != Resolution::Theirs {
        return Ok(false);
    }
    conflicts::record(txn, &gone, &edits, &resolution)?;
    rejected::drop_row(txn.conn, row)?;
    Ok(true)
}
