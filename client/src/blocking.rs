//! The same client for programs without an async runtime: every call returns when
//! it is done.
//!
//! It keeps one thread of its own for the engine, beside the one that works on
//! the file. An application with a single SQLite connection needs no other: take
//! it from [`Client::connection`], and use it as ever between the calls. Inside an
//! async program use [`crate::Client`]; these calls fail there.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("notes.db");
//! use oversqlite::blocking::{Client, tokens};
//! use oversqlite::{Config, UserId};
//! # rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, text)")?;
//!
//! let token = tokens(|| Ok("from your own sign-in".to_owned()));
//! let config = Config::new(&path, "http://127.0.0.1:1", UserId::new("user-ada")?, token)
//!     .table("notes");
//! let client = Client::open(config)?;
//! let db = client.connection()?;
//! db.execute("INSERT INTO notes VALUES ('0f8fad5b-d9cb-469f-a165-70867728950e', 'hello')", [])?;
//! assert_eq!(client.status()?.unsent, 1);
//! client.start()?;
//! // … the program's life …
//! client.stop();
//! # Ok(())
//! # }
//! ```

use crate::changes::Changed;
use crate::config::Config;
use crate::conflicts::ConflictRecord;
use crate::doctor::{self, Diagnosis};
use crate::download::Downloaded;
use crate::error::{Error, SetupError, StorageError};
use crate::pause::Direction;
use crate::rejected::Rejected;
use crate::sign_out::SignOut;
use crate::status::Status;
use crate::token::{TokenError, TokenFuture, TokenProvider};
use crate::unsent::Unsent;
use crate::upload::Uploaded;
use crate::{DeviceId, Synced, UserId};
use oversync_shared::wire::SignInReply;
use rusqlite::Connection;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{oneshot, watch};

/// [`crate::Client`], one call after the other. Clones share one client.
#[derive(Debug, Clone)]
pub struct Client {
    client: crate::Client,
    thread: Arc<Thread>,
}

/// The engine's thread; ends with the last clone.
#[derive(Debug)]
struct Thread(Option<Runtime>);

impl Thread {
    fn start() -> Result<Self, Error> {
        outside()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("oversqlite")
            .enable_all()
            .build();
        let runtime = runtime.map_err(|source| StorageError::File {
            path: "a thread".into(),
            source,
        })?;
        Ok(Self(Some(runtime)))
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("BUG: it is taken by drop alone")
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        outside()?;
        Ok(self.runtime().block_on(work))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Waits for nobody: whatever was under way is safe to be cut.
            runtime.shutdown_background();
        }
    }
}

/// A thread of an async runtime must not be blocked.
fn outside() -> Result<(), Error> {
    match Handle::try_current() {
        Ok(_) => Err(SetupError::InsideRuntime.into()),
        Err(_) => Ok(()),
    }
}

/// Makes a token provider of a function that may block. It is called on a thread
/// of its own; see [`TokenProvider`] for when.
pub fn tokens(
    give: impl Fn() -> Result<String, TokenError> + Send + Sync + 'static,
) -> impl TokenProvider {
    Blocking {
        give: Arc::new(give),
        busy: Arc::default(),
    }
}

struct Blocking<F> {
    give: Arc<F>,
    /// The function has been called and has not returned.
    busy: Arc<AtomicBool>,
}

/// Held by the thread that calls the function; a panic ends the call as well.
struct Call(Arc<AtomicBool>);

