//! One device that hears of changes: over a socket, with or without downloads,
//! or by polling. It comes back by itself after an outage, and tells how far it
//! is.

use super::socket::{Refusal, Socket};
use super::{Background, Surroundings};
use crate::http::{Endpoint, Http};
use crate::measure::Stage;
use crate::scenario::Listen;
use oversync_shared::wire::{DownloadChange, DownloadReply, ServerMessage};
use rand::Rng as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Rows per page, the most that the protocol allows.
const PAGE: usize = 1_000;

/// First pause before trying again, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// Who wants to know.
pub trait Ear: Send + Sync + 'static {
    /// The server says that the stream goes up to `head`.
    fn hinted(&self, head: i64, now: Instant);
    /// These changes came; there is nothing else up to `place`.
    fn downloaded(&self, changes: &[DownloadChange], place: i64, now: Instant);
}

/// What a listener needs to know of itself.
#[derive(Clone)]
pub struct Who {
    /// Sign-in name.
    pub username: String,
    /// Device id.
    pub device: String,
    /// Spreads devices over processes.
    pub number: usize,
    /// Where connections come from.
    pub source: Option<Ipv4Addr>,
}

/// How it listens.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// Over what.
    pub listen: Listen,
    /// Polling: the pause between downloads.
    pub poll: Duration,
    /// Polling: how long the server may wait.
    pub wait_seconds: u32,
    /// Whether its own device's changes are wanted, too.
    pub include_self: bool,
}

/// How far a listener is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Connected, and told the head.
    pub connected: bool,
    /// The highest head it was told.
    pub head: i64,
    /// What it has downloaded up to.
    pub cursor: i64,
}

/// The running listener.
pub struct Listener {
    position: watch::Receiver<Position>,
    online: watch::Sender<bool>,
    listen: Listen,
    _task: Background,
}

impl Listener {
    /// Starts to listen.
    pub fn start(
        around: Surroundings,
        who: Who,
        how: How,
        token: String,
        ear: Arc<dyn Ear>,
    ) -> Self {
        let (online, mut is_online) = watch::channel(true);
        let (told, position) = watch::channel(Position::default());
        let endpoint = around.target.endpoint(who.number);
        let listen = how.listen;
        let task = tokio::spawn(async move {
            let mut task = Task {
                http: Http::new(Arc::clone(&endpoint), who.source),
                around,
                endpoint,
                who,
                how,
                token,
                ear,
                told,
                tries: 0,
            };
            while is_online.wait_for(|online| *online).await.is_ok() {
                tokio::select! {
                    () = task.stay() => {}
                    gone = is_online.wait_for(|online| !online) => if gone.is_err() { return },
                }
                task.http.close();
                task.told.send_modify(|position| position.connected = false);
            }
        });
        Self {
            position,
            online,
            listen,
            _task: Background(task),
        }
    }

    /// Cuts it off.
    pub fn go_offline(&self) {
        self.online.send_replace(false);
    }

    /// Lets it come back.
    pub fn go_online(&self) {
        self.online.send_replace(true);
    }

    /// How far it is.
    pub fn position(&self) -> Position {
        *self.position.borrow()
    }

    /// Waits until it is connected and has nothing left to download.
    pub async fn caught_up(&self) {
        let mut position = self.position.clone();
        let downloads = self.listen != Listen::Hints;
        // An error means that the listener is gone, and so is who asks.
        let _ = position
            .wait_for(|at| at.connected && (!downloads || at.cursor >= at.head))
            .await;
    }
}

/// What a refusal is counted as: one that asks to come again must say when.
fn refused(status: u16, again: Option<u64>) -> String {
    match (status, again) {
        (429 | 503, None) => format!("HTTP {status} without Retry-After"),
        _ => format!("HTTP {status}"),
    }
}

/// As long as the server asked for, within bounds.
async fn come_again(again: Option<u64>) {
    if let Some(seconds) = again {
        tokio::time::sleep(Duration::from_secs(seconds.min(5))).await;
    }
}

struct Task {
    around: Surroundings,
    endpoint: Arc<Endpoint>,
    http: Http,
    who: Who,
    how: How,
    token: String,
    ear: Arc<dyn Ear>,
    told: watch::Sender<Position>,
    tries: u32,
}

