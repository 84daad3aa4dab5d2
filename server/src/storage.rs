//! How much is on disk, for operators: looked at when they ask, and not again
//! within a minute, so that nobody can make the database busy with it.

use crate::meters;
use crate::store::Store;
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

/// A figure may be so old.
const FRESH: Duration = Duration::from_secs(60);

/// When it was last looked at.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    looked: Mutex<Option<Instant>>,
}

impl Storage {
    /// Looks, unless somebody is looking or has looked just now.
    pub(crate) async fn measure(&self, store: &dyn Store) {
        let Ok(mut looked) = self.looked.try_lock() else {
            return;
        };
        if looked.is_some_and(|last| last.elapsed() < FRESH) {
            return;
        }
        match store.storage().await {
            Ok(all) => {
                for stored in all {
                    meters::storage(&stored.kind, stored.bytes);
                }
            }
            Err(error) => tracing::warn!(%error, "the size of the database could not be read"),
        }
        // Also after a failure: a database in trouble is asked no more often.
        *looked = Some(Instant::now());
    }
}
