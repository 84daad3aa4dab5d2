//! The seeded simulator of the server's decision core.
//!
//! Plays short histories of devices, server processes, one database and a bad
//! network around the real `check`, `needs` and `decide`, and judges each with
//! a checker that shares no code with them. Every mutant must be caught.
//!
//! | variable | |
//! |---|---|
//! | `SIM_HISTORIES` | how many histories to play (20,000 unless told) |
//! | `SIM_SECONDS` | play for this long instead |
//! | `SIM_SEED` | play this history only, and print its steps |
//! | `SIM_FIRST` | the first seed (1 unless told) |
//! | `SIM_MUTANT` | with `SIM_SEED`: under this mutant |
//!
//! In the order of a history:

/// … and answers.
mod answers;
/// What a process remembers.
mod cache;
/// Chance from a seed.
mod chance;
/// The reference log judges commits …
mod checker;
/// Rows, stream and head rows; guarded commits; pages.
mod database;
/// Devices freeze batches and send them until answered.
mod device;
/// Commits on their way, and what goes wrong there.
mod lanes;
/// Tables, rows, contents, spellings.
mod model;
/// Wrong variants that must be caught.
mod mutants;
/// Devices page through the stream.
mod reader;
/// Server processes decide and answer.
mod server;
/// What happened at all.
mod tally;
/// The network, the steps, the calm at the end.
mod world;

use model::Words;
use mutants::{Mutant, Rules};
use std::time::{Duration, Instant};
use tally::Tally;

const DEFAULT_HISTORIES: u64 = 20_000;

/// A mutant has this many histories to show itself.
const MUTANT_HISTORIES: u64 = 20_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number")),
    )
}

/// Plays one history; on a violation says which and how to see it again.
fn replay(words: &Words, seed: u64, rules: Rules) {
    if let Err(violated) = world::play(words, rules, seed, true) {
        panic!("seed {seed} broke {}: {}", violated.rule, violated.what);
    }
    println!("seed {seed} keeps every promise");
}

#[test]
fn every_history_keeps_the_promises() {
    let words = Words::new();
    if let Some(seed) = number("SIM_SEED") {
        let mutant = std::env::var("SIM_MUTANT").ok().map(|name| {
            let found = Mutant::ALL.iter().find(|m| format!("{m:?}") == name);
            *found.unwrap_or_else(|| panic!("there is no mutant {name}"))
        });
        return replay(&words, seed, Rules(mutant));
    }
    let first = number("SIM_FIRST").unwrap_or(1);
    let budget = number("SIM_SECONDS").map(Duration::from_secs);
    let histories = match budget {
        Some(_) => u64::MAX,
        None => number("SIM_HISTORIES").unwrap_or(DEFAULT_HISTORIES),
    };
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    // Each core plays every n-th history.
    let share = |core: u64| {
        let (mut played, mut tally) = (0, Tally::default());
        for at in (core..histories).step_by(threads as usize) {
            let seed = first.wrapping_add(at);
            match world::play(&words, Rules(None), seed, false) {
                Ok(happened) => tally.add(&happened),
                Err(violated) => panic!(
                    "seed {seed} broke {}: {}\nreplay: SIM_SEED={seed} cargo test -p \
                     oversync-shared --test simulator every_history -- --nocapture",
                    violated.rule, violated.what
                ),
            }
            played += 1;
            if played % 256 == 0 && budget.is_some_and(|budget| started.elapsed() >= budget) {
                break;
            }
        }
        (played, tally)
    };
    let (mut played, mut tally) = (0_u64, Tally::default());
    std::thread::scope(|scope| {
        let share = &share;
        let cores: Vec<_> = (0..threads)
            .map(|core| scope.spawn(move || share(core)))
            .collect();
        for core in cores {
            let (count, happened) = core
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            played += count;
            tally.add(&happened);
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{played} histories in {seconds:.1} s, {:.0} per second",
        played as f64 / seconds
    );
    println!("{tally:#?}");
    let missing = tally.missing();
    assert!(
        missing.is_empty() || played < 1_000,
        "never happened: {missing:?}"
    );
}

#[test]
fn a_seed_is_one_history() {
    let words = Words::new();
    for seed in 1..=200 {
        let play = || world::play(&words, Rules(None), seed, false).ok();
        assert_eq!(play(), play(), "seed {seed} is two histories");
    }
}

#[test]
fn every_mutant_is_caught() {
    if number("SIM_SEED").is_some() {
        return;
    }
    let words = Words::new();
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL {
        let rules = Rules(Some(*mutant));
        let caught = (1..=MUTANT_HISTORIES).find_map(|seed| {
            let violated = world::play(&words, rules, seed, false).err()?;
            Some((seed, violated))
        });
        match caught {
            Some((seed, violated)) => println!(
                "{:28} caught by {:18} after {seed} histories",
                format!("{mutant:?}"),
                violated.rule
            ),
            None => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}
