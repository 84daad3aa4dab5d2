//! Where an upload tells that it has moved a user's head.

use super::board::Board;
use super::notifier::Notifier;
use super::relay::Relay;
use actix::Addr;
use oversync_shared::{ServerId, UserId};

/// Tells this process's devices, and the other processes.
#[derive(Debug, Clone)]
pub struct Announcer {
    /// To this process's notifier.
    pub board: Board,
    /// The notifier itself.
    pub notifier: Addr<Notifier>,
    /// To the other processes, where there may be any.
    pub relay: Option<Relay>,
}

impl Announcer {
    /// Call it after the commit is durable, whoever still waits for the answer.
    pub fn announce(&self, user: &UserId, head: ServerId) {
        self.board.announce(&self.notifier, user, head);
        if let Some(relay) = &self.relay {
            relay.publish(user, head);
        }
    }
}
