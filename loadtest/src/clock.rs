//! The load test's one wall clock: for the ends of tokens and the date of a
//! report. Everything that is measured is measured with `Instant`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "the load test's only wall clock: tokens and the report's date"
)]
fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Seconds since 1970.
pub fn unix_now() -> i64 {
    i64::try_from(since_1970().as_secs()).unwrap_or(i64::MAX)
}

/// Now, as RFC 3339 in UTC.
pub fn now_text() -> String {
    OffsetDateTime::from_unix_timestamp(unix_now())
        .ok()
        .and_then(|now| now.format(&Rfc3339).ok())
        .unwrap_or_default()
}
