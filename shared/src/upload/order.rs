//! The order in which the changes of one upload are executed.
//!
//! Upserts before deletes; upserts parents first, deletes children first, by
//! the ranks of their tables; otherwise request order. Among tables that can
//! refer to each other in a cycle, upserts are ordered row by row, and rows
//! that refer to each other in a ring become one unit.

use super::change::{Change, Link};
use super::view::RowAt;
use crate::catalog::{Catalog, ColumnIx};
use crate::graph;
use std::collections::{HashMap, HashSet};

/// Positions in the request that stand or fall together, in request order;
/// one position unless they form a ring.
pub(super) type Unit = Vec<usize>;

/// Orders the changes that passed their own checks, given with their positions
/// in the request.
pub(super) fn order(changes: &[(usize, &Change)], catalog: &Catalog) -> Vec<Unit> {
    let rank = |entry: &(usize, &Change)| catalog.table(entry.1.table).rank;
    let (mut upserts, mut deletes): (Vec<_>, Vec<_>) = changes
        .iter()
        .copied()
        .partition(|(_, change)| change.op.is_upsert());
    upserts.sort_by_key(rank);
    deletes.sort_by_key(|entry| std::cmp::Reverse(rank(entry)));

    let mut units = Vec::with_capacity(changes.len());
    for group in upserts.chunk_by(|a, b| rank(a) == rank(b)) {
        if catalog.table(group[0].1.table).cyclic {
            units.extend(by_reference(group));
        } else {
            units.extend(group.iter().map(|(position, _)| vec![*position]));
        }
    }
    units.extend(deletes.iter().map(|(position, _)| vec![*position]));
    units
}

/// Orders upserts whose rows may refer to each other: after every change of the
/// rows they refer to, and after the earlier changes of their own row.
fn by_reference(group: &[(usize, &Change)]) -> Vec<Unit> {
    // After a row's last change is after all of them. Its first one would not
    // do: when it fails and a later one brings the row to life, the row counts.
    let mut last: HashMap<RowAt, usize> = HashMap::new();
    // Rows by what they can be referred to by besides their key.
    let mut named: HashMap<(ColumnIx, &str), Vec<RowAt>> = HashMap::new();
    let mut seen = HashSet::new();
    for (node, (_, change)) in group.iter().enumerate() {
        last.insert(change.row(), node);
        for offer in &change.offers {
            if let Some(value) = &offer.value {
                let rows = named.entry((offer.column, value.compared())).or_default();
                if seen.insert((change.row(), offer.column, value.compared())) {
                    rows.push(change.row());
                }
            }
        }
    }
    let mut latest: HashMap<RowAt, usize> = HashMap::new();
    let mut edges = Vec::with_capacity(group.len());
    for (node, (_, change)) in group.iter().enumerate() {
        let own = change.row();
        let mut targets: Vec<usize> = latest.insert(own, node).into_iter().collect();
        for link in &change.links {
            let parents = match link {
                Link::Key { parent, .. } => std::slice::from_ref(parent),
                Link::NotKey | Link::TooLong { .. } => &[],
                Link::Column { column, value, .. } => named
                    .get(&(*column, value.compared()))
                    .map_or(&[][..], Vec::as_slice),
            };
            let others = parents.iter().filter(|parent| **parent != own);
            targets.extend(others.filter_map(|parent| last.get(parent)));
        }
        edges.push(targets);
    }
    graph::components(&edges)
        .into_iter()
        .map(|component| component.into_iter().map(|node| group[node].0).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::catalog::{Catalog, ForeignKeys, Reference, RefersTo, TableSpec};
    use crate::names::TableName;
    use crate::upload::{RawChange, Verdict, View, check, decide};

    const PARENT: &str = "0f8fad5b-d9cb-469f-a165-708677289501";
    const CHILD: &str = "0f8fad5b-d9cb-469f-a165-708677289502";

    /// Found by the simulator: the child was answered `fk_missing` although its
    /// parent was applied in the same upload.
    #[test]
    fn a_parent_whose_second_change_stands_counts() {
        let notes = TableName::parse("public", "notes").expect("plain");
        let catalog = Catalog::new(
            vec![TableSpec {
                name: notes.clone(),
                references: vec![Reference {
                    column: "answers".to_owned(),
                    parent: notes,
                    to: RefersTo::Key,
                }],
                after: Vec::new(),
            }],
            ForeignKeys::Enabled,
        )
        .expect("one table");
        let answers = format!("{{\"answers\":\"{PARENT}\"}}");
        let change = |id, pk, server_version, payload| RawChange {
            source_change_id: id,
            schema: "public",
            table: "notes",
            op: "INSERT",
            pk,
            server_version,
            payload: Some(payload),
        };
        // The parent's first change names a version that never was.
        let changes: Vec<_> = [
            change(1, PARENT, 7, "{}"),
            change(2, CHILD, 0, &answers),
            change(3, PARENT, 0, "{}"),
        ]
        .iter()
        .map(|raw| check(raw, &catalog, 100, &mut Vec::new()))
        .collect();
        let decision = decide(&catalog, &View::default(), &changes);
        assert!(matches!(decision.verdicts[0], Verdict::Invalid(_)));
        assert!(matches!(decision.verdicts[1], Verdict::Applied(Some(_))));
        assert!(matches!(decision.verdicts[2], Verdict::Applied(Some(_))));
        let order: Vec<usize> = decision.plan.log.iter().map(|e| e.position).collect();
        assert_eq!(order, [2, 1]);
    }
}
