//! What must be true, said without knowing how the client does it.
//!
//! Every value the applications write is a number that is written once, so it can
//! be looked for: in the server's stream, under a later write of the same device,
//! or in a list that the user can see.

use super::phone::{Cells, Contents, Phone};
use super::server::{Entry, Server};
use oversync_shared::wire::Op;
use serde_json::Value;
use std::collections::BTreeMap;

/// A promise of GUARANTEES.md that does not hold.
#[derive(Debug)]
pub(super) struct Violated {
    pub(super) promise: &'static str,
    pub(super) what: String,
}

pub(super) type Checked = Result<(), Violated>;

fn holds(is_true: bool, promise: &'static str, what: impl FnOnce() -> String) -> Checked {
    if is_true {
        return Ok(());
    }
    let what = what();
    Err(Violated { promise, what })
}

/// One thing that an application did to one row.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) table: &'static str,
    pub(super) key: String,
    /// The column and its new value; `None`: the row was deleted.
    pub(super) cell: Option<(&'static str, String)>,
    /// Whether the file knew before that the server has the row, or was sending it.
    pub(super) is_known: bool,
}

/// What changed between two looks at the tables.
pub(super) fn difference(before: &Contents, after: &Contents) -> Vec<Written> {
    let mut written = Vec::new();
    let mut add = |table, key: &String, cell| {
        written.push(Written {
            table,
            key: key.clone(),
            cell,
            is_known: false,
        });
    };
    for (table, key) in before.keys() {
        if !after.contains_key(&(*table, key.clone())) {
            add(table, key, None);
        }
    }
    for ((table, key), cells) in after {
        let old = before.get(&(*table, key.clone()));
        for (column, value) in cells {
            let is_new = old.is_none_or(|old| old.get(column) != Some(value));
            // A reference may return to an earlier value; only numbers are unique.
            if is_new && *column != "p_id" {
                add(table, key, Some((column, value.clone())));
            }
        }
    }
    written
}

/// A stream entry's values as the SQL literals they become.
fn cells(table: &str, payload: &str) -> Cells {
    let payload: BTreeMap<String, Value> = serde_json::from_str(payload).expect("a row");
    let columns = if table == "p" {
        &["a", "b"][..]
    } else {
        &["p_id", "a", "b"]
    };
    let literal = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "NULL".to_owned(),
        Some(Value::String(text)) => format!("'{text}'"),
        Some(other) => other.to_string(),
    };
    let cell = |column: &&'static str| (*column, literal(payload.get(*column)));
    columns.iter().map(cell).collect()
}

/// Rows of which this device has something to settle, or that it cannot show.
fn is_open(phone: &Phone, table: &str, key: &str) -> bool {
    let tbl = format!("(SELECT n FROM _sync_table WHERE name = '{table}')");
    let pk = format!("x'{}'", key.replace('-', ""));
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM _sync_pending WHERE tbl = {tbl} AND pk = {pk})
             OR EXISTS (SELECT 1 FROM _sync_outbox WHERE tbl = {tbl} AND pk = {pk})
             OR EXISTS (SELECT 1 FROM _sync_shadow WHERE tbl = {tbl} AND pk = {pk})
             OR EXISTS (SELECT 1 FROM _sync_rejected WHERE tbl = {tbl} AND pk = {pk})
             OR EXISTS (SELECT 1 FROM _sync_parked WHERE wire_table = '{table}' AND pk = '{key}')"
    );
    phone.count(&sql) == 1
}

/// Whether a change of the row is frozen, or the server is known to have it.
pub(super) fn is_known(phone: &Phone, table: &str, key: &str) -> bool {
    let tbl = format!("(SELECT n FROM _sync_table WHERE name = '{table}')");
    let pk = format!("x'{}'", key.replace('-', ""));
    phone.count(&format!(
        "SELECT EXISTS (SELECT 1 FROM _sync_outbox WHERE tbl = {tbl} AND pk = {pk})
             OR EXISTS (SELECT 1 FROM _sync_row WHERE tbl = {tbl} AND pk = {pk} AND version > 0 AND deleted = 0)"
    )) == 1
}

/// The version this device holds of a row, when it holds one of this history.
fn held(phone: &Phone, table: &str, key: &str) -> i64 {
    phone.count(&format!(
        "SELECT coalesce(max(version), 0) FROM _sync_row
         WHERE tbl = (SELECT n FROM _sync_table WHERE name = '{table}')
           AND pk = x'{}'",
        key.replace('-', "")
    ))
}

