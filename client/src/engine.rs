//! The background engine: one task that decides when to upload and download.
//!
//! Of several processes that have the file open, the one with the lease works;
//! the others stand by and try to take over every second: the lease is free as soon as
//! that one has ended, however it has.
//!
//! It wakes for local commits, hints, other programs' writes and a slow timer,
//! does what is due and not paused, and on an error waits with growing, jittered
//! pauses. Uploads that the server refuses as a whole wait by themselves: downloads
//! go on. It ends only when it is told to, never because of an error.

use crate::backoff::Backoff;
use crate::capture;
use crate::core::Core;
use crate::error::{Error, SetupError};
use crate::listener::{self, Signal, Times};
use crate::log;
use crate::pause;
use crate::shadow;
use crate::state::State;
use crate::status::{ConnectionState, Stalled};
use crate::{download, upload};
use oversync_shared::ServerId;
use rusqlite::Connection;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// Hints that may wait; they coalesce on the server, too.
const SIGNALS: usize = 16;

/// How often one that stands by tries to take over: after a SIGKILL of the other one it
/// takes this long at most, and then as long as connecting does.
const LEASE_RETRY: Duration = Duration::from_secs(1);

/// How the engine was asked to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) poll: Duration,
    pub(crate) foreign_writers: Duration,
    pub(crate) hints: bool,
}

/// What is due.
#[derive(Debug, Clone, Copy, Default)]
struct Due {
    upload: bool,
    download: bool,
}

struct Engine {
    core: Arc<Core>,
    due: Due,
    /// Due, but held back by the application.
    held: Due,
    backoff: Backoff,
    /// Nothing is tried before this time.
    not_before: Instant,
    /// The server has named that time: nothing shortens it.
    is_asked: bool,
    refusal: Refusal,
    cursor: ServerId,
}

/// Uploads that the server answers and does not take.
struct Refusal {
    backoff: Backoff,
    /// Nothing is uploaded before this time.
    until: Instant,
    why: Option<Stalled>,
}

impl Refusal {
    fn none() -> Self {
        Self {
            backoff: Backoff::default(),
            until: Instant::now(),
            why: None,
        }
    }

    fn add(&mut self, error: &Error) {
        self.until = Instant::now() + self.backoff.next(None);
        self.why = Some(Stalled::uploads_by(error));
    }
}

/// Runs until `stop` turns true or its sender is gone.
pub(crate) async fn run(
    core: Arc<Core>,
    pace: Pace,
    local: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) {
    if !stand_by(&core, pace, &mut stop).await {
        core.live(|live| live.connection = ConnectionState::Stopped);
        return;
    }
    let (signals, mut heard) = mpsc::channel(SIGNALS);
    let listener = pace.hints.then(|| {
        let listening = listener::run(Arc::clone(&core), signals, Times::USUAL);
        tokio::spawn(listening)
    });
    core.live(|live| {
        live.connection = if pace.hints {
            ConnectionState::Offline
        } else {
            ConnectionState::Polling
        };
    });
    let mut engine = Engine {
        core: Arc::clone(&core),
        due: Due {
            upload: true,
            download: true,
        },
        held: Due::default(),
        backoff: Backoff::default(),
        not_before: Instant::now(),
        is_asked: false,
        refusal: Refusal::none(),
        cursor: ServerId::ZERO,
    };
    let mut poll = interval(pace.poll);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut foreign = interval(pace.foreign_writers);
    foreign.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if engine.ready() {
            tokio::select! {
                () = engine.work() => {}
                () = told(&mut stop) => break,
            }
            continue;
        }
        let retry = engine.retry_at();
        tokio::select! {
            () = told(&mut stop) => break,
            () = local.notified() => engine.due.upload = true,
            Some(signal) = heard.recv() => engine.hear(signal),
            _ = poll.tick() => engine.due = Due { upload: true, download: true },
            _ = foreign.tick() => engine.look_for_foreign_writes().await,
            () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
        }
    }
    if let Some(listener) = listener {
        listener.abort();
    }
    core.live(|live| live.connection = ConnectionState::Stopped);
}

