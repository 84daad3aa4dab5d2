//! The version gate, idempotency and foreign keys: every change's verdict.
//!
//! Total and pure. The view must be one committed state of the user; the plan
//! is only valid while that state lasts, so the writer guards it. A change that
//! is not applied leaves nothing in the plan.

use super::change::{Base, Change, ColumnValue, Fingerprint, Link};
use super::fault::Fault;
use super::order;
use crate::catalog::{Catalog, ColumnIx, ForeignKeys, TableIx};
use crate::ids::{ChangeId, RowVersion, ServerId};
use crate::key::RowKey;
use crate::wire::Op;
use std::collections::{HashMap, HashSet};

/// A row of one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowAt {
    /// Its table.
    pub table: TableIx,
    /// Its key.
    pub key: RowKey,
}

/// What the server holds about a row it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowState {
    /// How often it has been written, from 1.
    pub version: RowVersion,
    /// Whether it is a tombstone.
    pub deleted: bool,
    /// Its latest entry in the stream, which holds its payload.
    pub at: ServerId,
}

/// A change on record under the calling device's change id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Of the content that was applied.
    pub fingerprint: Fingerprint,
    /// The version it was answered with.
    pub version: RowVersion,
}

/// One committed state of a user, as far as an upload needs it ([`needs`]).
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The user's head.
    pub head: ServerId,
    /// Rows that exist; what is not here has never been seen.
    pub rows: HashMap<RowAt, RowState>,
    /// The calling device's change ids on record.
    pub recorded: HashMap<ChangeId, Recorded>,
    /// Rows that count as parents because the business table has them for this
    /// user, synchronised or not.
    pub in_business: HashSet<RowAt>,
    /// Who holds the values that [`Needs::values`] names, in business tables, as
    /// far as this user may see them. Of many holders of one value, more than
    /// the upload has deletes are enough.
    pub holders: HashMap<(ColumnIx, ColumnValue), Vec<Holder>>,
}

/// A business row that holds a value somebody refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Holder {
    /// The business row of a synchronised table, by its key.
    Row(RowKey),
    /// A row that no upload can delete: its table is not synchronised, or its
    /// key is no UUID.
    Other,
}

/// What must be in the [`View`] before an upload can be decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Rows changed or referred to.
    pub rows: HashSet<RowAt>,
    /// Change ids used.
    pub ids: HashSet<ChangeId>,
    /// Values referred to in columns that are not keys.
    pub values: HashSet<(ColumnIx, ColumnValue)>,
}

/// Names everything a decision looks at.
pub fn needs(changes: &[Result<Change, Fault>]) -> Needs {
    let mut needs = Needs::default();
    for change in changes.iter().flatten() {
        needs.ids.insert(change.id);
        needs.rows.insert(change.row());
        for link in &change.links {
            match link {
                Link::Key { parent, .. } => {
                    needs.rows.insert(*parent);
                }
                Link::NotKey => {}
                Link::Column { column, value, .. } => {
                    needs.values.insert((*column, value.clone()));
                }
            }
        }
    }
    needs
}

/// What becomes of one change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// In the stream, by this upload or by an earlier one. No version for the
    /// delete of a row never seen.
    Applied(Option<RowVersion>),
    /// The row has moved on.
    Conflict(CurrentRow),
    /// Cannot be applied as it is.
    Invalid(Fault),
}

/// The row that a conflict shows. Its payload is that of the entry `state.at`:
/// in the log, or in this upload's own plan when above the view's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentRow {
    /// Which row.
    pub row: RowAt,
    /// Its state.
    pub state: RowState,
}

/// A new entry of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the stream.
    pub server_id: ServerId,
    /// The change's position in the request, where its payload is.
    pub position: usize,
    /// The row.
    pub row: RowAt,
    /// What happens to it.
    pub op: Op,
    /// The row's version afterwards.
    pub version: RowVersion,
    /// The device's number for it.
    pub change_id: ChangeId,
    /// Of its content.
    pub fingerprint: Fingerprint,
}

