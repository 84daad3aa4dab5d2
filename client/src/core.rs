//! What one client shares between its callers and its engine.
//!
//! One network step at a time: whoever uploads or downloads holds the turn.

use crate::ahead::Ahead;
use crate::changes::{self, Changed};
use crate::db::Db;
use crate::error::{Error, NetworkError};
use crate::key::{LocalKey, RowRef};
use crate::lock::{Holding, Lease};
use crate::outbox::BatchLimits;
use crate::resync;
use crate::status::{self, Live, Status};
use crate::transport::Transport;
use oversync_shared::wire::{Capabilities, feature};
use oversync_shared::{ServerId, UserId};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, broadcast, watch};
use tokio::time::Instant;

/// What a server without capabilities takes (PROTOCOL.md sections 1 and 3).
const MAX_CHANGES: usize = 1000;
const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
const MAX_PAGE: usize = 1000;

/// How often to look for conflict records that are too old, in seconds.
const PRUNE_EVERY: i64 = 3_600;

/// Share of the body limit to fill: sizes are estimated, escapes are not.
const FILL: (usize, usize) = (3, 4);

/// How often a long upload or download says how far it is, at most.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// Reading the status counts rows: it may take this part of the time.
const PROGRESS_PART: u32 = 20;

/// What the server allows and can do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server {
    pub(crate) batch: BatchLimits,
    pub(crate) page: usize,
    pub(crate) ordered_feed: bool,
    /// Hints over WebSocket; a server that does not say is tried.
    pub(crate) hints: bool,
    /// Downloads that wait; only a server that says so.
    pub(crate) wait: bool,
}

impl Server {
    fn of(capabilities: Option<&Capabilities>) -> Self {
        let has = |feature: &str| {
            capabilities.is_some_and(|found| found.features.iter().any(|name| name == feature))
        };
        let limits = capabilities.map(|found| found.limits);
        let body = limits.map_or(MAX_BODY_BYTES, |limits| limits.max_body_bytes);
        Self {
            batch: BatchLimits {
                changes: limits
                    .map_or(MAX_CHANGES, |limits| limits.max_changes)
                    .max(1),
                bytes: body / FILL.1 * FILL.0,
            },
            page: limits
                .map_or(MAX_PAGE, |limits| limits.max_page)
                .clamp(1, MAX_PAGE),
            ordered_feed: has(feature::ORDERED_FEED),
            hints: capabilities.is_none() || has(feature::WS),
            wait: has(feature::WAIT),
        }
    }
}

/// The right to exchange changes with the server.
///
/// Whoever asked for something may drop the future in the middle. A job that it
/// has left at the database thread still runs; until that one is done, neither
/// another process nor another task may begin.
pub(crate) struct Turn {
    held: Option<Held>,
    db: Db,
}

/// Dropped in this order: the lease goes back while nobody else can take it.
struct Held {
    _lease: Holding,
    _turn: OwnedMutexGuard<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let held = self.held.take();
        if self.db.was_left() {
            self.db.after(move || drop(held));
        }
    }
}

/// Shared by a client and its engine.
pub(crate) struct Core {
    pub(crate) db: Db,
    pub(crate) transport: Arc<Transport>,
    /// The next page of a download.
    pub(crate) ahead: Ahead,
    /// Held during a network step, by one task of this process.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Held as well: by one process of all that have the file open.
    pub(crate) lease: Lease,
    server: Mutex<Option<Server>>,
    known: Mutex<Known>,
    /// How often the file's part of the status has been read.
    readings: Arc<AtomicU64>,
    /// When the status is next to be read in the middle of something long.
    next_progress: Mutex<Option<Instant>>,
    /// The server's time when old conflict records were last looked for.
    pruned_at: Mutex<Option<i64>>,
    changed: broadcast::Sender<Changed>,
    status: watch::Sender<Status>,
}

/// What a status is made of.
struct Known {
    live: Live,
    /// The file's part, as last read.
    file: Status,
    /// Readings up to this one are older: of two that were made side by side, the later
    /// counts.
    reading: u64,
}

