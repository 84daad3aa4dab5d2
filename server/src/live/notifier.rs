//! The notifier actor: a shell around the hub.
//!
//! It registers sessions and waiting polls, reads heads in batches, and passes
//! announced heads on. It never waits for a member: each has a slot for the
//! newest head and a wake.

use super::board::{Board, Notice};
use super::heads::Heads;
use super::hub::{Action, Hub};
use super::session::{Session, ToSession};
use crate::meters;
use crate::store::RevokedDevices;
use actix::prelude::*;
use oversync_shared::{ServerId, UserId};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Joins and leaves that may wait. Announcements go over the board and need one
/// place only.
const MAX_WAITING: usize = 16_384;

/// How often the heads of connected users are read again when other processes
/// write to the same database: the net below their hints.
const REREAD: Duration = Duration::from_secs(2);

/// How soon heads are read again after the database failed.
const RETRY: Duration = Duration::from_millis(500);

/// How often members whose end was not noticed are cleared away.
const SWEEP: Duration = Duration::from_secs(15);

/// Names a member within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(u64);

/// What a session is to be told: each wake has it look here.
#[derive(Debug, Default)]
pub struct HintSlot {
    /// The newest head.
    head: AtomicI64,
    /// The first commit of this process that the device has not been told of.
    since: Mutex<Option<Instant>>,
    /// Once the server stops, how long the device is to stay away, in milliseconds
    /// and one more.
    goodbye: AtomicU64,
}

impl HintSlot {
    fn raise(&self, head: ServerId, since: Option<Instant>) {
        self.head.fetch_max(head.get(), Ordering::AcqRel);
        if since.is_some() {
            let mut first = self.since.lock().expect("BUG: no panic under this lock");
            *first = first.or(since);
        }
    }

    /// How long ago the first commit was that the device is now told of; none where
    /// none of this process is among them.
    pub(super) fn told(&self) -> Option<Duration> {
        let mut first = self.since.lock().expect("BUG: no panic under this lock");
        Some(first.take()?.elapsed())
    }

    /// The newest head.
    pub fn head(&self) -> ServerId {
        ServerId::new(self.head.load(Ordering::Acquire))
    }

    fn say_goodbye(&self, away: Duration) {
        let away = u64::try_from(away.as_millis()).unwrap_or(u64::MAX - 1);
        self.goodbye.store(away + 1, Ordering::Release);
    }

    /// Whether the server stops: for how many milliseconds the device is to stay
    /// away.
    pub fn goodbye(&self) -> Option<u64> {
        self.goodbye.load(Ordering::Acquire).checked_sub(1)
    }
}

/// After a restart devices come back over at least this time …
const SPREAD: Duration = Duration::from_secs(2);

/// … and no more than so many in a second.
const RETURNS_PER_SECOND: u32 = 1_000;

/// The own delay of the device at this place among `count`: one after another, each
/// at some moment of its own slot.
fn delay(place: u32, count: u32, chance: f64) -> Duration {
    let spread = SPREAD.max(Duration::from_secs(1) * count / RETURNS_PER_SECOND);
    (spread / count.max(1)).mul_f64(f64::from(place) + chance)
}

enum Member {
    Session {
        slot: Arc<HintSlot>,
        address: Addr<Session>,
    },
    Poll(watch::Sender<ServerId>),
}

/// Knows every connected device of this process.
pub struct Notifier {
    heads: Heads,
    board: Board,
    hub: Hub<MemberId>,
    members: HashMap<MemberId, (UserId, Member)>,
    last_member: u64,
    to_greet: Vec<(UserId, MemberId)>,
    reading: bool,
    rereading: bool,
    is_closing: bool,
}

/// A session wants hints.
#[derive(Message)]
#[rtype(result = "MemberId")]
pub struct JoinSession {
    pub(super) user: UserId,
    pub(super) slot: Arc<HintSlot>,
    pub(super) address: Addr<Session>,
}

