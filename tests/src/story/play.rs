//! One process's part of a story: goes on where the file says that the last one
//! was. Runs in a program of its own (`phone`), because it may be killed.

use super::{Change, Do, PEER, SCHEMA, SYNCHRONISED, Story, Which};
use crate::device::{change, delete};
use crate::target::Target;
use oversqlite::{Client, Config, DeviceId, Error, SignOut, Step, UserId};
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// Longer than any story.
const LONG: Duration = Duration::from_secs(3_600);

/// A page of the smaller server.
const PAGE: usize = 4;

/// How the client of a story is set up.
pub fn config(file: &Path, target: &Target, user: &str, device: &str) -> Config {
    let token = target.token(user, device, LONG);
    let config = Config::new(
        file,
        target.base(),
        UserId::new(user).expect("a user"),
        move || {
            let token = token.clone();
            async move { Ok(token) }
        },
    )
    .device(DeviceId::new(device).expect("a device"))
    .schema(SCHEMA)
    .hints(false);
    SYNCHRONISED
        .iter()
        .fold(config, |config, table| config.table(*table))
}

/// A connection of the application's own.
pub fn connect(file: &Path) -> Connection {
    let conn = Connection::open(file).expect("the file opens");
    conn.busy_timeout(Duration::from_secs(20))
        .expect("a time-out");
    conn.pragma_update(None, "foreign_keys", true)
        .expect("a pragma");
    conn
}

/// What a process does when it is told of a step, beside the counting.
#[derive(Debug, Default)]
pub struct Ear {
    /// To be run when the next answer is here.
    during_upload: Mutex<Option<(PathBuf, i64, &'static str)>>,
    /// A batch is about to be sent.
    sending: Notify,
}

impl Ear {
    /// Told by the program at every step, on the thread that takes it.
    pub fn hear(&self, step: &str) {
        if step == Step::BatchSending.name() {
            self.sending.notify_waiters();
        }
        if step == Step::BatchAnswered.name() {
            let edit = self.during_upload.lock().expect("no panic").take();
            if let Some((file, act, sql)) = edit {
                let sql =
                    format!("BEGIN IMMEDIATE; {sql}; UPDATE story SET flight = {act}; COMMIT;");
                connect(&file).execute_batch(&sql).expect("the edit");
            }
        }
    }
}

/// A process that plays.
pub struct Player {
    story: &'static Story,
    file: PathBuf,
    user: String,
    device: String,
    /// Where the client connects to, and where others do.
    servers: HashMap<&'static str, (Target, Target)>,
    ear: Arc<Ear>,
    client: Option<Client>,
    at: Which,
}

fn name(which: Which) -> &'static str {
    match which {
        Which::First => "first",
        Which::Second => "second",
    }
}

impl Player {
    /// One that plays this story in this file, as a device of a user. The second
    /// server has an address for the client, and one for others.
    pub fn new(
        story: &'static Story,
        file: PathBuf,
        (user, device): (String, String),
        servers: [Target; 3],
        ear: Arc<Ear>,
    ) -> Self {
        let [first, proxied, second] = servers;
        let servers = HashMap::from([
            (name(Which::First), (first.clone(), first)),
            (name(Which::Second), (proxied, second)),
        ]);
        Self {
            story,
            file,
            user,
            device,
            servers,
            ear,
            client: None,
            at: Which::First,
        }
    }

    /// Plays to the end.
    pub async fn play(&mut self) {
        let first: i64 = self.number("SELECT act FROM story");
        for (number, act) in (1_i64..).zip(self.story.acts) {
            if number < first {
                // Only where it left off counts.
                for then in act.then {
                    if let Do::At(which) = then {
                        self.at = *which;
                    }
                }
                continue;
            }
            if number > first {
                let sql = format!(
                    "BEGIN IMMEDIATE; {}; UPDATE story SET act = {number}; COMMIT;",
                    act.write.trim().trim_end_matches(';')
                );
                connect(&self.file).execute_batch(&sql).expect("the write");
            }
            for then in act.then {
                self.go_on(number, then).await;
            }
        }
        self.close().await;
    }

