//! Who is to be told what: a pure step function.
//!
//! Members (WebSocket sessions, waiting polls) of a user join first and learn
//! the head afterwards, so that no commit falls between. A user's announced
//! head only rises. Each member is told every head at most once, and only
//! higher ones. The notifier actor is a thin shell around this.

use oversync_shared::{ServerId, UserId};
use std::collections::HashMap;
use std::hash::Hash;

/// What a member has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Joined; its first head has not been read yet.
    Nothing,
    /// Knows of everything up to this head.
    UpTo(ServerId),
}

#[derive(Debug, Clone)]
struct Audience<M> {
    announced: ServerId,
    members: HashMap<M, Told>,
}

/// What a session says next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saying {
    /// Its first head.
    Hello(ServerId),
    /// New changes: after the last head it was told, up to this one.
    Changes(ServerId, ServerId),
}

/// What a session that was last `told` says of the newest head, if anything. While
/// too much is unread hints wait, and the newest alone comes of them.
pub fn say(told: Option<ServerId>, newest: ServerId, is_full: bool) -> Option<Saying> {
    match told {
        None => Some(Saying::Hello(newest)),
        Some(_) if is_full => None,
        Some(told) if told < newest => Some(Saying::Changes(told, newest)),
        Some(_) => None,
    }
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<M> {
    /// Tell the member its first head.
    Hello {
        /// Whom.
        member: M,
        /// Everything up to here exists.
        head: ServerId,
    },
    /// Tell the member of new changes.
    Changes {
        /// Whom.
        member: M,
        /// The last head it was told.
        after: ServerId,
        /// The head now.
        head: ServerId,
    },
}

/// The members of all connected users.
#[derive(Debug, Clone)]
pub struct Hub<M> {
    audiences: HashMap<UserId, Audience<M>>,
}

impl<M> Default for Hub<M> {
    fn default() -> Self {
        Self {
            audiences: HashMap::new(),
        }
    }
}

impl<M: Copy + Eq + Hash> Hub<M> {
    /// A member registers. It is told nothing until its head is [`read`](Self::head_read).
    pub fn join(&mut self, user: &UserId, member: M) {
        let audience = self
            .audiences
            .entry(user.clone())
            .or_insert_with(|| Audience {
                announced: ServerId::ZERO,
                members: HashMap::new(),
            });
        audience.members.insert(member, Told::Nothing);
    }

    /// The user's head was read from the database, after the member joined.
    pub fn head_read(&mut self, user: &UserId, member: M, head: ServerId) -> Option<Action<M>> {
        let audience = self.audiences.get_mut(user)?;
        let told = audience.members.get_mut(&member)?;
        let head = head.max(audience.announced);
        *told = Told::UpTo(head);
        Some(Action::Hello { member, head })
    }

    /// The user's stream has reached this head. Lower heads than one announced
    /// before say nothing new.
    pub fn announce(&mut self, user: &UserId, head: ServerId) -> Vec<Action<M>> {
        let Some(audience) = self.audiences.get_mut(user) else {
            return Vec::new();
        };
        if head <= audience.announced {
            return Vec::new();
        }
        audience.announced = head;
        let mut actions = Vec::new();
        for (&member, told) in &mut audience.members {
            if let Told::UpTo(after) = *told
                && after < head
            {
                *told = Told::UpTo(head);
                actions.push(Action::Changes {
                    member,
                    after,
                    head,
                });
            }
        }
        actions
    }

    /// A member is gone.
    pub fn leave(&mut self, user: &UserId, member: M) {
        if let Some(audience) = self.audiences.get_mut(user) {
            audience.members.remove(&member);
            if audience.members.is_empty() {
                self.audiences.remove(user);
            }
        }
    }

    /// Users with members.
    pub fn users(&self) -> impl Iterator<Item = &UserId> {
        self.audiences.keys()
    }
}

#[cfg(test)]
mod tests;
