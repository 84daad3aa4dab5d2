//! The decision against its tables in PROTOCOL.md, and against a naive model.
//!
//! The model is written separately and without cleverness: it keeps the whole
//! log, looks everything up by walking it, and executes one change at a time.
//! Random histories of several devices must come out the same on both.

mod columns;
mod rings;

use super::*;
use crate::catalog::{Compared, ForeignKeys, Reference, RefersTo, TableSpec};
use crate::names::TableName;
use crate::wire::Op;
use crate::{Catalog, ChangeId, RowKey, RowVersion, ServerId, TableIx};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use uuid::Uuid;

/// Column, parent, and the parent's column where it is not the key.
type Refers = (&'static str, &'static str, Option<&'static str>);

/// Parent, child, refers to itself, refer to each other; the same by a column
/// that is not the key, and a ring of both kinds.
const TABLES: &[(&str, &[Refers])] = &[
    ("posts", &[("author_id", "users", None)]),
    ("users", &[]),
    ("nodes", &[("parent_id", "nodes", None)]),
    ("lefts", &[("right_id", "rights", None)]),
    ("rights", &[("left_id", "lefts", None)]),
    ("badges", &[("wearer", "people", Some("name"))]),
    ("people", &[]),
    ("terms", &[("broader", "terms", Some("name"))]),
    ("cocks", &[("hen", "hens", Some("name"))]),
    ("hens", &[("cock_id", "cocks", None)]),
];

/// Business rows with a name: their table, their key if it is a UUID, their name.
const BUSINESS: &[(&str, Option<u8>, u8)] = &[("people", Some(2), 1), ("terms", None, 2)];

fn catalog() -> Catalog {
    catalog_with(ForeignKeys::RefColumnAware)
}

fn catalog_with(mode: ForeignKeys) -> Catalog {
    let name = |table: &str| TableName::parse("s", table).expect("valid");
    let specs = TABLES.iter().map(|(table, references)| TableSpec {
        name: name(table),
        references: references
            .iter()
            .map(|(column, parent, by)| Reference {
                column: (*column).to_owned(),
                parent: name(parent),
                to: by.map_or(RefersTo::Key, |by| RefersTo::Column {
                    name: by.to_owned(),
                    compared: Compared::AsText,
                }),
            })
            .collect(),
        after: Vec::new(),
    });
    Catalog::new(specs.collect(), mode).expect("valid")
}

/// What the business tables hold of the values that changes refer to.
fn holders(
    catalog: &Catalog,
    changes: &[Result<Change, Fault>],
) -> HashMap<(crate::catalog::ColumnIx, ColumnValue), Vec<Holder>> {
    let values = changes.iter().flatten().flat_map(Change::values);
    let found = values.map(|(column, value)| {
        let table = &catalog.column(column).table.table;
        let rows = BUSINESS
            .iter()
            .filter(|(there, _, name)| there == table && value.sent() == format!("v{name}"))
            .map(|(_, n, _)| n.map_or(Holder::Other, |n| Holder::Row(key(n))))
            .collect();
        ((column, value.clone()), rows)
    });
    found.collect()
}

fn ix(catalog: &Catalog, table: &str) -> TableIx {
    catalog
        .find(&TableName::parse("s", table).expect("valid"))
        .expect("registered")
}

fn key(n: u8) -> RowKey {
    RowKey::new(Uuid::from_u128(n.into()))
}

/// A change as a test writes it down.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    id: i64,
    table: &'static str,
    op: Op,
    key: u8,
    base: i64,
    link: LinkTo,
    name: Name,
    content: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Absent,
    Null,
    Is(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkTo {
    Absent,
    Null,
    Row(u8),
    NoKey,
}

fn sent(id: i64, table: &'static str, op: Op, key: u8, base: i64) -> Sent {
    Sent {
        id,
        table,
        op,
        key,
        base,
        link: LinkTo::Absent,
        name: Name::Absent,
        content: 0,
    }
}

impl Sent {
    fn to(mut self, parent: u8) -> Self {
        self.link = LinkTo::Row(parent);
        self
    }

    fn named(mut self, name: u8) -> Self {
        self.name = Name::Is(name);
        self
    }

    fn payload(&self) -> Option<String> {
        if self.op == Op::Delete {
            return None;
        }
        let columns = TABLES.iter().find(|(table, _)| *table == self.table)?.1;
        let link = columns.first().and_then(|(column, _, by)| match self.link {
            LinkTo::Absent => None,
            LinkTo::Null => Some(format!(",\"{column}\":null")),
            LinkTo::Row(n) if by.is_some() => Some(format!(",\"{column}\":\"v{n}\"")),
            LinkTo::Row(n) => Some(format!(",\"{column}\":\"{}\"", key(n))),
            LinkTo::NoKey => Some(format!(",\"{column}\":7")),
        });
        let name = match self.name {
            Name::Absent => String::new(),
            Name::Null => ",\"name\":null".to_owned(),
            Name::Is(n) => format!(",\"name\":\"v{n}\""),
        };
        Some(format!(
            "{{\"n\":{}{name}{}}}",
            self.content,
            link.unwrap_or_default()
        ))
    }

    fn check(&self, catalog: &Catalog) -> Result<Change, Fault> {
        let (pk, payload) = (key(self.key).to_string(), self.payload());
        let raw = RawChange {
            source_change_id: self.id,
            schema: "s",
            table: self.table,
            op: self.op.as_str(),
            pk: &pk,
            server_version: self.base,
            payload: payload.as_deref(),
        };
        check(&raw, catalog, 1_000, &mut Vec::new())
    }
}

/// All changes of an upload, checked.
fn checked(catalog: &Catalog, upload: &[Sent]) -> Vec<Result<Change, Fault>> {
    upload.iter().map(|sent| sent.check(catalog)).collect()
}

// ------------------------------------------------------------------ the model

#[derive(Debug, Clone)]
struct Entry {
    device: u8,
    sent: Sent,
    version: i64,
}

/// One user: nothing but the log.
#[derive(Debug, Clone, Default)]
struct Model {
    log: Vec<Entry>,
}

type Row = (&'static str, u8);

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
    fn row(&self, (table, key): Row) -> Option<(i64, bool, i64)> {
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

    fn view(&self, catalog: &Catalog, device: u8, changes: &[Result<Change, Fault>]) -> View {
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

    fn upload(&mut self, catalog: &Catalog, device: u8, upload: &[Sent]) -> Vec<Verdict> {
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

/// The table that rows of this one refer to, and by which column.
fn parent_table(table: &str) -> Option<(&'static str, Option<&'static str>)> {
    TABLES
        .iter()
        .find(|(name, _)| *name == table)?
        .1
        .first()
        .map(|(_, parent, by)| (*parent, *by))
}

fn is_referred_to_by_name(table: &str) -> bool {
    let mut references = TABLES.iter().flat_map(|(_, references)| *references);
    references.any(|(_, parent, by)| *parent == table && by.is_some())
}

fn looks_at_names(catalog: &Catalog) -> bool {
    catalog.mode() == ForeignKeys::RefColumnAware
}

fn row_at(catalog: &Catalog, (table, n): Row) -> RowAt {
    RowAt {
        table: ix(catalog, table),
        key: key(n),
    }
}

/// The order by trying: which changes each one needs, directly and through
/// others; then depth first, needs before needers, in request order.
fn naive_order(catalog: &Catalog, upload: &[Sent]) -> Vec<Vec<usize>> {
    let rank = |n: usize| catalog.table(ix(catalog, upload[n].table)).rank;
    let is_delete = |n: usize| upload[n].op == Op::Delete;
    let mut ranks: Vec<usize> = (0..upload.len()).map(rank).collect();
    ranks.sort_unstable();
    ranks.dedup();
    let mut order = Vec::new();
    for wanted in &ranks {
        let group: Vec<usize> = (0..upload.len())
            .filter(|&n| !is_delete(n) && rank(n) == *wanted)
            .collect();
        let row = |n: usize| (upload[n].table, upload[n].key);
        let needs = |n: usize| -> Vec<usize> {
            let mut found: Vec<usize> = group
                .iter()
                .copied()
                .rfind(|&m| m < n && row(m) == row(n))
                .into_iter()
                .collect();
            // The last change of the parent: whichever of them stands, counts.
            let last = |wanted: Row| group.iter().copied().rfind(|&m| row(m) == wanted);
            match (upload[n].link, parent_table(upload[n].table)) {
                (LinkTo::Row(parent), Some((table, None))) if (table, parent) != row(n) => {
                    found.extend(last((table, parent)));
                }
                (LinkTo::Row(name), Some((table, Some(_)))) if looks_at_names(catalog) => {
                    let mut named: Vec<Row> = Vec::new();
                    for &m in &group {
                        let is_named = row(m).0 == table && upload[m].name == Name::Is(name);
                        if is_named && row(m) != row(n) && !named.contains(&row(m)) {
                            named.push(row(m));
                        }
                    }
                    found.extend(named.into_iter().filter_map(last));
                }
                _ => {}
            }
            found
        };
        let reach = |from: usize| -> BTreeSet<usize> {
            let mut reached = BTreeSet::new();
            let mut todo = needs(from);
            while let Some(n) = todo.pop() {
                if reached.insert(n) {
                    todo.extend(needs(n));
                }
            }
            reached
        };
        let reached: BTreeMap<usize, BTreeSet<usize>> =
            group.iter().map(|&n| (n, reach(n))).collect();
        let unit = |n: usize| -> Vec<usize> {
            group
                .iter()
                .copied()
                .filter(|&m| m == n || (reached[&n].contains(&m) && reached[&m].contains(&n)))
                .collect()
        };
        fn visit(
            n: usize,
            needs: &dyn Fn(usize) -> Vec<usize>,
            unit: &dyn Fn(usize) -> Vec<usize>,
            seen: &mut BTreeSet<usize>,
            done: &mut BTreeSet<usize>,
            order: &mut Vec<Vec<usize>>,
        ) {
            if !seen.insert(n) {
                return;
            }
            for need in needs(n) {
                visit(need, needs, unit, seen, done, order);
            }
            done.insert(n);
            // A unit is complete when all that its members need is.
            let unit = unit(n);
            if unit.iter().all(|member| done.contains(member)) {
                order.push(unit);
            }
        }
        let (mut seen, mut done) = (BTreeSet::new(), BTreeSet::new());
        for &n in &group {
            visit(n, &needs, &unit, &mut seen, &mut done, &mut order);
        }
    }
    for wanted in ranks.iter().rev() {
        order.extend(
            (0..upload.len())
                .filter(|&n| is_delete(n) && rank(n) == *wanted)
                .map(|n| vec![n]),
        );
    }
    order
}

// ------------------------------------------------------- histories on the model

/// Decides one upload on both and compares everything; the model moves on.
fn compare(
    catalog: &Catalog,
    model: &mut Model,
    device: u8,
    upload: &[Sent],
) -> Result<(), TestCaseError> {
    let changes = checked(catalog, upload);
    let view = model.view(catalog, device, &changes);
    let decision = decide(catalog, &view, &changes);
    let before = model.clone();
    let expected = model.upload(catalog, device, upload);
    prop_assert_eq!(&decision.verdicts, &expected);

    let written = &model.log[before.log.len()..];
    prop_assert_eq!(decision.plan.head.get(), model.log.len() as i64);
    prop_assert_eq!(decision.plan.log.len(), written.len());
    for (index, (entry, expected)) in decision.plan.log.iter().zip(written).enumerate() {
        prop_assert_eq!(entry.server_id.get(), (before.log.len() + index) as i64 + 1);
        prop_assert_eq!(
            entry.row,
            row_at(catalog, (expected.sent.table, expected.sent.key))
        );
        prop_assert_eq!(entry.version.get(), expected.version);
        prop_assert_eq!(
            (entry.op, entry.change_id.get()),
            (expected.sent.op, expected.sent.id)
        );
        prop_assert_eq!(upload[entry.position].payload(), expected.sent.payload());
    }
    let mut rows: HashMap<RowAt, RowWrite> = HashMap::new();
    for write in &decision.plan.rows {
        prop_assert!(
            rows.insert(write.row, *write).is_none(),
            "a row twice in the plan"
        );
    }
    let touched: BTreeSet<Row> = written.iter().map(|e| (e.sent.table, e.sent.key)).collect();
    prop_assert_eq!(rows.len(), touched.len());
    for row in touched {
        let (version, deleted, at) = model.row(row).expect("written");
        let write = rows[&row_at(catalog, row)];
        let state = RowState {
            version: RowVersion::new(version),
            deleted,
            at: ServerId::new(at),
        };
        prop_assert_eq!(write.state, state);
        prop_assert_eq!(write.base.get(), before.row(row).map_or(0, |row| row.0));
    }

    // What `needs` names is enough to decide by.
    let needs = needs(&changes);
    let mut narrow = view.clone();
    narrow.rows.retain(|row, _| needs.rows.contains(row));
    narrow.recorded.retain(|id, _| needs.ids.contains(id));
    let again = decide(catalog, &narrow, &changes);
    prop_assert_eq!(
        (again.verdicts, again.plan),
        (decision.verdicts, decision.plan)
    );
    Ok(())
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let table = prop::sample::select(TABLES.iter().map(|(table, _)| *table).collect::<Vec<_>>());
    let op = prop_oneof![3 => Just(Op::Insert), 3 => Just(Op::Update), 2 => Just(Op::Delete)];
    let link = prop_oneof![
        2 => Just(LinkTo::Absent),
        1 => Just(LinkTo::Null),
        8 => (0..3_u8).prop_map(LinkTo::Row),
        1 => Just(LinkTo::NoKey),
    ];
    (
        1..30_i64,
        table,
        op,
        0..3_u8,
        prop_oneof![6 => 0..3_i64, 1 => -1..6_i64],
        link,
        prop_oneof![2 => Just(Name::Absent), 1 => Just(Name::Null), 5 => (0..3_u8).prop_map(Name::Is)],
        0..2_u8,
    )
        .prop_map(|(id, table, op, key, base, link, name, content)| Sent {
            id,
            table,
            op,
            key,
            base,
            link,
            name,
            content,
        })
}

/// Like [`any_sent`], in tables where rows refer to each other.
fn any_cyclic() -> impl Strategy<Value = Sent> {
    (
        any_sent(),
        prop::sample::select(vec![
            "nodes", "nodes", "lefts", "rights", "terms", "terms", "cocks", "hens",
        ]),
    )
        .prop_map(|(sent, table)| Sent { table, ..sent })
}

proptest! {
    // The same cases every time; PROPTEST_CASES asks for more of them.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(2_000),
        rng_seed: proptest::test_runner::RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn histories_agree_with_the_naive_model(
        uploads in prop::collection::vec((0..2_u8, prop::collection::vec(any_sent(), 0..8)), 1..8),
    ) {
        for catalog in [catalog(), catalog_with(ForeignKeys::Enabled)] {
            let mut model = Model::default();
            for (device, upload) in &uploads {
                compare(&catalog, &mut model, *device, upload)?;
            }
        }
    }

    #[test]
    fn rings_agree_with_the_naive_model(
        uploads in prop::collection::vec((0..2_u8, prop::collection::vec(any_cyclic(), 1..10)), 1..5),
    ) {
        for catalog in [catalog(), catalog_with(ForeignKeys::Enabled)] {
            let mut model = Model::default();
            for (device, upload) in &uploads {
                compare(&catalog, &mut model, *device, upload)?;
            }
        }
    }

    #[test]
    fn a_repeated_upload_is_answered_the_same_and_writes_nothing(
        earlier in prop::collection::vec(any_sent(), 0..12),
        upload in prop::collection::vec(any_sent(), 1..8),
    ) {
        let catalog = catalog();
        let mut model = Model::default();
        model.upload(&catalog, 0, &earlier);
        let first = model.upload(&catalog, 1, &upload);
        let changes = checked(&catalog, &upload);
        let again = decide(&catalog, &model.view(&catalog, 1, &changes), &changes);
        for ((sent, first), again) in upload.iter().zip(first).zip(&again.verdicts) {
            // A delete of a row never seen leaves no record and is exempt.
            if matches!(first, Verdict::Applied(Some(_))) {
                prop_assert_eq!(again, &first, "{:?}", sent);
            }
        }
    }
}

// --------------------------------------------------------------- by their tables

fn verdicts(model: &Model, upload: &[Sent]) -> Vec<Verdict> {
    let catalog = catalog();
    let changes = checked(&catalog, upload);
    decide(&catalog, &model.view(&catalog, 0, &changes), &changes).verdicts
}

/// The letters of verdicts: applied, conflict, missing parent, other fault.
fn letters(verdicts: &[Verdict]) -> String {
    let letter = |verdict: &Verdict| match verdict {
        Verdict::Applied(_) => 'a',
        Verdict::Conflict(_) => 'c',
        Verdict::Invalid(Fault::ForeignKeyMissing(_)) => 'm',
        Verdict::Invalid(_) => 'i',
    };
    verdicts.iter().map(letter).collect()
}

/// A user after these changes of another device.
fn after(upload: &[Sent]) -> Model {
    let mut model = Model::default();
    let verdicts = model.upload(&catalog(), 1, upload);
    assert_eq!(letters(&verdicts), "a".repeat(upload.len()));
    model
}

#[test]
fn the_version_gate_in_full() {
    use Op::{Delete, Insert, Update};
    let live = [
        sent(1, "users", Insert, 1, 0),
        sent(2, "users", Update, 1, 1),
    ];
    let gone = [&live[..], &[sent(3, "users", Delete, 1, 2)]].concat();
    for (before, version) in [(&[][..], 0), (&live, 2), (&gone, 3)] {
        let model = after(before);
        for op in [Insert, Update, Delete] {
            for base in [i64::MIN, -1, 0, 1, 2, 3, 4, i64::MAX] {
                let verdict = verdicts(&model, &[sent(9, "users", op, 1, base)]).remove(0);
                let what = format!("version {version}, {op:?} on {base}");
                match (version, base == version) {
                    (0, true) if op == Delete => {
                        assert_eq!(verdict, Verdict::Applied(None), "{what}")
                    }
                    (_, true) => assert_eq!(
                        verdict,
                        Verdict::Applied(Some(RowVersion::new(version + 1))),
                        "{what}"
                    ),
                    (0, false) => assert!(
                        matches!(verdict, Verdict::Invalid(Fault::NoServerRow { .. })),
                        "{what}"
                    ),
                    (_, false) => {
                        let Verdict::Conflict(current) = verdict else {
                            panic!("{what}: {verdict:?}")
                        };
                        assert_eq!(current.state.version.get(), version, "{what}");
                        assert_eq!(current.state.deleted, version == 3, "{what}");
                        assert_eq!(current.state.at.get(), version, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn several_changes_of_one_row() {
    use Op::{Delete, Insert, Update};
    let upload = [
        sent(1, "users", Insert, 1, 0),
        sent(2, "users", Update, 1, 0),
        sent(3, "users", Update, 1, 1),
        sent(4, "users", Delete, 1, 2),
        sent(5, "users", Delete, 1, 2),
    ];
    assert_eq!(letters(&verdicts(&Model::default(), &upload)), "acaac");
}

#[test]
fn a_change_id_means_one_content() {
    use Op::{Insert, Update};
    let mut model = Model::default();
    model.upload(&catalog(), 0, &[sent(1, "users", Insert, 1, 0)]);
    let mut other = sent(1, "users", Insert, 1, 1);
    assert_eq!(
        letters(&verdicts(&model, std::slice::from_ref(&other))),
        "a",
        "the base is not content"
    );
    other.content = 1;
    assert_eq!(letters(&verdicts(&model, &[other])), "c");
    assert_eq!(
        letters(&verdicts(&model, &[sent(1, "users", Update, 1, 1)])),
        "c"
    );
    assert_eq!(
        letters(&verdicts(&model, &[sent(1, "users", Insert, 2, 0)])),
        "i"
    );
    // Inside one upload: only an applied first entry holds the id.
    let upload = [
        sent(2, "users", Insert, 2, 7),
        sent(2, "users", Insert, 2, 0),
        sent(2, "users", Insert, 3, 0),
    ];
    assert_eq!(letters(&verdicts(&model, &upload)), "iai");
}

#[test]
fn parents_and_children_of_one_upload() {
    use Op::{Delete, Insert, Update};
    let child = |id: i64| sent(id, "posts", Insert, 1, 0).to(1);
    let none = Model::default();
    assert_eq!(
        letters(&verdicts(
            &none,
            &[child(1), sent(2, "users", Insert, 1, 0)]
        )),
        "aa"
    );
    assert_eq!(
        letters(&verdicts(
            &none,
            &[child(1), sent(2, "users", Insert, 1, 4)]
        )),
        "mi"
    );
    assert_eq!(
        letters(&verdicts(
            &none,
            &[sent(2, "users", Delete, 1, 0), child(1)]
        )),
        "am"
    );
    let parent = after(&[sent(1, "users", Insert, 1, 0)]);
    assert_eq!(letters(&verdicts(&parent, &[child(1)])), "a");
    assert_eq!(
        letters(&verdicts(
            &parent,
            &[child(1), sent(2, "users", Delete, 1, 1)]
        )),
        "ma"
    );
    assert_eq!(
        letters(&verdicts(
            &parent,
            &[child(1), sent(2, "users", Delete, 1, 9)]
        )),
        "mc"
    );
    assert_eq!(
        letters(&verdicts(
            &parent,
            &[child(1), sent(2, "users", Update, 1, 9)]
        )),
        "ac"
    );
}

#[test]
fn a_delete_on_record_takes_nothing_away() {
    use Op::{Delete, Insert, Update};
    let mut model = after(&[sent(1, "users", Insert, 1, 0)]);
    let delete = sent(5, "users", Delete, 1, 1);
    model.upload(&catalog(), 0, std::slice::from_ref(&delete));
    model.upload(&catalog(), 1, &[sent(2, "users", Update, 1, 2)]);
    let upload = [delete, sent(6, "posts", Insert, 1, 0).to(1)];
    assert_eq!(letters(&verdicts(&model, &upload)), "aa");
}

#[test]
fn a_business_row_counts_as_a_parent() {
    let catalog = catalog();
    let child = checked(&catalog, &[sent(1, "posts", Op::Insert, 1, 0).to(1)]);
    let mut view = View::default();
    assert_eq!(letters(&decide(&catalog, &view, &child).verdicts), "m");
    view.in_business = HashSet::from([row_at(&catalog, ("users", 1))]);
    assert_eq!(letters(&decide(&catalog, &view, &child).verdicts), "a");
}
