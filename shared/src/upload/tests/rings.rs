//! Rows that need each other, and long chains of them.

use super::agree::compare;
use super::model::{Model, after, letters, outcome};
use super::written::{Sent, catalog, catalog_with, checked, ix, sent};
use crate::catalog::ForeignKeys;
use crate::upload::{Change, Fault, RawChange, View, check, decide};
use crate::wire::Op;
use crate::{Catalog, RowKey, ServerId};
use proptest::prelude::*;
use uuid::Uuid;

#[test]
fn a_ring_stands_or_falls_together() {
    use Op::{Delete, Insert};
    let node = |n: u8, base: i64, parent: u8| sent(n.into(), "nodes", Insert, n, base).to(parent);
    let none = Model::default();
    assert_eq!(
        outcome(&none, &[node(1, 0, 2), node(2, 0, 3), node(3, 0, 1)]),
        "aaa"
    );
    assert_eq!(
        outcome(&none, &[node(1, 0, 2), node(2, 4, 3), node(3, 0, 1)]),
        "mim"
    );
    assert_eq!(outcome(&none, &[node(1, 0, 1)]), "a");
    // A live row in conflict is still a parent; a tombstone is none, and the
    // conflict that brings the ring down is told.
    let live = after(&[sent(1, "nodes", Insert, 2, 0)]);
    assert_eq!(outcome(&live, &[node(1, 0, 2), node(2, 0, 1)]), "ac");
    let gone = after(&[
        sent(1, "nodes", Insert, 2, 0),
        sent(2, "nodes", Delete, 2, 1),
    ]);
    assert_eq!(outcome(&gone, &[node(1, 0, 2), node(2, 0, 1)]), "mc");
}

#[test]
fn a_chain_of_a_thousand_rows_in_any_order() {
    let catalog = catalog();
    let key = |n: u128| RowKey::new(Uuid::from_u128(n));
    let table = ix(&catalog, "nodes");
    let mut changes: Vec<Result<Change, Fault>> = (0..1_000_u128)
        .map(|n| {
            let (pk, payload) = (
                key(n).to_string(),
                format!("{{\"parent_id\":\"{}\"}}", key(n.saturating_sub(1))),
            );
            let raw = RawChange {
                source_change_id: n as i64,
                schema: "s",
                table: "nodes",
                op: "INSERT",
                pk: &pk,
                server_version: 0,
                payload: Some(&payload),
            };
            check(&raw, &catalog, 1_000, &mut Vec::new())
        })
        .collect();
    changes.reverse();
    let decision = decide(&catalog, &View::default(), &changes);
    let order: Vec<RowKey> = decision
        .plan
        .log
        .iter()
        .map(|entry| entry.row.key)
        .collect();
    assert_eq!(order, (0..1_000).map(key).collect::<Vec<_>>());
    assert!(
        decision
            .plan
            .rows
            .iter()
            .all(|write| write.row.table == table)
    );
}

/// A row of `nodes` by number, with the number of the row it refers to.
fn node(catalog: &Catalog, n: u128, parent: u128, base: i64) -> Result<Change, Fault> {
    let key = |n: u128| RowKey::new(Uuid::from_u128(n));
    let raw = RawChange {
        source_change_id: n as i64 + 1,
        schema: "s",
        table: "nodes",
        op: "INSERT",
        pk: &key(n).to_string(),
        server_version: base,
        payload: Some(&format!("{{\"parent_id\":\"{}\"}}", key(parent))),
    };
    check(&raw, catalog, 1_000, &mut Vec::new())
}

/// The benches show that it takes no longer than it must.
#[test]
fn a_ring_of_a_thousand_rows_falls_as_a_whole() {
    let catalog = catalog();
    let rows = 1_000;
    // One row names a version that never was; all others rest on it.
    let fallen = |bad: u128| {
        let base = |n| if n == bad { 7 } else { 0 };
        let changes = (0..rows).map(|n| node(&catalog, n, (n + 1) % rows, base(n)));
        let changes: Vec<_> = changes.collect();
        decide(&catalog, &View::default(), &changes)
    };
    for bad in [0, 500, 999] {
        let decision = fallen(bad);
        let expected: String = (0..rows)
            .map(|n| if n == bad { 'i' } else { 'm' })
            .collect();
        assert_eq!(letters(&decision.verdicts), expected);
        assert!(decision.plan.log.is_empty() && decision.plan.rows.is_empty());
        assert_eq!(decision.plan.head, ServerId::ZERO);
    }
    assert_eq!(fallen(rows).plan.log.len(), 1_000);
}

/// What a ring tried in vain leaves nothing behind in what came before it.
#[test]
fn a_fallen_ring_takes_nothing_back_but_itself() {
    let catalog = catalog();
    let named = |id, key, name| sent(id, "terms", Op::Insert, key, 0).named(name);
    let upload = [
        named(1, 1, 5),
        // A ring that renames the first row, and falls.
        sent(2, "terms", Op::Update, 1, 1).named(6).to(7),
        named(3, 2, 7).to(8),
        sent(4, "terms", Op::Insert, 3, 4).named(8).to(6),
        // Rests on the first name.
        named(5, 4, 9).to(5),
    ];
    let changes = checked(&catalog, &upload);
    let decision = decide(&catalog, &View::default(), &changes);
    assert_eq!(letters(&decision.verdicts), "ammia");
    let positions: Vec<usize> = decision.plan.log.iter().map(|e| e.position).collect();
    assert_eq!(positions, [0, 4]);
}

/// Rings of many rows with one change each, some of which fail by themselves.
fn any_ring() -> impl Strategy<Value = Vec<Sent>> {
    let tables = prop::sample::select(vec!["nodes", "terms", "cocks", "hens", "lefts", "rights"]);
    let row = (
        tables,
        0..10_u8,
        0..12_u8,
        prop_oneof![9 => Just(0_i64), 1 => Just(3_i64)],
    );
    prop::collection::vec(row, 2..24).prop_map(|rows| {
        let rows = rows.into_iter().enumerate();
        let sent = |(place, (table, key, parent, base)): (usize, (&'static str, u8, u8, i64))| {
            sent(place as i64 + 1, table, Op::Insert, key, base)
                .named(key)
                .to(parent)
        };
        rows.map(sent).collect()
    })
}

proptest! {
    #![proptest_config(crate::properties::cases(2_000, 1))]

    #[test]
    fn long_rings_agree_with_the_naive_model(earlier in any_ring(), ring in any_ring()) {
        for catalog in [catalog(), catalog_with(ForeignKeys::Enabled)] {
            let mut model = Model::default();
            compare(&catalog, &mut model, 0, &earlier)?;
            compare(&catalog, &mut model, 1, &ring)?;
        }
    }
}
