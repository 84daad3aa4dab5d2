//! What a stretch of a user's log is folded to: the last entry of every row that
//! lives at its end, in an order in which no row comes before one it refers to; and
//! behind them the deletions that a device may still have to hear of, as they came.
//!
//! Takes entries in the order of the log and keeps a few numbers per row; of tables
//! whose rows may refer to each other also what they refer to. Rows that refer to
//! each other in a ring stay together.

use super::change::{Link, Offer, read_links};
use super::value::{ColumnValue, Read};
use crate::catalog::{Catalog, ColumnIx, TableIx};
use crate::graph;
use crate::ids::ServerId;
use crate::json;
use crate::key::RowKey;
use std::collections::HashMap;

/// An entry of the log, as far as folding needs to know it.
#[derive(Debug, Clone, Copy)]
pub struct Folded<'a> {
    /// Its place.
    pub at: ServerId,
    /// A number that is the table's own.
    pub number: i64,
    /// The table, where it is registered.
    pub table: Option<TableIx>,
    /// The row.
    pub key: RowKey,
    /// What becomes of the row by it.
    pub leaves: Leaves,
    /// The payload; not needed where [`Fold::needs_payload`] says so.
    pub payload: Option<&'a str>,
}

/// What an entry leaves of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// The row lives.
    Row,
    /// A tombstone that no device needs to hear of.
    Nothing,
    /// A tombstone that a device may still have to hear of.
    Tombstone,
}

/// A log that is being folded.
#[derive(Debug)]
pub struct Fold<'a> {
    catalog: &'a Catalog,
    rows: HashMap<(i64, RowKey), Row>,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Row {
    at: ServerId,
    table: Option<TableIx>,
    key: RowKey,
    lives: bool,
    /// Only where rows may refer to each other.
    ties: Option<Box<Ties>>,
}

/// What a row refers to, and what it may be referred to by besides its key.
#[derive(Debug, Default)]
struct Ties {
    keys: Vec<(TableIx, RowKey)>,
    values: Vec<(ColumnIx, Box<str>)>,
    names: Vec<(ColumnIx, Box<str>)>,
}

impl<'a> Fold<'a> {
    /// An empty one.
    pub fn new(catalog: &'a Catalog) -> Self {
        Self {
            catalog,
            rows: HashMap::new(),
            scratch: Vec::new(),
        }
    }

    /// Whether the payloads of a table say in which order its rows must come.
    pub fn needs_payload(catalog: &Catalog, table: TableIx) -> bool {
        catalog.table(table).cyclic
    }

    /// Takes the next entry: a later one of the same row replaces it.
    pub fn take(&mut self, entry: Folded<'_>) {
        let name = (entry.number, entry.key);
        if entry.leaves == Leaves::Nothing {
            self.rows.remove(&name);
            return;
        }
        let lives = entry.leaves == Leaves::Row;
        let ties = entry
            .table
            .filter(|_| lives)
            .filter(|table| Self::needs_payload(self.catalog, *table))
            .zip(entry.payload)
            .map(|(table, payload)| Box::new(self.ties(table, payload)));
        let row = Row {
            at: entry.at,
            table: entry.table,
            key: entry.key,
            lives,
            ties,
        };
        self.rows.insert(name, row);
    }

    fn ties(&mut self, table: TableIx, payload: &str) -> Ties {
        let mut ties = Ties::default();
        self.scratch.clear();
        // What is damaged refers to nothing.
        if json::canonicalise(payload, &mut self.scratch).is_err() {
            return ties;
        }
        let (links, offers): (Vec<Link>, Vec<Offer>) = read_links(payload, table, self.catalog);
        for link in links {
            match link {
                Link::Key { parent, .. } => ties.keys.push((parent.table, parent.key)),
                Link::Column { column, value, .. } => {
                    ties.values.push((column, value.compared().into()));
                }
                Link::NotKey | Link::TooLong { .. } => {}
            }
        }
        let name = |offer: Offer| Some((offer.column, offer.value?.compared().into()));
        ties.names.extend(offers.into_iter().filter_map(name));
        if ties.names.is_empty() {
            ties.names = self.names(table, payload);
        }
        ties
    }

    /// What other rows may call this one by, where uploads do not look at it.
    fn names(&self, table: TableIx, payload: &str) -> Vec<(ColumnIx, Box<str>)> {
        let columns = self.catalog.columns();
        let columns: Vec<_> = columns
            .filter(|(_, column)| column.registered == Some(table))
            .collect();
        if columns.is_empty() {
            return Vec::new();
        }
        let members = json::members(payload).unwrap_or_default();
        let value = |name: &str| members.iter().find(|(member, _)| member == name);
        columns
            .into_iter()
            .filter_map(|(place, column)| {
                let (_, text) = value(&column.wire_name)?;
                match ColumnValue::read(text, column.compared) {
                    Read::Value(value) => Some((place, value.compared().into())),
                    Read::Nothing | Read::TooLong(_) => None,
                }
            })
            .collect()
    }

    /// Ends the log: the entries that stay, in their new order.
    pub fn end(self) -> Vec<ServerId> {
        let catalog = self.catalog;
        // Rows of tables that are not registered any more refer to nothing that is
        // known, and nothing refers to them.
        let rank = |row: &Row| row.table.map_or(usize::MAX, |ix| catalog.table(ix).rank);
        let (mut rows, mut tombstones): (Vec<Row>, Vec<Row>) =
            self.rows.into_values().partition(|row| row.lives);
        rows.sort_unstable_by_key(|row| (rank(row), row.at));
        let mut order = Vec::with_capacity(rows.len());
        for group in rows.chunk_by(|a, b| rank(a) == rank(b)) {
            if group.iter().any(|row| row.ties.is_some()) {
                let in_order = graph::components(&edges(group)).into_iter().flatten();
                order.extend(in_order.map(|node| group[node].at));
            } else {
                order.extend(group.iter().map(|row| row.at));
            }
        }
        // Behind what lives: a row that came to refer to another before its former
        // parent was deleted comes before that.
        tombstones.sort_unstable_by_key(|row| row.at);
        order.extend(tombstones.iter().map(|row| row.at));
        order
    }
}

