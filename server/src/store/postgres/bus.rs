//! Heads between the processes of one PostgreSQL database: LISTEN and NOTIFY.
//!
//! Published after the commit, never inside it (NOTIFY holds a lock over all
//! commits of the database), user and head only, many in one message. Losing a
//! message costs time: heads of connected users are read again every few
//! seconds.

use crate::store::{Bus, StoreError};
use async_trait::async_trait;
use oversync_shared::{ServerId, UserId};
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::mpsc;

const CHANNEL: &str = "oversync_heads";

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
        let payloads = payloads(&heads);
        sqlx::query("SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS p (payload)")
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
                for (user, head) in read(message.payload()) {
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

/// JSON arrays of pairs, each below the limit.
fn payloads(heads: &[(UserId, ServerId)]) -> Vec<String> {
    let mut payloads = Vec::new();
    let mut current = String::new();
    for head in heads {
        let pair = serde_json::to_string(head).expect("BUG: a pair serialises");
        if current.len() + pair.len() + 2 > MAX_PAYLOAD {
            payloads.push(format!("[{}]", std::mem::take(&mut current)));
        }
        if !current.is_empty() {
            current.push(',');
        }
        current.push_str(&pair);
    }
    if !current.is_empty() {
        payloads.push(format!("[{current}]"));
    }
    payloads
}

/// What is not understood is some other version's; the net below takes care.
fn read(payload: &str) -> Vec<(UserId, ServerId)> {
    let pairs: Vec<(String, ServerId)> = serde_json::from_str(payload).unwrap_or_default();
    pairs
        .into_iter()
        .filter_map(|(user, head)| Some((UserId::new(user).ok()?, head)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_below_the_limit_and_nothing_is_lost() {
        let heads: Vec<(UserId, ServerId)> = (0..500)
            .map(|n| {
                (
                    UserId::new(format!("{n}-{}", "ü".repeat(100))).expect("valid"),
                    ServerId::new(n),
                )
            })
            .collect();
        let messages = payloads(&heads);
        assert!(messages.len() > 1 && messages.iter().all(|message| message.len() < 8_000));
        let found: Vec<_> = messages.iter().flat_map(|message| read(message)).collect();
        assert_eq!(found, heads);
        assert!(payloads(&[]).is_empty() && read("{}").is_empty());
    }
}
