//! Where no WebSocket gets through: one request at a time waits at the server
//! until there is something.
//!
//! Like a hint it only rings the engine, which downloads by itself; what the
//! request carries is thrown away. Only a server that says it can is asked, and
//! one that does not wait after all (a proxy that cuts, a server that answers at
//! once) is given up soon, so that this can never become a busy loop.

use crate::core::Core;
use crate::error::NetworkError;
use crate::listener::Signal;
use crate::state::State;
use oversync_shared::ServerId;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// How long one request asks to wait: below the half minute after which many
/// proxies cut a silent connection.
const WAIT: Duration = Duration::from_secs(25);

/// An answer without news that came sooner than this was not waited for.
const TOO_SOON: Duration = Duration::from_secs(5);

/// Between two requests when the server has not waited.
const PAUSE: Duration = Duration::from_secs(1);

/// How often in a row a request may be answered too soon or cut.
const PATIENCE: u32 = 3;

/// Why it ended.
pub(crate) enum End {
    /// It is time to try a WebSocket again.
    TimeIsUp,
    /// The server does not wait: there is nothing but polling.
    Useless,
    /// No answer.
    Lost(NetworkError),
    /// Nobody listens any more.
    Done,
}

/// Rings the engine until `deadline`.
pub(crate) async fn run(core: &Core, engine: &mpsc::Sender<Signal>, deadline: Instant) -> End {
    let state = match core.db.read(State::load).await {
        Ok(state) => state,
        // The client has been stopped.
        Err(_) => return End::Done,
    };
    let mut after = state.cursor;
    let mut failures = 0;
    if engine.send(Signal::LongPoll).await.is_err() {
        return End::Done;
    }
    while Instant::now() < deadline {
        let asked = Instant::now();
        let news = core.transport.news(after, &state.schema, WAIT).await;
        let waited = asked.elapsed() >= TOO_SOON;
        match news {
            Ok(page) => {
                let reached = page.head.unwrap_or(ServerId::ZERO).max(page.next_after);
                if reached > after {
                    failures = 0;
                    after = reached;
                    if engine.send(Signal::Head(reached)).await.is_err() {
                        return End::Done;
                    }
                    continue;
                }
                failures = if waited { 0 } else { failures + 1 };
            }
            // A proxy has lost its patience.
            Err(NetworkError::Unreachable(_)) if waited => failures += 1,
            Err(
                error @ (NetworkError::Unreachable(_)
                | NetworkError::Token(_)
                | NetworkError::Unauthorised
                | NetworkError::Overloaded { .. }),
            ) => return End::Lost(error),
            // The engine's own download says what this means.
            Err(error) => {
                tracing::debug!(%error, "no long poll");
                return End::Useless;
            }
        }
        if failures >= PATIENCE {
            return End::Useless;
        }
        if !waited {
            sleep(PAUSE).await;
        }
    }
    End::TimeIsUp
}
