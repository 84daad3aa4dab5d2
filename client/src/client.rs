//! The façade: what an application calls.

use crate::changes::Changes;
use crate::config::Config;
use crate::conflicts::{self, ConflictRecord};
use crate::core::Core;
use crate::db::Db;
use crate::download::{self, Downloaded};
use crate::engine::{self, Pace};
use crate::error::{Error, SetupError};
use crate::lock::Lease;
use crate::parked::{self, Parked};
use crate::rejected::{self, Rejected};
use crate::state::State;
use crate::status::{self, Status};
use crate::store;
use crate::transport::Transport;
use crate::upgrade;
use crate::upload::{self, Uploaded};
use crate::wake;
use oversync_shared::{DeviceId, UserId};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// Rounds of upload and download in one [`Client::sync`], against two devices
/// that answer one another for ever.
const MAX_ROUNDS: usize = 100;

/// What a [`Client::sync`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Synced {
    /// All uploads together.
    pub uploaded: Uploaded,
    /// Rows of other devices written into tables.
    pub downloaded: usize,
    /// Whether everything had been exchanged at the end.
    pub complete: bool,
}

/// One user's data on this device, kept the same as on all the others.
///
/// The application reads and writes its own SQLite file as ever; the client
/// captures every commit by triggers and exchanges changes with the server:
/// when asked ([`Client::sync`]), or all the time ([`Client::start`]). Clones
/// share one client.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    path: PathBuf,
    user: UserId,
    device: DeviceId,
    pace: Pace,
    local: Arc<Notify>,
    stop: watch::Sender<bool>,
    engine: Mutex<Option<JoinHandle<()>>>,
}