/// Waits for the lease on the file; tells whether it was got before the word to
/// stop. Meanwhile this process only captures: what the other one writes is
/// noticed, and told as "anything may have changed".
async fn stand_by(core: &Core, pace: Pace, stop: &mut watch::Receiver<bool>) -> bool {
    let mut foreign = interval(pace.foreign_writers.min(LEASE_RETRY));
    foreign.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_try = Instant::now();
    loop {
        if next_try <= Instant::now() {
            let got = core.lease.keep();
            core.live(|live| {
                live.connection = ConnectionState::Standby;
                live.stalled = match &got {
                    Ok(()) | Err(Error::Setup(SetupError::InUse { .. })) => None,
                    Err(error) => Some(Stalled::by(error)),
                };
            });
            if got.is_ok() {
                return true;
            }
            next_try = Instant::now() + LEASE_RETRY;
        }
        tokio::select! {
            () = told(stop) => return false,
            () = sleep_until(next_try) => {}
            _ = foreign.tick() => {
                match core.db.run(|store| store.after_foreign_commit(|_| Ok(()))).await {
                    Ok(Some(())) => {
                        core.announce_missed();
                        let _ = core.refresh_status().await;
                    }
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, "standing by"),
                }
            }
        }
    }
}

/// Waits for the word to stop; a client that is gone has said it, too.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await.map(|_| ());
}

/// What the file says between two requests, in one look.
struct Found {
    paused: pause::Paused,
    /// Whether a row of the server waits to be written.
    has_shadows: bool,
    state: State,
}

fn look(conn: &Connection) -> Result<Found, Error> {
    Ok(Found {
        paused: pause::read(conn)?,
        has_shadows: shadow::is_any(conn)?,
        state: State::load(conn)?,
    })
}

impl Engine {
    fn ready(&self) -> bool {
        self.retry_at().is_some_and(|time| time <= Instant::now())
    }

    /// When the first of what is due may be tried.
    fn retry_at(&self) -> Option<Instant> {
        let upload = self.not_before.max(self.refusal.until);
        let upload = self.due.upload.then_some(upload);
        let download = self.due.download.then_some(self.not_before);
        upload.into_iter().chain(download).min()
    }

    /// The server is back: no reason to wait, unless it has asked for that.
    fn try_everything(&mut self) {
        let now = Instant::now();
        if !self.is_asked {
            self.not_before = now;
        }
        self.refusal.until = now;
        self.due = Due {
            upload: true,
            download: true,
        };
    }

    fn hear(&mut self, signal: Signal) {
        match signal {
            Signal::Online { head, epoch } => {
                self.core
                    .live(|live| live.connection = ConnectionState::Online);
                self.core.saw_head(Some(head), Some(&epoch));
                // One look after every connect, whatever the head says.
                self.try_everything();
            }
            Signal::Head(head) => {
                self.core.saw_head(Some(head), None);
                self.due.download |= head > self.cursor;
            }
            Signal::Offline => {
                self.core
                    .live(|live| live.connection = ConnectionState::Offline);
                self.core.forget_server();
            }
            Signal::LongPoll => {
                self.core
                    .live(|live| live.connection = ConnectionState::LongPoll);
                self.try_everything();
            }
            Signal::NoHints => {
                self.core
                    .live(|live| live.connection = ConnectionState::Polling);
            }
        }
    }