impl Call {
    fn begin(busy: &Arc<AtomicBool>) -> Option<Self> {
        let was_busy = busy.swap(true, Ordering::AcqRel);
        (!was_busy).then(|| Self(Arc::clone(busy)))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<F: Fn() -> Result<String, TokenError> + Send + Sync + 'static> TokenProvider for Blocking<F> {
    fn token(&self) -> TokenFuture {
        let (give, busy) = (Arc::clone(&self.give), Arc::clone(&self.busy));
        Box::pin(async move {
            // A call that hangs cannot be ended, and whoever waited for it has given
            // up: no second one beside it, and no second thread.
            let call = Call::begin(&busy).ok_or_else(|| {
                TokenError::unreachable("the token function has not returned yet")
            })?;
            let (told, given) = oneshot::channel();
            // A thread that no runtime knows: the function may block as it likes,
            // also by calls of this module.
            std::thread::Builder::new()
                .name("oversqlite-token".to_owned())
                .spawn(move || {
                    let answer = give();
                    // Before it is told: the next question may come at once.
                    drop(call);
                    told.send(answer)
                })
                .map_err(|error| TokenError::new(error.to_string()))?;
            let given = given.await;
            given.unwrap_or_else(|_| Err(TokenError::new("the token function panicked")))
        })
    }
}

/// [`crate::sign_in`], at a development server.
pub fn sign_in(
    server: &str,
    username: &str,
    password: &str,
    device: &DeviceId,
) -> Result<SignInReply, Error> {
    let thread = Thread::start()?;
    thread.wait(crate::sign_in(server, username, password, device))?
}

/// [`crate::diagnose`]: looks for whatever is the matter with a file.
pub fn diagnose(
    config: &Config,
    row: Option<(&str, &str)>,
    progress: impl FnMut(i64, i64),
) -> Result<Diagnosis, Error> {
    let thread = Thread::start()?;
    thread.wait(doctor::diagnose(config, row, progress))?
}

impl Client {
    /// See [`crate::Client::open`]. Fails with [`SetupError::InsideRuntime`] on a
    /// thread of an async runtime, as every other call does.
    pub fn open(config: Config) -> Result<Self, Error> {
        let thread = Arc::new(Thread::start()?);
        let client = thread.wait(crate::Client::open(config))??;
        Ok(Self { client, thread })
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.thread.wait(work)?
    }

    /// Whose data the file holds.
    pub fn user(&self) -> &UserId {
        self.client.user()
    }

    /// This installation's name.
    pub fn device(&self) -> &DeviceId {
        self.client.device()
    }

    /// See [`crate::Client::connection`].
    pub fn connection(&self) -> Result<Connection, Error> {
        self.client.connection()
    }

    /// See [`crate::Client::notify`].
    pub fn notify(&self) {
        self.client.notify();
    }

    /// See [`crate::Client::upload_once`].
    pub fn upload_once(&self) -> Result<Uploaded, Error> {
        self.wait(self.client.upload_once())
    }

    /// See [`crate::Client::download_once`].
    pub fn download_once(&self, limit: usize) -> Result<Downloaded, Error> {
        self.wait(self.client.download_once(limit))
    }

    /// See [`crate::Client::hydrate`].
    pub fn hydrate(&self) -> Result<usize, Error> {
        self.wait(self.client.hydrate())
    }

    /// See [`crate::Client::sync`].
    pub fn sync(&self) -> Result<Synced, Error> {
        self.wait(self.client.sync())
    }

    /// See [`crate::Client::start`].
    pub fn start(&self) -> Result<(), Error> {
        let _inside = self.thread.runtime().enter();
        self.client.start()
    }

    /// See [`crate::Client::stop`]. Does nothing on a thread of an async runtime,
    /// where it would block; dropping the client ends it as well.
    pub fn stop(&self) {
        let _ = self.thread.wait(self.client.stop());
    }

    /// See [`crate::Client::pause`].
    pub fn pause(&self, which: Direction) -> Result<(), Error> {
        self.wait(self.client.pause(which))
    }

    /// See [`crate::Client::resume`].
    pub fn resume(&self, which: Direction) -> Result<(), Error> {
        self.wait(self.client.resume(which))
    }

    /// See [`crate::Client::sign_out`].
    pub fn sign_out(&self, how: SignOut) -> Result<(), Error> {
        self.wait(self.client.sign_out(how))
    }

    /// See [`crate::Client::status`].
    pub fn status(&self) -> Result<Status, Error> {
        self.wait(self.client.status())
    }

    /// The status as it changes, to be waited for.
    pub fn status_stream(&self) -> Statuses {
        Statuses {
            told: self.client.status_stream(),
            thread: Arc::clone(&self.thread),
        }
    }

    /// Hears which rows are written from now on.
    pub fn changes(&self) -> Changes {
        Changes {
            changes: self.client.changes(),
            thread: Arc::clone(&self.thread),
        }
    }

    /// See [`crate::Client::unsent`].
    pub fn unsent(&self) -> Result<Vec<Unsent>, Error> {
        self.wait(self.client.unsent())
    }

    /// See [`crate::Client::rejected`].
    pub fn rejected(&self) -> Result<Vec<Rejected>, Error> {
        self.wait(self.client.rejected())
    }

