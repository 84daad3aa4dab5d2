//! Carries announced heads between the processes that share a database.

use super::board::Board;
use super::heads::Heads;
use super::notifier::Notifier;
use crate::store::Bus;
use actix::Addr;
use oversync_shared::{ServerId, UserId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long heads are gathered before they are published: many commits become
/// one message, and nobody notices.
const GATHER: Duration = Duration::from_millis(3);

/// How long to wait before listening again when the bus cannot be reached.
const RETRY: Duration = Duration::from_secs(1);

/// Heads on their way to the other processes.
#[derive(Debug, Clone, Default)]
pub struct Relay {
    waiting: Arc<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    heads: Mutex<Gathered>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Gathered {
    heads: HashMap<UserId, ServerId>,
    /// When the first of them came.
    since: Option<Instant>,
}

impl Relay {
    /// Takes a head to be published; at most the newest of each user waits.
    pub fn publish(&self, user: &UserId, head: ServerId) {
        let mut gathered = self
            .waiting
            .heads
            .lock()
            .expect("BUG: no panic under this lock");
        gathered.since.get_or_insert_with(Instant::now);
        let newest = gathered.heads.entry(user.clone()).or_insert(head);
        *newest = head.max(*newest);
        drop(gathered);
        self.waiting.wake.notify_one();
    }

    /// Starts both directions on the current runtime; they end with it.
    pub fn start(&self, bus: Arc<dyn Bus>, heads: Heads, board: Board, notifier: Addr<Notifier>) {
        tokio::spawn(send(self.waiting.clone(), bus.clone()));
        tokio::spawn(receive(bus, heads, board, notifier));
    }
}

async fn send(waiting: Arc<Waiting>, bus: Arc<dyn Bus>) {
    let mut is_lost = false;
    loop {
        waiting.wake.notified().await;
        tokio::time::sleep(GATHER).await;
        let Gathered { heads, since } =
            std::mem::take(&mut *waiting.heads.lock().expect("BUG: no panic under this lock"));
        let published = bus.publish(heads.into_iter().collect()).await;
        if let Some(since) = since {
            crate::meters::published(published.is_ok(), since.elapsed());
        }
        match &published {
            Ok(()) if is_lost => tracing::info!("heads are published to other processes again"),
            // Not sent again: the other processes read heads themselves, later.
            Err(error) if !is_lost => {
                tracing::warn!(%error, "heads cannot be published to the other processes");
            }
            Ok(()) | Err(_) => {}
        }
        is_lost = published.is_err();
    }
}

async fn receive(bus: Arc<dyn Bus>, heads: Heads, board: Board, notifier: Addr<Notifier>) {
    while notifier.connected() {
        match bus.listen().await {
            Ok(mut told) => {
                while let Some((user, head)) = told.recv().await {
                    crate::meters::head_heard();
                    heads.raise(&user, head);
                    board.announce(&notifier, &user, head);
                }
            }
            Err(error) => tracing::warn!(%error, "not listening for the heads of other processes"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
