//! Users' heads: asked for in few questions, and remembered.
//!
//! Whoever wants heads while a question is on its way shares the next one, so that
//! ten thousand devices that come back at once are one question after another and
//! never a herd. On the embedded store nobody else writes: what commits have told
//! is the truth, and no question is asked at all. On a shared database a remembered
//! head only says what has been heard of.

use crate::recent::Recent;
use crate::store::{Store, StoreError};
use oversync_shared::{ServerId, UserId};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Users remembered: twice this at most, about 150 bytes each.
const ROOM: usize = 32_768;

/// How long one question may take: on a connection that has gone silent nobody would
/// be told anything before TCP gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a database said of some users: those never seen are left out.
type Found = Arc<(Arc<str>, HashMap<UserId, ServerId>)>;

/// Heads of this process's database. Cheap to clone.
#[derive(Clone)]
pub struct Heads {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    /// Of an embedded store, which no other process can change.
    epoch: Option<Arc<str>>,
    memory: Mutex<Memory>,
    question: Mutex<Question>,
    /// Where questions are asked: a caller's own runtime may end before the answer.
    home: Handle,
}

struct Memory {
    heads: Recent<UserId, ServerId>,
    doubts: u64,
}

/// What the next question asks.
#[derive(Default)]
struct Question {
    users: HashSet<UserId>,
    asking: Vec<oneshot::Sender<Result<Found, StoreError>>>,
    is_running: bool,
}

/// A moment before a reading. What is read is remembered only if nothing that was
/// said since could have been forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    turns: u64,
    doubts: u64,
}

impl Heads {
    /// Of a store with this epoch now.
    pub fn new(store: Arc<dyn Store>, epoch: Arc<str>) -> Self {
        let epoch = (!store.is_shared()).then_some(epoch);
        let memory = Memory {
            heads: Recent::new(ROOM),
            doubts: 0,
        };
        Self {
            inner: Arc::new(Inner {
                store,
                epoch,
                memory: Mutex::new(memory),
                question: Mutex::default(),
                home: Handle::current(),
            }),
        }
    }

    /// Whether other processes may write, so that memory is hearsay.
    pub fn is_shared(&self) -> bool {
        self.inner.epoch.is_none()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.inner
            .memory
            .lock()
            .expect("BUG: no panic under this lock")
    }

    /// The newest head that this process has heard of.
    pub fn remembered(&self, user: &UserId) -> Option<ServerId> {
        self.memory().heads.get(user).copied()
    }

    /// A commit has moved the head, or another process says so: whether that is
    /// news. Call it before anybody is told.
    pub fn raise(&self, user: &UserId, head: ServerId) -> bool {
        let mut memory = self.memory();
        let known = memory.heads.get(user).copied();
        memory
            .heads
            .insert(user.clone(), known.map_or(head, |known| known.max(head)));
        known.is_none_or(|known| known < head)
    }

    /// To be taken before anything is read from the store.
    pub fn mark(&self) -> Mark {
        let memory = self.memory();
        Mark {
            turns: memory.heads.turns(),
            doubts: memory.doubts,
        }
    }

    /// A head was read from the store after `mark`.
    pub fn learn(&self, mark: Mark, user: &UserId, head: ServerId) {
        let is_shared = self.is_shared();
        let mut memory = self.memory();
        if memory.doubts != mark.doubts || memory.heads.turns() > mark.turns + 1 {
            return;
        }
        let known = memory.heads.get(user).copied();
        // A shared database may have been put back by a restore.
        let newest = match known {
            Some(known) if !is_shared => known.max(head),
            _ => head,
        };
        if known != Some(newest) {
            memory.heads.insert(user.clone(), newest);
        }
    }

    /// The fate of a commit is unknown: what was remembered, and what is being read
    /// now, counts no more.
    pub fn doubt(&self, user: &UserId) {
        let mut memory = self.memory();
        memory.doubts += 1;
        memory.heads.remove(user);
    }

    /// The heads of users, true at some moment after the call; of users never seen
    /// 0. From memory where memory is the truth.
    pub async fn now(&self, users: &[UserId]) -> Result<HashMap<UserId, ServerId>, StoreError> {
        let mut heads = HashMap::with_capacity(users.len());
        if !self.is_shared() {
            let memory = self.memory();
            for user in users {
                heads.extend(memory.heads.get(user).map(|&head| (user.clone(), head)));
            }
        }
        if heads.len() == users.len() {
            return Ok(heads);
        }
        let missing = users.iter().filter(|user| !heads.contains_key(user));
        let missing: Vec<UserId> = missing.cloned().collect();
        let mark = self.mark();
        let found = self.ask(&missing).await?;
        for user in missing {
            let head = found.1.get(&user).copied().unwrap_or(ServerId::ZERO);
            self.learn(mark, &user, head);
            heads.insert(user, head);
        }
        Ok(heads)
    }

