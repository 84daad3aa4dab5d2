//! What the changes of an upload have done so far, and the way back.
//!
//! Rows that need each other are tried before it is known whether they stand;
//! what was tried is taken back entry by entry, so that a try costs what it
//! does, not what the whole upload has done before it.

use super::change::Change;
use super::plan::{LogEntry, Plan, RowWrite};
use super::room::{Exceeded, Tally};
use super::view::{Recorded, RowAt, RowState, View};
use crate::catalog::ColumnIx;
use crate::ids::{ChangeId, RowVersion, ServerId};
use crate::wire::Op;
use std::collections::{HashMap, HashSet};

/// The work of an upload while it is decided.
#[derive(Debug)]
pub(super) struct Done<'a> {
    view: &'a View,
    /// Rows that the upload deletes: they are nobody's parents.
    doomed: HashSet<RowAt>,
    log: Vec<LogEntry>,
    /// What each entry has changed, beside the log.
    undo: Vec<Undo<'a>>,
    rows: HashMap<RowAt, RowState>,
    ids: HashMap<ChangeId, Recorded>,
    /// What rows are called by their last change, where other rows refer to them
    /// by that. A payload that does not have the column leaves it as it was.
    names: HashMap<(RowAt, ColumnIx), &'a str>,
    /// How many rows are called so that count as parents.
    called: HashMap<(ColumnIx, &'a str), usize>,
    /// What is in use, where that is limited.
    tally: Option<Tally<'a>>,
}

#[derive(Debug)]
struct Undo<'a> {
    row: RowAt,
    state: Option<RowState>,
    id: ChangeId,
    names: Vec<(ColumnIx, Option<&'a str>)>,
}

impl<'a> Done<'a> {
    pub(super) fn new(view: &'a View, doomed: HashSet<RowAt>) -> Self {
        Self {
            view,
            doomed,
            log: Vec::new(),
            undo: Vec::new(),
            rows: HashMap::new(),
            ids: HashMap::new(),
            names: HashMap::new(),
            called: HashMap::new(),
            tally: Tally::of(&view.room),
        }
    }

    pub(super) fn is_doomed(&self, row: &RowAt) -> bool {
        self.doomed.contains(row)
    }

    pub(super) fn state(&self, row: RowAt) -> Option<RowState> {
        let own = self.rows.get(&row);
        own.or_else(|| self.view.rows.get(&row)).copied()
    }

    pub(super) fn is_live(&self, row: RowAt) -> bool {
        self.state(row).is_some_and(|state| !state.deleted)
    }

    /// What stands under a change id, from before or by this upload.
    pub(super) fn recorded(&self, id: ChangeId) -> Option<Recorded> {
        let before = self.view.recorded.get(&id);
        before.or_else(|| self.ids.get(&id)).copied()
    }

    /// What the upload has last called a row.
    pub(super) fn name(&self, row: RowAt, column: ColumnIx) -> Option<&'a str> {
        self.names.get(&(row, column)).copied()
    }

    /// Whether the upload has called some row so that counts as a parent.
    pub(super) fn is_called(&self, column: ColumnIx, name: &str) -> bool {
        self.called
            .get(&(column, name))
            .is_some_and(|rows| *rows > 0)
    }

    /// How much has been done, to come back to.
    pub(super) fn mark(&self) -> usize {
        self.log.len()
    }

    /// The limit that a change would pass if it were written now.
    pub(super) fn exceeded(&self, change: &Change) -> Option<Exceeded> {
        let tally = self.tally.as_ref()?;
        tally.exceeded(change, self.is_live(change.row()))
    }

    /// The limit that everything since the mark has passed.
    pub(super) fn exceeded_since(&self, mark: usize) -> Option<Exceeded> {
        self.tally.as_ref()?.exceeded_since(mark)
    }

    pub(super) fn write(&mut self, position: usize, change: &'a Change) -> RowVersion {
        let row = change.row();
        // Where the change names a base, the gate has compared it with this.
        let before = self.state(row);
        if let Some(tally) = &mut self.tally {
            tally.write(change, before.is_some_and(|state| !state.deleted));
        }
        let version = before
            .map_or(RowVersion::NEVER_SEEN, |state| state.version)
            .next();
        let server_id = ServerId::new(self.view.head.get() + self.log.len() as i64 + 1);
        let state = RowState {
            version,
            deleted: change.op == Op::Delete,
            at: server_id,
        };
        let recorded = Recorded {
            fingerprint: change.fingerprint,
            version,
        };
        self.log.push(LogEntry {
            server_id,
            position,
            row,
            op: change.op,
            version,
            change_id: change.id,
            fingerprint: change.fingerprint,
        });
        let offers = change.offers.iter();
        let names = offers.map(|offer| {
            let name = offer.value.as_ref().map(|value| value.compared());
            (offer.column, self.call(row, offer.column, name))
        });
        let undo = Undo {
            row,
            names: names.collect(),
            state: self.rows.insert(row, state),
            id: change.id,
        };
        self.ids.insert(change.id, recorded);
        self.undo.push(undo);
        version
    }

    /// Takes back everything since the mark.
    pub(super) fn back_to(&mut self, mark: usize) {
        self.log.truncate(mark);
        if let Some(tally) = &mut self.tally {
            tally.back_to(mark);
        }
        while self.undo.len() > mark {
            let undo = self.undo.pop().expect("BUG: there are more than the mark");
            for (column, name) in undo.names.into_iter().rev() {
                self.call(undo.row, column, name);
            }
            self.ids.remove(&undo.id);
            match undo.state {
                Some(state) => self.rows.insert(undo.row, state),
                None => self.rows.remove(&undo.row),
            };
        }
    }

    /// Gives a row a name or takes it away; the one it had.
    fn call(&mut self, row: RowAt, column: ColumnIx, name: Option<&'a str>) -> Option<&'a str> {
        let old = match name {
            Some(name) => self.names.insert((row, column), name),
            None => self.names.remove(&(row, column)),
        };
        if !self.doomed.contains(&row) {
            if let Some(old) = old
                && let Some(rows) = self.called.get_mut(&(column, old))
            {
                *rows -= 1;
            }
            if let Some(name) = name {
                *self.called.entry((column, name)).or_default() += 1;
            }
        }
        old
    }

    pub(super) fn into_plan(self) -> Plan {
        let base = |row: &RowAt| {
            let before = self.view.rows.get(row);
            before.map_or(RowVersion::NEVER_SEEN, |state| state.version)
        };
        let rows = self.rows.iter();
        let mut rows: Vec<RowWrite> = rows
            .map(|(row, state)| RowWrite {
                row: *row,
                base: base(row),
                state: *state,
            })
            .collect();
        // Hash order is not a property of the input; stream order is.
        rows.sort_by_key(|write| write.state.at);
        let head = ServerId::new(self.view.head.get() + self.log.len() as i64);
        Plan {
            log: self.log,
            rows,
            head,
        }
    }
}
