//! An old backup put back under load: devices notice, offer again what the server lacks,
//! and in the end all are equal and nothing that one of them still held is lost.

use crate::recovery::{place, text};
use oversqlite::{Client, ConnectionState, Direction};
use oversync_tests::device::insert;
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{App, Backend, Config, HttpDevice, Port, Server, on_both_stores, within};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

on_both_stores!(
    devices_lose_nothing_that_they_hold,
    places_that_a_restore_leaves_out_are_nothing_to_catch_up_with,
    what_two_devices_made_of_a_row_since_the_backup_meets,
);

const USERS: &str = "business.users";

/// CONVERGE: without restart or a new write, at most this long.
const CONVERGE: Duration = Duration::from_secs(60);

/// People as a business table, so that restored rows are projected, too.
fn people_table(backend: Backend) -> &'static str {
    match backend {
        Backend::Embedded => "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT, email TEXT)",
        Backend::Postgres => {
            "CREATE SCHEMA business; CREATE TABLE business.users (id uuid PRIMARY KEY, name text, email text)"
        }
    }
}

/// Any SQL in an application's file, by a connection of its own.
fn change(file: &Path, sql: &str) {
    let connection = Connection::open(file).expect("the file opens");
    connection
        .busy_timeout(Duration::from_secs(10))
        .and_then(|()| connection.execute_batch("PRAGMA foreign_keys = on"))
        .and_then(|()| connection.execute_batch(sql))
        .expect("the SQL runs");
}

fn rename(device: &App, key: &str, name: &str) {
    let sql = format!("UPDATE users SET name = '{name}' WHERE id = '{key}'");
    device.connection().execute_batch(&sql).expect("it runs");
}

async fn equal(devices: &[&App], expected: &BTreeMap<String, String>) {
    within(CONVERGE, "all devices are equal", || async {
        let same = devices.iter().all(|device| {
            let people: BTreeMap<String, String> = device.people().into_iter().collect();
            people == *expected
        });
        same.then_some(())
    })
    .await;
    for device in devices {
        within(CONVERGE, "everything is sent", || async {
            let status = device.client.status().await.expect("a status");
            (status.hydrated && status.unsent == 0).then_some(())
        })
        .await;
        assert!(has_none_refused(&device.client).await, "nothing is refused");
    }
}

async fn has_none_refused(client: &Client) -> bool {
    client.rejected().await.expect("a list").is_empty()
}

/// What the server's stream comes to: each row's last payload, where it lives.
async fn folded(reader: &HttpDevice) -> BTreeMap<String, Value> {
    let (changes, _) = reader.download_all(0, 100, "&include_self=true").await;
    let mut versions: BTreeMap<String, i64> = BTreeMap::new();
    let mut rows = BTreeMap::new();
    for change in changes {
        let key = change["pk"].as_str().expect("a key").to_owned();
        let version = versions.entry(key.clone()).or_default();
        // Without gaps, says verify; but what is folded away is not here.
        let next = change["server_version"].as_i64().expect("a version");
        assert!(*version < next, "{change}");
        *version = next;
        match change["deleted"] == true {
            true => rows.remove(&key),
            false => rows.insert(key, change["payload"].clone()),
        };
    }
    rows
}

/// A device without a file: what it has sent, it remembers; told of another history, it
/// passes over everything and offers what is not there.
struct Lean {
    device: HttpDevice,
    epoch: String,
    next_id: i64,
    rows: BTreeSet<String>,
    begun_anew: usize,
}

impl Lean {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Self {
        while !stop.load(Ordering::Relaxed) {
            self.offer(BTreeSet::from([fresh_key()])).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self
    }