/// A row's state after the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowWrite {
    /// The row.
    pub row: RowAt,
    /// Its version in the view; [`RowVersion::NEVER_SEEN`] for a new row.
    pub base: RowVersion,
    /// Afterwards.
    pub state: RowState,
}

/// What an upload writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Dense and ascending, from the view's head on.
    pub log: Vec<LogEntry>,
    /// One entry per row that changes.
    pub rows: Vec<RowWrite>,
    /// The user's head afterwards.
    pub head: ServerId,
}

/// A verdict per change, in request order, and what to write.
#[derive(Debug, Clone)]
pub struct Decision {
    /// In request order.
    pub verdicts: Vec<Verdict>,
    /// Empty log when nothing is to be written.
    pub plan: Plan,
}

/// Decides one upload against one committed state of its user.
pub fn decide(catalog: &Catalog, view: &View, changes: &[Result<Change, Fault>]) -> Decision {
    let sound: Vec<(usize, &Change)> = changes
        .iter()
        .enumerate()
        .filter_map(|(position, change)| Some((position, change.as_ref().ok()?)))
        .collect();
    // A parent that this upload deletes does not count for any child. A delete
    // already on record does nothing now, so it does not take its row away.
    let doomed = sound
        .iter()
        .filter(|(_, change)| !change.op.is_upsert() && !view.recorded.contains_key(&change.id))
        .map(|(_, change)| change.row())
        .collect();

    let mut verdicts: Vec<Option<Verdict>> = changes
        .iter()
        .map(|change| {
            change
                .as_ref()
                .err()
                .map(|fault| Verdict::Invalid(fault.clone()))
        })
        .collect();
    let change_at = |position: usize| {
        changes[position]
            .as_ref()
            .expect("BUG: only sound changes are ordered")
    };
    let mut run = Run {
        catalog,
        view,
        doomed,
        done: Done::default(),
    };
    for unit in order::order(&sound, catalog) {
        if let [position] = unit[..] {
            verdicts[position] =
                Some(run.execute(position, change_at(position), &Hopes::default()));
            continue;
        }
        let ring: Vec<(usize, &Change)> = unit
            .iter()
            .map(|&position| (position, change_at(position)))
            .collect();
        for (position, verdict) in run.execute_ring(&ring) {
            verdicts[position] = Some(verdict);
        }
    }
    Decision {
        verdicts: verdicts
            .into_iter()
            .map(|v| v.expect("BUG: every change has a verdict"))
            .collect(),
        plan: run.into_plan(),
    }
}

/// What the changes executed so far have done.
#[derive(Debug, Clone, Default)]
struct Done {
    log: Vec<LogEntry>,
    rows: HashMap<RowAt, RowState>,
    ids: HashMap<ChangeId, Recorded>,
    named: Named,
}

/// What the rows of the upload can be referred to by, besides their keys. A
/// payload that does not have the column leaves it as it was.
#[derive(Debug, Clone, Default)]
struct Named {
    by_row: HashMap<(RowAt, ColumnIx), String>,
    by_value: HashMap<(ColumnIx, String), HashSet<RowAt>>,
}

impl Named {
    fn take(&mut self, change: &Change) {
        let row = change.row();
        for offer in &change.offers {
            if let Some(old) = self.by_row.remove(&(row, offer.column))
                && let Some(rows) = self.by_value.get_mut(&(offer.column, old))
            {
                rows.remove(&row);
            }
            if let Some(value) = &offer.value {
                self.by_row.insert((row, offer.column), value.clone());
                let rows = self.by_value.entry((offer.column, value.clone()));
                rows.or_default().insert(row);
            }
        }
    }

    fn rows(&self, column: ColumnIx, value: &ColumnValue) -> impl Iterator<Item = &RowAt> {
        let rows = self.by_value.get(&(column, value.compared.clone()));
        rows.into_iter().flatten()
    }
}

