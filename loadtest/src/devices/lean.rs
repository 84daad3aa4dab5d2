//! Lean devices: they speak the protocol and have no SQLite. Each changes its
//! own rows, so that every answer can be foretold; every change id that was
//! acknowledged is kept for the comparison at the end.

use super::Surroundings;
use super::listener::{Ear, How, Listener, Who};
use super::matching::Matching;
use crate::http::Http;
use crate::measure::{Recorder, Stage};
use crate::scenario::{Deed, Fleet, Listen, Mix, Span};
use oversync_shared::json::canonicalise;
use oversync_shared::wire::{DownloadChange, StatusKind, UploadReply};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Changes per upload while preparing.
const PRELOAD_BATCH: usize = 500;

/// Tries while preparing and at the end.
const TRIES: usize = 100;

/// What the devices of one user share.
pub struct LeanUser {
    /// The sign-in name.
    pub name: String,
    hints: Matching,
    applied: Matching,
}

impl LeanUser {
    /// Nobody listens yet.
    pub fn new(name: String, recorder: &Arc<Recorder>) -> Self {
        Self {
            name,
            hints: Matching::new(Stage::Hint, Arc::clone(recorder)),
            applied: Matching::new(Stage::Applied, Arc::clone(recorder)),
        }
    }

    fn leave(&self, device: usize) {
        self.hints.leave(device);
        self.applied.leave(device);
    }
}

/// A row as a device knows it: its version, and a hash of its canonical payload
/// (`None` for a tombstone).
pub type Seen = (i64, Option<u64>);

/// What a device that downloads knows of its user's rows.
#[derive(Debug, Default)]
pub struct Image {
    rows: HashMap<Uuid, Seen>,
}

impl Image {
    /// The newer version stays.
    fn put(&mut self, key: Uuid, version: i64, payload: Option<u64>) {
        let seen = self.rows.entry(key).or_insert((0, None));
        if version > seen.0 {
            *seen = (version, payload);
        }
    }

    /// All rows, tombstones too.
    pub fn rows(&self) -> &HashMap<Uuid, Seen> {
        &self.rows
    }
}

/// Tells payloads apart as JSON values.
pub fn payload_hash(payload: &str) -> u64 {
    let mut canonical = Vec::with_capacity(payload.len());
    let mut hasher = DefaultHasher::new();
    match canonicalise(payload, &mut canonical) {
        Ok(()) => canonical.hash(&mut hasher),
        Err(_) => payload.hash(&mut hasher),
    }
    hasher.finish()
}

/// What a device's listener does with what it hears.
struct DeviceEar {
    user: Arc<LeanUser>,
    number: usize,
    image: Arc<Mutex<Image>>,
}

impl Ear for DeviceEar {
    fn hinted(&self, head: i64, now: Instant) {
        self.user.hints.reached(self.number, head, now);
    }

    fn downloaded(&self, changes: &[DownloadChange], place: i64, now: Instant) {
        let mut image = self.image.lock().expect("BUG: no panic under this lock");
        for change in changes {
            if let Ok(key) = Uuid::parse_str(&change.pk) {
                let payload = change.payload.as_ref();
                let hash = payload.map(|payload| payload_hash(payload.get()));
                image.put(key, change.server_version.get(), hash);
            }
        }
        drop(image);
        self.user.applied.reached(self.number, place, now);
    }
}

#[derive(Debug, Clone, Copy)]
struct Row {
    key: Uuid,
    version: i64,
}

/// One change under way.
struct Entry {
    id: i64,
    row: Row,
    deed: Deed,
    payload: Option<u64>,
}

/// An upload that has not been answered.
struct Pending {
    body: Vec<u8>,
    entries: Vec<Entry>,
    due: Instant,
}

/// A device.
pub struct Lean {
    /// What its user's devices share.
    pub user: Arc<LeanUser>,
    /// Its device id.
    pub device: String,
    /// Change ids that were answered `applied`.
    pub acknowledged: Vec<i64>,
    /// Rows that it has deleted, as was acknowledged.
    pub deleted: Vec<Uuid>,
    around: Surroundings,
    fleet: Arc<Fleet>,
    number: usize,
    token: String,
    http: Http,
    next_id: i64,
    rows: Vec<Row>,
    random: StdRng,
    pending: Option<Pending>,
    listener: Option<Listener>,
    image: Arc<Mutex<Image>>,
}

/// A place in a run.
pub struct Place {
    /// Of all lean devices.
    pub number: usize,
    /// Where connections come from.
    pub source: Option<Ipv4Addr>,
    /// Of this device.
    pub seed: u64,
}

