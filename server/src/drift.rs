//! How business tables look, and how that differs from how a server found them when
//! it started: a column that is gone, or of another type, makes rows fail or be
//! written by halves until the server starts again. Pure; `oversync doctor` compares
//! what a running server says with what the database has.

use crate::projection::{BusinessTable, Projection};
use crate::settings::TableSettings;
use oversync_shared::TableName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// What becomes of a table's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Use {
    /// They are written into the business table.
    Projected,
    /// A handler of the host writes them.
    Handled,
    /// There is no business table: they are synchronised, and that is all.
    SynchronisedOnly,
}

/// A synchronised table as a server found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// As in `schema.table`.
    pub(crate) table: String,
    /// What becomes of its rows.
    #[serde(rename = "use")]
    pub(crate) usage: Use,
    /// Columns that are written or computed, with their types, by name.
    pub(crate) columns: BTreeMap<String, String>,
}

/// A difference between then and now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Drift {
    /// The table is gone.
    TableGone(String),
    /// It is there now, and was not.
    TableNew(String),
    /// A column is gone.
    ColumnGone(String, String),
    /// It is there now, and was not: payloads that have it are written without.
    ColumnNew(String, String),
    /// It is of another type: table, column, then, now.
    ColumnType(String, String, String, String),
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableGone(table) => {
                write!(
                    f,
                    "the table {table} is gone since the server started: its rows cannot be written"
                )
            }
            Self::TableNew(table) => write!(
                f,
                "the table {table} is there, and was not when the server started: its rows are not written"
            ),
            Self::ColumnGone(table, column) => write!(
                f,
                "{table} has lost the column {column} since the server started: rows with it cannot be written"
            ),
            Self::ColumnNew(table, column) => write!(
                f,
                "{table} has the column {column} since the server started: rows are written without it"
            ),
            Self::ColumnType(table, column, then, now) => write!(
                f,
                "{table}.{column} was of type {then} when the server started and is {now}: rows may not be written"
            ),
        }
    }
}

/// How the configured tables look.
pub(crate) fn shapes(
    names: &[TableName],
    settings: &[TableSettings],
    described: &HashMap<TableName, BusinessTable>,
    projections: &[Projection],
) -> Vec<Shape> {
    let shape = |(name, settings): (&TableName, &TableSettings)| {
        let is_projected = projections.iter().any(|found| found.name == *name);
        let usage = match (settings.handled, is_projected) {
            (true, _) => Use::Handled,
            (false, true) => Use::Projected,
            (false, false) => Use::SynchronisedOnly,
        };
        let found = described.get(name).filter(|_| usage == Use::Projected);
        let columns = found.into_iter().flat_map(|found| &found.columns);
        Shape {
            table: name.to_string(),
            usage,
            columns: columns
                .map(|column| (column.name.clone(), column.stored_type.clone()))
                .collect(),
        }
    };
    names.iter().zip(settings).map(shape).collect()
}

/// What has changed; tables that are not configured in both are left out.
pub(crate) fn between(then: &[Shape], now: &[Shape]) -> Vec<Drift> {
    let mut found = Vec::new();
    for now in now {
        let Some(then) = then.iter().find(|then| then.table == now.table) else {
            continue;
        };
        let table = || now.table.clone();
        match (then.usage, now.usage) {
            (Use::Projected, Use::SynchronisedOnly) => found.push(Drift::TableGone(table())),
            (Use::SynchronisedOnly, Use::Projected) => found.push(Drift::TableNew(table())),
            _ => found.extend(columns(then, now)),
        }
    }
    found
}

fn columns(then: &Shape, now: &Shape) -> Vec<Drift> {
    let table = &now.table;
    let of_then = then.columns.iter().filter_map(|(name, was)| {
        let (table, name) = (table.clone(), name.clone());
        match now.columns.get(&name) {
            None => Some(Drift::ColumnGone(table, name)),
            Some(is) if is != was => Some(Drift::ColumnType(table, name, was.clone(), is.clone())),
            Some(_) => None,
        }
    });
    let is_new = |name: &&String| !then.columns.contains_key(*name);
    let of_now = now.columns.keys().filter(is_new);
    let of_now = of_now.map(|name| Drift::ColumnNew(table.clone(), name.clone()));
    of_then.chain(of_now).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(table: &str, usage: Use, columns: &[(&str, &str)]) -> Shape {
        let own = |(name, kind): &(&str, &str)| (name.to_string(), kind.to_string());
        Shape {
            table: table.to_owned(),
            usage,
            columns: columns.iter().map(own).collect(),
        }
    }

    #[test]
    fn every_difference_has_a_name() {
        let then = [
            shape(
                "a.users",
                Use::Projected,
                &[("id", "uuid"), ("n", "integer"), ("old", "text")],
            ),
            shape("a.gone", Use::Projected, &[("id", "uuid")]),
            shape("a.late", Use::SynchronisedOnly, &[]),
            shape("a.same", Use::Projected, &[("id", "uuid")]),
        ];
        let now = [
            shape(
                "a.users",
                Use::Projected,
                &[("id", "uuid"), ("n", "text"), ("new", "text")],
            ),
            shape("a.gone", Use::SynchronisedOnly, &[]),
            shape("a.late", Use::Projected, &[("id", "uuid")]),
            shape("a.same", Use::Projected, &[("id", "uuid")]),
            shape("a.other", Use::Projected, &[("id", "uuid")]),
        ];
        let own = str::to_owned;
        let expected = [
            Drift::ColumnType(own("a.users"), own("n"), own("integer"), own("text")),
            Drift::ColumnGone(own("a.users"), own("old")),
            Drift::ColumnNew(own("a.users"), own("new")),
            Drift::TableGone(own("a.gone")),
            Drift::TableNew(own("a.late")),
        ];
        assert_eq!(between(&then, &now), expected);
        assert_eq!(between(&then, &then), []);
    }
}