/// What rows of a ring need each other for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Hoped {
    /// That they are live.
    live: HashSet<RowAt>,
    /// That they hold a value by which they are referred to.
    named: HashMap<(ColumnIx, String), HashSet<RowAt>>,
}

impl Hoped {
    /// What the changes of a ring bring about if all of them are applied.
    fn of(ring: &[(usize, &Change)]) -> Self {
        let mut hoped = Self::default();
        for (_, change) in ring {
            hoped.live.insert(change.row());
            for offer in &change.offers {
                if let Some(value) = &offer.value {
                    let rows = hoped.named.entry((offer.column, value.clone()));
                    rows.or_default().insert(change.row());
                }
            }
        }
        hoped
    }
}

/// What is taken for true of a ring's rows while it is tried.
#[derive(Debug, Default)]
struct Hopes {
    present: Hoped,
    /// Everything hoped for, once it is known that not all can come true.
    fallen: Option<Hoped>,
}

struct Run<'a> {
    catalog: &'a Catalog,
    view: &'a View,
    doomed: HashSet<RowAt>,
    done: Done,
}

impl Run<'_> {
    fn state(&self, row: RowAt) -> Option<RowState> {
        self.done
            .rows
            .get(&row)
            .or_else(|| self.view.rows.get(&row))
            .copied()
    }

    fn is_live(&self, row: RowAt) -> bool {
        self.state(row).is_some_and(|state| !state.deleted)
    }

    /// Of what was hoped for, what has come true.
    fn came_true(&self, hoped: &Hoped) -> Hoped {
        let mut came = hoped.clone();
        came.live.retain(|row| self.is_live(*row));
        for ((column, value), rows) in &mut came.named {
            rows.retain(|row| self.done.named.by_row.get(&(*row, *column)) == Some(value));
        }
        came
    }

    /// Rows that need each other: assumes that all of them come to be, and takes
    /// back the assumption for those that did not, until it holds.
    ///
    /// Once the ring has fallen, a member whose version would not do either is
    /// told that: "missing parent" all round would hide for ever why it fell.
    fn execute_ring(&mut self, ring: &[(usize, &Change)]) -> Vec<(usize, Verdict)> {
        let before = self.done.clone();
        let all = Hoped::of(ring);
        let mut hopes = Hopes {
            present: all.clone(),
            fallen: None,
        };
        loop {
            let verdicts: Vec<(usize, Verdict)> = ring
                .iter()
                .map(|(position, change)| (*position, self.execute(*position, change, &hopes)))
                .collect();
            let present = self.came_true(&hopes.present);
            if present == hopes.present {
                return verdicts;
            }
            hopes = Hopes {
                present,
                fallen: Some(all.clone()),
            };
            self.done = before.clone();
        }
    }

    /// Idempotency, then foreign keys, then the version gate.
    fn execute(&mut self, position: usize, change: &Change, hopes: &Hopes) -> Verdict {
        let row = change.row();
        let recorded = self
            .view
            .recorded
            .get(&change.id)
            .or_else(|| self.done.ids.get(&change.id));
        if let Some(recorded) = recorded {
            if recorded.fingerprint == change.fingerprint {
                return Verdict::Applied(Some(recorded.version));
            }
            return match self.state(row) {
                Some(state) => Verdict::Conflict(CurrentRow { row, state }),
                None => Verdict::Invalid(Fault::ReusedId(change.id)),
            };
        }
        let refusal = self.refused_by_gate(change, row);
        match (self.check_links(change, &hopes.present), refusal) {
            // Only where nothing but the ring is missing.
            (Err(Fault::ForeignKeyMissing(_)), Some(refusal))
                if hopes
                    .fallen
                    .as_ref()
                    .is_some_and(|all| self.check_links(change, all).is_ok()) =>
            {
                refusal
            }
            (Err(fault), _) => Verdict::Invalid(fault),
            (Ok(()), Some(refusal)) => refusal,
            (Ok(()), None) if !change.op.is_upsert() && self.state(row).is_none() => {
                Verdict::Applied(None)
            }
            (Ok(()), None) => Verdict::Applied(Some(self.write(position, change, row))),
        }
    }

    /// The version gate: `None` lets the change pass.
    fn refused_by_gate(&self, change: &Change, row: RowAt) -> Option<Verdict> {
        let Base::Version(base) = change.base else {
            return None;
        };
        match self.state(row) {
            None if base != RowVersion::NEVER_SEEN => Some(Verdict::Invalid(Fault::NoServerRow {
                table: self.catalog.table(change.table).name.clone(),
                key: change.key,
            })),
            Some(state) if state.version != base => {
                Some(Verdict::Conflict(CurrentRow { row, state }))
            }
            Some(_) | None => None,
        }
    }

    fn check_links(&self, change: &Change, hopes: &Hoped) -> Result<(), Fault> {
        if self.catalog.mode() == ForeignKeys::Disabled {
            return Ok(());
        }
        let mut missing = Vec::new();
        for link in &change.links {
            let (table, sent) = match link {
                Link::NotKey => {
                    let table = self.catalog.table(change.table).name.clone();
                    return Err(Fault::ReferenceNotKey {
                        table,
                        key: change.key,
                    });
                }
                Link::Key { parent, .. } if self.has_row(*parent, change, hopes) => continue,
                Link::Column {
                    column,
                    value,
                    is_own,
                } if *is_own || self.has_value(*column, value, hopes) => continue,
                Link::Key { parent, sent } => (&self.catalog.table(parent.table).name, sent),
                Link::Column { column, value, .. } => {
                    (&self.catalog.column(*column).table, &value.sent)
                }
            };
            missing.push(format!("{table}:{sent}"));
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Fault::ForeignKeyMissing(missing))
        }
    }

    /// Whether a row counts as a parent of this change; it is its own.
    fn has_row(&self, parent: RowAt, change: &Change, hopes: &Hoped) -> bool {
        let exists = self.is_live(parent)
            || hopes.live.contains(&parent)
            || self.view.in_business.contains(&parent);
        parent == change.row() || (exists && !self.doomed.contains(&parent))
    }

    /// Whether some row counts as the parent that holds this value: a business
    /// row, or, where rows of the upload offer theirs, one of those.
    fn has_value(&self, column: ColumnIx, value: &ColumnValue, hopes: &Hoped) -> bool {
        let table = self.catalog.column(column).registered;
        let is_doomed =
            |key: RowKey| table.is_some_and(|table| self.doomed.contains(&RowAt { table, key }));
        let holders = self.view.holders.get(&(column, value.clone()));
        let in_business = holders.into_iter().flatten().any(|holder| match holder {
            Holder::Row(key) => !is_doomed(*key),
            Holder::Other => true,
        });
        let in_upload = || {
            let mut rows = self.done.named.rows(column, value);
            rows.any(|row| !is_doomed(row.key))
        };
        let is_hoped = || {
            let rows = hopes.named.get(&(column, value.compared.clone()));
            rows.into_iter().flatten().any(|row| !is_doomed(row.key))
        };
        in_business || in_upload() || is_hoped()
    }

    fn write(&mut self, position: usize, change: &Change, row: RowAt) -> RowVersion {
        // Where the change names a base, the gate has compared it with this.
        let before = self
            .state(row)
            .map_or(RowVersion::NEVER_SEEN, |state| state.version);
        let version = before.next();
        let server_id = ServerId::new(self.view.head.get() + self.done.log.len() as i64 + 1);
        self.done.log.push(LogEntry {
            server_id,
            position,
            row,
            op: change.op,
            version,
            change_id: change.id,
            fingerprint: change.fingerprint,
        });
        let state = RowState {
            version,
            deleted: change.op == Op::Delete,
            at: server_id,
        };
        self.done.rows.insert(row, state);
        self.done.named.take(change);
        self.done.ids.insert(
            change.id,
            Recorded {
                fingerprint: change.fingerprint,
                version,
            },
        );
        version
    }

    fn into_plan(self) -> Plan {
        let base = |row: &RowAt| {
            self.view
                .rows
                .get(row)
                .map_or(RowVersion::NEVER_SEEN, |state| state.version)
        };
        let mut rows: Vec<RowWrite> = self
            .done
            .rows
            .iter()
            .map(|(row, state)| RowWrite {
                row: *row,
                base: base(row),
                state: *state,
            })
            .collect();
        // Hash order is not a property of the input; stream order is.
        rows.sort_by_key(|write| write.state.at);
        let head = ServerId::new(self.view.head.get() + self.done.log.len() as i64);
        Plan {
            log: self.done.log,
            rows,
            head,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::TableSpec;
    use crate::names::TableName;
    use crate::upload::{RawChange, check};

    /// A base of "whatever it is now" passes the gate of any row, and several of
    /// one row build on each other; a delete of nothing still does nothing.
    #[test]
    fn a_change_may_build_on_whatever_there_is() {
        let name = TableName::parse("public", "notes").expect("plain");
        let spec = TableSpec {
            name,
            references: vec![],
            after: vec![],
        };
        let catalog = Catalog::new(vec![spec], ForeignKeys::Enabled).expect("one table");
        let table = catalog.tables().next().expect("one table").0;
        let pk = |n: u8| format!("0f8fad5b-d9cb-469f-a165-7086772895{n:02x}");
        let change = |id, op, n: u8, base: Base| {
            let raw = RawChange {
                source_change_id: id,
                schema: "public",
                table: "notes",
                op,
                pk: &pk(n),
                server_version: base.version().map_or(99, RowVersion::get),
                payload: (op != "DELETE").then_some("{}"),
            };
            let mut change = check(&raw, &catalog, 100, &mut Vec::new()).expect("sound");
            change.base = base;
            Ok(change)
        };
        let row = |n: u8| RowAt {
            table,
            key: RowKey::parse(&pk(n)).expect("a key"),
        };
        let state = |version, deleted, at| RowState {
            version: RowVersion::new(version),
            deleted,
            at: ServerId::new(at),
        };
        let view = View {
            head: ServerId::new(20),
            rows: [(row(1), state(7, false, 9)), (row(2), state(4, true, 20))].into(),
            ..View::default()
        };
        let version = |n| Base::Version(RowVersion::new(n));
        let changes = [
            change(1, "UPDATE", 1, Base::Current),
            change(2, "UPDATE", 1, Base::Current),
            change(3, "UPDATE", 1, version(7)),
            change(4, "UPDATE", 1, version(9)),
            change(5, "INSERT", 2, Base::Current),
            change(6, "INSERT", 3, Base::Current),
            change(7, "DELETE", 4, Base::Current),
            change(8, "DELETE", 2, Base::Current),
        ];
        let decision = decide(&catalog, &view, &changes);
        let applied = |n| Verdict::Applied(Some(RowVersion::new(n)));
        let conflict = Verdict::Conflict(CurrentRow {
            row: row(1),
            state: state(9, false, 22),
        });
        assert_eq!(
            decision.verdicts,
            [
                applied(8),
                applied(9),
                conflict,
                applied(10),
                applied(5),
                applied(1),
                Verdict::Applied(None),
                applied(6)
            ]
        );
        let last = |n| decision.plan.rows.iter().find(|write| write.row == row(n));
        assert_eq!(last(1).map(|write| write.base.get()), Some(7));
        assert_eq!(last(2).map(|write| write.state), Some(state(6, true, 26)));
        assert_eq!(decision.plan.head, ServerId::new(26));
    }
}
