//! The notifier actor: a shell around the hub.
//!
//! It registers sessions and waiting polls, reads heads in batches, and passes
//! announced heads on. It never waits for a member: each has a slot for the
//! newest head and a wake.

use super::board::{Board, Notice};
use super::connected::By;
use super::feed::{Event, Feed};
use super::heads::Heads;
use super::hub::{Hub, Tell};
use super::members::{Member, MemberId, Members};
use super::newest::Newest;
use super::quiet::Quiet;
use super::session::{Session, ToSession};
use super::slot::{HintSlot, delay};
use crate::meters;
use crate::store::RevokedDevices;
use actix::prelude::*;
use oversync_shared::{DeviceId, ServerId, UserId};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Joins and leaves that may wait. Announcements go over the board and need one
/// place only.
const MAX_WAITING: usize = 16_384;

/// How often the heads of connected users are read again when other processes
/// write to the same database: the net below their hints.
const REREAD: Duration = Duration::from_secs(2);

/// How often those who have joined are greeted at most, each time with one question
/// for all of them: the first at once. In a storm nobody notices, and the database has
/// 50 questions in a second.
const GREET: Duration = Duration::from_millis(20);

/// How soon heads are read again after the database failed.
const RETRY: Duration = Duration::from_millis(500);

/// How often members whose end was not noticed are cleared away.
const SWEEP: Duration = Duration::from_secs(15);

/// Whether the heads of those who have joined may be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    /// Yes.
    Free,
    /// They wait for more to join.
    Pausing,
    /// Heads are being read.
    Reading,
    /// The database has failed: not before some time has passed.
    Failed,
}

/// Knows every connected device of this process.
pub struct Notifier {
    heads: Heads,
    quiet: Quiet,
    newest: Newest,
    board: Board,
    feed: Arc<Feed>,
    hub: Hub<MemberId>,
    members: Members,
    to_greet: Vec<(UserId, Option<DeviceId>, MemberId)>,
    greeting: Greeting,
    /// When somebody was greeted last.
    greeted: Option<Instant>,
    rereading: bool,
    is_closing: bool,
}

/// A session wants hints.
#[derive(Message)]
#[rtype(result = "MemberId")]
pub struct JoinSession {
    pub(super) user: UserId,
    pub(super) device: DeviceId,
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
    pub fn new(heads: Heads, quiet: Quiet, newest: Newest, board: Board, feed: Arc<Feed>) -> Self {
        Self {
            heads,
            quiet,
            newest,
            board,
            feed,
            hub: Hub::default(),
            members: Members::default(),
            to_greet: Vec::new(),
            greeting: Greeting::Free,
            greeted: None,
            rereading: false,
            is_closing: false,
        }
    }

    /// A session says which device it is, and is spared the first page when there is
    /// nothing new for it.
    fn join(
        &mut self,
        user: UserId,
        device: Option<DeviceId>,
        member: Member,
        ctx: &mut Context<Self>,
    ) -> MemberId {
        let id = self.members.add(user.clone(), member);
        self.hub.join(&user, id);
        self.newest.asks(&user);
        self.to_greet.push((user, device, id));
        self.read_heads(ctx);
        id
    }

    fn leave(&mut self, id: MemberId) {
        if let Some(user) = self.members.remove(id) {
            self.hub.leave(&user, id);
        }
    }