    async fn look_for_foreign_writes(&mut self) {
        let found = self.core.db.run(|store| {
            // Nobody but other connections fills the log.
            store.after_foreign_commit(|store| {
                // While nothing can be sent, too: what the triggers note of a row that
                // is written again and again must not fill the disk.
                let tables = store.tables();
                if store.read(|conn| log::is_long(conn, &tables))? {
                    store.write(capture::collect)?;
                }
                store.read(capture::has_work)
            })
        });
        match found.await {
            Ok(None) => {}
            Ok(Some(work)) => {
                // Perhaps another process has taken a pause back.
                self.due.upload |= work || self.held.upload || self.held.download;
            }
            Err(error) => tracing::debug!(%error, "looking for foreign writes"),
        }
    }

    /// Does what is due, until nothing is or something fails.
    async fn work(&mut self) {
        match self.rounds().await {
            Ok(()) => {
                self.backoff.reset();
                self.is_asked = false;
                let refused = self.refusal.why.clone();
                self.core.live(|live| live.stalled = refused);
            }
            Err(error) => {
                let asked = match &error {
                    Error::Network(error) => error.retry_after(),
                    _ => None,
                };
                let wait = self.backoff.next(asked);
                tracing::debug!(%error, ?wait, "will try again");
                self.not_before = Instant::now() + wait;
                self.is_asked = asked.is_some();
                self.core
                    .live(|live| live.stalled = Some(Stalled::by(&error)));
                // Offline, the edits wait in good order: folded per row, with
                // the time since which they wait.
                let folded = self
                    .core
                    .db
                    .run(|store| match store.read(capture::log_waits)? {
                        true => store.write(capture::collect),
                        false => Ok(()),
                    });
                if let Err(error) = folded.await {
                    tracing::debug!(%error, "reading the log");
                }
            }
        }
        if let Err(error) = self.core.refresh_status().await {
            tracing::debug!(%error, "reading the status");
        }
    }

    async fn rounds(&mut self) -> Result<(), Error> {
        let core = Arc::clone(&self.core);
        let _turn = core.turn().await?;
        loop {
            let mut uploads = self.may_upload();
            if uploads {
                match upload::once_unless_paused(&core).await {
                    // Held back below, unless somebody has just let it go.
                    Ok(None) => uploads = false,
                    Ok(Some(done)) => {
                        self.refusal = Refusal::none();
                        self.due.upload = done.sent > 0;
                        // A refused edit may stand in the way of a parked entry.
                        self.due.download |= done.rejected > 0;
                    }
                    Err(error) if error.is_refusal() => {
                        tracing::debug!(%error, "uploads are refused");
                        self.refusal.add(&error);
                    }
                    Err(error) => return Err(error),
                }
            }
            let found = core.db.read(look).await?;
            self.hold_back(found.paused);
            if uploads {
                // The rest of a conflict may wait for a parent that a page brings. And an
                // answer that begins a new pass leaves nothing to send before it is done:
                // nothing else would ask for its first page.
                self.due.download |= found.has_shadows || !found.state.hydrated;
            }
            // What an upload makes due is held back like anything else.
            if self.due.download && !found.paused.downloads {
                let done = download::page(&core, found.state, None).await?;
                self.cursor = done.next_after;
                self.due.download = done.has_more;
                if !done.has_more {
                    // Settled conflicts and the end of a first pass leave edits
                    // to upload.
                    self.due.upload |= core.db.read(capture::has_work).await?;
                }
            } else if !uploads && !self.may_upload() {
                return Ok(());
            }
            core.progressed().await?;
        }
    }

    fn may_upload(&self) -> bool {
        self.due.upload && self.refusal.until <= Instant::now()
    }

    /// What is paused is kept for later; what no longer is, is due.
    fn hold_back(&mut self, paused: pause::Paused) {
        let sort = |due: &mut bool, held: &mut bool, paused: bool| {
            *held |= *due;
            *due = *held && !paused;
            *held &= paused;
        };
        if paused.uploads {
            self.refusal = Refusal::none();
        }
        sort(&mut self.due.upload, &mut self.held.upload, paused.uploads);
        sort(
            &mut self.due.download,
            &mut self.held.download,
            paused.downloads,
        );
    }
}
