//! The database's history, as this process has read it last.
//!
//! A shared database may be restored beneath a running server, which nobody tells it.
//! Every answer of the database names its epoch: who reads one says so here, and whoever
//! works for one history only follows.

use std::sync::Arc;
use tokio::sync::watch;

/// The newest that was read. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Epoch(Arc<watch::Sender<Arc<str>>>);

impl Epoch {
    /// As the store says at the start.
    pub(crate) fn new(epoch: Arc<str>) -> Self {
        Self(Arc::new(watch::Sender::new(epoch)))
    }

    /// As it was read last.
    pub(crate) fn now(&self) -> Arc<str> {
        Arc::clone(&self.0.borrow())
    }

    /// The database has said which history it holds.
    pub(crate) fn saw(&self, now: &Arc<str>) {
        if *self.0.borrow() == *now {
            return;
        }
        self.0.send_if_modified(|epoch| {
            if *epoch == *now {
                return false;
            }
            tracing::warn!(before = %*epoch, %now, "the database was restored beneath this server: it has another epoch");
            *epoch = Arc::clone(now);
            true
        });
    }

    /// For who has to know when it changes.
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<str>> {
        self.0.subscribe()
    }
}
