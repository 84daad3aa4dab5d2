//! Waiting for something to become true, with a deadline that says what did not.

use std::future::Future;
use std::time::{Duration, Instant};

/// Long enough for a busy machine with a slow disk; a test that needs it has failed.
/// Promises about time are not held against it, but by [`within`].
const DEADLINE: Duration = Duration::from_secs(60);

/// Between attempts: short against everything measured in human terms.
const PAUSE: Duration = Duration::from_millis(15);

/// Tries until `attempt` gives something.
///
/// # Panics
/// When a minute has passed; the message names `what`.
pub async fn eventually<T, F>(what: &str, attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    within(DEADLINE, what, attempt).await
}

/// [`eventually`] with a deadline of its own, for promises about time.
///
/// # Panics
/// When the deadline has passed; the message names `what`.
pub async fn within<T, F>(deadline: Duration, what: &str, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(
            start.elapsed() < deadline,
            "not within {deadline:?}: {what}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}