impl Known {
    fn status(&self) -> Status {
        self.live.complete(self.file.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks can panic half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    /// Whose file it is.
    pub(crate) fn user(&self) -> UserId {
        UserId::new(&lock(&self.known).file.user).expect("BUG: the file has an owner")
    }

    /// This device's name.
    pub(crate) fn device(&self) -> String {
        lock(&self.known).file.device.clone()
    }

    pub(crate) fn new(db: Db, transport: Transport, lease: Lease, status: Status) -> Self {
        Self {
            db,
            transport: Arc::new(transport),
            ahead: Ahead::default(),
            turn: Arc::default(),
            lease,
            server: Mutex::new(None),
            known: Mutex::new(Known {
                live: Live::default(),
                file: status.clone(),
                reading: 0,
            }),
            readings: Arc::default(),
            next_progress: Mutex::new(None),
            pruned_at: Mutex::new(None),
            changed: broadcast::channel(changes::BUFFER).0,
            status: watch::Sender::new(status),
        }
    }

    /// Waits for this process's turn, and takes the lease on the file: fails
    /// with [`SetupError::InUse`](crate::SetupError::InUse) while another
    /// process synchronises it.
    pub(crate) async fn turn(&self) -> Result<Turn, Error> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let held = Held {
            _lease: self.lease.take()?,
            _turn: turn,
        };
        Ok(Turn {
            held: Some(held),
            db: self.db.clone(),
        })
    }

    /// The server's limits; asked for once, until [`Core::forget_server`].
    pub(crate) async fn server(&self) -> Result<Server, NetworkError> {
        if let Some(server) = *lock(&self.server) {
            return Ok(server);
        }
        let server = Server::of(self.transport.capabilities().await?.as_ref());
        *lock(&self.server) = Some(server);
        Ok(server)
    }

    /// Whether [`Core::server`] answers without asking.
    pub(crate) fn knows_server(&self) -> bool {
        lock(&self.server).is_some()
    }

    /// The server may have been replaced by another version of itself.
    pub(crate) fn forget_server(&self) {
        *lock(&self.server) = None;
    }

    /// The server refused a batch of this size.
    pub(crate) fn shrink(&self, batch: BatchLimits) {
        if let Some(server) = &mut *lock(&self.server) {
            server.batch = batch;
        }
    }

    /// Whether old conflict records have not been looked for in a while, by the
    /// server's time; whoever is told so looks.
    pub(crate) fn is_time_to_prune(&self, now: i64) -> bool {
        let mut last = lock(&self.pruned_at);
        let is_time = last.is_none_or(|last| last.abs_diff(now) >= PRUNE_EVERY.unsigned_abs());
        if is_time {
            *last = Some(now);
        }
        is_time
    }

    /// Tells the application which rows were written.
    pub(crate) async fn announce(&self, written: Vec<(RowRef, LocalKey)>) -> Result<(), Error> {
        if written.is_empty() || self.changed.receiver_count() == 0 {
            return Ok(());
        }
        let tables = self.db.run(|store| Ok(store.tables())).await?;
        for event in changes::group(&tables, written) {
            let _ = self.changed.send(event);
        }
        Ok(())
    }

    /// Tells the application that anything may have been written, by another
    /// process.
    pub(crate) fn announce_missed(&self) {
        let _ = self.changed.send(Changed::Missed);
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Changed> {
        self.changed.subscribe()
    }

    /// Changes what the engine knows, and publishes it.
    pub(crate) fn live(&self, change: impl FnOnce(&mut Live)) {
        self.learn(|known| change(&mut known.live));
    }

    /// The same for all that is known. What is published last is what was learned last.
    fn learn<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = lock(&self.known);
        let told = change(&mut known);
        let new = known.status();
        self.status.send_if_modified(|status| {
            let modified = new != *status;
            *status = new;
            modified
        });
        told
    }

    /// A head that a reply or a hint told. Hints may be forged: it only counts
    /// for showing how far behind the device is.
    pub(crate) fn saw_head(&self, head: Option<ServerId>, epoch: Option<&str>) {
        if let Some(head) = head {
            self.live(|live| live.saw_head(head, epoch));
        }
    }

    /// A page has been committed: says how far the device has got, without reading
    /// the file again.
    pub(crate) fn page_done(&self, cursor: ServerId, rows: usize, has_more: bool) {
        self.learn(|known| {
            known.reading = self.readings.load(Ordering::Relaxed);
            let Known { live, file, .. } = known;
            file.cursor = cursor.get();
            file.progress = None;
            match &mut live.pass {
                Some((pass, progress)) if has_more => {
                    *progress = pass.page(Instant::now().into_std(), cursor, rows);
                }
                pass => *pass = None,
            }
        });
    }

    /// Reads the file's part of the status again and publishes it.
    pub(crate) async fn refresh_status(&self) -> Result<Status, Error> {
        let readings = Arc::clone(&self.readings);
        let read = self.db.read(move |conn| {
            let number = readings.fetch_add(1, Ordering::Relaxed) + 1;
            Ok((number, status::read(conn)?))
        });
        let (number, read) = read.await?;
        Ok(self.learn(|known| {
            if number > known.reading {
                known.reading = number;
                known.file.clone_from(&read);
            }
            known.live.complete(read)
        }))
    }

    /// One step of many is done: publishes how far it has come, a few times a
    /// second.
    pub(crate) async fn progressed(&self) -> Result<(), Error> {
        let start = Instant::now();
        if lock(&self.next_progress).is_some_and(|next| start < next) {
            return Ok(());
        }
        self.refresh_status().await?;
        let pause = PROGRESS_EVERY.max(start.elapsed() * PROGRESS_PART);
        *lock(&self.next_progress) = Some(Instant::now() + pause);
        Ok(())
    }

    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Everything is read again, as the file says already: how far behind the device is,
    /// nobody knows until then.
    pub(crate) fn starts_over(&self) {
        self.learn(|known| {
            known.reading = self.readings.load(Ordering::Relaxed);
            known.file.hydrated = false;
            known.live.head = ServerId::ZERO;
            known.live.pass = None;
        });
    }

    /// A refusal that says the device must pass over everything again; any
    /// other error is returned.
    pub(crate) async fn start_over(&self, error: NetworkError) -> Result<(), Error> {
        let (cause, epoch) = match error {
            NetworkError::EpochMismatch { epoch } => (resync::Cause::HistoryReplaced, epoch),
            NetworkError::HistoryPruned { .. } => (resync::Cause::HistoryPruned, None),
            other => return Err(other.into()),
        };
        self.db
            .write(move |txn| {
                crate::capture::collect(txn)?;
                resync::begin(txn, cause, epoch.as_deref())
            })
            .await?;
        self.starts_over();
        Ok(())
    }
}
