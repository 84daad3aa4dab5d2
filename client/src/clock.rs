//! The device's one clock. Its times are shown to people; nothing is ordered by
//! them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(crate) fn unix_now() -> i64 {
    unix_now_ms() / 1000
}

/// Milliseconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "the device's only clock: shown to people, never used for order"
)]
pub(crate) fn unix_now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}
