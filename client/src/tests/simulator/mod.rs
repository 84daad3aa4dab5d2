//! Random histories of real files, the real client on them, and a server in
//! memory: writes, requests lost, doubled and late, pages, restarts, copies put
//! back, the server restored; then calm, and everything must be where it belongs.
//!
//! `OVERSQLITE_HISTORIES` sets how many are played, `OVERSQLITE_SEED` the first
//! seed; a failure names its seed, and a single history is told step by step.

mod judge;
mod mutants;
mod phone;
mod server;
mod untold;
mod world;

use super::from_env;
use mutants::Mutant;
use std::panic::catch_unwind;
use world::play;

/// Enough that every mutant is found by the first few hundred; more by hand and
/// in CI.
const HISTORIES: u64 = 200;

#[test]
fn every_history_keeps_the_promises() {
    let first = from_env("OVERSQLITE_SEED", 1);
    let count = from_env("OVERSQLITE_HISTORIES", HISTORIES);
    super::on_all_cores(first..first + count, |seed| {
        if let Err(violated) = play(seed, None, count == 1) {
            panic!(
                "{} does not hold: {}\nrepeat with OVERSQLITE_SEED={seed} OVERSQLITE_HISTORIES=1",
                violated.promise, violated.what
            );
        }
    });
}

#[test]
fn every_mutant_is_caught() {
    let mut survivors = Vec::new();
    for &mutant in Mutant::ALL {
        let caught = (1..=HISTORIES).find_map(|seed| {
            // A client that stumbles over what the mutant did is caught, too.
            match catch_unwind(|| play(seed, Some(mutant), false)) {
                Ok(Ok(())) => None,
                Ok(Err(violated)) => Some((seed, violated.promise)),
                Err(_) => Some((seed, "an error")),
            }
        });
        match caught {
            Some((seed, promise)) => println!("{mutant:?}: {promise}, seed {seed}"),
            None => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}
