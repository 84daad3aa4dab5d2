//! The order of an upload, found by trying.

use super::written::{LinkTo, Name, Row, Sent, ix, looks_at_names, parent_table};
use crate::Catalog;
use crate::wire::Op;
use std::collections::{BTreeMap, BTreeSet};

/// The order by trying: which changes each one needs, directly and through
/// others; then depth first, needs before needers, in request order.
pub(super) fn naive_order(catalog: &Catalog, upload: &[Sent]) -> Vec<Vec<usize>> {
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
