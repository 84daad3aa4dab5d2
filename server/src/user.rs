//! One actor per active user of this process: it takes that user's uploads one
//! at a time, in the order they arrive.
//!
//! The actor is a cache and a queue, never the lock: another process may serve
//! the same user at the same time, and the store's guard keeps both right.
//! Idle actors end; the next upload starts a new one with an empty cache.

use crate::commit::Lanes;
use crate::store::{Store, StoreError};
use crate::upload::{self, Applied, Upload, UploadError, UserCache};
use actix::prelude::*;
use oversync_shared::{Catalog, UserId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Uploads of one user that may wait; beyond, devices are told to come back.
const MAX_WAITING: usize = 128;

/// An actor without uploads for this long ends and frees its cache.
const IDLE: Duration = Duration::from_secs(60);

/// What every upload needs besides itself.
#[derive(Clone)]
pub struct UploadShop {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The way to write.
    pub lanes: Lanes,
    /// The registered tables.
    pub catalog: Arc<Catalog>,
}

/// The active users of this process.
pub struct Users {
    shop: UploadShop,
    addresses: Arc<Mutex<HashMap<UserId, Addr<UserActor>>>>,
    bypass: bool,
}

impl Users {
    /// With `bypass`, uploads go to the store without actors and caches: slower,
    /// and just as right, which is what the option is there to show.
    pub fn new(shop: UploadShop, bypass: bool) -> Self {
        Self {
            shop,
            addresses: Arc::default(),
            bypass,
        }
    }

    /// Applies an upload in its user's turn.
    pub async fn apply(&self, upload: Arc<Upload>) -> Result<Applied, UploadError> {
        if self.bypass {
            let UploadShop {
                store,
                lanes,
                catalog,
            } = &self.shop;
            return upload::apply(&**store, lanes, catalog, &mut UserCache::default(), &upload)
                .await;
        }
        // An actor may end just as it is addressed; a new one then takes over.
        for _ in 0..8 {
            let (reply, answer) = oneshot::channel();
            match self.actor(&upload.user).try_send(Turn {
                upload: upload.clone(),
                reply,
            }) {
                Ok(()) => {
                    if let Ok(result) = answer.await {
                        return result;
                    }
                }
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
        let address = UserActor {
            user: user.clone(),
            shop: self.shop.clone(),
            addresses: self.addresses.clone(),
            cache: UserCache::default(),
            last_used: Instant::now(),
        }
        .start();
        addresses.insert(user.clone(), address.clone());
        address
    }
}

/// Takes one user's uploads in turn.
pub struct UserActor {
    user: UserId,
    shop: UploadShop,
    addresses: Arc<Mutex<HashMap<UserId, Addr<UserActor>>>>,
    cache: UserCache,
    last_used: Instant,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Turn {
    upload: Arc<Upload>,
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
        let shop = self.shop.clone();
        let mut cache = std::mem::take(&mut self.cache);
        let work = async move {
            let UploadShop {
                store,
                lanes,
                catalog,
            } = &shop;
            let result = upload::apply(&**store, lanes, catalog, &mut cache, &turn.upload).await;
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
