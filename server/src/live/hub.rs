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

#[derive(Debug)]
struct Audience<M> {
    announced: ServerId,
    members: HashMap<M, Told>,
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
#[derive(Debug)]
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
mod tests {
    use super::*;

    fn user() -> UserId {
        UserId::new("u").expect("valid")
    }

    fn id(n: i64) -> ServerId {
        ServerId::new(n)
    }

    /// Every interleaving of one member's joining with commits 1 and 2: at the
    /// end it has been told of 2, in rising order, without a gap.
    #[test]
    fn no_commit_falls_between_joining_and_hello() {
        // The head is read some time after joining; announcements come some
        // time after their commits, perhaps in the wrong order.
        #[derive(Clone, Copy, PartialEq)]
        enum Step {
            Join,
            Read,
            Deliver,
            Commit(i64),
            Announce(i64),
        }
        use Step::{Announce, Commit, Deliver, Join, Read};
        fn explore(done: &mut Vec<Step>, left: &[Step], count: &mut usize) {
            if left.is_empty() {
                *count += 1;
                check(done);
                return;
            }
            for (index, step) in left.iter().enumerate() {
                let has = |wanted: Step| done.contains(&wanted);
                let allowed = match step {
                    Join | Commit(1) => true,
                    Read => has(Join),
                    Deliver => has(Read),
                    Commit(_) => has(Commit(1)),
                    Announce(n) => has(Commit(*n)),
                };
                if allowed {
                    let mut rest = left.to_vec();
                    rest.remove(index);
                    done.push(*step);
                    explore(done, &rest, count);
                    done.pop();
                }
            }
        }
        fn check(steps: &[Step]) {
            let mut hub = Hub::default();
            let (mut head, mut read, mut told) = (0, 0, None);
            for step in steps {
                let actions = match step {
                    Join => {
                        hub.join(&user(), 7);
                        vec![]
                    }
                    Read => {
                        read = head;
                        vec![]
                    }
                    Deliver => hub.head_read(&user(), 7, id(read)).into_iter().collect(),
                    Commit(n) => {
                        head = *n;
                        vec![]
                    }
                    Announce(n) => hub.announce(&user(), id(*n)),
                };
                for action in actions {
                    match action {
                        Action::Hello { head, .. } => {
                            assert_eq!(told, None);
                            told = Some(head);
                        }
                        Action::Changes { after, head, .. } => {
                            assert_eq!(told, Some(after));
                            assert!(after < head);
                            told = Some(head);
                        }
                    }
                }
            }
            assert_eq!(told, Some(id(2)));
        }
        let mut count = 0;
        explore(
            &mut Vec::new(),
            &[
                Join,
                Read,
                Deliver,
                Commit(1),
                Commit(2),
                Announce(1),
                Announce(2),
            ],
            &mut count,
        );
        assert!(count > 100, "{count} interleavings");
    }

    #[test]
    fn an_announced_head_only_rises() {
        let mut hub = Hub::default();
        hub.join(&user(), 1);
        hub.head_read(&user(), 1, id(5));
        assert_eq!(hub.announce(&user(), id(4)), vec![]);
        assert_eq!(
            hub.announce(&user(), id(6)),
            vec![Action::Changes {
                member: 1,
                after: id(5),
                head: id(6)
            }]
        );
        assert_eq!(hub.announce(&user(), id(6)), vec![]);
        assert_eq!(hub.announce(&user(), id(5)), vec![]);
        hub.leave(&user(), 1);
        assert_eq!(hub.users().count(), 0);
    }
}
