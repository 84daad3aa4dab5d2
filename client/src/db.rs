//! The database thread: owns this crate's connection, runs jobs one after the
//! other.
//!
//! Everything that blocks on SQLite happens here, never on an async worker. A
//! job is a closure over a [`Store`]; a job that writes does so in one immediate
//! transaction through [`Store::write`].

use crate::config::Config;
use crate::error::{Error, StorageError};
use crate::store::{Store, Txn};
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait for the thread; callers beyond wait to enqueue.
const QUEUE: usize = 64;

type Work = Box<dyn FnOnce(&mut Store) + Send>;

enum Job {
    Run(Work),
    Close(oneshot::Sender<()>),
}

/// The handle to the database thread.
#[derive(Clone)]
pub(crate) struct Db {
    jobs: mpsc::Sender<Job>,
    /// Somebody has left before a job was done.
    left: Arc<AtomicBool>,
}

/// Somebody who waits for a job.
struct Waiting<'a> {
    left: &'a AtomicBool,
    is_answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.left.store(true, Ordering::Release);
        }
    }
}

impl Db {
    /// Starts the thread and opens the file on it.
    pub(crate) async fn open(config: Config) -> Result<Self, Error> {
        let (jobs, mut queue) = mpsc::channel(QUEUE);
        let (opened, answer) = oneshot::channel();
        let path = config.path.clone();
        std::thread::Builder::new()
            .name("oversqlite-db".to_owned())
            .spawn(move || {
                let mut store = match Store::open(&config) {
                    Ok(store) => store,
                    Err(error) => {
                        let _ = opened.send(Err(error));
                        return;
                    }
                };
                let _ = opened.send(Ok(()));
                drop(config);
                while let Some(job) = queue.blocking_recv() {
                    match job {
                        Job::Run(work) => work(&mut store),
                        Job::Close(done) => {
                            drop(store);
                            let _ = done.send(());
                            return;
                        }
                    }
                }
            })
            .map_err(|source| StorageError::File { path, source })?;
        answer.await.map_err(|_| Error::Stopped)??;
        Ok(Self {
            jobs,
            left: Arc::default(),
        })
    }

    /// Runs a job and waits for its result.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, result) = oneshot::channel();
        let job = Job::Run(Box::new(move |store| {
            let _ = done.send(work(store));
        }));
        self.jobs.send(job).await.map_err(|_| Error::Stopped)?;
        let mut waiting = Waiting {
            left: &self.left,
            is_answered: false,
        };
        let done = result.await;
        waiting.is_answered = true;
        done.map_err(|_| Error::Stopped)?
    }

    /// Whether a future was dropped, since the last question, whose job may still
    /// be running.
    pub(crate) fn was_left(&self) -> bool {
        self.left.swap(false, Ordering::AcqRel)
    }

    /// Runs something small once all jobs before it are done; at once when the
    /// file has been closed.
    pub(crate) fn after(&self, work: impl FnOnce() + Send + 'static) {
        let job = Job::Run(Box::new(|_| work()));
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => {
                let jobs = self.jobs.clone();
                // Not on this thread: it may be one of an async runtime. Where no
                // thread can be had, the job is dropped, and what it holds with it.
                let _ = std::thread::Builder::new().spawn(move || jobs.blocking_send(job));
            }
            Err(TrySendError::Closed(job)) => drop(job),
        }
    }

    /// Runs a job that writes, in one transaction.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Txn<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(|store| store.write(work)).await
    }

    /// Runs a job that only reads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(|store| store.read(work)).await
    }

    /// Closes the file once the jobs before this one are done. Every later job
    /// fails with [`Error::Stopped`].
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}