    async fn go_on(&mut self, act: i64, then: &Do) {
        match then {
            Do::Sync => {
                let done = self.client().await.sync().await.expect("synchronised");
                assert!(done.complete);
            }
            Do::Download => {
                let client = self.client().await;
                client.download_once(1_000).await.expect("a page");
            }
            Do::Peer(changes) => self.peer(changes).await,
            Do::Twin(change, ahead) => self.twin(change, *ahead).await,
            Do::DuringUpload(sql) => {
                if self.number("SELECT flight FROM story") < act {
                    let edit = (self.file.clone(), act, *sql);
                    *self.ear.during_upload.lock().expect("no panic") = Some(edit);
                }
            }
            Do::AnswerLost => self.lose_the_answer().await,
            Do::RetryRejected => {
                let client = self.client().await;
                client.retry_all_rejected().await.expect("retried");
            }
            Do::DropRejected => {
                let client = self.client().await;
                for rejected in client.rejected().await.expect("a list") {
                    match client.drop_rejected(rejected.id).await {
                        Ok(()) | Err(Error::Setup(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            Do::RestoreConflicts => {
                let client = self.client().await;
                for lost in client.conflicts().await.expect("a list") {
                    client.restore_conflict(lost.id).await.expect("restored");
                }
            }
            Do::At(which) => {
                if self.at != *which {
                    self.close().await;
                    self.at = *which;
                }
            }
            Do::SignOut => {
                let client = self.client().await.clone();
                client.sign_out(SignOut::SyncFirst).await.expect("left");
                self.client = None;
            }
        }
    }

    fn number(&self, sql: &str) -> i64 {
        let found = connect(&self.file).query_row(sql, [], |row| row.get(0));
        found.expect("a number")
    }

    async fn client(&mut self) -> &Client {
        if self.client.is_none() {
            let (target, _) = &self.servers[name(self.at)];
            let config = config(&self.file, target, &self.user, &self.device);
            self.client = Some(Client::open(config).await.expect("the client opens"));
        }
        self.client.as_ref().expect("just opened")
    }

    async fn close(&mut self) {
        if let Some(client) = self.client.take() {
            client.stop().await;
        }
    }

    fn other(&self, device: &str) -> crate::HttpDevice {
        let (_, target) = &self.servers[name(self.at)];
        target.device(&self.user, device)
    }

    /// Uploads on top of what the server has. Done before: gets the same answer.
    async fn peer(&self, changes: &[Change]) {
        let peer = self.other(PEER);
        let (log, _) = peer.download_all(0, PAGE, "&include_self=true").await;
        let mut versions: HashMap<String, i64> = HashMap::new();
        for entry in &log {
            let key = entry["pk"].as_str().expect("a key").to_owned();
            let version = entry["server_version"].as_i64().expect("a version");
            versions.insert(key, version);
        }
        let changes: Vec<Value> = changes
            .iter()
            .map(|change| {
                let version = versions.get(change.key).copied().unwrap_or(0);
                upload_change(change, change.id, version)
            })
            .collect();
        for status in peer.statuses(&changes).await {
            assert_eq!(status["status"], "applied", "{status}");
        }
    }

    /// A change id of the file's future, used by a copy of it. Done before: another
    /// number, and no effect.
    async fn twin(&mut self, change: &Change, ahead: i64) {
        self.client().await;
        let id = self.number("SELECT next_change_id FROM _sync_client");
        let twin = self.other(&self.device);
        twin.upload(&[upload_change(change, id + ahead, 0)]).await;
    }

    /// Freezes, stops waiting when the batch is about to be sent, and sees to it
    /// that the server has it.
    async fn lose_the_answer(&mut self) {
        let ear = Arc::clone(&self.ear);
        let client = self.client().await;
        let mut sending = std::pin::pin!(ear.sending.notified());
        sending.as_mut().enable();
        tokio::select! {
            biased;
            () = sending => {}
            done = client.upload_once() => { done.expect("nothing was left to send"); }
        }
        let frozen = frozen(&connect(&self.file));
        if !frozen.is_empty() {
            self.other(&self.device).upload(&frozen).await;
        }
    }
}

fn upload_change(of: &Change, id: i64, version: i64) -> Value {
    let table = format!("{SCHEMA}.{}", of.table);
    match of.row {
        None => delete(id, &table, of.key, version),
        Some(row) => {
            let row: Value = serde_json::from_str(&format!("{{{row}}}")).expect("JSON");
            change(id, &table, "UPDATE", of.key, version, row)
        }
    }
}

/// The outbox, as the client would send it.
fn frozen(file: &Connection) -> Vec<Value> {
    let sql = "SELECT o.change_id, t.name, o.op, lower(hex(o.pk)), o.server_version, o.payload
               FROM _sync_outbox AS o JOIN _sync_table AS t ON t.n = o.tbl ORDER BY o.change_id";
    let mut statement = file.prepare(sql).expect("an outbox");
    let rows = statement.query_map([], |row| {
        let payload: Option<String> = row.get(5)?;
        let payload: Option<Value> = payload.map(|text| serde_json::from_str(&text).expect("JSON"));
        Ok(json!({
            "source_change_id": row.get::<_, i64>(0)?, "schema": SCHEMA,
            "table": row.get::<_, String>(1)?, "op": row.get::<_, String>(2)?,
            "pk": row.get::<_, String>(3)?, "server_version": row.get::<_, i64>(4)?,
            "payload": payload,
        }))
    });
    let rows = rows.expect("rows");
    rows.collect::<Result<_, _>>().expect("changes")
}

/// Whether the client has left nothing in the file.
pub fn is_bare(file: &Path) -> bool {
    let sql = "SELECT 1 FROM sqlite_schema WHERE name LIKE '\\_sync\\_%' ESCAPE '\\'";
    let found = connect(file).query_row(sql, [], |_| Ok(())).optional();
    found.expect("a schema").is_none()
}
