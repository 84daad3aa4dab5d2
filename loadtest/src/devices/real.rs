//! Real devices: SQLite files, capture, the background engine, WebSockets. What
//! is measured comes from the client's public face: the status (nothing unsent:
//! acknowledged) and the change stream (a row of another device: applied). When
//! a hint arrives is not told there: an observer of the same user, with a socket
//! of its own, hears it.

use super::edits::{Editor, SCHEMA};
use super::elsewhere::Elsewhere;
use super::listener::{Ear, How, Listener, Who};
use super::{Background, Surroundings};
use crate::measure::{Recorder, Stage};
use crate::scenario::{Fleet, Listen};
use anyhow::Context as _;
use oversqlite::{Changed, Client, Config, ConnectionState, DeviceId, TokenError, UserId};
use oversync_shared::wire::DownloadChange;
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Rows that were committed longer ago are no longer waited for.
const FORGET: Duration = Duration::from_secs(120);

/// How many are remembered before the old ones are forgotten.
const REMEMBERED: usize = 20_000;

/// When each new row was due, and on which device it was made.
type Commits = HashMap<String, (Instant, usize)>;

/// What the devices of one user share.
pub struct RealUser {
    /// The sign-in name.
    pub name: String,
    commits: Mutex<Commits>,
    hints: Mutex<VecDeque<(i64, Instant)>>,
    recorder: Arc<Recorder>,
    observer: Mutex<Option<Listener>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("BUG: no panic under this lock")
}

impl RealUser {
    /// Signs the observer in, where the server has hints.
    pub async fn open(
        around: &Surroundings,
        name: String,
        number: usize,
    ) -> anyhow::Result<Arc<Self>> {
        let user = Arc::new(Self {
            name,
            commits: Mutex::default(),
            hints: Mutex::default(),
            recorder: Arc::clone(&around.recorder),
            observer: Mutex::default(),
        });
        if around.target.has_hints {
            let who = Who {
                username: user.name.clone(),
                device: "hint-observer".to_owned(),
                number,
                source: None,
            };
            let how = How {
                listen: Listen::Downloads,
                poll: Duration::from_secs(1),
                wait_seconds: 0,
                include_self: false,
            };
            let signed_in = around.target.sign_in(&who.username, &who.device).await?;
            let ear = Arc::new(Observer(Arc::downgrade(&user)));
            let listener = Listener::start(around.clone(), who, how, signed_in.token, ear);
            *lock(&user.observer) = Some(listener);
        }
        Ok(user)
    }

    fn committed(&self, key: &str, due: Instant, device: usize) {
        let mut commits = lock(&self.commits);
        if commits.len() >= REMEMBERED {
            commits.retain(|_, (due, _)| due.elapsed() < FORGET);
        }
        commits.insert(key.to_owned(), (due, device));
    }
}

/// Hears hints for a user of real devices.
struct Observer(std::sync::Weak<RealUser>);

impl Ear for Observer {
    fn hinted(&self, head: i64, now: Instant) {
        if let Some(user) = self.0.upgrade() {
            let mut hints = lock(&user.hints);
            if hints.back().is_none_or(|last| last.0 < head) {
                hints.push_back((head, now));
            }
        }
    }

    fn downloaded(&self, changes: &[DownloadChange], place: i64, _: Instant) {
        let Some(user) = self.0.upgrade() else { return };
        let mut hints = lock(&user.hints);
        let commits = lock(&user.commits);
        for change in changes {
            let id = change.server_id.get();
            let hinted = hints.iter().find(|(head, _)| *head >= id);
            // Only the first version: later ones have no commit time.
            if let (Some((_, when)), Some((due, _)), 1) =
                (hinted, commits.get(&change.pk), change.server_version.get())
            {
                let time = when.saturating_duration_since(*due);
                user.recorder.record(Stage::Hint, time);
            }
        }
        hints.retain(|(head, _)| *head > place);
    }
}

