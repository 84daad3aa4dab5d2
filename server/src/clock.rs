//! The one clock. Times are for people and tokens; no order depends on them.

use std::sync::Arc;
use time::OffsetDateTime;

/// Tells the time; made once in `main`, passed to what needs it.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> OffsetDateTime + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::new(OffsetDateTime::now_utc)
    }

    /// A clock of the caller's choice.
    pub fn new(now: impl Fn() -> OffsetDateTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time now, UTC.
    pub fn now(&self) -> OffsetDateTime {
        (self.0)()
    }

    /// The same as stores write it: microseconds since 1970.
    pub fn micros(&self) -> i64 {
        (self.now().unix_timestamp_nanos() / 1_000) as i64
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
