//! The version gate, idempotency and foreign keys: every change's verdict.
//!
//! Total and pure. The view must be one committed state of the user; the plan
//! is only valid while that state lasts, so the writer guards it. A change that
//! is not applied leaves nothing in the plan.

use super::change::{Base, Change, Link};
use super::done::Done;
use super::fault::Fault;
use super::order;
use super::plan::{CurrentRow, Decision, Plan, Verdict};
use super::ring::{self, Hoped};
use super::room::{Exceeded, Room};
use super::value::ColumnValue;
use super::view::{Holder, RowAt, View};
use crate::catalog::{Catalog, ColumnIx, ForeignKeys};
use crate::ids::RowVersion;
use crate::key::RowKey;

/// Decides one upload against one committed state of its user.
pub fn decide(catalog: &Catalog, view: &View, changes: &[Result<Change, Fault>]) -> Decision {
    if let Room::Closed(exceeded) = view.room {
        return refuse_all(view, changes, exceeded);
    }
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
        done: Done::new(view, doomed),
    };
    for unit in order::order(&sound, catalog) {
        if let [position] = unit[..] {
            let alone = Hopes {
                present: &Hoped::default(),
                fallen: None,
                charge: Charge::Each,
            };
            verdicts[position] = Some(run.execute(position, change_at(position), alone));
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
        plan: run.done.into_plan(),
    }
}

/// Nothing may be changed, whatever it is.
fn refuse_all(view: &View, changes: &[Result<Change, Fault>], exceeded: Exceeded) -> Decision {
    let refused = |change: &Result<Change, Fault>| match change {
        Ok(_) => Verdict::Invalid(Fault::QuotaExceeded(exceeded)),
        Err(fault) => Verdict::Invalid(fault.clone()),
    };
    Decision {
        verdicts: changes.iter().map(refused).collect(),
        plan: Plan {
            head: view.head,
            ..Plan::default()
        },
    }
}

/// How often a ring is tried that is not plain ([`ring::is_plain`]) before all of
/// it falls: rows of a real one settle in two or three.
const MAX_TRIES: usize = 64;

/// What is taken for true of a ring's rows while it is tried.
#[derive(Debug, Clone, Copy)]
struct Hopes<'h, 'a> {
    present: &'h Hoped<'a>,
    /// Everything hoped for, once it is known that not all can come true.
    fallen: Option<&'h Hoped<'a>>,
    charge: Charge,
}

/// When it is asked whether there is room for what a change adds.
#[derive(Debug, Clone, Copy)]
enum Charge {
    /// Before it is written.
    Each,
    /// When all of its ring is written: rows that need each other are charged together.
    Together,
    /// It has been asked, and there is none for the ring.
    Refused(Exceeded),
}

struct Run<'a> {
    catalog: &'a Catalog,
    view: &'a View,
    done: Done<'a>,
}

