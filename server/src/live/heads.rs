//! Users' heads: asked for in few questions, and remembered.
//!
//! Whoever wants heads while a question is on its way shares the next one, so that
//! ten thousand devices that come back at once are one question after another and
//! never a herd. On the embedded store nobody else writes: what commits have told
//! is the truth, and no question is asked at all. On a shared database a remembered
//! head only says what has been heard of.

use super::bucket::Bucket;
use crate::epoch::Epoch;
use crate::recent::Recent;
use crate::store::{Reach, Reached, Store, StoreError};
use oversync_shared::{DeviceId, ServerId, UserId};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Users remembered: twice this at most, about 150 bytes each.
const ROOM: usize = 32_768;

/// Questions in a second, lasting, and at once. Beyond, they wait for each other, and
/// more share each: it costs 2 ms at most, and the database is asked no more than this.
const QUESTIONS_PER_SECOND: f64 = 500.0;
const QUESTIONS_AT_ONCE: f64 = 100.0;

/// Users in one question of a caller that asks about many. Everybody else waits for
/// the question that is on its way.
const TOGETHER: usize = 1_000;

/// How long one question may take: on a connection that has gone silent nobody would
/// be told anything before TCP gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who is asked about: a user, and perhaps one of its devices.
type Of = (UserId, Option<DeviceId>);

/// What a database said: users never seen are left out.
#[derive(Debug)]
pub(super) struct Found {
    /// Its history.
    pub(super) epoch: Arc<str>,
    reaches: HashMap<Of, Reach>,
}

impl Found {
    /// What it said of one that was asked about; `None` for a user never seen.
    pub(super) fn of(&self, user: &UserId, device: Option<&DeviceId>) -> Option<Reach> {
        self.reaches.get(&(user.clone(), device.cloned())).copied()
    }

    fn head(&self, user: &UserId) -> ServerId {
        self.of(user, None)
            .map_or(ServerId::ZERO, |reach| reach.head)
    }
}

/// A user's head as it is now.
#[derive(Debug, Clone)]
pub struct Now {
    /// The history it belongs to.
    pub epoch: Arc<str>,
    /// The head; 0 for a user never seen.
    pub head: ServerId,
    /// The user's floor, where the database was asked: on the embedded store this
    /// process alone moves floors.
    pub floor: Option<ServerId>,
}

