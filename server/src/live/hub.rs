//! Who is to be told what: a pure step function.
//!
//! Members (WebSocket sessions, waiting polls) of a user join first and learn
//! the head afterwards, so that no commit falls between. A user's announced
//! head only rises. Each member is told every head at most once, and only
//! higher ones. The notifier actor is a thin shell around this.

use oversync_shared::{ServerId, UserId};
use std::collections::HashMap;

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
    /// Most users have one or two; sorted, since members come in the order of their
    /// names.
    members: Vec<(M, Told)>,
}

impl<M: Copy + Ord> Audience<M> {
    fn place(&self, member: M) -> Result<usize, usize> {
        self.members
            .binary_search_by_key(&member, |(known, _)| *known)
    }
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

/// A member is to be told of a head: its first, or a higher one than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tell<M> {
    /// Whom.
    pub member: M,
    /// Everything up to here exists.
    pub head: ServerId,
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

impl<M: Copy + Ord> Hub<M> {
    /// A member registers. It is told nothing until its head is [`read`](Self::head_read).
    pub fn join(&mut self, user: &UserId, member: M) {
        let audience = self
            .audiences
            .entry(user.clone())
            .or_insert_with(|| Audience {
                announced: ServerId::ZERO,
                // Room for one: that is what thousands of connected users have.
                members: Vec::with_capacity(1),
            });
        match audience.place(member) {
            Ok(place) => audience.members[place].1 = Told::Nothing,
            Err(place) => audience.members.insert(place, (member, Told::Nothing)),
        }
    }

    /// The user's head was read from the database, after the member joined.
    pub fn head_read(&mut self, user: &UserId, member: M, head: ServerId) -> Option<Tell<M>> {
        let audience = self.audiences.get_mut(user)?;
        let place = audience.place(member).ok()?;
        let head = head.max(audience.announced);
        audience.members[place].1 = Told::UpTo(head);
        Some(Tell { member, head })
    }

    /// The user's stream has reached this head. Lower heads than one announced
    /// before say nothing new.
    pub fn announce(&mut self, user: &UserId, head: ServerId) -> Vec<Tell<M>> {
        let Some(audience) = self.audiences.get_mut(user) else {
            return Vec::new();
        };
        if head <= audience.announced {
            return Vec::new();
        }
        audience.announced = head;
        let mut tells = Vec::new();
        for (member, told) in &mut audience.members {
            if let Told::UpTo(after) = *told
                && after < head
            {
                *told = Told::UpTo(head);
                tells.push(Tell {
                    member: *member,
                    head,
                });
            }
        }
        tells
    }

    /// A member is gone.
    pub fn leave(&mut self, user: &UserId, member: M) {
        if let Some(audience) = self.audiences.get_mut(user) {
            if let Ok(place) = audience.place(member) {
                audience.members.remove(place);
            }
            if audience.members.is_empty() {
                self.audiences.remove(user);
            }
        }
    }

    /// A user's members.
    pub fn members_of(&self, user: &UserId) -> impl Iterator<Item = M> {
        let audience = self.audiences.get(user);
        let members = audience.into_iter().flat_map(|audience| &audience.members);
        members.map(|(member, _)| *member)
    }

    /// Users with members.
    pub fn users(&self) -> impl Iterator<Item = &UserId> {
        self.audiences.keys()
    }
}

#[cfg(test)]
mod tests;