/// One device.
pub struct Real {
    /// What its user's devices share.
    pub user: Arc<RealUser>,
    /// Its device id.
    pub device: String,
    /// Its file.
    pub path: PathBuf,
    client: Client,
    around: Surroundings,
    fleet: Arc<Fleet>,
    number: usize,
    editor: Editor,
    unacknowledged: Arc<Mutex<VecDeque<Instant>>>,
    listening: Vec<Background>,
    is_online: bool,
    /// Who keeps the file while this program does not.
    other: Option<Elsewhere>,
}

impl Real {
    /// Makes the file, signs in, hydrates, starts the engine.
    pub async fn open(
        around: &Surroundings,
        fleet: &Arc<Fleet>,
        user: &Arc<RealUser>,
        device: String,
        folder: &Path,
        place: (usize, u64),
    ) -> anyhow::Result<Self> {
        let (number, seed) = place;
        let path = folder.join(format!("{}-{device}.db", user.name));
        rusqlite::Connection::open(&path)?.execute_batch(SCHEMA)?;
        let client = open_client(around, &path, &user.name, &device, number).await?;
        client.hydrate().await.context("first pass")?;
        client.start()?;
        let editor = Editor::new(client.connection()?, seed);
        let mut real = Self {
            user: Arc::clone(user),
            device,
            path,
            client,
            around: around.clone(),
            fleet: Arc::clone(fleet),
            number,
            editor,
            unacknowledged: Arc::default(),
            listening: Vec::new(),
            is_online: true,
            other: None,
        };
        real.listen()?;
        Ok(real)
    }

    /// Its client.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    fn listen(&mut self) -> anyhow::Result<()> {
        let heard = hear(self.client.changes(), self.number, Arc::clone(&self.user));
        let acknowledged = acknowledge(
            self.client.status_stream(),
            oversqlite::inspect(&self.path)?,
            Arc::clone(&self.unacknowledged),
            Arc::clone(&self.around.recorder),
        );
        self.listening = vec![
            Background(tokio::spawn(heard)),
            Background(tokio::spawn(acknowledged)),
        ];
        Ok(())
    }

    /// One local transaction that was due then. Only one made while connected is
    /// measured.
    pub fn operate(&mut self, due: Instant) {
        let (user, number, is_online) = (&self.user, self.number, self.is_online);
        let edit = || {
            self.editor.next(&self.fleet, |key| {
                if is_online {
                    user.committed(key, due, number);
                }
            })
        };
        match tokio::task::block_in_place(edit) {
            Ok(changes) => {
                self.around.recorder.did(1, changes);
                if is_online && changes > 0 {
                    lock(&self.unacknowledged).push_back(due);
                }
            }
            Err(error) => self.around.recorder.error(format!("local: {error}")),
        }
    }

    /// Stops the client; the application goes on editing.
    pub async fn go_offline(&mut self) {
        if std::mem::replace(&mut self.is_online, false) {
            self.listening.clear();
            lock(&self.unacknowledged).clear();
            self.client.stop().await;
        }
    }

    /// Stops the client and leaves the file to a process of its own; the
    /// application goes on editing. That process ends by SIGKILL.
    pub async fn go_into_another_program(&mut self) {
        self.go_offline().await;
        let names = (self.user.name.as_str(), self.device.as_str());
        let url = &self.around.target.endpoint(self.number).url;
        match Elsewhere::start(&self.around.target, url, &self.path, names).await {
            Ok(other) => self.other = Some(other),
            // It is only away, then; while the server is away, nobody signs in.
            Err(error) => {
                let error = format!("another program: {error:#}");
                self.around.recorder.error(error);
            }
        }
    }

    /// Opens the file again and starts the engine.
    pub async fn go_online(&mut self) -> anyhow::Result<()> {
        if self.is_online {
            return Ok(());
        }
        if let Some(other) = self.other.take() {
            other.kill().await?;
        }
        let number = self.number;
        self.client = open_client(
            &self.around,
            &self.path,
            &self.user.name,
            &self.device,
            number,
        )
        .await?;
        self.client.start()?;
        self.editor.reconnect(self.client.connection()?);
        self.is_online = true;
        self.listen()
    }

    /// Waits until it is connected and has nothing left to exchange.
    pub async fn caught_up(&self) {
        let mut status = self.client.status_stream();
        // An error means that the client is gone, and so is who asks.
        let _ = status
            .wait_for(|status| {
                status.connection == ConnectionState::Online
                    && status.behind_by == Some(0)
                    && status.unsent == 0
            })
            .await;
    }

    /// Waits until it has applied this place of the stream.
    pub async fn has_passed(&self, place: i64) {
        let mut status = self.client.status_stream();
        // An error means that the client is gone, and so is who asks.
        let _ = status.wait_for(|status| status.cursor >= place).await;
    }

    /// Ends it.
    pub async fn close(self) {
        if self.is_online {
            self.client.stop().await;
        }
    }
}

