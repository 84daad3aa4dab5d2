//! A map of bounded size that forgets what has not been used for longest.
//!
//! Two halves: when the newer one is full it becomes the older one, and what was
//! in the older one is forgotten. No clock, no lists, no entry ever moves for
//! another's sake.

use std::collections::HashMap;
use std::hash::Hash;

/// At most two times `room` entries.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    newer: HashMap<K, V>,
    older: HashMap<K, V>,
    room: usize,
    turns: u64,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// With halves of so many entries.
    pub(crate) fn new(room: usize) -> Self {
        Self {
            newer: HashMap::new(),
            older: HashMap::new(),
            room,
            turns: 0,
        }
    }

    /// How often a half has been forgotten. What was inserted is still there until
    /// this has moved by two.
    pub(crate) fn turns(&self) -> u64 {
        self.turns
    }

    /// What is remembered.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.newer.get(key).or_else(|| self.older.get(key))
    }

    /// Remembers.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.newer.len() >= self.room && !self.newer.contains_key(&key) {
            self.older = std::mem::take(&mut self.newer);
            self.turns += 1;
        }
        self.newer.insert(key, value);
    }

    /// Forgets one.
    pub(crate) fn remove(&mut self, key: &K) {
        self.newer.remove(key);
        self.older.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_the_newest_and_no_more_than_twice_its_room() {
        let mut recent = Recent::new(10);
        for n in 0..1_000 {
            recent.insert(n, n);
            assert!(recent.newer.len() + recent.older.len() <= 20);
            assert_eq!(recent.get(&n), Some(&n));
            // What is used stays.
            recent.insert(-1, n);
        }
        assert_eq!(recent.get(&-1), Some(&999));
        assert_eq!(recent.get(&500), None);
        // Newer values stand before older ones.
        recent.remove(&999);
        assert_eq!(recent.get(&999), None);
    }

    #[test]
    fn what_was_inserted_stays_for_a_turn() {
        let mut recent = Recent::new(3);
        for n in 0..100 {
            recent.insert(n, ());
            let turns = recent.turns();
            let mut more = 1_000 + 10 * n;
            while recent.turns() < turns + 1 {
                recent.insert(more, ());
                more += 1;
            }
            assert!(recent.get(&n).is_some());
        }
    }
}