    /// A user's head and the history it belongs to, true at some moment after the
    /// call.
    pub async fn now_of(&self, user: &UserId) -> Result<(Arc<str>, ServerId), StoreError> {
        if let Some(epoch) = &self.inner.epoch {
            let heads = self.now(std::slice::from_ref(user)).await?;
            return Ok((epoch.clone(), heads[user]));
        }
        let found = self.ask(std::slice::from_ref(user)).await?;
        let head = found.1.get(user).copied().unwrap_or(ServerId::ZERO);
        Ok((found.0.clone(), head))
    }

    /// Puts users into the next question; it is asked after this call.
    async fn ask(&self, users: &[UserId]) -> Result<Found, StoreError> {
        let (reply, answer) = oneshot::channel();
        let is_first = {
            let mut question = self.question();
            question.users.extend(users.iter().cloned());
            question.asking.push(reply);
            !std::mem::replace(&mut question.is_running, true)
        };
        if is_first {
            // Not on the caller's account: it may go away, the others not.
            self.inner.home.spawn(ask_until_nobody_asks(self.clone()));
        }
        answer
            .await
            .map_err(|_| StoreError::Failed("nobody asks for heads any more".to_owned()))?
    }

    fn question(&self) -> MutexGuard<'_, Question> {
        self.inner
            .question
            .lock()
            .expect("BUG: no panic under this lock")
    }
}

/// Held by the task that asks: should it end before its time, those who wait are
/// told, and the next one asks anew.
struct Asking {
    heads: Heads,
    is_done: bool,
}

impl Drop for Asking {
    fn drop(&mut self) {
        if !self.is_done {
            *self.heads.question() = Question::default();
        }
    }
}

async fn ask_until_nobody_asks(heads: Heads) {
    let mut guard = Asking {
        heads: heads.clone(),
        is_done: false,
    };
    loop {
        let (users, asking) = {
            let mut question = heads.question();
            if question.asking.is_empty() {
                // Under the lock: the next one to ask is the first.
                question.is_running = false;
                guard.is_done = true;
                return;
            }
            (
                std::mem::take(&mut question.users),
                std::mem::take(&mut question.asking),
            )
        };
        let users: Vec<UserId> = users.into_iter().collect();
        crate::meters::heads_question();
        let found = match timeout(PATIENCE, read(&heads.inner, &users)).await {
            Ok(found) => found.map(Arc::new),
            Err(_) => Err(StoreError::Overloaded),
        };
        for reply in asking {
            // Who asked may be gone.
            let _ = reply.send(found.clone());
        }
    }
}

/// The epoch first: a history that is replaced in between has other heads, or is
/// noticed by the next question.
async fn read(
    inner: &Inner,
    users: &[UserId],
) -> Result<(Arc<str>, HashMap<UserId, ServerId>), StoreError> {
    let epoch = match &inner.epoch {
        Some(epoch) => epoch.clone(),
        None => inner.store.epoch().await?,
    };
    Ok((epoch, inner.store.heads(users).await?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::EmbeddedStore;

    async fn heads(folder: &tempfile::TempDir) -> Heads {
        let file = folder.path().join("server.db");
        let store = EmbeddedStore::open(&file, None, Clock::system()).expect("opens");
        Heads::new(Arc::new(store), "epoch".into())
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("valid")
    }

    #[tokio::test]
    async fn what_was_said_while_something_older_was_read_stands() {
        let folder = tempfile::tempdir().expect("a folder");
        let heads = heads(&folder).await;
        let ann = user("ann");
        // A reading begins, a commit is told, the reading ends with the head before.
        let mark = heads.mark();
        assert!(heads.raise(&ann, ServerId::new(5)));
        heads.learn(mark, &ann, ServerId::new(4));
        assert_eq!(heads.remembered(&ann), Some(ServerId::new(5)));
        assert!(!heads.raise(&ann, ServerId::new(5)));
        // Even when so much was said meanwhile that it is forgotten.
        let mark = heads.mark();
        heads.raise(&ann, ServerId::new(6));
        for n in 0..3 * ROOM {
            heads.raise(&user(&format!("user-{n}")), ServerId::new(1));
        }
        assert_eq!(heads.remembered(&ann), None);
        heads.learn(mark, &ann, ServerId::new(5));
        assert_eq!(heads.remembered(&ann), None);
        // The database has never heard of her.
        let now = heads
            .now(std::slice::from_ref(&ann))
            .await
            .expect("answers");
        assert_eq!(now[&ann], ServerId::ZERO);
        assert_eq!(heads.remembered(&ann), Some(ServerId::ZERO));
    }

    #[tokio::test]
    async fn an_unknown_fate_makes_memory_worthless() {
        let folder = tempfile::tempdir().expect("a folder");
        let heads = heads(&folder).await;
        let ann = user("ann");
        heads.raise(&ann, ServerId::new(5));
        let mark = heads.mark();
        heads.doubt(&ann);
        heads.learn(mark, &ann, ServerId::new(5));
        assert_eq!(heads.remembered(&ann), None);
        heads.learn(heads.mark(), &ann, ServerId::new(6));
        assert_eq!(heads.remembered(&ann), Some(ServerId::new(6)));
    }
}
