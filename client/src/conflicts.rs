//! The conflict list: what lost, kept for a while, and how to get it back.
//!
//! A record is written in the transaction that decides a conflict, and only when
//! something is lost by it. It goes when it is restored or dismissed, or when it
//! is old by two measures: this device's clock, and the days of the server's
//! calendar (the `Date` of its answers) on which the file was synchronised. A clock
//! that jumps at every start is only the first of them, and a server's that jumps a
//! year ahead moves the second one by a day: neither deletes what is fresh. A
//! server that tells no date deletes nothing.

use crate::clock::unix_now;
use crate::error::{Error, SetupError};
use crate::key::RowRef;
use crate::log::{self, Done};
use crate::payload;
use crate::place::{self, ServerState};
use crate::resolver::Resolution;
use crate::row;
use crate::schema::Table;
use crate::step::Step;
use crate::store::Txn;
use oversync_shared::RowKey;
use oversync_shared::merge::{self, ColumnPolicy, Lost, Policies};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Records that one transaction deletes at most.
const PRUNE_BATCH: u32 = 100;

/// Seconds.
const DAY: i64 = 86_400;

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
    /// What lost, as a JSON object of columns and their values: the whole row
    /// when it lost to a delete. None when what lost was the delete.
    pub lost: Option<String>,
    /// The columns in `lost`.
    pub columns: Vec<String>,
    /// When, in seconds since 1970.
    pub at: i64,
}

const SELECT: &str = "SELECT c.id, t.name, c.pk, c.base, c.mine, c.theirs, c.outcome, c.lost, c.at
     FROM _sync_conflicts AS c JOIN _sync_table AS t ON t.n = c.tbl";

fn read(row: &Row<'_>) -> rusqlite::Result<ConflictRecord> {
    let lost: Option<String> = row.get(7)?;
    let names = lost
        .as_deref()
        .and_then(|lost| serde_json::from_str::<BTreeMap<String, &RawValue>>(lost).ok());
    Ok(ConflictRecord {
        id: row.get(0)?,
        table: row.get(1)?,
        key: RowKey::new(row.get(2)?).to_string(),
        base: row.get(3)?,
        mine: row.get(4)?,
        theirs: row.get(5)?,
        outcome: row.get(6)?,
        columns: names.map_or_else(Vec::new, |names| names.into_keys().collect()),
        lost,
        at: row.get(8)?,
    })
}

