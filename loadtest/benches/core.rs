//! Criterion benches of the pure core.
fn main() {}