impl Lean {
    /// Signs in, and listens if the fleet does.
    pub async fn open(
        around: &Surroundings,
        fleet: &Arc<Fleet>,
        user: &Arc<LeanUser>,
        device: String,
        place: Place,
    ) -> anyhow::Result<Self> {
        let token = around.target.sign_in(&user.name, &device).await?.token;
        let image = Arc::new(Mutex::new(Image::default()));
        let mut lean = Self {
            user: Arc::clone(user),
            device,
            acknowledged: Vec::new(),
            deleted: Vec::new(),
            around: around.clone(),
            fleet: Arc::clone(fleet),
            number: place.number,
            http: Http::new(around.target.endpoint(place.number), place.source),
            token,
            next_id: 1,
            rows: Vec::new(),
            random: StdRng::seed_from_u64(place.seed),
            pending: None,
            listener: None,
            image,
        };
        lean.listen(place.source);
        Ok(lean)
    }

    fn listen(&mut self, source: Option<Ipv4Addr>) {
        let listen = match self.fleet.listen {
            Listen::Nothing => return,
            // A server without hints is polled.
            Listen::Hints | Listen::Downloads if !self.around.target.has_hints => Listen::Polls,
            listen => listen,
        };
        let ear = DeviceEar {
            user: Arc::clone(&self.user),
            number: self.number,
            image: Arc::clone(&self.image),
        };
        let who = Who {
            username: self.user.name.clone(),
            device: self.device.clone(),
            number: self.number,
            source,
        };
        let how = How {
            listen,
            poll: Duration::from_secs_f64(self.fleet.poll_seconds),
            wait_seconds: self.fleet.wait_seconds,
            include_self: false,
        };
        self.join(listen);
        self.listener = Some(Listener::start(
            self.around.clone(),
            who,
            how,
            self.token.clone(),
            Arc::new(ear),
        ));
    }

    fn join(&self, listen: Listen) {
        if listen != Listen::Polls {
            self.user.hints.join(self.number);
        }
        if listen != Listen::Hints {
            self.user.applied.join(self.number);
        }
    }

    /// Whether it hears of anything.
    pub fn listens(&self) -> bool {
        self.listener.is_some()
    }

    /// What it has downloaded and was acknowledged, if it downloads.
    pub fn image(&self) -> Option<&Arc<Mutex<Image>>> {
        let downloads = self.fleet.listen != Listen::Hints || !self.around.target.has_hints;
        (self.listens() && downloads).then_some(&self.image)
    }

    /// The rows that it has made, with the versions that it was acknowledged.
    pub fn rows(&self) -> impl Iterator<Item = (Uuid, i64)> {
        self.rows.iter().map(|row| (row.key, row.version))
    }

    /// How far it has downloaded.
    pub fn cursor(&self) -> i64 {
        self.listener
            .as_ref()
            .map_or(0, |listener| listener.position().cursor)
    }

    /// Waits until it is connected and has nothing left to download.
    pub async fn caught_up(&self) {
        if let Some(listener) = &self.listener {
            listener.caught_up().await;
        }
    }

    /// Goes away.
    pub fn go_offline(&mut self) {
        self.user.leave(self.number);
        self.http.close();
        if let Some(listener) = &self.listener {
            listener.go_offline();
        }
    }

    /// Comes back.
    pub fn go_online(&mut self) {
        if let Some(listener) = &self.listener {
            self.join(self.fleet.listen);
            listener.go_online();
        }
    }

    /// New rows before anything is measured.
    pub async fn preload(&mut self, rows: usize) -> anyhow::Result<()> {
        let mix = Mix::default();
        let mut left = rows;
        while left > 0 {
            let batch = left.min(PRELOAD_BATCH);
            let pending = self.build(batch, mix, Instant::now());
            self.pending = Some(pending);
            self.settle().await?;
            left -= batch;
        }
        Ok(())
    }

    /// Sends what is still unanswered, until it is answered.
    pub async fn settle(&mut self) -> anyhow::Result<()> {
        for _ in 0..TRIES {
            if self.pending.is_none() {
                return Ok(());
            }
            self.send().await;
        }
        anyhow::bail!("{} {}: no answer to an upload", self.user.name, self.device)
    }

    /// One operation that was due then. What is still unanswered comes first.
    pub async fn operate(&mut self, due: Instant) {
        if self.pending.is_none() {
            let batch = draw(self.fleet.batch, &mut self.random);
            let pending = self.build(batch, self.fleet.mix, due);
            self.pending = Some(pending);
        }
        self.send().await;
    }

    fn build(&mut self, batch: usize, mix: Mix, due: Instant) -> Pending {
        let mut body = String::with_capacity(64 + batch * 320);
        let mut entries = Vec::with_capacity(batch);
        // What came before is answered: one upload is under way at a time.
        write!(body, "{{\"settled_below\":{},\"changes\":[", self.next_id)
            .expect("BUG: a String takes any text");
        for index in 0..batch {
            if index > 0 {
                body.push(',');
            }
            entries.push(self.build_one(&mut body, mix));
        }
        body.push_str("]}");
        Pending {
            body: body.into_bytes(),
            entries,
            due,
        }
    }

