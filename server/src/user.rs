//! One actor per active user of this process: it takes that user's uploads one
//! at a time, in the order they arrive.
//!
//! The actor is a cache and a queue, never the lock: another process may serve
//! the same user at the same time, and the store's guard keeps both right.
//! Idle actors end; the next upload starts a new one with an empty cache.

use crate::commit::Lanes;
use crate::live::{Announcer, Event, Feed, Head};
use crate::meters::Waiting;
use crate::quotas::Quotas;
use crate::store::{Store, StoreError};
use crate::upload::{self, Applied, Upload, UploadError, UserCache, Way};
use actix::prelude::*;
use futures_util::FutureExt as _;
use oversync_shared::{Catalog, UserId};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Uploads of one user that may wait; beyond, devices are told to come back.
const MAX_WAITING: usize = 128;

/// An actor without uploads for this long ends and frees its cache.
const IDLE: Duration = Duration::from_secs(60);

/// What every upload needs besides itself.
#[derive(Clone)]
pub struct UploadContext {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The way to write.
    pub lanes: Lanes,
    /// The registered tables.
    pub catalog: Arc<Catalog>,
    /// What users may have.
    pub(crate) quotas: Arc<Quotas>,
    /// Told of every head that moves.
    pub announcer: Announcer,
    /// Operators may watch.
    pub feed: Arc<Feed>,
}

impl UploadContext {
    /// Applies one upload and tells of the new head, even if nobody waits for
    /// the answer any more.
    async fn apply(&self, cache: &mut UserCache, upload: &Upload) -> Result<Applied, UploadError> {
        // After an error or a panic it may have been committed all the same.
        let doubt = self.announcer.doubt(&upload.user);
        let way = Way {
            store: &*self.store,
            lanes: &self.lanes,
            catalog: &self.catalog,
            quotas: &self.quotas,
        };
        let applied = upload::apply(way, cache, upload).await?;
        if applied.entries == 0 {
            doubt.settle(Head::Found(applied.head));
            return Ok(applied);
        }
        // Before the hints that it leads to, but one that comes of the question for heads.
        let commit = Event::Commit {
            device: upload.device.clone(),
            changes: applied.entries,
            head: applied.head,
        };
        self.feed.tell(&upload.user, commit);
        doubt.settle(Head::Moved(applied.head));
        Ok(applied)
    }
}

/// The active users of this process.
pub struct Users {
    context: UploadContext,
    addresses: Arc<Mutex<HashMap<UserId, Addr<UserActor>>>>,
    bypass: bool,
    /// Where actors live that are asked for from elsewhere.
    home: ArbiterHandle,
}

impl Users {
    /// With `bypass`, uploads go to the store without actors and caches: slower,
    /// and just as right, which is what the option is there to show.
    pub fn new(context: UploadContext, bypass: bool) -> Self {
        Self {
            context,
            addresses: Arc::default(),
            bypass,
            home: Arbiter::current(),
        }
    }

    /// Applies an upload in its user's turn.
    pub async fn apply(&self, upload: Arc<Upload>) -> Result<Applied, UploadError> {
        if self.bypass {
            // Not dropped with the request: what is committed is told.
            let (context, upload) = (self.context.clone(), upload.clone());
            let (reply, answer) = oneshot::channel();
            let work = async move {
                let result = context.apply(&mut UserCache::default(), &upload).await;
                // The device may have gone away; its upload is done all the same.
                let _ = reply.send(result);
            };
            // A host may write from a thread without an actix system.
            let here = Arbiter::try_current().unwrap_or_else(|| self.home.clone());
            let ended = || StoreError::Failed("an upload ended without an answer".to_owned());
            if !here.spawn(work) {
                return Err(ended().into());
            }
            return answer.await.unwrap_or_else(|_| Err(ended().into()));
        }
        // An actor may end just as it is addressed; a new one then takes over.
        for _ in 0..8 {
            let (reply, answer) = oneshot::channel();
            match self.actor(&upload.user).try_send(Turn {
                upload: upload.clone(),
                waiting: Waiting::for_turn(),
                reply,
            }) {
                Ok(()) => match answer.await {
                    Ok(result) => return result,
                    // The server's own changes have no numbers by which a second
                    // attempt would be known; the host is told to look.
                    Err(_) if upload.device.is_server() => {
                        let ended = "an upload of the server ended without an answer";
                        return Err(StoreError::Failed(ended.to_owned()).into());
                    }
                    Err(_) => {}
                },
                Err(SendError::Full(_)) => return Err(StoreError::Overloaded.into()),
                Err(SendError::Closed(_)) => {}
            }
        }
        Err(StoreError::Failed("the user's actor keeps ending".to_owned()).into())
    }

    fn actor(&self, user: &UserId) -> Addr<UserActor> {
        let mut addresses = self
            .addresses
            .lock()
            .expect("BUG: no panic under this lock");
        if let Some(address) = addresses.get(user).filter(|address| address.connected()) {
            return address.clone();
        }
        let actor = UserActor {
            user: user.clone(),
            context: self.context.clone(),
            addresses: self.addresses.clone(),
            cache: UserCache::default(),
            last_used: Instant::now(),
        };
        // A host may write from a thread without an actix system.
        let address = match Arbiter::try_current() {
            Some(_) => actor.start(),
            None => UserActor::start_in_arbiter(&self.home, |_| actor),
        };
        addresses.insert(user.clone(), address.clone());
        address
    }
}

/// Takes one user's uploads in turn.
pub struct UserActor {
    user: UserId,
    context: UploadContext,
    addresses: Arc<Mutex<HashMap<UserId, Addr<UserActor>>>>,
    cache: UserCache,
    last_used: Instant,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Turn {
    upload: Arc<Upload>,
    waiting: Waiting,
    reply: oneshot::Sender<Result<Applied, UploadError>>,
}

impl Actor for UserActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAX_WAITING);
        ctx.run_interval(IDLE / 4, |actor, ctx| {
            if actor.last_used.elapsed() >= IDLE {
                ctx.stop();
            }
        });
    }

    fn stopped(&mut self, ctx: &mut Self::Context) {
        let mut addresses = self
            .addresses
            .lock()
            .expect("BUG: no panic under this lock");
        if addresses
            .get(&self.user)
            .is_some_and(|address| *address == ctx.address())
        {
            addresses.remove(&self.user);
        }
    }
}

impl Handler<Turn> for UserActor {
    type Result = ();

    fn handle(&mut self, turn: Turn, ctx: &mut Self::Context) {
        self.last_used = Instant::now();
        turn.waiting.over();
        let context = self.context.clone();
        let mut cache = std::mem::take(&mut self.cache);
        let work = async move {
            // A panic is a bug, but not the end of the thread and of everybody
            // else's actors on it.
            let work = AssertUnwindSafe(context.apply(&mut cache, &turn.upload));
            let result = work.catch_unwind().await.unwrap_or_else(|_| {
                Err(StoreError::Failed("an upload panicked".to_owned()).into())
            });
            if result.is_err() {
                cache = UserCache::default();
            }
            // The device may have gone away; its upload is done all the same.
            let _ = turn.reply.send(result);
            cache
        };
        // `wait` keeps the next turn in the mailbox until this one has ended.
        ctx.wait(work.into_actor(self).map(|cache, actor, _| {
            actor.cache = cache;
            actor.last_used = Instant::now();
        }));
    }
}