/// Heads of this process's database. Cheap to clone.
#[derive(Clone)]
pub struct Heads {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    epoch: Epoch,
    memory: Mutex<Memory>,
    question: Mutex<Question>,
    pace: Mutex<Bucket>,
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
    of: HashSet<Of>,
    asking: Vec<oneshot::Sender<Result<Arc<Found>, StoreError>>>,
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
    /// Of a store with this epoch, which is told when the database names another one.
    pub(crate) fn new(store: Arc<dyn Store>, epoch: Epoch) -> Self {
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
                pace: Mutex::new(Bucket::full(
                    QUESTIONS_PER_SECOND,
                    QUESTIONS_AT_ONCE,
                    Instant::now(),
                )),
                home: Handle::current(),
            }),
        }
    }

    /// Whether other processes may write, so that memory is hearsay.
    pub fn is_shared(&self) -> bool {
        self.inner.store.is_shared()
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
    /// 0. From memory where memory is the truth; of many users by one question after
    /// another, so that others get theirs in between.
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
        let missing: Vec<Of> = missing.map(|user| (user.clone(), None)).collect();
        for part in missing.chunks(TOGETHER) {
            let mark = self.mark();
            let found = self.ask(part).await?;
            for (user, _) in part {
                let head = found.head(user);
                self.learn(mark, user, head);
                heads.insert(user.clone(), head);
            }
        }
        Ok(heads)
    }

    /// A user's head and the history it belongs to, true at some moment after the
    /// call.
    pub async fn now_of(&self, user: &UserId) -> Result<Now, StoreError> {
        if !self.is_shared() {
            let heads = self.now(std::slice::from_ref(user)).await?;
            return Ok(Now {
                epoch: self.inner.epoch.now(),
                head: heads[user],
                floor: None,
            });
        }
        let found = self.ask(&[(user.clone(), None)]).await?;
        let floor = found.of(user, None).map(|reach| reach.floor);
        Ok(Now {
            epoch: found.epoch.clone(),
            head: found.head(user),
            floor: Some(floor.unwrap_or(ServerId::ZERO)),
        })
    }

    /// Puts users, and devices of them, into the next question; it is asked after
    /// this call.
    pub(super) async fn ask(&self, of: &[Of]) -> Result<Arc<Found>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let is_first = {
            let mut question = self.question();
            question.of.extend(of.iter().cloned());
            question.asking.push(reply);
            !std::mem::replace(&mut question.is_running, true)
        };
        if is_first {
            // Not on the caller's account: it may go away, the others not.
            let asking = Asking {
                heads: self.clone(),
                is_done: false,
            };
            self.inner.home.spawn(ask_until_nobody_asks(asking));
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

/// Held by the task that asks: should it end before its time, or never begin, those
/// who wait are told, and the next one asks anew.
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

async fn ask_until_nobody_asks(mut guard: Asking) {
    let heads = guard.heads.clone();
    loop {
        {
            let mut question = heads.question();
            if question.asking.is_empty() {
                // Under the lock: the next one to ask is the first.
                question.is_running = false;
                guard.is_done = true;
                return;
            }
        }
        let wait = {
            let mut pace = heads.inner.pace.lock();
            let pace = pace.as_mut().expect("BUG: no panic under this lock");
            pace.take(Instant::now())
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let (of, asking) = {
            let mut question = heads.question();
            (
                std::mem::take(&mut question.of),
                std::mem::take(&mut question.asking),
            )
        };
        let of: Vec<Of> = of.into_iter().collect();
        crate::meters::heads_question();
        let found = match timeout(PATIENCE, read(&heads.inner, of)).await {
            Ok(found) => found.map(Arc::new),
            Err(_) => Err(StoreError::Overloaded),
        };
        for reply in asking {
            // Who asked may be gone.
            let _ = reply.send(found.clone());
        }
    }
}

async fn read(inner: &Inner, of: Vec<Of>) -> Result<Found, StoreError> {
    let Reached { epoch, reaches } = inner.store.heads(&of).await?;
    inner.epoch.saw(&epoch);
    let reaches = of.into_iter().zip(reaches);
    Ok(Found {
        epoch,
        reaches: reaches
            .filter_map(|(of, reach)| Some((of, reach?)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::EmbeddedStore;
    use std::pin::pin;

    async fn heads(folder: &tempfile::TempDir) -> Heads {
        let file = folder.path().join("server.db");
        let store = EmbeddedStore::open(&file, None, Clock::system()).expect("opens");
        Heads::new(Arc::new(store), Epoch::new("epoch".into()))
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

    /// Every download on a shared database waited for all connected users' heads.
    #[tokio::test]
    async fn a_question_about_many_lets_others_in_between() {
        let folder = tempfile::tempdir().expect("a folder");
        let heads = heads(&folder).await;
        let many: Vec<UserId> = (0..3 * TOGETHER)
            .map(|n| user(&format!("user-{n}")))
            .collect();
        let (mut all, ann) = (pin!(heads.now(&many)), [user("ann")]);
        let one = heads.now(&ann);
        let found = tokio::select! {
            // Asked first, and looked at first.
            biased;
            _ = &mut all => panic!("the one waits for all"),
            found = one => found,
        };
        assert_eq!(found.expect("an answer")[&ann[0]], ServerId::ZERO);
        assert_eq!(all.await.expect("an answer").len(), many.len());
    }

    #[test]
    fn who_asks_where_nobody_can_answer_any_more_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = tokio::runtime::Runtime::new().expect("a runtime");
        let heads = home.block_on(heads(&folder));
        // Where questions are asked has ended; a host may still ask.
        drop(home);
        let here = tokio::runtime::Runtime::new().expect("a runtime");
        for _ in 0..2 {
            let asked = async { timeout(Duration::from_secs(10), heads.now(&[user("ann")])).await };
            let answer = here.block_on(asked).expect("it is answered");
            assert!(matches!(answer, Err(StoreError::Failed(_))), "{answer:?}");
        }
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