    /// Reads the heads of all who have joined since the last reading, at once.
    fn read_heads(&mut self, ctx: &mut Context<Self>) {
        match self.greeting {
            Greeting::Reading | Greeting::Failed => return,
            Greeting::Free | Greeting::Pausing if self.to_greet.is_empty() => return,
            Greeting::Free | Greeting::Pausing => {}
        }
        let early = self
            .greeted
            .map_or(Duration::ZERO, |last| GREET.saturating_sub(last.elapsed()));
        // A poll is a request that somebody waits for.
        let mut devices = self.to_greet.iter().map(|(_, device, _)| device);
        if !early.is_zero() && devices.all(Option::is_some) {
            if self.greeting == Greeting::Free {
                self.greet_after(early, Greeting::Pausing, ctx);
            }
            return;
        }
        self.greeting = Greeting::Reading;
        self.greeted = Some(Instant::now());
        let joined = std::mem::take(&mut self.to_greet);
        let who: Vec<_> = joined
            .iter()
            .map(|(user, device, _)| (user.clone(), device.clone()))
            .collect();
        let source = self.quiet.clone();
        let read = async move { source.greet(&who).await };
        ctx.spawn(read.into_actor(self).map(move |heads, actor, ctx| {
            match heads {
                Ok(heads) => {
                    for (user, _, member) in joined {
                        let head = heads.get(&user).copied().unwrap_or(ServerId::ZERO);
                        let tell = actor.hub.head_read(&user, member, head);
                        actor.perform(tell, None);
                    }
                    actor.greeting = Greeting::Free;
                    actor.read_heads(ctx);
                }
                Err(error) => {
                    tracing::warn!(%error, sessions = joined.len(), "heads could not be read; trying again");
                    actor.to_greet.extend(joined);
                    // Devices come and go while the database is away.
                    let members = &actor.members;
                    actor.to_greet.retain(|(_, _, id)| members.contains(*id));
                    actor.greet_after(RETRY, Greeting::Failed, ctx);
                }
            }
        }));
    }

    /// Reads heads after some time, unless it has come to that before.
    fn greet_after(&mut self, wait: Duration, meanwhile: Greeting, ctx: &mut Context<Self>) {
        self.greeting = meanwhile;
        ctx.run_later(wait, move |actor, ctx| {
            if actor.greeting == meanwhile {
                actor.greeting = Greeting::Free;
                actor.read_heads(ctx);
            }
        });
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
        let tells = self.hub.announce(user, notice.head);
        let is_news = !tells.is_empty();
        if is_news {
            self.feed.tell(user, self.hint_of(&tells, notice.head));
        }
        self.perform(tells, notice.since);
        is_news
    }

    fn perform(&mut self, tells: impl IntoIterator<Item = Tell<MemberId>>, since: Option<Instant>) {
        for Tell { member, head } in tells {
            self.members.tell(member, head, since);
        }
    }

    fn hint_of(&self, tells: &[Tell<MemberId>], head: ServerId) -> Event {
        let (mut sessions, mut polls) = (0, 0);
        for tell in tells {
            match self.members.by(tell.member) {
                Some(By::Session) => sessions += 1,
                Some(By::Poll) => polls += 1,
                None => {}
            }
        }
        Event::Hint {
            head,
            sessions,
            polls,
        }
    }

    /// Everybody, and how.
    pub(super) fn connected(&self) -> impl Iterator<Item = (&UserId, By)> {
        self.members.connected()
    }

    /// The device of each of a user's sessions.
    pub(super) fn sessions_of(&self, user: &UserId) -> impl Iterator<Item = &DeviceId> {
        self.members.devices_of(self.hub.members_of(user))
    }

    fn take_announcements(&mut self) {
        for (user, notice) in self.board.take() {
            self.announce(&user, notice);
        }
    }

    fn sweep(&mut self) {
        self.take_announcements();
        for id in self.members.ended() {
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
            device: join.device.clone(),
            slot: join.slot,
            address: join.address,
        };
        MessageResult(self.join(join.user, Some(join.device), member, ctx))
    }
}

impl Handler<Watch> for Notifier {
    type Result = MessageResult<Watch>;

    fn handle(&mut self, watch: Watch, ctx: &mut Self::Context) -> Self::Result {
        let (sender, receiver) = watch::channel(ServerId::ZERO);
        // One that comes after the bye is answered at once, as those before it were.
        if !self.is_closing {
            self.join(watch.user, None, Member::Poll(sender), ctx);
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
        self.members.look_at(&list);
    }
}

impl Handler<ShutDown> for Notifier {
    type Result = ();

    fn handle(&mut self, _: ShutDown, _: &mut Self::Context) {
        self.is_closing = true;
        self.members.say_goodbye();
        for id in self.members.polls() {
            self.leave(id);
        }
    }
}