impl<'a> Run<'a> {
    /// Rows that need each other: assumes that all of them come to be, and takes
    /// back the assumption for those that did not, until it holds.
    ///
    /// Once the ring has fallen, a member whose version would not do either is
    /// told that: "missing parent" all round would hide for ever why it fell.
    fn execute_ring(&mut self, ring: &[(usize, &'a Change)]) -> Vec<(usize, Verdict)> {
        let before = self.done.mark();
        let all = Hoped::of(ring, &self.done);
        let mut present = all.clone();
        let is_plain = ring::is_plain(ring);
        for attempt in 0.. {
            let hopes = Hopes {
                present: &present,
                fallen: (attempt > 0).then_some(&all),
                charge: Charge::Together,
            };
            let verdicts = self.try_ring(ring, hopes);
            if !present.keep_true(&self.done) {
                let Some(exceeded) = self.done.exceeded_since(before) else {
                    return verdicts;
                };
                self.done.back_to(before);
                let hopes = Hopes {
                    present: &present,
                    fallen: (attempt > 0).then_some(&all),
                    charge: Charge::Refused(exceeded),
                };
                return self.try_ring(ring, hopes);
            }
            self.done.back_to(before);
            if is_plain {
                let could = |change: &Change| self.could_be_first(change);
                let holds = |change: &Change, hoped: &Hoped<'a>| {
                    let mut links = change.links.iter();
                    links.all(|link| self.holds(link, change, hoped))
                };
                ring::fall(ring, &mut present, &self.done, could, holds);
            } else if attempt == MAX_TRIES {
                present = Hoped::default();
            }
        }
        unreachable!("BUG: what is hoped for becomes less each time")
    }

    fn try_ring(
        &mut self,
        ring: &[(usize, &'a Change)],
        hopes: Hopes<'_, 'a>,
    ) -> Vec<(usize, Verdict)> {
        let members = ring.iter();
        members
            .map(|(position, change)| (*position, self.execute(*position, change, hopes)))
            .collect()
    }

    /// Whether nothing but its links is between a change and its row.
    fn could_be_first(&self, change: &Change) -> bool {
        self.done.recorded(change.id).is_none()
            && self.refused_by_gate(change, change.row()).is_none()
    }

    /// Idempotency, then foreign keys, then the version gate, then the limits.
    fn execute(&mut self, position: usize, change: &'a Change, hopes: Hopes<'_, 'a>) -> Verdict {
        let row = change.row();
        if let Some(recorded) = self.done.recorded(change.id) {
            if recorded.fingerprint == change.fingerprint {
                return Verdict::Applied(Some(recorded.version));
            }
            return match self.done.state(row) {
                Some(state) => Verdict::Conflict(CurrentRow { row, state }),
                None => Verdict::Invalid(Fault::ReusedId(change.id)),
            };
        }
        let refusal = self.refused_by_gate(change, row);
        match (self.check_links(change, hopes.present), refusal) {
            // Only where nothing but the ring is missing.
            (Err(Fault::ForeignKeyMissing(_)), Some(refusal))
                if hopes
                    .fallen
                    .is_some_and(|all| self.check_links(change, all).is_ok()) =>
            {
                refusal
            }
            (Err(fault), _) => Verdict::Invalid(fault),
            (Ok(()), Some(refusal)) => refusal,
            (Ok(()), None) if !change.op.is_upsert() && self.done.state(row).is_none() => {
                Verdict::Applied(None)
            }
            (Ok(()), None) => match self.has_no_room(change, hopes.charge) {
                Some(exceeded) => Verdict::Invalid(Fault::QuotaExceeded(exceeded)),
                None => Verdict::Applied(Some(self.done.write(position, change))),
            },
        }
    }

    /// The limit that stands against writing a change.
    fn has_no_room(&self, change: &Change, charge: Charge) -> Option<Exceeded> {
        match charge {
            Charge::Each => self.done.exceeded(change),
            Charge::Together => None,
            Charge::Refused(exceeded) => Some(exceeded),
        }
    }

    /// The version gate: `None` lets the change pass.
    fn refused_by_gate(&self, change: &Change, row: RowAt) -> Option<Verdict> {
        let Base::Version(base) = change.base else {
            return None;
        };
        match self.done.state(row) {
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

    fn check_links(&self, change: &Change, hopes: &Hoped<'a>) -> Result<(), Fault> {
        let mut missing = Vec::new();
        for link in &change.links {
            if self.holds(link, change, hopes) {
                continue;
            }
            let (table, sent) = match link {
                Link::NotKey => {
                    let table = self.catalog.table(change.table).name.clone();
                    return Err(Fault::ReferenceNotKey {
                        table,
                        key: change.key,
                    });
                }
                Link::Key { parent, sent } => {
                    (&self.catalog.table(parent.table).name, sent.as_str())
                }
                Link::Column { column, value, .. } => {
                    (&self.catalog.column(*column).table, value.sent())
                }
                Link::TooLong { column, sent } => {
                    (&self.catalog.column(*column).table, sent.as_str())
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

    /// Whether what a change refers to is there, or hoped for.
    fn holds(&self, link: &Link, change: &Change, hopes: &Hoped<'a>) -> bool {
        if self.catalog.mode() == ForeignKeys::Disabled {
            return true;
        }
        match link {
            Link::Key { parent, .. } => self.has_row(*parent, change, hopes),
            Link::Column {
                column,
                value,
                is_own,
            } => *is_own || self.has_value(*column, value, hopes),
            Link::NotKey | Link::TooLong { .. } => false,
        }
    }

    /// Whether a row counts as a parent of this change; it is its own.
    fn has_row(&self, parent: RowAt, change: &Change, hopes: &Hoped<'a>) -> bool {
        let exists = self.done.is_live(parent)
            || hopes.is_live(&parent)
            || self.view.in_business.contains(&parent);
        parent == change.row() || (exists && !self.done.is_doomed(&parent))
    }

    /// Whether some row counts as the parent that holds this value: a business
    /// row, or, where rows of the upload offer theirs, one of those.
    fn has_value(&self, column: ColumnIx, value: &ColumnValue, hopes: &Hoped<'a>) -> bool {
        let table = self.catalog.column(column).registered;
        let is_doomed =
            |key: RowKey| table.is_some_and(|table| self.done.is_doomed(&RowAt { table, key }));
        let holders = self.view.holders.get(&(column, value.clone()));
        let in_business = holders.into_iter().flatten().any(|holder| match holder {
            Holder::Row(key) => !is_doomed(*key),
            Holder::Other => true,
        });
        in_business
            || self.done.is_called(column, value.compared())
            || hopes.is_called(column, value.compared())
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::RowState;
    use super::*;
    use crate::catalog::TableSpec;
    use crate::ids::ServerId;
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