/// PAGE-ATOMIC: a row with nothing unsent is what the stream said at the version
/// the device holds.
pub(super) fn rows_are_as_told(
    phone: &Phone,
    server: &Server,
    keys: &[(&'static str, String)],
) -> Checked {
    let contents = phone.contents();
    for (table, key) in keys {
        let version = held(phone, table, key);
        if version == 0 || is_open(phone, table, key) {
            continue;
        }
        let row = server.row_at(table, key);
        let told = server
            .log
            .iter()
            .find(|entry| entry.row == row && entry.version.get() == version);
        let shown = contents.get(&(*table, key.clone())).cloned();
        let expected = told.and_then(|entry| entry.payload.as_deref());
        let expected = expected.map(|payload| cells(table, payload));
        holds(told.is_some() && shown == expected, "PAGE-ATOMIC", || {
            format!(
                "device {} holds {table} {key} at version {version}, told {told:?}, shows {shown:?}",
                phone.number
            )
        })?;
    }
    Ok(())
}

/// CONVERGE: every device shows what the stream amounts to.
pub(super) fn all_are_equal(
    phones: &[Phone],
    server: &Server,
    keys: &[(&'static str, String)],
) -> Checked {
    for phone in phones {
        let contents = phone.contents();
        for (table, key) in keys {
            // What is refused or cannot be shown is in a list that says so.
            if is_open(phone, table, key) {
                let unsent = phone.count(
                    "SELECT (SELECT count(*) FROM _sync_pending WHERE waits_tbl IS NULL)
                          + (SELECT count(*) FROM _sync_outbox)",
                );
                holds(unsent == 0, "LIVENESS", || {
                    format!("device {} still has something to send", phone.number)
                })?;
                continue;
            }
            let newest = server.newest(server.row_at(table, key));
            let expected = newest.and_then(|entry| entry.payload.as_deref());
            let expected = expected.map(|payload| cells(table, payload));
            let shown = contents.get(&(*table, key.clone())).cloned();
            holds(shown == expected, "CONVERGE", || {
                format!(
                    "device {} shows {table} {key} as {shown:?}, the server has {newest:?}",
                    phone.number
                )
            })?;
        }
    }
    Ok(())
}

fn says(entry: &Entry, column: &str, value: &str, table: &str) -> bool {
    entry.payload.as_deref().is_some_and(|payload| {
        cells(table, payload)
            .get(column)
            .is_some_and(|v| v == value)
    })
}

/// FATE: whatever an application wrote is on the server, superseded by a later
/// write of the same device, or in a list.
///
/// Two deletes leave no trace (`untold.rs` says why). Of a row that a restore has
/// taken from the server, and that another device offers again. And, in a file that was
/// put back (`is_restored`) or on its way into a restored server's history, of a row of
/// which the file does not know that the server has it: there is nothing to send.
pub(super) fn every_write_has_its_fate(
    phone: &Phone,
    server: &Server,
    written: &[Written],
    is_restored: bool,
) -> Checked {
    for (place, one) in written.iter().enumerate() {
        // NULL is written often: it only supersedes.
        if matches!(&one.cell, Some((_, value)) if value == "NULL") {
            continue;
        }
        let row = server.row_at(one.table, &one.key);
        let of_row = |other: &&Written| other.table == one.table && other.key == one.key;
        let later = written[place + 1..].iter().filter(of_row);
        let superseded = later
            .into_iter()
            .any(|other| match (&one.cell, &other.cell) {
                (Some((column, _)), Some((newer, _))) => column == newer,
                (Some(_), None) | (None, _) => true,
            });
        let mut told = server.ever.iter().filter(|entry| entry.row == row);
        let on_server = match &one.cell {
            Some((column, value)) => told.any(|entry| says(entry, column, value, one.table)),
            None if server.lost.contains(&row) => true,
            None if !one.is_known && (is_restored || server.restores > 0) => true,
            None => {
                let mut own = told.clone().filter(|entry| entry.device == phone.number);
                // A row that the server never knew needs no delete.
                told.any(|entry| entry.op == Op::Delete) || own.next().is_none()
            }
        };
        let in_a_list = is_listed(phone, one);
        holds(superseded || on_server || in_a_list, "FATE", || {
            format!("device {}: {one:?} is nowhere", phone.number)
        })?;
    }
    Ok(())
}

fn is_listed(phone: &Phone, one: &Written) -> bool {
    let tbl = format!("(SELECT n FROM _sync_table WHERE name = '{}')", one.table);
    let pk = format!("x'{}'", one.key.replace('-', ""));
    let of_row = format!("tbl = {tbl} AND pk = {pk}");
    let sql = match &one.cell {
        Some((column, value)) => format!(
            "SELECT EXISTS (SELECT 1 FROM _sync_conflicts WHERE {of_row} AND mine ->> '{column}' = {value})
                 OR EXISTS (SELECT 1 FROM _sync_rejected WHERE {of_row} AND payload ->> '{column}' = {value})
                 OR EXISTS (SELECT 1 FROM _sync_pending WHERE {of_row} AND waits_tbl IS NOT NULL)"
        ),
        None => format!(
            "SELECT EXISTS (SELECT 1 FROM _sync_conflicts WHERE {of_row} AND mine IS NULL)
                 OR EXISTS (SELECT 1 FROM _sync_rejected WHERE {of_row} AND payload IS NULL)"
        ),
    };
    phone.count(&sql) == 1
}
