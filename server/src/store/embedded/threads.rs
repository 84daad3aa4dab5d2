//! SQLite blocks, so it has threads of its own: one that writes, a few that
//! read. Work reaches them over bounded queues; a full queue is an answer
//! ([`StoreError::Overloaded`]), not a wait.

use super::super::StoreError;
use crossbeam_channel::{Sender, TrySendError, bounded};
use rusqlite::Connection;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Threads that share one queue, each with its own connection.
pub(super) struct Threads {
    queue: Mutex<Option<Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// Starts one thread per connection; at most `waiting` jobs queue up.
    pub(super) fn start(
        name: &str,
        connections: Vec<Connection>,
        waiting: usize,
    ) -> Result<Self, StoreError> {
        let (queue, jobs) = bounded::<Job>(waiting);
        let threads = connections
            .into_iter()
            .enumerate()
            .map(|(index, mut connection)| {
                let jobs = jobs.clone();
                std::thread::Builder::new()
                    .name(format!("{name}-{index}"))
                    .spawn(move || {
                        for job in jobs {
                            job(&mut connection);
                        }
                    })
                    .map_err(|error| StoreError::Failed(format!("thread {name}: {error}")))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            threads: Mutex::new(threads),
        })
    }

    /// Runs `job` on one of the threads.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // The caller may have gone away; the work is done all the same.
            // A panic is a bug, but not the end of the only writer: the reply is
            // dropped, which the caller hears of, and a transaction rolls back.
            let done = catch_unwind(AssertUnwindSafe(|| job(connection)));
            if let Ok(result) = done {
                let _ = reply.send(result);
            }
        });
        self.send(job)?;
        answer
            .await
            .map_err(|_| StoreError::Failed("a store thread ended without an answer".to_owned()))?
    }

    /// Not part of `run`: who waits for an answer must not hold the queue open, or
    /// `stop`, on the thread that would fetch the answer, waits for ever.
    fn send(&self, job: Job) -> Result<(), StoreError> {
        let queue = self.queue.lock().expect("BUG: no panic under this lock");
        let queue = queue.as_ref();
        let queue = queue.ok_or_else(|| StoreError::Failed("the store is closed".to_owned()))?;
        queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Overloaded,
            TrySendError::Disconnected(_) => {
                StoreError::Failed("the store's threads have ended".to_owned())
            }
        })
    }

    /// Lets the queue run dry and joins the threads.
    pub(super) fn stop(&self) {
        drop(
            self.queue
                .lock()
                .expect("BUG: no panic under this lock")
                .take(),
        );
        for thread in self
            .threads
            .lock()
            .expect("BUG: no panic under this lock")
            .drain(..)
        {
            // A thread that panicked has reported itself.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    /// The server's main thread stops the store; questions of its own tasks may be on
    /// their way, and nobody fetches their answers before it has stopped.
    #[tokio::test]
    async fn it_stops_while_somebody_waits_for_an_answer() {
        let connection = Connection::open_in_memory().expect("opens");
        let threads = Threads::start("test", vec![connection], 4).expect("starts");
        let threads = Arc::new(threads);
        let mut asked = Box::pin(threads.run(|_| {
            std::thread::sleep(Duration::from_millis(50));
            Ok(7)
        }));
        assert!((&mut asked).now_or_never().is_none(), "it is at work");
        let (done, stopped) = mpsc::channel();
        let stopping = threads.clone();
        std::thread::spawn(move || {
            stopping.stop();
            done.send(())
        });
        let stopped = stopped.recv_timeout(Duration::from_secs(20));
        assert!(stopped.is_ok(), "it waits for who waits for it");
        assert_eq!(asked.await.expect("its work was done"), 7);
    }
}
