//! The order in which the changes of one upload are executed.
//!
//! Upserts before deletes; upserts parents first, deletes children first, by
//! the ranks of their tables; otherwise request order. Among tables that can
//! refer to each other in a cycle, upserts are ordered row by row, and rows
//! that refer to each other in a ring become one unit.

use super::change::{Change, LinkValue};
use crate::catalog::{Catalog, TableIx};
use crate::graph;
use crate::key::RowKey;
use std::collections::HashMap;

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

/// Orders upserts whose rows may refer to each other: after the first change of
/// every row they refer to, and after the earlier changes of their own row.
fn by_reference(group: &[(usize, &Change)]) -> Vec<Unit> {
    let mut first: HashMap<(TableIx, RowKey), usize> = HashMap::new();
    for (node, (_, change)) in group.iter().enumerate() {
        first.entry((change.table, change.key)).or_insert(node);
    }
    let mut latest: HashMap<(TableIx, RowKey), usize> = HashMap::new();
    let mut edges = Vec::with_capacity(group.len());
    for (node, (_, change)) in group.iter().enumerate() {
        let own = (change.table, change.key);
        let mut targets: Vec<usize> = latest.insert(own, node).into_iter().collect();
        for link in &change.links {
            if let LinkValue::Key(key, _) = link.value
                && (link.parent, key) != own
                && let Some(&target) = first.get(&(link.parent, key))
            {
                targets.push(target);
            }
        }
        edges.push(targets);
    }
    graph::components(&edges)
        .into_iter()
        .map(|component| component.into_iter().map(|node| group[node].0).collect())
        .collect()
}