/// A waiting poll wants to know of new heads. The receiver's drop ends it.
#[derive(Message)]
#[rtype(result = "watch::Receiver<ServerId>")]
pub struct Watch {
    /// Whose.
    pub user: UserId,
}

/// A session has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Leave(pub(super) MemberId);

/// There is something on the board.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct TakeAnnouncements;

/// Every session gets its `bye`, every waiting poll its answer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ShutDown;

/// The list of revoked devices has changed: sessions of its users look whether
/// they are on it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct LookAtRevoked(pub Arc<RevokedDevices>);

impl Notifier {
    /// An actor for one store's heads and board; to be started.
    pub fn new(heads: Heads, board: Board) -> Self {
        Self {
            heads,
            board,
            hub: Hub::default(),
            members: HashMap::new(),
            last_member: 0,
            to_greet: Vec::new(),
            reading: false,
            rereading: false,
            is_closing: false,
        }
    }

    fn join(&mut self, user: UserId, member: Member, ctx: &mut Context<Self>) -> MemberId {
        self.last_member += 1;
        let id = MemberId(self.last_member);
        self.hub.join(&user, id);
        self.members.insert(id, (user.clone(), member));
        self.to_greet.push((user, id));
        self.read_heads(ctx);
        id
    }

    fn leave(&mut self, id: MemberId) {
        if let Some((user, _)) = self.members.remove(&id) {
            self.hub.leave(&user, id);
        }
    }

    /// Reads the heads of all who have joined since the last reading, at once.
    fn read_heads(&mut self, ctx: &mut Context<Self>) {
        if self.reading || self.to_greet.is_empty() {
            return;
        }
        self.reading = true;
        let joined = std::mem::take(&mut self.to_greet);
        let users: Vec<UserId> = joined
            .iter()
            .map(|(user, _)| user.clone())
            .collect::<HashSet<_>>()
            .into_iter()
            .collect();
        let source = self.heads.clone();
        let read = async move { source.now(&users).await };
        ctx.spawn(read.into_actor(self).map(move |heads, actor, ctx| {
            actor.reading = false;
            match heads {
                Ok(heads) => {
                    for (user, member) in joined {
                        let head = heads.get(&user).copied().unwrap_or(ServerId::ZERO);
                        let action = actor.hub.head_read(&user, member, head);
                        actor.perform(action, None);
                    }
                    actor.read_heads(ctx);
                }
                Err(error) => {
                    tracing::warn!(%error, sessions = joined.len(), "heads could not be read; trying again");
                    actor.to_greet.extend(joined);
                    ctx.run_later(RETRY, |actor, ctx| actor.read_heads(ctx));
                }
            }
        }));
    }

