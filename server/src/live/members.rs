//! The members of one process: sessions and waiting polls, and the way to each.
//!
//! Nobody is waited for: a session has a slot and a wake, a poll a watched head. The
//! hub decides who is told; the notifier owns both.

use super::connected::By;
use super::session::{Session, ToSession};
use super::slot::{HintSlot, delay};
use crate::meters;
use crate::store::RevokedDevices;
use actix::Addr;
use actix::prelude::SendError;
use oversync_shared::{DeviceId, ServerId, UserId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// Names a member within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(u64);

/// Somebody who is to be told of new heads.
pub(super) enum Member {
    Session {
        device: DeviceId,
        slot: Arc<HintSlot>,
        address: Addr<Session>,
    },
    Poll(watch::Sender<ServerId>),
}

/// All of them.
#[derive(Default)]
pub(super) struct Members {
    by_id: HashMap<MemberId, (UserId, Member)>,
    last: u64,
}

impl Members {
    pub(super) fn add(&mut self, user: UserId, member: Member) -> MemberId {
        self.last += 1;
        let id = MemberId(self.last);
        self.by_id.insert(id, (user, member));
        id
    }

    /// Whose it was, if it was there.
    pub(super) fn remove(&mut self, id: MemberId) -> Option<UserId> {
        self.by_id.remove(&id).map(|(user, _)| user)
    }

    pub(super) fn contains(&self, id: MemberId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Tells one of a head, of which the first commit was told to this process at
    /// `since`.
    pub(super) fn tell(&self, id: MemberId, head: ServerId, since: Option<Instant>) {
        match self.by_id.get(&id) {
            Some((_, Member::Session { slot, address, .. })) => {
                slot.raise(head, since);
                match address.try_send(ToSession::Say) {
                    Ok(()) => {}
                    // A full mailbox holds a wake already; a closed one is swept.
                    Err(SendError::Full(_)) => meters::hint_coalesced(),
                    Err(SendError::Closed(_)) => meters::hint_dropped(),
                }
            }
            Some((_, Member::Poll(sender))) => {
                sender.send_replace(head);
            }
            None => {}
        }
    }

    /// How it is connected; a poll that has ended stays until the next sweep.
    pub(super) fn by(&self, id: MemberId) -> Option<By> {
        self.by_id.get(&id).and_then(|(_, member)| member.by())
    }

    /// Everybody, and how.
    pub(super) fn connected(&self) -> impl Iterator<Item = (&UserId, By)> {
        let all = self.by_id.values();
        all.filter_map(|(user, member)| Some((user, member.by()?)))
    }

    /// The devices of those who are sessions.
    pub(super) fn devices_of(
        &self,
        ids: impl Iterator<Item = MemberId>,
    ) -> impl Iterator<Item = &DeviceId> {
        ids.filter_map(|id| match self.by_id.get(&id) {
            Some((_, Member::Session { device, .. })) => Some(device),
            Some((_, Member::Poll(_))) | None => None,
        })
    }

    /// Those who have ended without a word.
    pub(super) fn ended(&self) -> Vec<MemberId> {
        let all = self.by_id.iter();
        let ended = all.filter(|(_, (_, member))| match member {
            Member::Session { address, .. } => !address.connected(),
            Member::Poll(sender) => sender.is_closed(),
        });
        ended.map(|(id, _)| *id).collect()
    }

    /// Polls, ended ones too.
    pub(super) fn polls(&self) -> Vec<MemberId> {
        let all = self.by_id.iter();
        let polls = all.filter(|(_, (_, member))| matches!(member, Member::Poll(_)));
        polls.map(|(id, _)| *id).collect()
    }

    /// Sessions of users on this list look whether they are meant.
    pub(super) fn look_at(&self, list: &RevokedDevices) {
        for (user, member) in self.by_id.values() {
            if let Member::Session { address, .. } = member
                && list.any_of(user)
            {
                // A full mailbox holds a wake already, and each has it look.
                let _ = address.try_send(ToSession::Look);
            }
        }
    }

    /// Each session gets a time of its own to come back.
    pub(super) fn say_goodbye(&self) {
        let sessions = self.by_id.values().filter_map(|(_, member)| match member {
            Member::Session { slot, address, .. } => Some((slot, address)),
            Member::Poll(_) => None,
        });
        let count = u32::try_from(sessions.clone().count()).unwrap_or(u32::MAX);
        for (place, (slot, address)) in (0..).zip(sessions) {
            slot.say_goodbye(delay(place, count, rand::random()));
            // A full mailbox holds a wake already.
            let _ = address.try_send(ToSession::Look);
        }
    }
}

impl Member {
    fn by(&self) -> Option<By> {
        match self {
            Self::Session { .. } => Some(By::Session),
            Self::Poll(sender) => (!sender.is_closed()).then_some(By::Poll),
        }
    }
}
