//! Whether projected rows refer to business rows of other users.
//!
//! The server's connection enforces no foreign keys, but the host's own may: there
//! such a row would hold its parent, and tell of the other user.

use super::business_row::{as_text, find, is_visible, quoted};
use super::lookup::{self, key_of};
use super::project::{Trouble, Work};
use crate::projection::{Footing, ProjectedColumn, Projection, STANDS_ON_ANOTHERS};
use oversync_shared::upload::RowAt;
use rusqlite::Transaction;
use rusqlite::types::Value;

/// What the written row refers to must be this user's or nobody's: its owner
/// could not delete it any more. A parent that is not there is no matter here.
pub(super) fn check(
    tx: &Transaction<'_>,
    work: &Work<'_>,
    projection: &Projection,
) -> Result<(), Trouble> {
    let references: Vec<&ProjectedColumn> = projection
        .columns
        .iter()
        .filter(|column| column.is_reference())
        .collect();
    let stands = !(references.is_empty() && projection.footings.is_empty());
    if !stands || work.payload.is_none() {
        return Ok(());
    }
    let Some(there) = find(tx, projection, work.key)? else {
        return Ok(());
    };
    for footing in &projection.footings {
        check_footing(tx, work, projection, footing, &there.key)?;
    }
    if references.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = references
        .iter()
        .map(|column| quoted(&column.column.name))
        .collect();
    let sql = format!(
        "SELECT {} FROM {} WHERE {} = ?1",
        names.join(", "),
        quoted(&projection.name.table),
        quoted(&projection.key.name)
    );
    let held: Vec<Value> = tx.prepare_cached(&sql)?.query_row([there.key], |row| {
        (0..references.len()).map(|place| row.get(place)).collect()
    })?;
    for (column, value) in references.iter().zip(&held) {
        let Some(key) = key_of(value) else { continue };
        for &table in &column.refers_to {
            let table_key = work.tables.keys[table.index()];
            let Some(parent) = work.tables.projections.get(&table_key) else {
                continue;
            };
            let row = RowAt { table, key };
            let is_there = find(tx, parent, key)?.is_some();
            if is_there && !is_visible(tx, parent, table_key, work.user, work.user_id, row)? {
                return Err(Trouble::Data(STANDS_ON_ANOTHERS.to_owned()));
            }
        }
    }
    Ok(())
}

/// The same by other columns, compared as SQLite's own foreign keys do.
fn check_footing(
    tx: &Transaction<'_>,
    work: &Work<'_>,
    projection: &Projection,
    footing: &Footing,
    own_key: &Value,
) -> Result<(), Trouble> {
    let table_key = work.tables.keys[footing.parent.index()];
    let Some(parent) = work.tables.projections.get(&table_key) else {
        return Ok(());
    };
    let columns = footing.columns.iter();
    let on = columns.map(|(here, there)| format!("p.{} = b.{}", quoted(there), quoted(here)));
    let owner = parent.owner.as_ref();
    let sql = format!(
        "SELECT p.{key}, {owner} FROM {child} b JOIN {parent} p ON {on} WHERE b.{own} = ?1",
        key = quoted(&parent.key.name),
        owner = owner.map_or("NULL".to_owned(), |owner| format!(
            "p.{}",
            quoted(&owner.name)
        )),
        child = quoted(&projection.name.table),
        parent = quoted(&parent.name.table),
        on = on.collect::<Vec<_>>().join(" AND "),
        own = quoted(&projection.key.name),
    );
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query([own_key])?;
    while let Some(row) = rows.next()? {
        let (key, owner) = (key_of(&row.get(0)?), as_text(row.get(1)?));
        if !lookup::is_visible(tx, parent, table_key, work.user, work.user_id, key, owner)? {
            return Err(Trouble::Data(STANDS_ON_ANOTHERS.to_owned()));
        }
    }
    Ok(())
}
