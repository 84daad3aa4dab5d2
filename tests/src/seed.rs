//! Chance that can be replayed: every random test prints its seed, which the
//! test runner shows when it fails.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// The variable that replays a run.
const SEED: &str = "OVERSYNC_TEST_SEED";

/// The variable that makes random tests longer (or shorter): a factor.
const EFFORT: &str = "OVERSYNC_TEST_EFFORT";

/// Where a test's randomness comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(u64);

impl Seed {
    /// The seed in `OVERSYNC_TEST_SEED`, a fresh one where that says `random`, and
    /// the same one every time where it is not set. Printed in any case.
    pub fn from_env() -> Self {
        let seed = match std::env::var(SEED) {
            Ok(text) if text == "random" => rand::random::<u32>().into(),
            Ok(text) => text
                .parse()
                .unwrap_or_else(|_| panic!("{SEED} must be a number or random, not {text:?}")),
            Err(_) => 1,
        };
        println!("seed: replay with {SEED}={seed}");
        Self(seed)
    }

    /// A generator for one part of the test; parts do not disturb each other.
    pub fn rng(self, part: u64) -> StdRng {
        StdRng::seed_from_u64(
            self.0
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .wrapping_add(part),
        )
    }
}

/// The whole number in a variable; `None` where it is not set.
///
/// # Panics
/// When it is no number.
pub fn number(variable: &str) -> Option<usize> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} must be a number, not {text:?}")))
}

/// How many cases a random test runs: `modest` times `OVERSYNC_TEST_EFFORT`.
pub fn cases(modest: usize) -> usize {
    let factor: f64 = match std::env::var(EFFORT) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{EFFORT} must be a number, not {text:?}")),
        Err(_) => 1.0,
    };
    ((modest as f64 * factor) as usize).max(1)
}