    /// Sends rows until they are there.
    async fn offer(&mut self, keys: BTreeSet<String>) {
        self.rows.extend(keys.iter().cloned());
        let mut keys = keys;
        while !keys.is_empty() {
            let first = self.next_id;
            let changes: Vec<Value> = keys
                .iter()
                .zip(first..)
                .map(|(key, id)| insert(id, USERS, key, json!({"id": key, "name": "lean"})))
                .collect();
            let body = json!({"changes": changes, "epoch": self.epoch}).to_string();
            let request = self.device.request(reqwest::Method::POST, "/sync/upload");
            // The server may be away, and the same is sent again.
            let Ok(reply) = HttpDevice::try_send(request.body(body)).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            if reply.status == 200 {
                for status in reply.json()["statuses"].as_array().expect("statuses") {
                    assert_eq!(status["status"], "applied", "{status}");
                }
                self.next_id += keys.len() as i64;
                return;
            }
            if reply.status != 409 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let now = reply.refused(409, "epoch_mismatch");
            self.epoch = now["epoch"].as_str().expect("an epoch").to_owned();
            self.begun_anew += 1;
            self.next_id += keys.len() as i64;
            let there = folded(&self.device).await;
            keys = self.rows.clone();
            keys.retain(|key| !there.contains_key(key));
        }
    }
}

async fn devices_lose_nothing_that_they_hold(backend: Backend) {
    let database = backend.database().await;
    database.execute(people_table(backend)).await;
    let mut server = Server::start(&database, Config::default()).await;
    let (target, user) = (server.target(), fresh_user());
    let ada = App::start(&target, &user, "ada").await;
    let bob = App::start(&target, &user, "bob").await;
    let carl = App::start(&target, &user, "carl").await;
    let mut people: BTreeMap<String, String> = BTreeMap::new();
    let add = |device: &App, people: &mut BTreeMap<String, String>, name: &str| {
        let key = fresh_key();
        device.add(&key, name);
        people.insert(key.clone(), name.to_owned());
        key
    };
    let [edited, gone, gone_here, pending] =
        ["edited", "gone", "gone here", "pending"].map(|name| add(&ada, &mut people, name));
    equal(&[&ada, &bob, &carl], &people).await;
    // Away from now on, until long after.
    carl.client.stop().await;

    let stop = Arc::new(AtomicBool::new(false));
    let leans: Vec<_> = (0..3)
        .map(|_| {
            let device = target.one_device();
            let stop = stop.clone();
            tokio::spawn(async move {
                let page = device.download("after=0").await;
                let epoch = page["epoch"].as_str().expect("an epoch").to_owned();
                let lean = Lean {
                    device,
                    epoch,
                    next_id: 1,
                    rows: BTreeSet::new(),
                    begun_anew: 0,
                };
                lean.run(stop).await
            })
        })
        .collect();
    let (_folder, path) = place();
    // In the middle of the load.
    for n in 0..40 {
        add(if n % 2 == 0 { &ada } else { &bob }, &mut people, "before");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    {
        let to = ["backup", "--json", "--to", text(&path)];
        let mut backup = std::pin::pin!(server.told(&to));
        loop {
            tokio::select! {
                _ = &mut backup => break,
                () = tokio::time::sleep(Duration::from_millis(5)) => {
                    add(&ada, &mut people, "meanwhile");
                }
            }
        }
    }
    // After it: new rows, an edit, deletions that both devices know.
    for n in 0..60 {
        add(if n % 2 == 0 { &ada } else { &bob }, &mut people, "after");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    rename(&bob, &edited, "edited after");
    people.insert(edited.clone(), "edited after".to_owned());
    for key in [&gone, &gone_here] {
        let sql = format!("DELETE FROM users WHERE id = '{key}'");
        ada.connection().execute_batch(&sql).expect("it runs");
        people.remove(key);
    }
    equal(&[&ada, &bob], &people).await;

    server.terminate().await;
    // Nobody can send these before the restore.
    rename(&ada, &pending, "pending edit");
    people.insert(pending.clone(), "pending edit".to_owned());
    add(&bob, &mut people, "while it was down");
    // He has not heard of anything since the beginning.
    let offline = fresh_key();
    let sql = format!("INSERT INTO users (id, name) VALUES ('{offline}', 'offline')");
    change(carl.path(), &sql);
    people.insert(offline, "offline".to_owned());
    let restore = ["restore", "--replace", "--json", "--from", text(&path)];
    let done = server.told(&restore).await;
    server.restart(Port::Same).await;
    let carl = carl.reopen(&server.target()).await;
    carl.client.start().expect("the engine starts");
    let dora = App::start(&server.target(), &user, "dora").await;
    equal(&[&ada, &bob, &carl, &dora], &people).await;
    // In the new history everything works as ever.
    add(&dora, &mut people, "new");
    equal(&[&ada, &bob, &carl, &dora], &people).await;

    let reader = server.target().device(&user, "reader");
    let there: BTreeMap<String, String> = folded(&reader)
        .await
        .into_iter()
        .map(|(key, row)| (key, row["name"].as_str().expect("a name").to_owned()))
        .collect();
    assert_eq!(there, people, "every row once");
    assert_eq!(done["epoch"], reader.download("after=0").await["epoch"]);
    stop.store(true, Ordering::Relaxed);
    for lean in leans {
        let mut lean = lean.await.expect("it ends");
        lean.offer(BTreeSet::from([fresh_key()])).await;
        assert_eq!(lean.begun_anew, 1, "told once");
        let there: BTreeSet<String> = folded(&lean.device).await.into_keys().collect();
        assert_eq!(there, lean.rows, "every row once");
    }
    server.verified().await;
    for device in [ada, bob, carl, dora] {
        device.client.stop().await;
    }
}

/// A row of the backup that two devices edited afterwards, one after the other. The
/// restored server knows neither edit: who comes first is there first, and the other one
/// is a conflict like any other. What loses is kept in the list.
async fn what_two_devices_made_of_a_row_since_the_backup_meets(backend: Backend) {
    for newer_comes_first in [false, true] {
        let database = backend.database().await;
        let mut server = Server::start(&database, Config::default()).await;
        let (target, user) = (server.target(), fresh_user());
        let ada = App::start(&target, &user, "ada").await;
        let bob = App::start(&target, &user, "bob").await;
        let key = fresh_key();
        ada.add(&key, "as in the backup");
        let people = |name: &str| BTreeMap::from([(key.clone(), name.to_owned())]);
        equal(&[&ada, &bob], &people("as in the backup")).await;
        let (_folder, path) = place();
        server
            .told(&["backup", "--json", "--to", text(&path)])
            .await;
        rename(&ada, &key, "first");
        equal(&[&ada, &bob], &people("first")).await;
        ada.client.stop().await;
        rename(&bob, &key, "second");
        bob.sent().await;
        bob.client.stop().await;
        server.terminate().await;
        let restore = ["restore", "--replace", "--json", "--from", text(&path)];
        server.told(&restore).await;
        server.restart(Port::Same).await;
        let (early, late, wins, loses) = match newer_comes_first {
            true => (bob, ada, "second", "first"),
            false => (ada, bob, "first", "second"),
        };
        let early = early.reopen(&server.target()).await;
        early.client.start().expect("the engine starts");
        let reader = server.target().device(&user, "reader");
        within(
            CONVERGE,
            "the edit of the early one is there again",
            || async {
                let rows = folded(&reader).await;
                (rows[&key]["name"] == wins).then_some(())
            },
        )
        .await;
        let late = late.reopen(&server.target()).await;
        late.client.start().expect("the engine starts");
        equal(&[&early, &late], &people(wins)).await;
        let kept = late.client.conflicts().await.expect("a list");
        let lost: Vec<Option<&str>> = kept.iter().map(|record| record.lost.as_deref()).collect();
        assert_eq!(
            lost,
            [Some(&*json!({"name": loses}).to_string())],
            "{kept:?}"
        );
        server.verified().await;
    }
}

/// The head leaps, and the cursor is one of the lost history: the difference says nothing.
async fn places_that_a_restore_leaves_out_are_nothing_to_catch_up_with(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let (target, user) = (server.target(), fresh_user());
    let ada = App::start(&target, &user, "ada").await;
    let key = fresh_key();
    ada.add(&key, "row");
    let people = BTreeMap::from([(key, "row".to_owned())]);
    equal(&[&ada], &people).await;
    let behind = async |wanted: Option<i64>| {
        within(CONVERGE, "it says how far behind it is", async || {
            let status = ada.client.status().await.expect("a status");
            let is_there = status.connection == ConnectionState::Online;
            (is_there && status.behind_by == wanted).then_some(status)
        })
        .await
    };
    behind(Some(0)).await;
    let (_folder, path) = place();
    server
        .told(&["backup", "--json", "--to", text(&path)])
        .await;
    // Only hints say where the stream has got to.
    let downloads = Direction::Downloads;
    ada.client.pause(downloads).await.expect("paused");
    server.terminate().await;
    let restore = ["restore", "--replace", "--json", "--from", text(&path)];
    server.told(&restore).await;
    server.restart(Port::Same).await;
    let status = behind(None).await;
    assert!(status.hydrated && status.cursor == 1, "{status:?}");
    ada.client.resume(downloads).await.expect("resumed");
    behind(Some(0)).await;
    // A new device passes over the same places.
    let bob = App::open(&server.target(), &user, "bob").await;
    bob.client.sync().await.expect("synchronised");
    let status = bob.client.status().await.expect("a status");
    assert_eq!(status.behind_by, Some(0));
    equal(&[&ada, &bob], &people).await;
}