impl Client {
    /// Opens the file, checks the listed tables, installs the client's own
    /// tables and the capture triggers. Nothing is sent yet.
    ///
    /// Several clients may be open on one file, in one process or in many, as
    /// long as they list the same tables: one at a time synchronises, the others
    /// capture.
    ///
    /// Fails with a [`SetupError`] that says what to do instead when a listed
    /// table cannot be synchronised, or the file is another user's.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let transport = Transport::new(&config)?;
        let pace = Pace {
            poll: config.poll,
            foreign_writers: config.foreign_writers,
            hints: config.hints,
        };
        let path = config.path.clone();
        let db = Db::open(config).await?;
        let (state, status) = db
            .read(|conn| Ok((State::load(conn)?, status::read(conn)?)))
            .await?;
        Ok(Self {
            inner: Arc::new(Inner {
                core: Arc::new(Core::new(db, transport, Lease::new(&path), status)),
                path,
                user: state.user,
                device: state.device,
                pace,
                local: Arc::new(Notify::new()),
                stop: watch::Sender::new(false),
                engine: Mutex::new(None),
            }),
        })
    }

    /// Whose data the file holds.
    pub fn user(&self) -> &UserId {
        &self.inner.user
    }

    /// This installation's name.
    pub fn device(&self) -> &DeviceId {
        &self.inner.device
    }

    /// A connection to the file whose commits wake the engine at once: WAL,
    /// foreign keys on, a busy timeout. Any other connection or program may
    /// write as well; the engine notices within
    /// [`Config::foreign_writers_interval`].
    ///
    /// The connection's commit hook and WAL hook are in use: an application
    /// that replaces them calls [`Client::notify`] after its commits.
    pub fn connection(&self) -> Result<Connection, Error> {
        let conn = store::connect(&self.inner.path)?;
        wake::watch(&conn, Arc::clone(&self.inner.local))?;
        Ok(conn)
    }

    /// Tells the engine that something has been committed.
    pub fn notify(&self) {
        self.inner.local.notify_one();
    }

    /// Uploads one batch of local changes. Nothing is sent before the first
    /// pass over the server's data has been completed (by [`Client::hydrate`],
    /// [`Client::sync`] or the engine).
    pub async fn upload_once(&self) -> Result<Uploaded, Error> {
        let core = &self.inner.core;
        let _turn = core.turn().await?;
        if !core.db.read(State::load).await?.hydrated {
            self.first_pass().await?;
        }
        let done = upload::once(core).await;
        core.refresh_status().await?;
        done
    }

    /// Downloads and applies one page of at most `limit` changes (1–1000).
    pub async fn download_once(&self, limit: usize) -> Result<Downloaded, Error> {
        let core = &self.inner.core;
        let _turn = core.turn().await?;
        let done = download::once(core, Some(limit)).await;
        core.refresh_status().await?;
        done
    }

    /// Passes over everything the server has, this device's own changes
    /// included; resumes a pass that was cut off, behind the last page that was
    /// committed. Done already: downloads what is new. The application may read
    /// and write meanwhile.
    ///
    /// ```no_run
    /// # async fn example(client: oversqlite::Client) -> Result<(), oversqlite::Error> {
    /// let mut status = client.status_stream();
    /// let bar = tokio::spawn(async move {
    ///     while status.changed().await.is_ok() {
    ///         if let Some(progress) = status.borrow_and_update().progress {
    ///             println!("{} %, {:?} s left", progress.percent(), progress.eta_seconds);
    ///         }
    ///     }
    /// });
    /// client.hydrate().await?;
    /// bar.abort();
    /// # Ok(())
    /// # }
    /// ```
    pub async fn hydrate(&self) -> Result<usize, Error> {
        let _turn = self.inner.core.turn().await?;
        let applied = self.first_pass().await;
        self.inner.core.refresh_status().await?;
        applied
    }

    /// Downloads until there is no more. The caller has the turn.
    async fn first_pass(&self) -> Result<usize, Error> {
        let mut applied = 0;
        loop {
            let page = download::once(&self.inner.core, None).await?;
            applied += page.applied;
            if !page.has_more {
                return Ok(applied);
            }
            self.inner.core.progressed().await?;
        }
    }

    /// Uploads until nothing is left, downloads until there is no more, and
    /// again while conflicts leave something to upload. A server that takes no
    /// upload is asked for downloads all the same, before this fails. Does not
    /// retry: an error is returned, and what was to be sent stays in the file.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("notes.db");
    /// # rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, text)")?;
    /// # let token = || async { Ok(String::new()) };
    /// # let user = oversqlite::UserId::new("user-ada")?;
    /// # let config = oversqlite::Config::new(&path, "http://127.0.0.1:1", user, token).table("notes");
    /// # let client = oversqlite::Client::open(config).await?;
    /// use oversqlite::{Error, NetworkError};
    ///
    /// match client.sync().await {
    ///     Ok(done) => println!("{} sent, {} come", done.uploaded.applied, done.downloaded),
    ///     Err(Error::Network(NetworkError::Unreachable(why))) => println!("offline: {why}"),
    ///     Err(other) => return Err(other.into()),
    /// }
    /// # client.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn sync(&self) -> Result<Synced, Error> {
        let core = &self.inner.core;
        let _turn = core.turn().await?;
        let done = self.rounds().await;
        core.refresh_status().await?;
        done
    }

    /// The caller has the turn.
    pub(crate) async fn rounds(&self) -> Result<Synced, Error> {
        let core = &self.inner.core;
        let mut total = Synced::default();
        for _ in 0..MAX_ROUNDS {
            let uploaded = self.upload_all(&mut total.uploaded).await;
            if !matches!(&uploaded, Err(error) if !error.is_refusal()) {
                total.downloaded += self.first_pass().await?;
            }
            uploaded?;
            if !core.db.read(crate::capture::has_work).await? {
                total.complete = true;
                break;
            }
        }
        Ok(total)
    }

    /// Uploads until nothing is left.
    async fn upload_all(&self, total: &mut Uploaded) -> Result<(), Error> {
        loop {
            let done = upload::once(&self.inner.core).await?;
            total.add(done);
            if done.sent == 0 {
                return Ok(());
            }
            self.inner.core.progressed().await?;
        }
    }

    /// Starts the background engine: local commits go up and other devices'
    /// changes come down by themselves from now on.
    pub fn start(&self) -> Result<(), Error> {
        let inner = &self.inner;
        let mut engine = inner.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if engine.is_some() {
            return Err(SetupError::AlreadyStarted.into());
        }
        *engine = Some(tokio::spawn(engine::run(
            Arc::clone(&inner.core),
            inner.pace,
            Arc::clone(&inner.local),
            inner.stop.subscribe(),
        )));
        Ok(())
    }

    /// Stops the engine and closes the file. A request under way is abandoned:
    /// what it carried is frozen and will be sent again. Every later call fails
    /// with [`Error::Stopped`].
    pub async fn stop(&self) {
        self.tell_to_stop();
        let engine = {
            let mut engine = self
                .inner
                .engine
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            engine.take()
        };
        if let Some(engine) = engine {
            let _ = engine.await;
        }
        self.inner.core.db.close().await;
        self.inner.core.lease.release();
    }

    /// How things stand, read from the file now.
    pub async fn status(&self) -> Result<Status, Error> {
        self.inner.core.refresh_status().await
    }

    /// How things stand, as it changes. The engine refreshes it after every
    /// step, in long work a few times a second: of an edit that was committed a moment
    /// ago it may not know yet, and [`Client::status`] does. What is borrowed of it holds
    /// the engine up: let go of it before another call.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("notes.db");
    /// # rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, text)")?;
    /// # let token = || async { Ok(String::new()) };
    /// # let user = oversqlite::UserId::new("user-ada")?;
    /// # let config = oversqlite::Config::new(&path, "http://127.0.0.1:1", user, token).table("notes");
    /// # let client = oversqlite::Client::open(config).await?;
    /// use oversqlite::ConnectionState;
    ///
    /// client.start()?;
    /// let mut status = client.status_stream();
    /// let told = status.wait_for(|status| status.stalled_reason.is_some()).await?;
    /// assert_eq!(told.connection, ConnectionState::Offline);
    /// println!("{:?}", told.stalled_reason);
    /// # drop(told);
    /// # client.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn status_stream(&self) -> watch::Receiver<Status> {
        self.inner.core.status()
    }

    /// Hears which rows are written from now on, after each commit.
    pub fn changes(&self) -> Changes {
        Changes::new(self.inner.core.listen())
    }

    pub(crate) fn tell_to_stop(&self) {
        self.inner.stop.send_replace(true);
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("path", &self.inner.path)
            .field("user", &self.inner.user)
            .field("device", &self.inner.device)
            .finish_non_exhaustive()
    }
}

/// Looks at a file without becoming its owner: works while another process
/// synchronises it.
pub fn inspect(path: impl AsRef<Path>) -> Result<Inspection, Error> {
    let mut conn = Connection::open_with_flags(
        path,
        rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    upgrade::run(&tx)?;
    tx.commit()?;
    Ok(Inspection { conn })
}

/// A file looked at from outside.
#[derive(Debug)]
pub struct Inspection {
    conn: Connection,
}

impl Inspection {
    pub(crate) fn into_connection(self) -> Connection {
        self.conn
    }

    pub(crate) fn as_connection(&self) -> &Connection {
        &self.conn
    }

    /// The status as far as it stands in the file.
    pub fn status(&self) -> Result<Status, Error> {
        status::read(&self.conn)
    }

    /// See [`Client::rejected`].
    pub fn rejected(&self) -> Result<Vec<Rejected>, Error> {
        rejected::list(&self.conn)
    }

    /// See [`Client::parked`].
    pub fn parked(&self) -> Result<Vec<Parked>, Error> {
        parked::list(&self.conn)
    }

    /// See [`Client::conflicts`].
    pub fn conflicts(&self) -> Result<Vec<ConflictRecord>, Error> {
        conflicts::list(&self.conn)
    }
}
