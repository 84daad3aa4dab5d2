//! Commit lanes: uploads of many users share one transaction.
//!
//! A lane takes every commit that is ready, at most one per user, and hands
//! them to the store together. Without load that is one upload; under load the
//! cost of a transaction and its flush to disk is shared.

use crate::live::Newest;
use crate::meters::{self, Waiting};
use crate::store::{Commit, Outcome, Store, StoreError, UserKey};
use futures_util::FutureExt as _;
use std::collections::{HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Mutex, mpsc, oneshot};

/// Entries of one group commit, about: enough to share the flush, small enough
/// that nobody waits long for it.
const MAX_GROUP_ENTRIES: usize = 4_000;

/// Bytes of payload in one group commit, about.
const MAX_GROUP_BYTES: usize = 16 * 1024 * 1024;

/// Uploads of one group commit.
const MAX_GROUP_COMMITS: usize = 256;

/// Commits that may wait for a lane; beyond, uploads are told to come back.
const MAX_WAITING: usize = 4_096;

struct Job {
    commit: Commit,
    waiting: Waiting,
    reply: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// The way to the store for everything that writes.
#[derive(Clone)]
pub struct Lanes {
    queue: mpsc::Sender<Job>,
}

impl Lanes {
    /// Starts as many lanes as the store wants, on the current runtime. They
    /// end when the last handle is gone. What they commit is told to `newest`.
    pub fn start(store: &Arc<dyn Store>, newest: &Newest) -> Self {
        let (queue, jobs) = mpsc::channel(MAX_WAITING);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..store.lanes() {
            tokio::spawn(run_lane(store.clone(), newest.clone(), jobs.clone()));
        }
        Self { queue }
    }

    /// Commits one upload together with whatever else is ready.
    pub async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.queue
            .try_send(Job {
                commit,
                waiting: Waiting::for_lane(),
                reply,
            })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => {
                    StoreError::Failed("the commit lanes have ended".to_owned())
                }
            })?;
        answer
            .await
            .map_err(|_| StoreError::Failed("a commit lane ended without an answer".to_owned()))?
    }
}

async fn run_lane(store: Arc<dyn Store>, newest: Newest, jobs: Arc<Mutex<mpsc::Receiver<Job>>>) {
    // What did not fit the last group: mostly second commits of one user.
    let mut held: VecDeque<Job> = VecDeque::new();
    loop {
        let mut group = Group::default();
        for job in std::mem::take(&mut held) {
            held.extend(group.take(job));
        }
        // With work in hand, never wait for a lane that waits for more.
        let queue = if group.jobs.is_empty() {
            let mut queue = jobs.lock().await;
            match queue.recv().await {
                Some(job) => held.extend(group.take(job)),
                None => return,
            }
            Some(queue)
        } else {
            jobs.try_lock().ok()
        };
        if let Some(mut queue) = queue {
            while group.has_room()
                && held.len() < MAX_GROUP_COMMITS
                && let Ok(job) = queue.try_recv()
            {
                held.extend(group.take(job));
            }
        }
        let (commits, replies): (Vec<_>, Vec<_>) = group
            .jobs
            .into_iter()
            .map(|job| {
                job.waiting.over();
                (job.commit, job.reply)
            })
            .unzip();
        let size = commits.len();
        let began = Instant::now();
        let coming = newest.before(&commits);
        // A panic is a bug, but not the end of the lane.
        let done = AssertUnwindSafe(store.commit(commits)).catch_unwind().await;
        let done =
            done.unwrap_or_else(|_| Err(StoreError::Failed("a group commit panicked".to_owned())));
        match done {
            Ok(outcomes) => {
                meters::commit(size, began.elapsed());
                newest.after(coming, &outcomes);
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    // A caller that is gone has its upload done all the same.
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(error) => {
                tracing::error!(%error, uploads = size, "group commit failed");
                newest.lost(&coming);
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }
}

#[derive(Default)]
struct Group {
    jobs: Vec<Job>,
    users: HashSet<UserKey>,
    entries: usize,
    bytes: usize,
}

impl Group {
    fn has_room(&self) -> bool {
        self.entries < MAX_GROUP_ENTRIES
            && self.bytes < MAX_GROUP_BYTES
            && self.jobs.len() < MAX_GROUP_COMMITS
    }

    /// Gives the job back when its user takes part already, or there is no room.
    fn take(&mut self, job: Job) -> Option<Job> {
        if !self.has_room() || !self.users.insert(job.commit.user) {
            return Some(job);
        }
        self.entries += job.commit.entries.len();
        let sizes = job
            .commit
            .entries
            .iter()
            .map(|entry| entry.payload.as_ref().map_or(0, |text| text.len()));
        self.bytes += sizes.sum::<usize>();
        self.jobs.push(job);
        None
    }
}
