//! The frozen outbox: what is sent is written here first, in full, and is sent
//! again unchanged until it is answered.
//!
//! A batch is frozen only when the last one has been settled. Freezing reads the
//! rows as they are now, gives each its change id and takes its edit out of
//! `_sync_pending`; an edit made from then on is a new change.

use crate::capture;
use crate::error::Error;
use crate::key::{LocalKey, RowRef};
use crate::rejected;
use crate::row;
use crate::schema::Table;
use crate::state::State;
use crate::step::Step;
use crate::store::{Store, Txn};
use oversync_shared::reconcile::{Edit, edit};
use oversync_shared::wire::Op;
use oversync_shared::{ChangeId, RowKey, RowVersion};
use rusqlite::{Connection, params};

const READY_UPSERTS: &str = include_str!("../../migrations/device/ready_upserts.sql");
const READY_DELETES: &str = include_str!("../../migrations/device/ready_deletes.sql");

/// What a change costs on the wire beside its payload: names, key, numbers.
const ENVELOPE_BYTES: usize = 256;

/// One frozen change.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frozen {
    pub(crate) id: ChangeId,
    pub(crate) row: RowRef,
    pub(crate) key: LocalKey,
    pub(crate) op: Op,
    pub(crate) version: RowVersion,
    pub(crate) payload: Option<String>,
    /// The row as the server had it before the edit.
    pub(crate) base: Option<String>,
    /// How often it was sent under a number that may have been used by another
    /// file.
    pub(crate) renumbered: u32,
    /// When the edit was first seen, in seconds since 1970; for people.
    pub(crate) at: Option<i64>,
    /// Whether this device knew the row, though it holds no version of it any more.
    pub(crate) was_known: bool,
}

impl Frozen {
    /// About how many bytes it takes in an upload's body.
    pub(crate) fn size(&self) -> usize {
        ENVELOPE_BYTES + self.payload.as_ref().map_or(0, String::len)
    }
}

/// What one upload may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    pub(crate) changes: usize,
    pub(crate) bytes: usize,
}

/// The frozen changes, in the order in which they are sent; freezes a batch
/// when there is none.
pub(crate) fn next_batch(txn: &Txn<'_>, limits: BatchLimits) -> Result<Vec<Frozen>, Error> {
    let waiting = load(txn.conn)?;
    if !waiting.is_empty() {
        return Ok(waiting);
    }
    freeze(txn, limits)?;
    let frozen = load(txn.conn)?;
    if !frozen.is_empty() {
        Step::BatchFrozen.reached();
    }
    Ok(frozen)
}

/// Whether a batch would be frozen now that may not be: before the server has said
/// which ids it knows, only what is frozen already is sent.
pub(crate) fn must_ask(store: &Store) -> Result<bool, Error> {
    if store.has_heard() {
        return Ok(false);
    }
    store.read(|conn| Ok(load(conn)?.is_empty() && capture::has_work(conn)?))
}

