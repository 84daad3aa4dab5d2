//! Why a row is not where it should be: not on the server, not in its business table,
//! or not on a device.

use super::Examination;
use super::database::Database;
use super::person::{Known, behind};
use crate::drift::Use;
use crate::settings::Settings;
use crate::store::StoreError;
use crate::store::audit::BusinessFault;
use crate::store::view::{KeyRange, RowFilter, RowView};
use oversync_shared::upload::RowState;
use oversync_shared::{RowKey, TableName, UserId};
use std::collections::BTreeMap;
use std::str::FromStr;

/// A row as people name it: `TABLE/KEY` or `SCHEMA.TABLE/KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedRow {
    schema: Option<String>,
    table: String,
    key: RowKey,
}

impl FromStr for WantedRow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("wants TABLE/KEY or SCHEMA.TABLE/KEY with a UUID, not \"{text}\"");
        let (table, key) = text.split_once('/').ok_or_else(wrong)?;
        let (schema, table) = match table.split_once('.') {
            Some((schema, table)) => (Some(schema.to_lowercase()), table),
            None => (None, table),
        };
        Ok(Self {
            schema,
            table: table.to_lowercase(),
            key: RowKey::parse(key).ok_or_else(wrong)?,
        })
    }
}

impl WantedRow {
    /// The configured table that it means.
    fn table(&self, settings: &Settings) -> Result<TableName, String> {
        let is_meant = |schema: &str, table: &str| {
            table == self.table && self.schema.as_deref().is_none_or(|own| own == schema)
        };
        let mut all = settings
            .tables
            .iter()
            .map(|t| (t.schema.to_lowercase(), t.table.to_lowercase()));
        let mut all = all
            .by_ref()
            .filter(|(schema, table)| is_meant(schema, table));
        let Some((schema, table)) = all.next() else {
            let name = self
                .schema
                .as_ref()
                .map_or_else(|| self.table.clone(), |s| format!("{s}.{}", self.table));
            return Err(format!(
                "no table {name} is synchronised: its changes are refused as unregistered_table"
            ));
        };
        if all.next().is_some() {
            return Err(format!(
                "several schemas have a table {table}: name one, as in {schema}.{table}"
            ));
        }
        Ok(TableName { schema, table })
    }
}

/// Looks at a row of a user, of whom something is known or nothing.
pub(super) async fn look(
    found: &mut Examination,
    settings: &Settings,
    database: &mut Database,
    (user, known): (&UserId, Option<&Known>),
    row: &WantedRow,
) -> Result<(), StoreError> {
    let table = match row.table(settings) {
        Ok(table) => table,
        Err(problem) => {
            found.trouble(
                "row",
                problem,
                "name it under [[tables]] and restart the server, or name another one",
            );
            return Ok(());
        }
    };
    let name = format!("{table} {}", row.key);
    let seen = read(settings, database, user, &table, row.key).await?;
    let Some((seen, known)) = seen.zip(known) else {
        found.trouble(
            "row",
            format!("{name}: the server has never taken a change of it from {user}"),
            "it waits on its device, or was refused there: run oversqlite doctor --row on that device (the server keeps nothing of what it refuses)",
        );
        return Ok(());
    };
    history(found, &name, &seen, known);
    business(found, settings, database, user, &name, &seen).await?;
    readers(found, &name, &seen, known);
    Ok(())
}

/// The row as it stands now.
async fn read(
    settings: &Settings,
    database: &Database,
    user: &UserId,
    table: &TableName,
    key: RowKey,
) -> Result<Option<RowView>, StoreError> {
    let only = RowFilter {
        table: table.to_string(),
        keys: KeyRange {
            low: key.uuid(),
            high: key.uuid(),
        },
        after: None,
    };
    // Other tables' names may begin like this one's.
    let most = settings.tables.len() as i64;
    let rows = database.view.rows(user, only, most).await?;
    Ok(rows.into_iter().find(|seen| seen.table == *table))
}

/// Where it is in the stream, and who put it there.
fn history(found: &mut Examination, name: &str, seen: &RowView, known: &Known) {
    let (place, version) = (seen.place, seen.version);
    let by = seen.changed.as_ref().map_or_else(
        || "its entry was folded away".to_owned(),
        |by| {
            format!(
                "by device {} (change {}) at {}",
                by.device, by.change_id, by.at
            )
        },
    );
    let floor = known.record.floor;
    let folded = if place <= floor {
        format!("; at or below the floor {floor}, so devices get it with the fold")
    } else {
        String::new()
    };
    if seen.deleted {
        let what = format!("{name}: deleted at place {place}, {by}, version {version}{folded}");
        found.trouble("row", what, "if that was wrong, write it again: from a device, or POST /admin/write with this version");
    } else {
        found.saw(
            "row",
            format!("{name}: version {version} at place {place}, {by}{folded}"),
        );
    }
}

