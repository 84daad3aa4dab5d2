//! Heads between processes over NATS, in place of what the database offers: for
//! fleets whose hints should not be the database's work.
//!
//! User and head only, many in one message, on one subject per deployment and
//! history: after a restore on another one, also in a process beneath which the
//! database was restored, so that no head of the lost history is heard. The connection is made again by itself, and a server that cannot be
//! reached keeps nobody from starting. Losing a message costs time: heads of
//! connected users are read again every few seconds.

use crate::epoch::Epoch;
use crate::settings::NatsSettings;
use crate::store::{Bus, StoreError, heads_message};
use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event};
use async_trait::async_trait;
use futures_util::StreamExt as _;
use oversync_shared::{ServerId, UserId};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Far below the megabyte that a NATS server takes by default.
const MAX_PAYLOAD: usize = 64 * 1024;

/// Heads of other processes that may wait for the notifier; messages beyond are
/// lost.
const MAX_WAITING: usize = 4_096;

/// How soon a silent connection is noticed: after two of these.
const PING: Duration = Duration::from_secs(5);

/// Before connecting again: twice as long each time, within these.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// How long a message may wait to be sent.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why NATS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The credentials.
    #[error("nats.credentials_file: {0}")]
    Credentials(std::io::Error),
    /// The address, or TLS.
    #[error("nats.url: {0}")]
    Connect(#[from] async_nats::ConnectError),
}

/// A connection to NATS.
pub struct NatsBus {
    client: Client,
    /// What the settings say; behind it stands the history.
    subject: String,
    epoch: Epoch,
}

impl NatsBus {
    /// Connects in the background, where the settings name a server. `epoch` is the
    /// database's history: heads of another are not this one's.
    pub(crate) async fn start(
        settings: &NatsSettings,
        epoch: Epoch,
    ) -> Result<Option<Self>, NatsError> {
        let Some(url) = &settings.url else {
            return Ok(None);
        };
        let mut options = ConnectOptions::new()
            .name("oversync")
            .retry_on_initial_connect()
            .no_echo()
            .ping_interval(PING)
            .subscription_capacity(MAX_WAITING)
            .reconnect_delay_callback(delay)
            .event_callback(async |event| tell(&event));
        if let Some(path) = &settings.credentials_file {
            options = options
                .credentials_file(path)
                .await
                .map_err(NatsError::Credentials)?;
        }
        let client = options.connect(url.expose()).await?;
        Ok(Some(Self {
            client,
            subject: settings.subject.clone(),
            epoch,
        }))
    }

    /// Where heads of this history travel.
    fn subject(&self, epoch: &str) -> String {
        let history: String = epoch
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .collect();
        format!("{}.{history}", self.subject)
    }

    async fn send(&self, payload: String) -> Result<(), String> {
        self.client
            .publish(self.subject(&self.epoch.now()), payload.into())
            .await
            .map_err(|error| error.to_string())
    }
}

fn delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    let longest = FIRST_DELAY
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(LONGEST_DELAY);
    // Not all processes at the same moment.
    longest.mul_f64(rand::random_range(0.5..1.0))
}

fn tell(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected => {
            tracing::warn!("not connected to NATS: hints of other processes come late");
        }
        Event::SlowConsumer(_) => tracing::warn!("heads of other processes came too fast"),
        // A server that is away says so again and again.
        Event::ClientError(error) => tracing::debug!(%error, "NATS"),
        Event::ServerError(error) => tracing::warn!(%error, "NATS"),
        Event::LameDuckMode | Event::Draining | Event::Closed => tracing::debug!(%event, "NATS"),
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn publish(&self, heads: Vec<(UserId, ServerId)>) -> Result<(), StoreError> {
        // What would wait for a connection is old news when there is one.
        if self.client.connection_state() != State::Connected {
            return Err(StoreError::Failed("not connected to NATS".to_owned()));
        }
        for payload in heads_message::write(&heads, MAX_PAYLOAD) {
            timeout(PATIENCE, self.send(payload))
                .await
                .map_err(|_| StoreError::Failed("NATS takes no messages".to_owned()))?
                .map_err(|error| StoreError::Failed(format!("NATS: {error}")))?;
        }
        Ok(())
    }

    async fn listen(&self) -> Result<mpsc::Receiver<(UserId, ServerId)>, StoreError> {
        let mut history = self.epoch.follow();
        let subject = self.subject(&history.borrow_and_update());
        let mut messages = self
            .client
            .subscribe(subject)
            .await
            .map_err(|error| StoreError::Failed(format!("NATS: {error}")))?;
        let (sender, heads) = mpsc::channel(MAX_WAITING);
        tokio::spawn(async move {
            // Subscriptions outlive a lost connection, and end with their history.
            loop {
                let message = tokio::select! {
                    message = messages.next() => message,
                    _ = history.changed() => return,
                };
                // NATS lets nobody in any more: whoever listens asks again.
                let Some(message) = message else { return };
                for (user, head) in heads_message::read(&message.payload) {
                    if sender.send((user, head)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(heads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_bound() {
        assert!(delay(1) <= FIRST_DELAY);
        for attempts in [0, 1, 5, 40, usize::MAX] {
            let delay = delay(attempts);
            assert!(
                delay >= FIRST_DELAY / 2 && delay <= LONGEST_DELAY,
                "{delay:?}"
            );
        }
    }
}
