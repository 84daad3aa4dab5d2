//! How random properties are run: the same cases every time.

use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

/// At least so many cases, from this seed; PROPTEST_CASES asks for more of them.
pub(crate) fn cases(at_least: u32, seed: u64) -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        cases: usual.cases.max(at_least),
        rng_seed: RngSeed::Fixed(seed),
        ..usual
    }
}