    fn reread_heads(&mut self, ctx: &mut Context<Self>) {
        let users: Vec<UserId> = self.hub.users().cloned().collect();
        if users.is_empty() || self.rereading {
            return;
        }
        self.rereading = true;
        let source = self.heads.clone();
        let read = async move { source.now(&users).await };
        ctx.spawn(read.into_actor(self).map(|heads, actor, _| {
            actor.rereading = false;
            match heads {
                Ok(heads) => {
                    for (user, head) in heads {
                        let since = None;
                        if actor.announce(&user, Notice { head, since }) {
                            meters::head_missed();
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "heads could not be read"),
            }
        }));
    }

    /// Whether it was news to anybody.
    fn announce(&mut self, user: &UserId, notice: Notice) -> bool {
        let actions = self.hub.announce(user, notice.head);
        let is_news = !actions.is_empty();
        self.perform(actions, notice.since);
        is_news
    }

    fn perform(
        &mut self,
        actions: impl IntoIterator<Item = Action<MemberId>>,
        since: Option<Instant>,
    ) {
        for action in actions {
            let (Action::Hello { member, head } | Action::Changes { member, head, .. }) = action;
            match self.members.get(&member) {
                Some((_, Member::Session { slot, address })) => {
                    slot.raise(head, since);
                    let message = match action {
                        Action::Hello { .. } => ToSession::Hello,
                        Action::Changes { .. } => ToSession::Changes,
                    };
                    match address.try_send(message) {
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
    }

    fn take_announcements(&mut self) {
        for (user, notice) in self.board.take() {
            self.announce(&user, notice);
        }
    }

    fn sweep(&mut self) {
        self.take_announcements();
        let gone: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, (_, member))| match member {
                Member::Session { address, .. } => !address.connected(),
                Member::Poll(sender) => sender.is_closed(),
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.leave(id);
        }
    }
}

impl Actor for Notifier {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAX_WAITING);
        ctx.run_interval(SWEEP, |actor, _| actor.sweep());
        if self.heads.is_shared() {
            ctx.run_interval(REREAD, |actor, ctx| actor.reread_heads(ctx));
        }
    }
}

impl Handler<JoinSession> for Notifier {
    type Result = MessageResult<JoinSession>;

    fn handle(&mut self, join: JoinSession, ctx: &mut Self::Context) -> Self::Result {
        if self.is_closing {
            // It came while the others were told.
            join.slot.say_goodbye(delay(0, 1, rand::random()));
            let _ = join.address.try_send(ToSession::Look);
        }
        let member = Member::Session {
            slot: join.slot,
            address: join.address,
        };
        MessageResult(self.join(join.user, member, ctx))
    }
}

impl Handler<Watch> for Notifier {
    type Result = MessageResult<Watch>;

    fn handle(&mut self, watch: Watch, ctx: &mut Self::Context) -> Self::Result {
        let (sender, receiver) = watch::channel(ServerId::ZERO);
        // One that comes after the bye is answered at once, as those before it were.
        if !self.is_closing {
            self.join(watch.user, Member::Poll(sender), ctx);
        }
        MessageResult(receiver)
    }
}

impl Handler<Leave> for Notifier {
    type Result = ();

    fn handle(&mut self, leave: Leave, _: &mut Self::Context) {
        self.leave(leave.0);
    }
}

impl Handler<TakeAnnouncements> for Notifier {
    type Result = ();

    fn handle(&mut self, _: TakeAnnouncements, _: &mut Self::Context) {
        self.take_announcements();
    }
}

impl Handler<LookAtRevoked> for Notifier {
    type Result = ();

    fn handle(&mut self, LookAtRevoked(list): LookAtRevoked, _: &mut Self::Context) {
        for (user, member) in self.members.values() {
            if let Member::Session { address, .. } = member
                && list.any_of(user)
            {
                // A full mailbox holds a wake already, and each has it look.
                let _ = address.try_send(ToSession::Look);
            }
        }
    }
}

impl Handler<ShutDown> for Notifier {
    type Result = ();

    fn handle(&mut self, _: ShutDown, _: &mut Self::Context) {
        self.is_closing = true;
        let sessions = self
            .members
            .values()
            .filter_map(|(_, member)| match member {
                Member::Session { slot, address } => Some((slot, address)),
                Member::Poll(_) => None,
            });
        let count = u32::try_from(sessions.clone().count()).unwrap_or(u32::MAX);
        for (place, (slot, address)) in (0..).zip(sessions) {
            slot.say_goodbye(delay(place, count, rand::random()));
            // A full mailbox holds a wake already.
            let _ = address.try_send(ToSession::Look);
        }
        let polls = self
            .members
            .iter()
            .filter(|(_, (_, member))| matches!(member, Member::Poll(_)));
        for id in polls.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.leave(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_come_back_one_after_another() {
        for (count, seconds) in [(1, 2), (100, 2), (2_000, 2), (5_000, 5), (20_000, 20)] {
            let whole = Duration::from_secs(seconds);
            let delays = (0..count).map(|place| delay(place, count, 0.5));
            for (place, delay) in (0..).zip(delays) {
                let slot = whole / count;
                assert!(
                    delay >= slot * place && delay <= slot * (place + 1),
                    "{delay:?}"
                );
            }
        }
    }
}
