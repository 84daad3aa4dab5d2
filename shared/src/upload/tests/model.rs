//! The naive model: it keeps the whole log, looks everything up by walking it, and
//! executes one change at a time. Rows that need each other are tried on a copy.

use super::naive_order::naive_order;
use super::written::{
    BUSINESS, LinkTo, Name, Row, Sent, catalog, checked, holders, is_referred_to_by_name, ix, key,
    looks_at_names, parent_table, row_at,
};
use crate::upload::{Change, CurrentRow, Fault, Recorded, RowState, Verdict, View, decide};
use crate::wire::Op;
use crate::{Catalog, ChangeId, RowVersion, ServerId};
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) device: u8,
    pub(super) sent: Sent,
    pub(super) version: i64,
}

/// One user: nothing but the log.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) log: Vec<Entry>,
}

/// What a row of a ring is hoped to bring about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hope {
    Live(Row),
    Named(Row, u8),
}

/// One upload while it is executed.
struct Under<'a> {
    catalog: &'a Catalog,
    device: u8,
    /// How long the log was before.
    since: usize,
    doomed: BTreeSet<Row>,
}

/// What is taken for true while a ring is tried.
#[derive(Default)]
struct Taken {
    present: BTreeSet<Hope>,
    fallen: BTreeSet<Hope>,
}

impl Model {
    /// Version, tombstone, server id: of the row's last entry.
    pub(super) fn row(&self, (table, key): Row) -> Option<(i64, bool, i64)> {
        let mut found = None;
        for (index, entry) in self.log.iter().enumerate() {
            if entry.sent.table == table && entry.sent.key == key {
                let deleted = entry.sent.op == Op::Delete;
                found = Some((entry.version, deleted, index as i64 + 1));
            }
        }
        found
    }

    fn lives(&self, row: Row) -> bool {
        matches!(self.row(row), Some((_, false, _)))
    }

    fn find(&self, device: u8, id: i64) -> Option<&Entry> {
        self.log
            .iter()
            .find(|entry| entry.device == device && entry.sent.id == id)
    }

    /// What this upload has last said of the row's name.
    fn name(&self, since: usize, row: Row) -> Option<u8> {
        let own = |entry: &&Entry| (entry.sent.table, entry.sent.key) == row;
        let said = self.log[since..].iter().filter(own);
        match said
            .map(|entry| entry.sent.name)
            .rfind(|name| *name != Name::Absent)
        {
            Some(Name::Is(name)) => Some(name),
            _ => None,
        }
    }

    pub(super) fn view(
        &self,
        catalog: &Catalog,
        device: u8,
        changes: &[Result<Change, Fault>],
    ) -> View {
        let mut view = View {
            head: ServerId::new(self.log.len() as i64),
            holders: holders(catalog, changes),
            ..View::default()
        };
        for entry in &self.log {
            let row = (entry.sent.table, entry.sent.key);
            let (version, deleted, at) = self.row(row).expect("in the log");
            let at = RowState {
                version: RowVersion::new(version),
                deleted,
                at: ServerId::new(at),
            };
            view.rows.insert(row_at(catalog, row), at);
            if entry.device == device {
                let change = entry.sent.check(catalog).expect("was applied");
                let recorded = Recorded {
                    fingerprint: change.fingerprint,
                    version: RowVersion::new(entry.version),
                };
                view.recorded.insert(ChangeId::new(entry.sent.id), recorded);
            }
        }
        view
    }

    /// Whether what a change refers to is there, and whether it would be if
    /// everything hoped for had come true.
    fn has_parent(&self, under: &Under<'_>, sent: &Sent, hoped: &BTreeSet<Hope>) -> bool {
        let (LinkTo::Row(n), Some((parent, by))) = (sent.link, parent_table(sent.table)) else {
            return true;
        };
        let row = (sent.table, sent.key);
        if by.is_none() {
            let there = self.lives((parent, n)) || hoped.contains(&Hope::Live((parent, n)));
            return (parent, n) == row || (there && !under.doomed.contains(&(parent, n)));
        }
        let in_business = BUSINESS.iter().any(|&(table, key, name)| {
            let gone = key.is_some_and(|key| under.doomed.contains(&(table, key)));
            (table, name) == (parent, n) && !gone
        });
        // Rows of the upload count by their names in one mode only.
        let in_upload = looks_at_names(under.catalog)
            && (0..=u8::MAX).any(|key| {
                let row = (parent, key);
                let holds = self.name(under.since, row) == Some(n) && self.lives(row);
                (holds || hoped.contains(&Hope::Named(row, n))) && !under.doomed.contains(&row)
            });
        let own = parent == sent.table && sent.name == Name::Is(n);
        in_business || in_upload || own
    }

