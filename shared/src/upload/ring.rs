//! Rows that need each other: what they hope of one another, and how a ring falls.
//!
//! All of a ring is taken to come to be; what does not is taken back, and with it
//! everything that rests on it alone. The fall runs along the references
//! backwards and looks at each of them about once: a long ring costs what its
//! rows do, not their square.

use super::change::{Change, Link};
use super::done::Done;
use super::view::RowAt;
use crate::catalog::ColumnIx;
use crate::ids::ChangeId;
use std::collections::{HashMap, HashSet};

/// What rows of a ring need each other for.
#[derive(Debug, Clone, Default)]
pub(super) struct Hoped<'a> {
    /// That they are live.
    live: HashSet<RowAt>,
    /// That they hold a value by which they are referred to. Never an empty set.
    named: HashMap<(ColumnIx, &'a str), HashSet<RowAt>>,
}

impl<'a> Hoped<'a> {
    /// What the changes of a ring bring about if all of them are applied, as far
    /// as anybody may rest on it.
    pub(super) fn of(ring: &[(usize, &'a Change)], done: &Done<'a>) -> Self {
        let mut hoped = Self::default();
        for (_, change) in ring {
            let row = change.row();
            if done.is_doomed(&row) {
                continue;
            }
            hoped.live.insert(row);
            for (column, name) in names(change) {
                hoped.named.entry((column, name)).or_default().insert(row);
            }
        }
        hoped
    }

    pub(super) fn is_live(&self, row: &RowAt) -> bool {
        self.live.contains(row)
    }

    pub(super) fn is_called(&self, column: ColumnIx, name: &str) -> bool {
        self.named.contains_key(&(column, name))
    }

    /// Takes back what has not come true; whether there was any.
    pub(super) fn keep_true(&mut self, done: &Done<'a>) -> bool {
        let mut lost = false;
        let mut keep = |is_true: bool| {
            lost |= !is_true;
            is_true
        };
        self.live.retain(|row| keep(done.is_live(*row)));
        self.named.retain(|(column, name), rows| {
            rows.retain(|row| keep(done.name(*row, *column) == Some(*name)));
            !rows.is_empty()
        });
        lost
    }

    /// Takes back that a row is called so; whether now nobody is.
    fn forget(&mut self, row: RowAt, column: ColumnIx, name: &'a str) -> bool {
        let Some(rows) = self.named.get_mut(&(column, name)) else {
            return false;
        };
        rows.remove(&row);
        let nobody = rows.is_empty();
        if nobody {
            self.named.remove(&(column, name));
        }
        nobody
    }
}

fn names(change: &Change) -> impl Iterator<Item = (ColumnIx, &str)> {
    let offers = change.offers.iter();
    offers.filter_map(|offer| Some((offer.column, offer.value.as_ref()?.compared())))
}

/// Whether less hope can only mean less: otherwise a row may come to be *because*
/// another has fallen, which left it its change id, or its version under another
/// name. Devices that keep to the protocol send neither of the two in a ring.
pub(super) fn is_plain(ring: &[(usize, &Change)]) -> bool {
    let mut ids: HashMap<ChangeId, RowAt> = HashMap::new();
    let mut named: HashMap<RowAt, bool> = HashMap::new();
    ring.iter().all(|(_, change)| {
        let row = change.row();
        let has_names = !change.offers.is_empty();
        let is_only = named
            .insert(row, has_names)
            .is_none_or(|before| !before && !has_names);
        is_only && *ids.entry(change.id).or_insert(row) == row
    })
}

/// Takes away from what is hoped everything that rests on what is gone already.
/// Nothing of the ring is done. `could` says whether a change would be the first
/// of its row if its links held, `holds` whether they do.
pub(super) fn fall<'a>(
    ring: &[(usize, &'a Change)],
    hoped: &mut Hoped<'a>,
    done: &Done<'a>,
    could: impl Fn(&Change) -> bool,
    holds: impl Fn(&Change, &Hoped<'a>) -> bool,
) {
    let mut by_row: HashMap<RowAt, Vec<usize>> = HashMap::new();
    let mut by_name: HashMap<(ColumnIx, &str), Vec<usize>> = HashMap::new();
    // How many of a row's changes may still bring it to be.
    let mut hopeful: HashMap<RowAt, usize> = HashMap::new();
    for (place, (_, change)) in ring.iter().enumerate() {
        *hopeful.entry(change.row()).or_default() += 1;
        for link in &change.links {
            match link {
                Link::Key { parent, .. } => by_row.entry(*parent).or_default().push(place),
                Link::Column { column, value, .. } => {
                    let name = (*column, value.compared());
                    by_name.entry(name).or_default().push(place);
                }
                Link::NotKey | Link::TooLong { .. } => {}
            }
        }
    }
    let mut stands = vec![true; ring.len()];
    let mut to_look_at: Vec<usize> = (0..ring.len()).collect();
    while let Some(place) = to_look_at.pop() {
        let change = ring[place].1;
        if !stands[place] || (could(change) && holds(change, hoped)) {
            continue;
        }
        stands[place] = false;
        let row = change.row();
        for (column, name) in names(change) {
            if hoped.forget(row, column, name) {
                to_look_at.extend(by_name.get(&(column, name)).into_iter().flatten());
            }
        }
        let left = hopeful.get_mut(&row).expect("BUG: every change is counted");
        *left -= 1;
        if *left == 0 && !done.is_live(row) && hoped.live.remove(&row) {
            to_look_at.extend(by_row.get(&row).into_iter().flatten());
        }
    }
}
