//! The fold that is read, held against what stands at or below the floor: every row
//! that lives there exactly once, none before one that it refers to, and nothing else
//! but tombstones behind them; places one after the other up to the floor.
//!
//! Pure: takes the places in their order. Keeps a few numbers per place, and per row
//! of tables whose rows refer to each other also what it refers to.

use super::fold::AtFloor;
use super::report::{Finding, Findings};
use crate::store::audit::{Book, Placed, RowName};
use oversync_shared::upload::{Fold, parents};
use oversync_shared::{Catalog, ServerId, TableIx};
use std::collections::{HashMap, HashSet};

/// A fold, as far as it has been taken.
pub(super) struct Places<'a> {
    book: &'a Book,
    catalog: &'a Catalog,
    at_floor: &'a AtFloor,
    /// The rows' last entries at the floor, by their ids.
    entries: HashMap<ServerId, (RowName, bool)>,
    /// The numbers of registered tables, by place in the catalog.
    tables: HashMap<TableIx, crate::store::audit::TableKey>,
    last: Option<ServerId>,
    placed: HashSet<RowName>,
    has_tombstones: bool,
    /// What rows refer to, in tables where that may come back to them.
    references: HashMap<RowName, Vec<RowName>>,
    /// Rows that stand before one they refer to: right only in a ring.
    early: Vec<(RowName, RowName)>,
}

impl<'a> Places<'a> {
    pub(super) fn new(book: &'a Book, catalog: &'a Catalog, at_floor: &'a AtFloor) -> Self {
        let last = at_floor.last.iter();
        let known = book.tables.iter();
        Self {
            book,
            catalog,
            at_floor,
            entries: last
                .map(|(row, state)| (state.at, (*row, !state.deleted)))
                .collect(),
            tables: known
                .filter_map(|(number, name)| Some((catalog.find(name)?, *number)))
                .collect(),
            last: None,
            placed: HashSet::new(),
            has_tombstones: false,
            references: HashMap::new(),
            early: Vec::new(),
        }
    }

    /// Takes the next place.
    pub(super) fn take(&mut self, placed: &Placed, findings: &mut Findings<'_>) {
        let place = placed.place;
        if let Some(last) = self.last.filter(|last| last.next() != place) {
            let recorded = format!("place {place} behind {last}");
            findings.of_user(Finding::FoldPlace, recorded, format!("{}", last.next()));
        }
        self.last = Some(place);
        let Some((row, lives)) = self.entries.get(&placed.entry).copied() else {
            let recorded = format!("entry {} at place {place}", placed.entry);
            let recomputed = "the last entry of a row at the floor";
            findings.of_user(Finding::FoldEntry, recorded, recomputed);
            return;
        };
        if !self.placed.insert(row) {
            let recorded = format!("place {place} too");
            findings.of_row(row, Finding::FoldEntry, recorded, "one place");
        }
        if !lives {
            self.has_tombstones = true;
            return;
        }
        if self.has_tombstones {
            let recorded = format!("place {place}, behind a tombstone");
            findings.of_row(row, Finding::FoldOrder, recorded, "before all tombstones");
        }
        self.look_for_parents(row, placed.payload.as_deref().unwrap_or("null"));
    }

    /// Of those that live at the floor, all must have been placed.
    fn look_for_parents(&mut self, row: RowName, payload: &str) {
        let name = self.book.tables.get(&row.table);
        let Some(table) = name.and_then(|name| self.catalog.find(name)) else {
            return;
        };
        let parents = parents(payload, table, self.catalog).into_iter();
        let parents: Vec<RowName> = parents
            .filter_map(|(table, key)| {
                let table = *self.tables.get(&table)?;
                Some(RowName { table, key })
            })
            .filter(|parent| {
                let state = self.at_floor.last.get(parent);
                *parent != row && state.is_some_and(|state| !state.deleted)
            })
            .collect();
        let missing = parents
            .iter()
            .filter(|parent| !self.placed.contains(parent));
        self.early.extend(missing.map(|parent| (row, *parent)));
        if Fold::needs_payload(self.catalog, table) {
            self.references.insert(row, parents);
        }
    }

    /// There are no more places.
    pub(super) fn end(self, findings: &mut Findings<'_>) {
        if let Some(last) = self.last.filter(|last| *last != self.book.floor) {
            let recorded = format!("{last} as the last place");
            let recomputed = format!("the floor, {}", self.book.floor);
            findings.of_user(Finding::FoldPlace, recorded, recomputed);
        }
        for (row, state) in &self.at_floor.last {
            if !state.deleted && !self.placed.contains(row) {
                findings.of_row(*row, Finding::FoldMissing, "no place", "a place");
            } else if state.deleted && self.book.is_swept && !self.placed.contains(row) {
                let recorded = format!("entry {}", state.at);
                findings.of_row(*row, Finding::FoldLeft, recorded, "no entry");
            }
        }
        for (entry, row) in self.at_floor.replaced.iter().filter(|_| self.book.is_swept) {
            let recorded = format!("entry {entry}");
            findings.of_row(*row, Finding::FoldLeft, recorded, "no entry");
        }
        for (row, parent) in &self.early {
            // One that has no place has been found already.
            if self.placed.contains(parent) && !self.leads_to(*parent, *row) {
                let recorded = format!("a place before its parent {}", parent.key);
                findings.of_row(*row, Finding::FoldOrder, recorded, "a place behind it");
            }
        }
    }

    /// Whether one row refers to the other, over others or not.
    fn leads_to(&self, from: RowName, to: RowName) -> bool {
        let (mut seen, mut open) = (HashSet::from([from]), vec![from]);
        while let Some(row) = open.pop() {
            if row == to {
                return true;
            }
            let next = self.references.get(&row).into_iter().flatten();
            open.extend(next.copied().filter(|row| seen.insert(*row)));
        }
        false
    }
}