/// The client of a device on this file; signs in.
pub async fn open_client(
    around: &Surroundings,
    path: &Path,
    username: &str,
    device: &str,
    number: usize,
) -> anyhow::Result<Client> {
    let target = Arc::clone(&around.target);
    let user = target.sign_in(username, device).await?.user_id;
    let url = target.endpoint(number).url.clone();
    let has_hints = target.has_hints;
    let names = Arc::new((username.to_owned(), device.to_owned()));
    let token = move || {
        let (target, names) = (Arc::clone(&target), Arc::clone(&names));
        async move {
            let signed_in = target.sign_in(&names.0, &names.1).await;
            signed_in
                .map(|signed_in| signed_in.token)
                .map_err(|error| TokenError::new(error.to_string()))
        }
    };
    let config = Config::new(path, url, UserId::new(user)?, token)
        .device(DeviceId::new(device)?)
        .schema("business")
        .table("users")
        .table("posts")
        .hints(has_hints)
        // Hints or nothing: a slow poll must not make a lost hint look fast.
        .poll_interval(Duration::from_secs(if has_hints { 3_600 } else { 1 }));
    Ok(Client::open(config).await?)
}

async fn hear(mut changes: oversqlite::Changes, device: usize, user: Arc<RealUser>) {
    let mut seen = HashSet::new();
    // A row that was made while this device was away shows late, or for the
    // first time when somebody changes it: that is no latency.
    let since = Instant::now();
    while let Some(change) = changes.next().await {
        let now = Instant::now();
        let Changed::Rows { keys, .. } = change else {
            user.recorder.error("a change stream was too slow");
            continue;
        };
        if seen.len() > REMEMBERED {
            seen.clear();
        }
        for key in keys {
            let committed = lock(&user.commits).get(&key).copied();
            // A device hears of its own row, too, when others have changed it.
            if let Some((due, origin)) = committed
                && origin != device
                && due > since
                && seen.insert(key)
            {
                let time = now.saturating_duration_since(due);
                user.recorder.record(Stage::Applied, time);
            }
        }
    }
}

/// Everything that was committed before the file says that nothing is unsent has
/// been acknowledged. The status alone may be older than the last commit, so the
/// file is asked.
async fn acknowledge(
    mut status: tokio::sync::watch::Receiver<oversqlite::Status>,
    file: oversqlite::Inspection,
    waiting: Arc<Mutex<VecDeque<Instant>>>,
    recorder: Arc<Recorder>,
) {
    while status.changed().await.is_ok() {
        let now = Instant::now();
        let unsent = status.borrow_and_update().unsent;
        let count = lock(&waiting).len();
        if unsent > 0 || count == 0 {
            continue;
        }
        let asked = tokio::task::block_in_place(|| file.status());
        if asked.is_ok_and(|status| status.unsent == 0) {
            for due in lock(&waiting).drain(..count) {
                recorder.record(Stage::Acknowledged, now.saturating_duration_since(due));
            }
        }
    }
}
