//! How much is on disk, for operators: looked at when they ask, and not again
//! within a minute, so that nobody can make the database busy with it.

use crate::meters;
use crate::store::Store;
use std::sync::{Arc, Mutex};
use tokio::time::{Duration, Instant};

/// A figure may be so old.
const FRESH: Duration = Duration::from_secs(60);

/// How long whoever asks waits for it. Afterwards the figures of before are told, and
/// the new ones when they have come: nobody's view of a server ends with its database.
const PATIENCE: Duration = Duration::from_millis(500);

/// When it was last looked at.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    looked: Mutex<Option<Instant>>,
}

impl Storage {
    /// Looks, unless somebody is looking or has looked just now.
    pub(crate) async fn measure(&self, store: &Arc<dyn Store>) {
        {
            let mut looked = self.looked.lock().expect("BUG: no panic under this lock");
            if looked.is_some_and(|last| last.elapsed() < FRESH) {
                return;
            }
            // Before it is asked: a database in trouble is asked no more often.
            *looked = Some(Instant::now());
        }
        let store = Arc::clone(store);
        let question = tokio::spawn(async move {
            match store.storage().await {
                Ok(all) => {
                    for stored in all {
                        meters::storage(&stored.kind, stored.bytes);
                    }
                }
                Err(error) => tracing::warn!(%error, "the size of the database could not be read"),
            }
        });
        // It goes on by itself.
        let _ = tokio::time::timeout(PATIENCE, question).await;
    }
}
