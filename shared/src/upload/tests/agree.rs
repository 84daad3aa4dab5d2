//! Random histories of several devices come out the same from the decision and from
//! the model; what was sent twice is answered twice the same.

use super::model::Model;
use super::written::{LinkTo, Name, Row, Sent, TABLES, catalog, catalog_with, checked, row_at};
use crate::catalog::ForeignKeys;
use crate::upload::{RowAt, RowState, RowWrite, Verdict, decide, needs};
use crate::wire::Op;
use crate::{Catalog, RowVersion, ServerId};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};

/// Decides one upload on both and compares everything; the model moves on.
pub(super) fn compare(
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

pub(super) fn any_sent() -> impl Strategy<Value = Sent> {
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
pub(super) fn any_cyclic() -> impl Strategy<Value = Sent> {
    (
        any_sent(),
        prop::sample::select(vec![
            "nodes", "nodes", "lefts", "rights", "terms", "terms", "cocks", "hens",
        ]),
    )
        .prop_map(|(sent, table)| Sent { table, ..sent })
}

proptest! {
    #![proptest_config(crate::properties::cases(2_000, 1))]

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
