//! Writing the uploads of many users in one SQLite transaction.

use super::super::{Commit, NewEntry, Outcome, StoreError, moment, op_code};
use super::Tables;
use super::project::{self, GivenUp, Projected, Work};
use crate::store::handler::Before;
use oversync_shared::upload::RowWrite;
use oversync_shared::{ChangeId, RowVersion, ServerId, TableIx};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use std::collections::HashMap;

/// Writes every upload whose user has not moved on since it was decided.
pub(super) fn commit(
    connection: &mut Connection,
    commits: &[Commit],
    tables: &Tables,
    ts: i64,
) -> Result<Vec<Outcome>, StoreError> {
    // Each time round gives up one row that took the transaction with it.
    let mut given_up = GivenUp::new();
    'again: loop {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut outcomes = Vec::with_capacity(commits.len());
        let mut failed = 0;
        for commit in commits {
            let outcome = commit_one(&tx, commit, tables, ts)?;
            if matches!(outcome, Outcome::Done { .. }) {
                let rows = business_rows(commit, tables);
                match project::project(&tx, rows, &given_up, ts)? {
                    Projected::Done(rows) => failed += rows,
                    Projected::RolledBack(user, table, key) => {
                        given_up.insert((user, table, key));
                        continue 'again;
                    }
                }
            }
            outcomes.push(outcome);
        }
        tx.commit()?;
        // What was taken back did not happen.
        crate::meters::projection_failures(failed);
        return Ok(outcomes);
    }
}

fn commit_one(
    tx: &Transaction<'_>,
    commit: &Commit,
    tables: &Tables,
    ts: i64,
) -> Result<Outcome, StoreError> {
    let key_of = |table: TableIx| tables.keys[table.index()];
    let revision: Option<i64> = tx
        .prepare_cached("SELECT revision FROM _oversync_users WHERE user_key = ?1")?
        .query_row([commit.user.0], |row| row.get(0))
        .optional()?;
    if revision != Some(commit.revision.0) {
        return Ok(Outcome::LeftOut);
    }
    // An upload that takes a row for new is only right while it is.
    let mut seen = tx.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM _oversync_rows WHERE user_key = ?1 AND table_key = ?2 AND pk = ?3)",
    )?;
    let is_new = |write: &RowWrite| write.base == RowVersion::NEVER_SEEN;
    for write in commit.rows.iter().filter(|write| is_new(write)) {
        let pk = write.row.key.uuid();
        if seen.query_row(
            params![commit.user.0, key_of(write.row.table), pk.as_bytes()],
            |row| row.get(0),
        )? {
            return Ok(Outcome::LeftOut);
        }
    }
    let Some(shown) = show(tx, commit)? else {
        return Ok(Outcome::TooMuchToShow);
    };
    if commit.entries.is_empty() {
        return Ok(Outcome::Done {
            shown,
            at: moment(ts)?,
        });
    }

    tx.prepare_cached(
        "UPDATE _oversync_users SET head = ?2, revision = revision + 1 WHERE user_key = ?1",
    )?
    .execute(params![commit.user.0, commit.head.get()])?;
    tx.prepare_cached(
        "INSERT INTO _oversync_devices (user_key, device_key, device_id, highest_change_id, settled_below) \
         VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (user_key, device_key) \
         DO UPDATE SET highest_change_id = max(highest_change_id, excluded.highest_change_id), \
             settled_below = max(coalesce(settled_below, excluded.settled_below), \
                                 coalesce(excluded.settled_below, settled_below))",
    )?
    .execute(params![
        commit.user.0,
        commit.device.key.0,
        commit.device.id.as_str(),
        commit.device.highest.get(),
        commit.device.settled_below.map(ChangeId::get),
    ])?;
    let mut log = tx.prepare_cached(
        "INSERT INTO _oversync_log (user_key, server_id, device_key, change_id, table_key, pk, op, version, ts, \
         fingerprint, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    for entry in &commit.entries {
        log.execute(params![
            commit.user.0,
            entry.server_id.get(),
            commit.device.key.0,
            entry.change_id.get(),
            key_of(entry.row.table),
            entry.row.key.uuid().as_bytes(),
            op_code(entry.op),
            entry.version.get(),
            ts,
            &entry.fingerprint.0,
            entry.payload.as_deref(),
        ])?;
    }
    let mut create = tx.prepare_cached(
        "INSERT INTO _oversync_rows (user_key, table_key, pk, version, server_id, deleted) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let mut change = tx.prepare_cached(
        "UPDATE _oversync_rows SET version = ?4, server_id = ?5, deleted = ?6 \
         WHERE user_key = ?1 AND table_key = ?2 AND pk = ?3",
    )?;
    for write in &commit.rows {
        let statement = if is_new(write) {
            &mut create
        } else {
            &mut change
        };
        statement.execute(params![
            commit.user.0,
            key_of(write.row.table),
            write.row.key.uuid().as_bytes(),
            write.state.version.get(),
            write.state.at.get(),
            write.state.deleted,
        ])?;
    }
    Ok(Outcome::Done {
        shown,
        at: moment(ts)?,
    })
}

/// The rows of this upload that have a business table, as they stand after it.
fn business_rows<'a>(commit: &'a Commit, tables: &'a Tables) -> Vec<Work<'a>> {
    if tables.projections.is_empty() && tables.handled.is_empty() {
        return Vec::new();
    }
    let entries: HashMap<ServerId, &NewEntry> = commit
        .entries
        .iter()
        .map(|entry| (entry.server_id, entry))
        .collect();
    commit
        .rows
        .iter()
        .filter_map(|write| {
            let table_key = tables.keys[write.row.table.index()];
            let entry = entries[&write.state.at];
            Some(Work {
                user: commit.user.0,
                user_id: &commit.user_id,
                writer: tables.writer(table_key)?,
                before: if write.base == RowVersion::NEVER_SEEN {
                    Before::NeverSeen
                } else {
                    Before::Seen
                },
                table_key,
                key: write.row.key,
                version: write.state.version,
                op: entry.op,
                payload: entry.payload.as_deref(),
                tables,
            })
        })
        .collect()
}

/// `None` when it is too much.
fn show(
    tx: &Transaction<'_>,
    commit: &Commit,
) -> Result<Option<HashMap<ServerId, Option<String>>>, StoreError> {
    let mut payload = tx.prepare_cached(
        "SELECT payload FROM _oversync_log WHERE user_key = ?1 AND server_id = ?2",
    )?;
    let mut shown = HashMap::with_capacity(commit.show.entries.len());
    let mut bytes = 0;
    for (id, times) in &commit.show.entries {
        let text: Option<String> =
            payload.query_row(params![commit.user.0, id.get()], |row| row.get(0))?;
        bytes += text.as_ref().map_or(0, String::len) * times;
        if bytes > commit.show.max_bytes {
            return Ok(None);
        }
        shown.insert(*id, text);
    }
    Ok(Some(shown))
}