    /// See [`crate::Client::retry_rejected`].
    pub fn retry_rejected(&self, id: i64) -> Result<(), Error> {
        self.wait(self.client.retry_rejected(id))
    }

    /// See [`crate::Client::retry_all_rejected`].
    pub fn retry_all_rejected(&self) -> Result<usize, Error> {
        self.wait(self.client.retry_all_rejected())
    }

    /// See [`crate::Client::drop_rejected`].
    pub fn drop_rejected(&self, id: i64) -> Result<(), Error> {
        self.wait(self.client.drop_rejected(id))
    }

    /// See [`crate::Client::export_rejected`].
    pub fn export_rejected(&self) -> Result<String, Error> {
        self.wait(self.client.export_rejected())
    }

    /// See [`crate::Client::conflicts`].
    pub fn conflicts(&self) -> Result<Vec<ConflictRecord>, Error> {
        self.wait(self.client.conflicts())
    }

    /// See [`crate::Client::restore_conflict`].
    pub fn restore_conflict(&self, id: i64) -> Result<(), Error> {
        self.wait(self.client.restore_conflict(id))
    }

    /// See [`crate::Client::dismiss_conflict`].
    pub fn dismiss_conflict(&self, id: i64) -> Result<(), Error> {
        self.wait(self.client.dismiss_conflict(id))
    }
}

/// [`crate::Changes`] as an iterator: each step waits for the next event; it ends
/// with the client.
#[derive(Debug)]
pub struct Changes {
    changes: crate::Changes,
    thread: Arc<Thread>,
}

impl Changes {
    /// The next event, if one comes in time.
    pub fn next_within(&mut self, time: Duration) -> Option<Changed> {
        let next = async { tokio::time::timeout(time, self.changes.next()).await };
        self.thread.wait(next).ok()?.ok()?
    }
}

impl Iterator for Changes {
    type Item = Changed;

    fn next(&mut self) -> Option<Changed> {
        self.thread.wait(self.changes.next()).ok()?
    }
}

/// The status as an iterator: each step waits until it has changed; it ends with
/// the client.
#[derive(Debug)]
pub struct Statuses {
    told: watch::Receiver<Status>,
    thread: Arc<Thread>,
}

impl Statuses {
    /// Waits until the status is as wanted; none when it is not in time.
    pub fn wait_until(
        &mut self,
        time: Duration,
        is_wanted: impl FnMut(&Status) -> bool,
    ) -> Option<Status> {
        let wait = async {
            let wanted = self.told.wait_for(is_wanted);
            let found = tokio::time::timeout(time, wanted).await.ok()?.ok()?;
            Some(found.clone())
        };
        self.thread.wait(wait).ok()?
    }
}

impl Iterator for Statuses {
    type Item = Status;

    fn next(&mut self) -> Option<Status> {
        let changed = self.thread.wait(self.told.changed());
        changed.ok()?.ok()?;
        Some(self.told.borrow_and_update().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_token_function_that_hangs_is_not_called_again_before_it_returns() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        let (let_go, held) = mpsc::channel();
        let held = Mutex::new(held);
        let provider = tokens(move || {
            let call = counter.fetch_add(1, Ordering::SeqCst);
            let held = held.lock().expect("no panic while it is held");
            let () = held.recv().expect("let go");
            drop(held);
            assert!(call != 1, "the second call panics");
            Ok(format!("t{call}"))
        });
        // Nobody waits for so long.
        let short = Duration::from_millis(50);
        let first = tokio::time::timeout(short, provider.token()).await;
        assert!(first.is_err());
        while calls.load(Ordering::SeqCst) == 0 {
            // The thread has not begun.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for _ in 0..3 {
            let error = provider.token().await.expect_err("the first call hangs");
            assert!(error.to_string().contains("has not returned"), "{error}");
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        for _ in 0..3 {
            let_go.send(()).expect("the function waits");
        }
        // It returns at some time; then it is called again.
        let mut answers = Vec::new();
        while answers.len() < 2 {
            match provider.token().await {
                Err(error) if error.to_string().contains("has not returned") => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                other => answers.push(other.map_err(|error| error.to_string())),
            }
        }
        let panicked = Err("the token function panicked".to_owned());
        assert_eq!(answers, [panicked, Ok("t2".to_owned())]);
    }
}