    fn build_one(&mut self, body: &mut String, mix: Mix) -> Entry {
        let id = self.next_id;
        self.next_id += 1;
        let mut deed = mix.draw(&mut self.random);
        // A row takes part in a batch once: it is put back with the answer.
        let row = if deed == Deed::Insert || self.rows.is_empty() {
            deed = Deed::Insert;
            // Version 7: neighbours in time are neighbours in the index, as
            // applications are advised to do.
            Row {
                key: Uuid::now_v7(),
                version: 0,
            }
        } else {
            let index = self.random.random_range(0..self.rows.len());
            self.rows.swap_remove(index)
        };
        let (op, version) = match deed {
            Deed::Insert => ("INSERT", 0),
            Deed::Update => ("UPDATE", row.version),
            Deed::Delete => ("DELETE", row.version),
            Deed::Conflict => ("UPDATE", row.version - 1),
        };
        let key = row.key;
        let payload = (deed != Deed::Delete).then(|| {
            let bytes = draw(self.fleet.payload_bytes, &mut self.random);
            let text = "x".repeat(bytes);
            format!("{{\"id\":\"{key}\",\"name\":\"load {id}\",\"email\":\"{text}\"}}")
        });
        let text = payload.as_deref().unwrap_or("null");
        write!(
            body,
            "{{\"source_change_id\":{id},\"schema\":\"business\",\"table\":\"users\",\"op\":\"{op}\",\
             \"pk\":\"{key}\",\"server_version\":{version},\"payload\":{text}}}"
        )
        .expect("BUG: a String takes any text");
        let keeps_image = self.image().is_some();
        Entry {
            id,
            row,
            deed,
            payload: payload
                .filter(|_| keeps_image)
                .map(|payload| payload_hash(&payload)),
        }
    }

    async fn send(&mut self) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        let answer = self
            .http
            .post("/sync/upload", &self.token, &pending.body)
            .await;
        let recorder = Arc::clone(&self.around.recorder);
        match answer {
            Ok(answer) if answer.is_success() => {
                match serde_json::from_slice::<UploadReply>(&answer.body) {
                    Ok(reply) => {
                        recorder.record(Stage::Acknowledged, pending.due.elapsed());
                        self.take(pending, &reply);
                    }
                    Err(_) => recorder.error("upload: not a reply"),
                }
                return;
            }
            Ok(answer) => {
                recorder.error(format!("upload: HTTP {}", answer.status));
                match answer.status {
                    401 => {
                        let signed_in = self.around.target.sign_in(&self.user.name, &self.device);
                        if let Ok(signed_in) = signed_in.await {
                            self.token = signed_in.token;
                        }
                    }
                    429 | 503 => {
                        let seconds = answer.retry_after.unwrap_or(1).min(5);
                        let part = self.random.random_range(0.2..1.0);
                        tokio::time::sleep(Duration::from_secs(seconds).mul_f64(part)).await;
                    }
                    // Asking again would change nothing.
                    400..=499 => return,
                    _ => self.pause().await,
                }
            }
            Err(error) => {
                recorder.error(format!("upload: {error}"));
                self.pause().await;
            }
        }
        // The same ids again: what was applied is answered as it was.
        self.pending = Some(pending);
    }

    async fn pause(&mut self) {
        let millis = self.random.random_range(50..250);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    fn take(&mut self, pending: Pending, reply: &UploadReply) {
        let recorder = Arc::clone(&self.around.recorder);
        if reply.statuses.len() != pending.entries.len() {
            return recorder.error("upload: not one status per change");
        }
        let mut applied = 0;
        let mut image = self.image.lock().expect("BUG: no panic under this lock");
        for (entry, status) in pending.entries.into_iter().zip(&reply.statuses) {
            let mut row = entry.row;
            match (status.status, entry.deed) {
                (StatusKind::Conflict, Deed::Conflict) => self.rows.push(row),
                (StatusKind::Applied, Deed::Conflict) => {
                    recorder.error("upload: an outdated change was applied");
                }
                (StatusKind::Applied, deed) => {
                    applied += 1;
                    self.acknowledged.push(entry.id);
                    row.version += 1;
                    let told = status.new_server_version.map(|version| version.get());
                    if told != Some(row.version) {
                        recorder.error("upload: another version than it must have");
                    }
                    image.put(row.key, row.version, entry.payload);
                    match deed {
                        Deed::Delete => self.deleted.push(row.key),
                        _ => self.rows.push(row),
                    }
                }
                (StatusKind::Conflict, _) => recorder.error("upload: unexpected conflict"),
                (StatusKind::Invalid, _) => {
                    let reason = status.invalid.as_ref().map(|detail| detail.reason.as_str());
                    recorder.error(format!(
                        "upload: invalid, {}",
                        reason.unwrap_or("no reason")
                    ));
                }
            }
        }
        drop(image);
        recorder.did(1, applied);
        if applied > 0 {
            let place = reply.highest_server_seq.get();
            self.user.hints.uploaded(self.number, place, pending.due);
            self.user.applied.uploaded(self.number, place, pending.due);
        }
    }
}

fn draw(span: Span, random: &mut StdRng) -> usize {
    span.draw(random)
}
