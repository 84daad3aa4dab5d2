//! Where an upload tells that it has moved a user's head.

use super::board::Board;
use super::heads::Heads;
use super::notifier::Notifier;
use super::relay::Relay;
use actix::Addr;
use oversync_shared::{ServerId, UserId};

/// Tells this process's devices, and the other processes.
#[derive(Clone)]
pub struct Announcer {
    /// What this process knows; told before anybody else.
    pub heads: Heads,
    /// To this process's notifier.
    pub board: Board,
    /// The notifier itself.
    pub notifier: Addr<Notifier>,
    /// To the other processes, where there may be any.
    pub relay: Option<Relay>,
}

/// Held over an upload: unless its fate becomes known, the user's head is asked for
/// again, and devices are told. A panic counts as an error.
pub struct Doubt<'a> {
    announcer: &'a Announcer,
    user: &'a UserId,
}

/// What an upload did to its user's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Moved it to here.
    Moved(ServerId),
    /// Found it here.
    Found(ServerId),
}

impl Announcer {
    /// To be held from before the commit.
    pub fn doubt<'a>(&'a self, user: &'a UserId) -> Doubt<'a> {
        Doubt {
            announcer: self,
            user,
        }
    }

    /// A head that was found is told only when it is news here: somebody may not
    /// have come to tell of it.
    fn announce(&self, user: &UserId, head: Head) {
        let (Head::Moved(newest) | Head::Found(newest)) = head;
        let is_news = self.heads.raise(user, newest);
        let is_ours = matches!(head, Head::Moved(_));
        if is_news || is_ours {
            if is_ours {
                self.board.announce_commit(&self.notifier, user, newest);
            } else {
                self.board.announce(&self.notifier, user, newest);
            }
            if let Some(relay) = &self.relay {
                relay.publish(user, newest);
            }
        }
    }
}

impl Doubt<'_> {
    /// The upload is durable, or has changed nothing. Call it whoever still waits
    /// for the answer, and before anybody has it.
    pub fn settle(self, head: Head) {
        self.announcer.announce(self.user, head);
        // Nothing is left to doubt.
        std::mem::forget(self);
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        let (announcer, user) = (self.announcer.clone(), self.user.clone());
        announcer.heads.doubt(&user);
        // On a shared database heads are read again all the time.
        if announcer.heads.is_shared() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            match announcer.heads.now_of(&user).await {
                Ok(now) => announcer
                    .board
                    .announce(&announcer.notifier, &user, now.head),
                Err(error) => tracing::warn!(%error, "a head could not be read again"),
            }
        });
    }
}