impl Task {
    /// Until the connection ends.
    async fn stay(&mut self) {
        if self.how.listen == Listen::Polls {
            return self.poll().await;
        }
        let connected = Socket::connect(&self.endpoint, self.who.source, &self.token).await;
        let mut socket = match connected {
            Ok(socket) => socket,
            Err(refusal) => return self.refused(refusal).await,
        };
        self.tries = 0;
        while let Some(message) = socket.next().await {
            let now = Instant::now();
            match message {
                ServerMessage::Hello { head, .. } | ServerMessage::Changes { head, .. } => {
                    let head = head.get();
                    self.ear.hinted(head, now);
                    self.told.send_modify(|position| {
                        position.connected = true;
                        position.head = position.head.max(head);
                    });
                    if self.how.listen == Listen::Downloads && !self.download(0).await {
                        break;
                    }
                }
                ServerMessage::Bye { .. } => {}
            }
        }
        self.told.send_modify(|position| position.connected = false);
        self.pause().await;
    }

    async fn poll(&mut self) {
        loop {
            let wait = self.how.wait_seconds;
            if self.download(wait).await {
                self.told.send_modify(|position| position.connected = true);
                tokio::time::sleep(self.how.poll).await;
            } else {
                self.pause().await;
            }
        }
    }

    async fn refused(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Token => self.sign_in().await,
            Refusal::Status(status, again) => {
                let kind = format!("socket: {}", refused(status, again));
                self.around.recorder.error(kind);
                come_again(again).await;
            }
            Refusal::Unreachable => self.around.recorder.error("socket: cannot connect"),
        }
        self.pause().await;
    }

    async fn sign_in(&mut self) {
        let signed_in = self
            .around
            .target
            .sign_in(&self.who.username, &self.who.device)
            .await;
        match signed_in {
            Ok(signed_in) => self.token = signed_in.token,
            Err(_) => self.around.recorder.error("sign-in failed"),
        }
    }

    /// Grows from try to try, with jitter.
    async fn pause(&mut self) {
        let longest = PAUSE.0.saturating_mul(1 << self.tries.min(5)).min(PAUSE.1);
        self.tries += 1;
        let part = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(longest.mul_f64(part)).await;
    }

    /// Everything there is; false on an error.
    async fn download(&mut self, wait: u32) -> bool {
        let mut until = 0;
        loop {
            let cursor = self.told.borrow().cursor;
            let mut path = format!("/sync/download?after={cursor}&limit={PAGE}");
            if until > 0 {
                path += &format!("&until={until}");
            }
            if wait > 0 {
                path += &format!("&wait={wait}");
            }
            if self.how.include_self {
                path += "&include_self=true";
            }
            let asked = Instant::now();
            let answer = self.http.get(&path, &self.token).await;
            let problem = match answer {
                Ok(answer) if answer.is_success() => {
                    match serde_json::from_slice::<DownloadReply>(&answer.body) {
                        Ok(page) => {
                            self.tries = 0;
                            // With a long poll, waiting is no latency.
                            if wait == 0 {
                                let recorder = &self.around.recorder;
                                recorder.record(Stage::Download, asked.elapsed());
                            }
                            until = page.window_until.get();
                            if self.take(&page) {
                                continue;
                            }
                            return true;
                        }
                        Err(_) => "download: not a page".to_owned(),
                    }
                }
                Ok(answer) if answer.status == 401 => {
                    self.sign_in().await;
                    "download: HTTP 401".to_owned()
                }
                Ok(answer) => {
                    come_again(answer.retry_after).await;
                    format!("download: {}", refused(answer.status, answer.retry_after))
                }
                Err(error) => format!("download: {error}"),
            };
            self.around.recorder.error(problem);
            return false;
        }
    }

    /// Whether there is another page.
    fn take(&mut self, page: &DownloadReply) -> bool {
        let place = if page.has_more {
            page.next_after
        } else {
            page.next_after.max(page.window_until)
        };
        self.ear
            .downloaded(&page.changes, place.get(), Instant::now());
        // Without the promise of an ordered feed the cursor must not go beyond
        // what was seen.
        let cursor = if self.around.target.has_hints {
            place
        } else {
            page.next_after
        };
        self.told.send_modify(|position| {
            position.cursor = position.cursor.max(cursor.get());
            position.head = position.head.max(page.window_until.get());
        });
        page.has_more
    }
}
