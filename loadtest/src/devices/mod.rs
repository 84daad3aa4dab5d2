//! The devices of a fleet: real ones with SQLite files and the real client, and
//! lean ones that only speak the protocol. Both hear of others' changes through
//! the same kind of listener where the load test has to look itself.

pub mod edits;
mod elsewhere;
pub mod lean;
mod listener;
mod matching;
pub mod real;
mod socket;

pub use lean::{Lean, LeanUser};
pub use real::{Real, RealUser};

use crate::measure::Recorder;
use crate::target::Target;
use std::sync::Arc;

/// What every device of a run needs.
#[derive(Clone)]
pub struct Surroundings {
    /// The server.
    pub target: Arc<Target>,
    /// Where latencies and errors go.
    pub recorder: Arc<Recorder>,
}

/// A task that ends with its handle.
#[derive(Debug)]
pub struct Background(pub tokio::task::JoinHandle<()>);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}