/// Whether it stands in its business table.
async fn business(
    found: &mut Examination,
    settings: &Settings,
    database: &mut Database,
    user: &UserId,
    name: &str,
    seen: &RowView,
) -> Result<(), StoreError> {
    let shape = database
        .shapes
        .iter()
        .find(|shape| shape.table == seen.table.to_string());
    let Some(projection) = database.projection(&seen.table).cloned() else {
        let handled = shape.is_some_and(|shape| shape.usage == Use::Handled);
        let (what, advice) = if handled {
            (
                "the host's handler writes it; only the host knows where",
                "ask the host application",
            )
        } else {
            (
                "it is synchronised and stands in no business table, which does not exist",
                "make the table and restart the server, if it should be projected",
            )
        };
        found.note("row", format!("{name}: {what}"), advice);
        return Ok(());
    };
    if let Some(payload) = &seen.payload {
        unknown_columns(found, name, &payload.text, &projection.known);
    }
    let Some((book, mut snapshot)) = database.audit.snapshot(user).await? else {
        return Ok(());
    };
    let number = book.tables.iter().find(|(_, table)| **table == seen.table);
    let Some((number, _)) = number else {
        return Ok(());
    };
    let state = RowState {
        version: seen.version,
        deleted: seen.deleted,
        at: seen.place,
    };
    let faults = snapshot
        .business(&projection, *number, &[(seen.key, state)])
        .await?;
    if !faults.is_empty() {
        // Not where the row was written between the two looks.
        drop(snapshot);
        let now = read(settings, database, user, &seen.table, seen.key).await?;
        if now.is_none_or(|now| (now.version, now.place) != (seen.version, seen.place)) {
            found.note(
                "row",
                format!("{name}: it is being written just now"),
                "ask again when that is over",
            );
            return Ok(());
        }
    }
    let retry =
        "mend what keeps it away, then try again: on the console, or POST /admin/failures/retry";
    let is_recorded = book
        .failures
        .iter()
        .any(|(row, _)| row.table == *number && row.key == seen.key);
    for (_, fault) in faults {
        let what = match fault {
            BusinessFault::Missing if is_recorded => "it is not in the business table, because it could not be written: see the failures".to_owned(),
            BusinessFault::Missing => "it is not in the business table, and no failure says why: it was synchronised before the table was projected, or another program deleted it".to_owned(),
            BusinessFault::NotOwned => "the business row with this key belongs to somebody else, or was not made by synchronisation".to_owned(),
            BusinessFault::NotGone => "it is deleted, and still stands in the business table".to_owned(),
            BusinessFault::Value { column, recorded, recomputed } => {
                let said = |value: Option<String>| value.map_or_else(|| "null".to_owned(), |text| format!("{text:?}"));
                format!("the business table has {column} = {}, the synchronised row says {}: another program changed it, or it could not be written", said(recorded), said(recomputed))
            }
            BusinessFault::Unprojectable(error) => format!("it cannot be written into the business table: {error}"),
        };
        found.trouble("row", format!("{name}: {what}"), retry);
    }
    Ok(())
}

/// Columns that a device sends and the business table does not have.
fn unknown_columns(
    found: &mut Examination,
    name: &str,
    payload: &str,
    known: &std::collections::HashSet<String>,
) {
    // One that is too long to be read whole says nothing.
    let Ok(members) = serde_json::from_str::<BTreeMap<String, serde::de::IgnoredAny>>(payload)
    else {
        return;
    };
    let is_unknown = |column: &&String| !known.contains(&column.to_lowercase());
    let unknown: Vec<&str> = members
        .keys()
        .filter(is_unknown)
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        let what = format!(
            "{name}: the device sends {}, which the business table does not have: it is synchronised, and not written",
            unknown.join(", ")
        );
        found.trouble(
            "row",
            what,
            "add the column and restart the server, or leave it out on the device",
        );
    }
}

/// Which devices have not read it yet.
fn readers(found: &mut Examination, name: &str, seen: &RowView, known: &Known) {
    let author = seen.changed.as_ref().map(|by| by.device.as_str());
    let others = known
        .devices
        .iter()
        .filter(|each| Some(each.device.as_str()) != author && each.revoked_at.is_none());
    for each in others {
        let Some(cursor) = each.cursor else {
            continue;
        };
        if cursor < seen.place && behind(each, known).is_some_and(|entries| entries > 0) {
            let what = format!(
                "{name}: device {} has read up to {cursor}, and not place {} yet, as far as is written down",
                each.device, seen.place
            );
            found.note(
                "row",
                what,
                "it gets it with its next download; oversqlite doctor there says what keeps it",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_named_by_table_and_key() {
        let key = "0f8fad5b-d9cb-469f-a165-70867728950e";
        let row: WantedRow = format!("Users/{key}").parse().expect("a row");
        assert_eq!((row.schema.as_deref(), &*row.table), (None, "users"));
        let row: WantedRow = format!("business.users/{key}").parse().expect("a row");
        assert_eq!(row.schema.as_deref(), Some("business"));
        for wrong in ["users", "users/7", "/", ""] {
            let said = wrong.parse::<WantedRow>().expect_err("no row");
            assert!(said.contains("TABLE/KEY"), "{said}");
        }
    }
}