/// The rows that a payload refers to by their keys; none where it is damaged.
pub fn parents(payload: &str, table: TableIx, catalog: &Catalog) -> Vec<(TableIx, RowKey)> {
    if json::canonicalise(payload, &mut Vec::new()).is_err() {
        return Vec::new();
    }
    let (links, _) = read_links(payload, table, catalog);
    let key = |link: Link| match link {
        Link::Key { parent, .. } => Some((parent.table, parent.key)),
        Link::Column { .. } | Link::NotKey | Link::TooLong { .. } => None,
    };
    links.into_iter().filter_map(key).collect()
}

/// From each row to those it refers to.
fn edges(group: &[Row]) -> Vec<Vec<usize>> {
    let mut keys: HashMap<(TableIx, RowKey), usize> = HashMap::with_capacity(group.len());
    let mut names: HashMap<(ColumnIx, &str), Vec<usize>> = HashMap::new();
    for (node, row) in group.iter().enumerate() {
        keys.extend(row.table.map(|table| ((table, row.key), node)));
        for (column, name) in row.ties.iter().flat_map(|ties| &ties.names) {
            names.entry((*column, name)).or_default().push(node);
        }
    }
    let targets = |row: &Row| -> Vec<usize> {
        let Some(ties) = &row.ties else {
            return Vec::new();
        };
        let by_key = ties.keys.iter().filter_map(|parent| keys.get(parent));
        let by_value = ties
            .values
            .iter()
            .filter_map(|(column, value)| names.get(&(*column, &**value)))
            .flatten();
        by_key.chain(by_value).copied().collect()
    };
    group.iter().map(targets).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{ForeignKeys, Reference, RefersTo, TableSpec};
    use crate::names::TableName;
    use uuid::Uuid;

    fn name(table: &str) -> TableName {
        TableName::parse("public", table).expect("plain")
    }

    /// `users` ← `posts`, and `notes` that answer each other.
    fn catalog() -> Catalog {
        let refers = |column: &str, parent: &str| Reference {
            column: column.to_owned(),
            parent: name(parent),
            to: RefersTo::Key,
        };
        let spec = |table, references| TableSpec {
            name: name(table),
            references,
            after: Vec::new(),
        };
        let specs = vec![
            spec("posts", vec![refers("author", "users")]),
            spec("users", vec![]),
            spec("notes", vec![refers("answers", "notes")]),
        ];
        Catalog::new(specs, ForeignKeys::Enabled).expect("three tables")
    }

    fn key(number: u128) -> RowKey {
        RowKey::new(Uuid::from_u128(number))
    }

    /// What a log is folded to: entries are numbered from 1.
    fn folded(log: &[(&str, u128, Option<&str>)]) -> Vec<i64> {
        let catalog = catalog();
        let mut fold = Fold::new(&catalog);
        for (place, (table, row, payload)) in log.iter().enumerate() {
            let table = catalog.find(&name(table));
            fold.take(Folded {
                at: ServerId::new(place as i64 + 1),
                number: table.map_or(-1, |table| table.index() as i64),
                table,
                key: key(*row),
                leaves: if payload.is_some() {
                    Leaves::Row
                } else {
                    Leaves::Nothing
                },
                payload: *payload,
            });
        }
        fold.end().into_iter().map(ServerId::get).collect()
    }

    #[test]
    fn the_last_entry_of_every_living_row_stays() {
        let log = [
            ("users", 1, Some("{}")),
            ("users", 2, Some("{}")),
            ("users", 1, Some("{}")),
            ("users", 2, None),
            ("users", 3, None),
            ("users", 4, Some("{}")),
            ("users", 4, None),
            ("users", 4, Some("{}")),
        ];
        assert_eq!(folded(&log), [3, 8]);
        assert_eq!(folded(&[]), [0; 0]);
    }

    #[test]
    fn a_parent_that_changed_last_still_comes_first() {
        let log = [
            ("users", 1, Some("{}")),
            ("posts", 7, Some("{}")),
            ("gone", 9, Some("{}")),
            ("users", 1, Some("{}")),
        ];
        assert_eq!(folded(&log), [4, 2, 3]);
    }

    /// Also where the references run through the rows of one table: a note that
    /// came to answer a newer one, under a note that answers it.
    #[test]
    fn rows_of_one_table_are_ordered_by_what_they_refer_to() {
        let answers = |row: u128| format!("{{\"answers\":\"{}\"}}", key(row));
        let (to_1, to_3, to_4) = (answers(1), answers(3), answers(4));
        let log = [
            ("notes", 1, Some("{}")),
            ("notes", 2, Some(&*to_1)),
            ("notes", 3, Some("{}")),
            ("notes", 1, Some(&*to_3)),
        ];
        assert_eq!(folded(&log), [3, 4, 2]);
        // A ring stands together, and a reference to what is gone is none.
        let ring = [
            ("notes", 3, Some(&*to_4)),
            ("notes", 4, Some(&*to_3)),
            ("notes", 2, Some(&*to_1)),
        ];
        assert_eq!(folded(&ring), [1, 2, 3]);
    }
}
