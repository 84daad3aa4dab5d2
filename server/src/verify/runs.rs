//! A set of numbers that come nearly in order: kept as runs, so that a device's
//! change ids take a few words of memory however many there are.

use std::collections::BTreeMap;

/// First and last number of each run; runs neither touch nor overlap.
#[derive(Debug, Default)]
pub(super) struct Runs(BTreeMap<i64, i64>);

impl Runs {
    /// Whether the number is new.
    pub(super) fn insert(&mut self, number: i64) -> bool {
        let before = self.0.range(..=number).next_back().map(|(a, b)| (*a, *b));
        if before.is_some_and(|(_, last)| number <= last) {
            return false;
        }
        let first = match before {
            Some((first, last)) if last.checked_add(1) == Some(number) => first,
            _ => number,
        };
        let after = number.checked_add(1).and_then(|next| self.0.remove(&next));
        self.0.insert(first, after.unwrap_or(number));
        true
    }

    /// The largest number.
    pub(super) fn highest(&self) -> Option<i64> {
        self.0.last_key_value().map(|(_, last)| *last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_join_into_runs() {
        let mut runs = Runs::default();
        for number in [5, 1, 2, 7, 6, i64::MAX, i64::MIN, i64::MAX - 1] {
            assert!(runs.insert(number), "{number}");
            assert!(!runs.insert(number), "{number} again");
        }
        assert_eq!(runs.0.len(), 4, "{runs:?}");
        assert_eq!(runs.highest(), Some(i64::MAX));
        assert!(runs.insert(3) && runs.insert(4) && !runs.insert(5));
    }
}