    /// One change: idempotency, foreign key, version gate.
    fn step(&mut self, under: &Under<'_>, sent: &Sent, taken: &Taken) -> Verdict {
        let (catalog, device) = (under.catalog, under.device);
        let row = (sent.table, sent.key);
        let conflict = |(version, deleted, at): (i64, bool, i64)| {
            Verdict::Conflict(CurrentRow {
                row: row_at(catalog, row),
                state: RowState {
                    version: RowVersion::new(version),
                    deleted,
                    at: ServerId::new(at),
                },
            })
        };
        if let Some(before) = self.find(device, sent.id) {
            let same = before.sent.table == sent.table
                && before.sent.key == sent.key
                && before.sent.op == sent.op
                && before.sent.payload() == sent.payload();
            return match (same, self.row(row)) {
                (true, _) => Verdict::Applied(Some(RowVersion::new(before.version))),
                (false, Some(current)) => conflict(current),
                (false, None) => Verdict::Invalid(Fault::ReusedId(ChangeId::new(sent.id))),
            };
        }
        if sent.op != Op::Delete
            && let Some((parent, by)) = parent_table(sent.table)
        {
            let name = catalog.table(ix(catalog, sent.table)).name.clone();
            let missing = |value: String| {
                let missing = vec![format!("s.{parent}:{value}")];
                Verdict::Invalid(Fault::ForeignKeyMissing(missing))
            };
            match sent.link {
                LinkTo::NoKey if by.is_some() => return missing("7".to_owned()),
                LinkTo::NoKey => {
                    return Verdict::Invalid(Fault::ReferenceNotKey {
                        table: name,
                        key: key(sent.key),
                    });
                }
                LinkTo::Row(n) if !self.has_parent(under, sent, &taken.present) => {
                    let passes = self.row(row).map_or(0, |now| now.0) == sent.base;
                    // Of a ring that fell: what is wrong with its version is told,
                    // where nothing but the ring is missing.
                    let only_ring =
                        !taken.fallen.is_empty() && self.has_parent(under, sent, &taken.fallen);
                    if passes || !only_ring {
                        return missing(match by {
                            None => key(n).to_string(),
                            Some(_) => format!("v{n}"),
                        });
                    }
                }
                LinkTo::Row(_) | LinkTo::Absent | LinkTo::Null => {}
            }
        }
        match self.row(row) {
            None if sent.base != 0 => Verdict::Invalid(Fault::NoServerRow {
                table: catalog.table(ix(catalog, sent.table)).name.clone(),
                key: key(sent.key),
            }),
            None if sent.op == Op::Delete => Verdict::Applied(None),
            Some(current) if current.0 != sent.base => conflict(current),
            _ => {
                let version = sent.base + 1;
                self.log.push(Entry {
                    device,
                    sent: sent.clone(),
                    version,
                });
                Verdict::Applied(Some(RowVersion::new(version)))
            }
        }
    }

    pub(super) fn upload(
        &mut self,
        catalog: &Catalog,
        device: u8,
        upload: &[Sent],
    ) -> Vec<Verdict> {
        let under = Under {
            catalog,
            device,
            since: self.log.len(),
            doomed: upload
                .iter()
                .filter(|sent| sent.op == Op::Delete && self.find(device, sent.id).is_none())
                .map(|sent| (sent.table, sent.key))
                .collect(),
        };
        let mut verdicts = vec![None; upload.len()];
        for unit in naive_order(catalog, upload) {
            for (position, verdict) in self.unit(&under, upload, &unit) {
                verdicts[position] = Some(verdict);
            }
        }
        verdicts
            .into_iter()
            .map(|verdict| verdict.expect("all are ordered"))
            .collect()
    }

    /// Rows that need each other are tried on a copy, with less and less taken
    /// for true, until what is taken for true is what comes to be.
    fn unit(
        &mut self,
        under: &Under<'_>,
        upload: &[Sent],
        unit: &[usize],
    ) -> Vec<(usize, Verdict)> {
        let mut taken = Taken::default();
        if unit.len() > 1 {
            for sent in unit.iter().map(|&n| &upload[n]) {
                let row = (sent.table, sent.key);
                taken.present.insert(Hope::Live(row));
                if let Name::Is(name) = sent.name
                    && is_referred_to_by_name(sent.table)
                {
                    taken.present.insert(Hope::Named(row, name));
                }
            }
        }
        let ring = taken.present.clone();
        loop {
            let mut copy = self.clone();
            let verdicts: Vec<Verdict> = unit
                .iter()
                .map(|&n| copy.step(under, &upload[n], &taken))
                .collect();
            let came: BTreeSet<Hope> = taken
                .present
                .iter()
                .copied()
                .filter(|hope| match *hope {
                    Hope::Live(row) => copy.lives(row),
                    Hope::Named(row, name) => copy.name(under.since, row) == Some(name),
                })
                .collect();
            if unit.len() == 1 || came == taken.present {
                *self = copy;
                return unit.iter().copied().zip(verdicts).collect();
            }
            taken = Taken {
                present: came,
                fallen: ring.clone(),
            };
        }
    }
}

pub(super) fn verdicts(model: &Model, upload: &[Sent]) -> Vec<Verdict> {
    let catalog = catalog();
    let changes = checked(&catalog, upload);
    decide(&catalog, &model.view(&catalog, 0, &changes), &changes).verdicts
}

/// The [letters] of what is said to an upload.
pub(super) fn outcome(model: &Model, upload: &[Sent]) -> String {
    letters(&verdicts(model, upload))
}

/// The letters of verdicts: applied, conflict, missing parent, other fault.
pub(super) fn letters(verdicts: &[Verdict]) -> String {
    let letter = |verdict: &Verdict| match verdict {
        Verdict::Applied(_) => 'a',
        Verdict::Conflict(_) => 'c',
        Verdict::Invalid(Fault::ForeignKeyMissing(_)) => 'm',
        Verdict::Invalid(_) => 'i',
    };
    verdicts.iter().map(letter).collect()
}

/// A user after these changes of another device.
pub(super) fn after(upload: &[Sent]) -> Model {
    let mut model = Model::default();
    let verdicts = model.upload(&catalog(), 1, upload);
    assert_eq!(letters(&verdicts), "a".repeat(upload.len()));
    model
}