/// Lists the conflicts, oldest first.
pub(crate) fn list(conn: &Connection) -> Result<Vec<ConflictRecord>, Error> {
    let mut statement = conn.prepare_cached(&format!("{SELECT} ORDER BY c.id"))?;
    let rows = statement.query_map([], read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A pending edit and what it met, as JSON; `None`: deleted.
#[derive(Debug)]
pub(crate) struct Edits {
    pub(crate) base: Option<String>,
    pub(crate) mine: Option<String>,
    pub(crate) theirs: Option<String>,
    /// Why `mine` is not all there is: the row has a value without JSON form.
    pub(crate) uncarriable: Option<String>,
}

/// Keeps what is lost by a decision. Tells whether anything is.
pub(crate) fn record(
    txn: &Txn<'_>,
    state: &ServerState,
    edits: &Edits,
    resolution: &Resolution,
) -> Result<bool, Error> {
    let outcome = match resolution {
        Resolution::Theirs => "theirs",
        Resolution::Mine => "mine",
        Resolution::Fields(merged) => match merged.stands {
            merge::Stands::Theirs => "theirs",
            merge::Stands::Mine => "mine",
            merge::Stands::Mixed => "merged",
        },
        Resolution::Merged(_) => "merged",
    };
    let lost = match loss(edits, resolution) {
        Loss::Nothing => return Ok(false),
        Loss::Delete => None,
        Loss::Values(values) => Some(values),
    };
    txn.conn
        .prepare_cached(
            "INSERT INTO _sync_conflicts
             (tbl, pk, base, mine, theirs, theirs_version, outcome, lost, at, day)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, day FROM _sync_client",
        )?
        .execute(params![
            state.row.tbl,
            state.row.pk(),
            edits.base,
            edits.mine,
            edits.theirs,
            state.version.get(),
            outcome,
            lost,
            txn.now
        ])?;
    Step::ConflictRecorded.reached();
    Ok(true)
}

/// Keeps values that the server has and this file's schema refuses, a JSON object,
/// as what lost against the row here.
pub(crate) fn keep_theirs(conn: &Connection, row: RowRef, lost: &str) -> Result<(), Error> {
    conn.prepare_cached(
        "INSERT INTO _sync_conflicts (tbl, pk, theirs, theirs_version, outcome, lost, at, day)
         SELECT ?1, ?2, ?3, 0, 'mine', ?3, ?4, day FROM _sync_client",
    )?
    .execute(params![row.tbl, row.pk(), lost, unix_now()])?;
    Ok(())
}

enum Loss {
    Nothing,
    Delete,
    /// A JSON object.
    Values(String),
}

fn loss(edits: &Edits, resolution: &Resolution) -> Loss {
    let (mine, theirs) = (edits.mine.as_deref(), edits.theirs.as_deref());
    let (Some(mine), Some(theirs)) = (mine, theirs) else {
        let stands = match resolution {
            Resolution::Theirs => theirs,
            Resolution::Mine => mine,
            Resolution::Merged(row) => Some(row.as_str()),
            Resolution::Fields(merged) => Some(merged.row.as_str()),
        };
        // One side has deleted the row.
        return match (stands, mine.or(theirs)) {
            (_, None) => Loss::Nothing,
            (None, Some(row)) => Loss::Values(row.to_owned()),
            (Some(_), Some(_)) => Loss::Delete,
        };
    };
    let lost = match resolution {
        Resolution::Theirs => merge::lost(edits.base.as_deref(), mine, theirs, theirs),
        Resolution::Mine => merge::lost(edits.base.as_deref(), mine, theirs, mine),
        Resolution::Merged(row) => merge::lost(edits.base.as_deref(), mine, theirs, row),
        Resolution::Fields(merged) => Ok(merged.lost.clone()),
    };
    match lost {
        Ok(lost) if lost.is_empty() => Loss::Nothing,
        Ok(lost) => Loss::Values(object(&lost)),
        // A peer's row that is no row: all of the edit is kept.
        Err(_) => Loss::Values(mine.to_owned()),
    }
}

fn object(lost: &[Lost]) -> String {
    let members: BTreeMap<&str, Box<RawValue>> = lost
        .iter()
        .filter_map(|lost| {
            let value = RawValue::from_string(lost.value.clone()).ok()?;
            Some((lost.column.as_str(), value))
        })
        .collect();
    serde_json::to_string(&members).expect("BUG: names and JSON texts always serialise")
}

fn unknown(id: i64) -> Error {
    SetupError::NoSuchEntry {
        list: "conflict",
        id,
    }
    .into()
}

/// Takes a record off the list.
pub(crate) fn dismiss(txn: &Txn<'_>, id: i64) -> Result<(), Error> {
    let sql = "DELETE FROM _sync_conflicts WHERE id = ?1";
    match txn.conn.prepare_cached(sql)?.execute([id])? {
        0 => Err(unknown(id)),
        _ => Ok(()),
    }
}

struct Kept {
    row: RowRef,
    mine: Option<String>,
    theirs: Option<String>,
    lost: Option<String>,
}

/// Writes what lost back, as an edit of the application's: the capture triggers
/// see it.
pub(crate) fn restore(txn: &Txn<'_>, id: i64) -> Result<(), Error> {
    let kept = txn
        .conn
        .prepare_cached("SELECT tbl, pk, mine, theirs, lost FROM _sync_conflicts WHERE id = ?1")?
        .query_row([id], |row| {
            Ok(Kept {
                row: RowRef {
                    tbl: row.get(0)?,
                    key: RowKey::new(row.get(1)?),
                },
                mine: row.get(2)?,
                theirs: row.get(3)?,
                lost: row.get(4)?,
            })
        })
        .optional()?
        .ok_or_else(|| unknown(id))?;
    let table = txn
        .tables
        .by_number(kept.row.tbl)
        .ok_or_else(|| refused(id, "its table is no longer synchronised"))?;
    let key = row::known(txn.conn, table, kept.row)?.key;
    let here = row::exists(txn.conn, table, &key)?;
    // A version of this crate that knew nothing of the lost values may have
    // written the record: then it is the whole row of this device.
    let lost = match (&kept.lost, &kept.mine, &kept.theirs) {
        (None, Some(mine), Some(_)) => Some(mine),
        (lost, ..) => lost.as_ref(),
    };
    match lost {
        None => {
            place::delete_plainly(txn, table, &key).map_err(|error| judge(id, error))?;
        }
        Some(lost) if here => write(txn, table, id, &kept, lost, true)?,
        Some(lost) => {
            let row = over(kept.mine.as_deref().or(kept.theirs.as_deref()), lost);
            write(txn, table, id, &kept, &row, false)?;
        }
    }
    Step::ConflictRestored.reached();
    dismiss(txn, id)
}

/// The losing row as a whole, every lost value in it.
fn over(row: Option<&str>, lost: &str) -> String {
    let mut client = Policies::default();
    client.set_otherwise(ColumnPolicy::Client);
    let whole = merge::merge(None, lost, row.unwrap_or("{}"), &client);
    whole.map_or_else(|_| lost.to_owned(), |whole| whole.row)
}

fn write(
    txn: &Txn<'_>,
    table: &Table,
    id: i64,
    kept: &Kept,
    text: &str,
    here: bool,
) -> Result<(), Error> {
    let incoming = payload::read_row(table, kept.row.key, text)
        .map_err(|error| refused(id, &error.to_string()))?;
    let key = row::known(txn.conn, table, kept.row)?.key;
    let written = if here {
        place::update(txn, table, &key, &incoming.known)
    } else {
        place::insert(txn, table, &incoming.known)
    };
    if written.map_err(|error| judge(id, error))? == 0 {
        return Err(refused(id, place::IGNORED));
    }
    if let Some(extra) = &incoming.extra {
        // Columns this application does not know: no trigger sees them.
        row::set_extra(
            txn.conn,
            kept.row,
            Some(&over(row::extra(txn.conn, kept.row)?.as_deref(), extra)),
        )?;
        log::note(txn.conn, table.n, Done::Something, &key)?;
    }
    Ok(())
}

fn judge(id: i64, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation) => refused(id, &error.to_string()),
        _ => error.into(),
    }
}

