//! Real devices: the client on SQLite files, against a server that goes away,
//! is killed, and comes back. Polling is off (an hour) wherever hints must do.

use oversqlite::{Client, Config as DeviceConfig, TokenError};
use oversync_shared::{DeviceId, UserId};
use oversync_tests::server::{SECRET, binary};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Backend, Config, Port, Seed, Server, eventually, on_both_stores, within};
use rand::Rng as _;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

on_both_stores!(
    a_commit_here_appears_there_without_a_poll,
    edits_made_while_the_server_is_away_arrive,
    devices_converge_through_crashes_of_the_server,
);

/// CONVERGE: without restart or a new write, at most this long after the fault.
const CONVERGE: Duration = Duration::from_secs(60);

const SCHEMA: &str = "
    PRAGMA journal_mode = wal;
    CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT);
    CREATE TABLE posts (id TEXT PRIMARY KEY, author_id TEXT REFERENCES users, title TEXT);
";

/// Every row of both tables, in an order of their own.
type Rows = Vec<(String, Option<String>)>;

fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("the file opens");
    connection
        .busy_timeout(Duration::from_secs(10))
        .expect("waits");
    connection
}

fn rows(path: &Path) -> Rows {
    open(path)
        .prepare("SELECT id, name FROM users UNION ALL SELECT id, title FROM posts ORDER BY 1")
        .and_then(|mut select| {
            select
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .expect("the tables can be read")
}

/// A device that runs.
struct Device {
    client: Client,
    path: PathBuf,
}

impl Device {
    async fn start(server: &Server, folder: &TempDir, user: &str, name: &str) -> Self {
        let path = folder.path().join(format!("{name}.db"));
        open(&path).execute_batch(SCHEMA).expect("the schema");
        let target = server.target();
        let (base, owner, device) = (target.base().to_owned(), user.to_owned(), name.to_owned());
        let tokens = move || {
            let token = target.token(&owner, &device, Duration::from_secs(600));
            async move { Ok::<_, TokenError>(token) }
        };
        let config = DeviceConfig::new(&path, base, UserId::new(user).expect("valid"), tokens)
            .device(DeviceId::new(name).expect("valid"))
            .schema("business")
            .table("users")
            .table("posts")
            .poll_interval(Duration::from_secs(3_600));
        let client = Client::open(config).await.expect("the client opens");
        client.start().expect("the client starts");
        Self { client, path }
    }

    fn write(&self, sql: &str, values: &[&str]) {
        let connection = self.client.connection().expect("a connection");
        connection
            .execute(sql, rusqlite::params_from_iter(values))
            .expect("the application writes");
    }

    /// A user, or a post of that user.
    fn add(&self, key: &str, author: Option<&str>, text: &str) {
        match author {
            None => self.write("INSERT INTO users VALUES (?1, ?2)", &[key, text]),
            Some(author) => self.write(
                "INSERT INTO posts VALUES (?1, ?2, ?3)",
                &[key, author, text],
            ),
        }
    }

    fn rows(&self) -> Rows {
        rows(&self.path)
    }
}

async fn equal(here: &Device, there: &Device, count: usize) {
    within(CONVERGE, "both devices are equal", || {
        let same = here.rows() == there.rows() && here.rows().len() == count;
        async move { same.then_some(()) }
    })
    .await;
}

async fn a_commit_here_appears_there_without_a_poll(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let (folder, user) = (TempDir::new().expect("a folder"), fresh_user());
    let ada = Device::start(&server, &folder, &user, "ada").await;
    let bob = Device::start(&server, &folder, &user, "bob").await;
    let (author, post) = (fresh_key(), fresh_key());
    ada.add(&author, None, "Ann");
    equal(&ada, &bob, 1).await;
    bob.add(&post, Some(&author), "Hello");
    equal(&ada, &bob, 2).await;
    for (device, text) in [(&ada, "by ada"), (&bob, "by bob"), (&ada, "by ada again")] {
        device.write("UPDATE posts SET title = ?2 WHERE id = ?1", &[&post, text]);
        let expected = (post.clone(), Some(text.to_owned()));
        for other in [&ada, &bob] {
            eventually(text, || {
                let there = other.rows().contains(&expected);
                async move { there.then_some(()) }
            })
            .await;
        }
    }
    ada.write("DELETE FROM posts WHERE id = ?1", &[&post]);
    equal(&ada, &bob, 1).await;
    for device in [ada, bob] {
        device.client.stop().await;
    }
}

async fn edits_made_while_the_server_is_away_arrive(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let (folder, user) = (TempDir::new().expect("a folder"), fresh_user());
    let ada = Device::start(&server, &folder, &user, "ada").await;
    let bob = Device::start(&server, &folder, &user, "bob").await;
    let author = fresh_key();
    ada.add(&author, None, "Ann");
    equal(&ada, &bob, 1).await;
    server.terminate().await;
    for n in 0..10 {
        ada.add(&fresh_key(), Some(&author), &format!("ada {n}"));
        bob.add(&fresh_key(), None, &format!("bob {n}"));
    }
    bob.write("UPDATE users SET name = 'Anna' WHERE id = ?1", &[&author]);
    server.restart(Port::Same).await;
    equal(&ada, &bob, 21).await;
    assert!(ada.rows().contains(&(author, Some("Anna".to_owned()))));
    for device in [ada, bob] {
        device.client.stop().await;
    }
}

async fn devices_converge_through_crashes_of_the_server(backend: Backend) {
    let seed = Seed::from_env();
    let mut chance = seed.rng(0);
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let (folder, user) = (TempDir::new().expect("a folder"), fresh_user());
    let ada = Device::start(&server, &folder, &user, "ada").await;
    let bob = Device::start(&server, &folder, &user, "bob").await;
    let mut count = 0;
    for _ in 0..3 {
        for n in 0..chance.random_range(20..60) {
            let device = if chance.random_bool(0.5) { &ada } else { &bob };
            device.add(&fresh_key(), None, &format!("row {n}"));
            count += 1;
            // Lets uploads begin, at no special place.
            tokio::time::sleep(Duration::from_millis(chance.random_range(0..8))).await;
        }
        server.kill();
        ada.add(&fresh_key(), None, "while it is down");
        count += 1;
        server.restart(Port::Same).await;
    }
    equal(&ada, &bob, count).await;
    let reader = server.target().device(&user, "reader");
    let (changes, _) = reader.download_all(0, 100, "").await;
    assert_eq!(changes.len(), count, "every row once on the server");
    for device in [ada, bob] {
        device.client.stop().await;
    }
}

/// `oversqlite` on a file, with a token in a variable.
fn oversqlite(path: &Path, token: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("oversqlite"));
    command
        .arg("--db")
        .arg(path)
        .args(arguments)
        .env("DEVICE_TOKEN", token)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// A device process, killed when it is dropped.
struct Watcher(Child);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("ended");
    }
}

