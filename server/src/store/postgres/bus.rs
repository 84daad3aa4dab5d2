//! Heads between the processes of one PostgreSQL database: LISTEN and NOTIFY.
//!
//! Published after the commit, never inside it (NOTIFY holds a lock over all
//! commits of the database), user and head only, many in one message. Losing a
//! message costs time: heads of connected users are read again every few
//! seconds.

use crate::store::{Bus, StoreError, heads_message};
use async_trait::async_trait;
use oversync_shared::{ServerId, UserId};
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::mpsc;

const CHANNEL: &str = "oversync_heads";

/// Not flushed to disk: nothing is written, a lost message costs a moment, and the
/// commits that are told of need the disk for themselves.
const NOTIFY: &str = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, payload) \
    FROM unnest($2::text[]) AS p (payload)";

/// NOTIFY takes less than 8,000 bytes (PostgreSQL documentation, NOTIFY).
const MAX_PAYLOAD: usize = 7_900;

/// Heads of other processes that may wait for the notifier.
const MAX_WAITING: usize = 4_096;

pub(super) struct PostgresBus {
    pub(super) pool: PgPool,
}

#[async_trait]
impl Bus for PostgresBus {
    async fn publish(&self, heads: Vec<(UserId, ServerId)>) -> Result<(), StoreError> {
        let payloads = heads_message::write(&heads, MAX_PAYLOAD);
        sqlx::query(NOTIFY)
            .bind(CHANNEL)
            .bind(payloads)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn listen(&self) -> Result<mpsc::Receiver<(UserId, ServerId)>, StoreError> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        // The pool's other connections are for requests; this one is ours.
        listener.ignore_pool_close_event(false);
        listener.listen(CHANNEL).await?;
        let (sender, heads) = mpsc::channel(MAX_WAITING);
        tokio::spawn(async move {
            // A lost connection is made again inside `recv`; it fails for good
            // only when the pool is closed.
            while let Ok(message) = listener.recv().await {
                for (user, head) in heads_message::read(message.payload().as_bytes()) {
                    if sender.send((user, head)).await.is_err() {
                        return;
                    }
                }
            }
            tracing::debug!("no longer listening for the heads of other processes");
        });
        Ok(heads)
    }
}