fn refused(id: i64, why: &str) -> Error {
    SetupError::CannotRestore {
        id,
        why: why.to_owned(),
    }
    .into()
}

/// Counts the days on which the file is synchronised, by the server's time in
/// seconds since 1970, and deletes records that are too old by both measures.
/// Tells whether there are perhaps more.
pub(crate) fn prune(txn: &Txn<'_>, server_time: i64) -> Result<bool, Error> {
    let days = txn.keep_conflicts_days;
    txn.conn
        .prepare_cached(
            "UPDATE _sync_client SET day = day + coalesce(?1 > day_at, 1), day_at = ?1
             WHERE day_at IS NULL OR abs(?1 - day_at) >= ?2",
        )?
        .execute([server_time, DAY])?;
    let gone = txn
        .conn
        .prepare_cached(
            "DELETE FROM _sync_conflicts WHERE id IN (
                 SELECT id FROM _sync_conflicts
                 WHERE at <= ?1 AND day <= (SELECT day FROM _sync_client) - ?2
                 ORDER BY at LIMIT ?3)",
        )?
        .execute(params![
            txn.now.saturating_sub(days.saturating_mul(DAY)),
            days,
            PRUNE_BATCH,
        ])?;
    Ok(gone >= PRUNE_BATCH as usize)
}