/// The application writes to the file on its own; the process that synchronises
/// it is killed again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_process_that_is_killed_again_and_again_loses_nothing() {
    let seed = Seed::from_env();
    let mut chance = seed.rng(0);
    let database = Backend::Embedded.database().await;
    let server = Server::start(&database, Config::default()).await;
    let target = server.target();
    assert_eq!(target.secret(), SECRET.as_bytes());
    let (folder, user) = (TempDir::new().expect("a folder"), fresh_user());
    let path = folder.path().join("a.db");
    open(&path).execute_batch(SCHEMA).expect("the schema");
    let token = target.token(&user, "killed", Duration::from_secs(600));
    let initialised = oversqlite(
        &path,
        &token,
        &[
            "init",
            "--server",
            target.base(),
            "--schema",
            "business",
            "--table",
            "users",
            "--table",
            "posts",
            "--token-env",
            "DEVICE_TOKEN",
            "--device",
            "killed",
        ],
    )
    .output()
    .expect("runs");
    assert!(initialised.status.success(), "{initialised:?}");
    let peer = Device::start(&server, &folder, &user, "peer").await;
    let mut count = 0;
    for round in 0..6 {
        let watch = oversqlite(&path, &token, &["watch"]).spawn().expect("runs");
        let _killed_at_the_end = Watcher(watch);
        for n in 0..15 {
            let (key, name) = (fresh_key(), format!("{round}.{n}"));
            open(&path)
                .execute("INSERT INTO users VALUES (?1, ?2)", [&key, &name])
                .expect("the application writes");
            peer.add(&fresh_key(), None, &name);
            count += 2;
            tokio::time::sleep(Duration::from_millis(chance.random_range(0..25))).await;
        }
    }
    let synced = oversqlite(&path, &token, &["sync"]).output().expect("runs");
    assert!(synced.status.success(), "{synced:?}");
    within(CONVERGE, "the file and its peer are equal", || {
        let (here, there) = (rows(&path), peer.rows());
        async move { (here == there && here.len() == count).then_some(()) }
    })
    .await;
    let reader = target.device(&user, "reader");
    let (changes, _) = reader.download_all(0, 100, "").await;
    assert_eq!(changes.len(), count, "every row once on the server");
    peer.client.stop().await;
}
