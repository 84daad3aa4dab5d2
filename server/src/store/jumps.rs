//! Places of a user's stream that were never handed out, because a restore went above
//! everything that the lost history can have used. Who counts entries leaves them out.

use oversync_shared::ServerId;

/// The jumps of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jumps(Vec<(i64, i64)>);

impl Jumps {
    /// As they are stored: the place before each, and its last. No two overlap.
    pub(super) fn new(stored: Vec<(i64, i64)>) -> Self {
        Self(stored)
    }

    /// How many places above one, up to another, were handed out; 0 where the second is
    /// not above the first.
    pub fn entries_between(&self, after: ServerId, through: ServerId) -> i64 {
        let (low, high) = (after.get(), through.get());
        let over = |(from, to): &(i64, i64)| (high.min(*to) - low.max(*from)).max(0);
        let left_out: i64 = self.0.iter().map(over).sum();
        (high - low - left_out).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_places_that_were_handed_out_are_counted() {
        let jumps = Jumps::new(vec![(3, 1_003), (1_005, 9_005)]);
        for (after, through, entries) in [
            (0, 0, 0),
            (0, 3, 3),
            (2, 1_003, 1),
            (2, 1_004, 2),
            (3, 1_003, 0),
            (1_003, 1_005, 2),
            (1_003, 9_006, 3),
            (500, 9_000, 2),
            (0, 9_010, 10),
            (9_005, 9_010, 5),
            (9, 3, 0),
        ] {
            let counted = jumps.entries_between(ServerId::new(after), ServerId::new(through));
            assert_eq!(counted, entries, "above {after}, up to {through}");
        }
        let none = Jumps::default();
        assert_eq!(none.entries_between(ServerId::ZERO, ServerId::new(7)), 7);
    }
}