/// All frozen changes, by change id.
pub(crate) fn load(conn: &Connection) -> Result<Vec<Frozen>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT change_id, tbl, pk, local_key, op, server_version, payload, base, renumbered, at,
                was_known
         FROM _sync_outbox ORDER BY change_id",
    )?;
    let rows = statement.query_map([], |row| {
        let op: String = row.get(4)?;
        Ok(Frozen {
            id: ChangeId::new(row.get(0)?),
            row: RowRef {
                tbl: row.get(1)?,
                key: RowKey::new(row.get(2)?),
            },
            key: row.get(3)?,
            op: Op::parse(&op).expect("BUG: the column's CHECK"),
            version: RowVersion::new(row.get(5)?),
            payload: row.get(6)?,
            base: row.get(7)?,
            renumbered: row.get(8)?,
            at: row.get(9)?,
            was_known: row.get(10)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Whether a change is still as it was frozen. Another process may have settled it
/// since, or given its edit a new number.
pub(crate) fn holds(conn: &Connection, frozen: &Frozen) -> Result<bool, Error> {
    Ok(conn
        .prepare_cached("SELECT 1 FROM _sync_outbox WHERE change_id = ?1 AND tbl = ?2 AND pk = ?3")?
        .exists(params![frozen.id.get(), frozen.row.tbl, frozen.row.pk()])?)
}

/// Takes a settled change out.
pub(crate) fn remove(conn: &Connection, id: ChangeId) -> Result<(), Error> {
    conn.prepare_cached("DELETE FROM _sync_outbox WHERE change_id = ?1")?
        .execute([id.get()])?;
    Ok(())
}

struct Ready {
    row: RowRef,
    key: LocalKey,
    base: Option<String>,
    renumbered: u32,
    at: Option<i64>,
    was_known: bool,
}

/// Upserts parents first, then deletes children first; inside a table in the
/// order in which the edits were made, deletes backwards.
fn freeze(txn: &Txn<'_>, limits: BatchLimits) -> Result<(), Error> {
    let mut state = State::load(txn.conn)?;
    let first_id = state.next_change_id;
    let mut room = limits;
    let save = |state: &State| match state.next_change_id == first_id {
        // Nothing frozen, nothing to write: the commit costs no sync of the disk.
        true => Ok(()),
        false => state.save(txn.conn),
    };
    let parents_first: Vec<&Table> = txn.tables.iter().collect();
    let upserts = parents_first.iter().map(|table| (table, READY_UPSERTS));
    let deletes = parents_first
        .iter()
        .rev()
        .map(|table| (table, READY_DELETES));
    for (table, template) in upserts.chain(deletes) {
        loop {
            let batch = ready(txn.conn, table, template, room.changes)?;
            let is_full = batch.len() == room.changes;
            let id_before = state.next_change_id;
            for ready in batch {
                let Some(frozen) = freeze_one(txn, table, ready, state.next_change_id)? else {
                    continue;
                };
                let size = frozen.size();
                if size > room.bytes && room != limits {
                    return save(&state);
                }
                store(txn.conn, &frozen)?;
                capture::remove(txn.conn, frozen.row)?;
                state.next_change_id = ChangeId::new(frozen.id.get() + 1);
                room.changes -= 1;
                room.bytes = room.bytes.saturating_sub(size);
            }
            // A whole batch that had nothing to send must not hold up what stands
            // behind it. All of it has left `_sync_pending`, so that this ends.
            if !is_full || state.next_change_id != id_before {
                break;
            }
        }
        if room.changes == 0 || room.bytes == 0 {
            break;
        }
    }
    save(&state)
}

fn ready(
    conn: &Connection,
    table: &Table,
    template: &str,
    limit: usize,
) -> Result<Vec<Ready>, Error> {
    let sql = filled(template, table);
    let mut statement = conn.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map([limit], |row| {
        Ok(Ready {
            row: RowRef::new(table, RowKey::new(row.get(0)?)),
            key: row.get(1)?,
            base: row.get(3)?,
            renumbered: row.get(4)?,
            at: row.get(5)?,
            was_known: row.get(6)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn filled(template: &str, table: &Table) -> String {
    // The number stands in the text, so that SQLite sees that a partial index fits. The
    // key comes before the table, which may be called "{key}".
    template
        .replace("{n}", &table.n.to_string())
        .replace("{key}", &table.quoted_key())
        .replace("{table}", &table.quoted())
}

/// Reads the row and says what to send; an edit with nothing to send, or that
/// cannot be sent, ends here: `None` says that it is pending no more.
fn freeze_one(
    txn: &Txn<'_>,
    table: &Table,
    ready: Ready,
    id: ChangeId,
) -> Result<Option<Frozen>, Error> {
    let Ready {
        row,
        key,
        base,
        renumbered,
        at,
        was_known,
    } = ready;
    let cells = row::read(txn.conn, table, &key)?;
    let held = row::known(txn.conn, table, row)?.held;
    let Edit::Send(op) = edit(cells.is_some(), held) else {
        capture::remove(txn.conn, row)?;
        return Ok(None);
    };
    let payload = match cells {
        None => None,
        Some(cells) => match row::to_payload(txn.conn, table, row, &cells)? {
            Ok(payload) => Some(payload),
            Err(why) => {
                capture::remove(txn.conn, row)?;
                rejected::add_uncarriable(txn, row, &key, base.as_deref(), &why.to_string())?;
                return Ok(None);
            }
        },
    };
    Ok(Some(Frozen {
        id,
        row,
        key,
        op,
        version: held.version,
        payload,
        base,
        renumbered,
        at,
        was_known,
    }))
}

fn store(conn: &Connection, frozen: &Frozen) -> Result<(), Error> {
    conn.prepare_cached(
        "INSERT INTO _sync_outbox
         (change_id, tbl, pk, local_key, op, server_version, payload, base, renumbered, at,
          was_known)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        frozen.id.get(),
        frozen.row.tbl,
        frozen.row.pk(),
        frozen.key,
        frozen.op.as_str(),
        frozen.version.get(),
        frozen.payload,
        frozen.base,
        frozen.renumbered,
        frozen.at,
        frozen.was_known
    ])?;
    Step::ChangeFrozen.reached();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Device, WIDE, uuid};
    use rusqlite::StatementStatus;

    /// As many changes are asked for as there is room, another number each time.
    #[test]
    fn another_limit_is_no_reason_to_prepare_anew() {
        let mut device = Device::new(
            "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, text)",
            &["notes"],
        );
        for n in 0..5 {
            device.run(&format!("INSERT INTO notes VALUES ('{}', 'a')", uuid(n)));
            device.write(capture::collect);
            for changes in [10, 20] {
                device.write(|txn| next_batch(txn, BatchLimits { changes, ..WIDE }));
            }
            let sent = device.freeze();
            device.settle_applied(&sent);
        }
        let prepared = device.write(|txn| {
            let notes = txn.tables.by_number(1).expect("listed");
            let both = [READY_UPSERTS, READY_DELETES].map(|template| {
                let sql = filled(template, notes);
                let statement = txn.conn.prepare_cached(&sql).expect("prepares");
                let count = |what| statement.get_status(what);
                (
                    count(StatementStatus::RePrepare),
                    count(StatementStatus::Run) > 1,
                )
            });
            Ok(both)
        });
        assert_eq!(prepared, [(0, true); 2]);
    }
}
