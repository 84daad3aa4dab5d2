//! Programs without an async runtime: the blocking client, with one SQLite
//! connection each.

use oversqlite::blocking::{self, Client, tokens};
use oversqlite::{
    Changed, ConnectionState, Direction, Error, SetupError, SignOut, Symptom, UserId,
};
use oversync_tests::app::{BLOG, people};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Backend, Config, Database, Server, Target};
use rusqlite::Connection;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// The server is async; it lives in a runtime of its own.
fn server(backend: Backend) -> (tokio::runtime::Runtime, Server, Database) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let (server, database) = runtime.block_on(async {
        let database = backend.database().await;
        (Server::start(&database, Config::default()).await, database)
    });
    (runtime, server, database)
}

/// A program: its client, and its one connection.
struct Program {
    client: Client,
    db: Connection,
    path: PathBuf,
    _folder: TempDir,
}

fn config(path: &PathBuf, target: &Target, user: &str, device: &str) -> oversqlite::Config {
    let token = target.token(user, device, HOUR);
    let token = tokens(move || Ok(token.clone()));
    oversqlite::Config::new(
        path,
        target.base(),
        UserId::new(user).expect("a user"),
        token,
    )
    .device(oversqlite::DeviceId::new(device).expect("a device"))
    .schema("business")
    .table("users")
    .table("posts")
    .poll_interval(HOUR)
    .foreign_writers_interval(HOUR)
}

impl Program {
    fn open(target: &Target, user: &str, device: &str) -> Self {
        let folder = TempDir::with_prefix("oversync-app.").expect("a temporary folder");
        let path = folder.path().join("app.db");
        Connection::open(&path)
            .and_then(|file| file.execute_batch(BLOG))
            .expect("the tables are made");
        let client = Client::open(config(&path, target, user, device)).expect("opens");
        let db = client.connection().expect("a connection");
        Self {
            client,
            db,
            path,
            _folder: folder,
        }
    }

    fn run(&self, sql: &str, key: &str) {
        assert_eq!(self.db.execute(sql, [key]).expect("it runs"), 1);
    }

    fn add(&self) -> String {
        let key = fresh_key();
        self.run("INSERT INTO users (id, name) VALUES (?1, 'Ann')", &key);
        key
    }
}

fn one_connection_is_enough(backend: Backend) {
    let (_runtime, server, _database) = server(backend);
    let user = fresh_user();
    let ada = Program::open(&server.target(), &user, "ada");
    let bob = Program::open(&server.target(), &user, "bob");
    let key = ada.add();
    assert_eq!(ada.client.status().expect("a status").unsent, 1);
    assert_eq!(ada.client.unsent().expect("a list")[0].key, key);
    // In the middle of reading from the only connection.
    for n in 0..3 {
        let mut all = ada.db.prepare("SELECT id FROM users").expect("SQL");
        let mut rows = all.query([]).expect("rows");
        assert!(rows.next().expect("a row").is_some());
        let done = ada.client.sync().expect("synchronised");
        assert_eq!(
            (done.uploaded.applied, done.complete),
            (usize::from(n == 0), true)
        );
    }
    assert_eq!(bob.client.hydrate().expect("hydrated"), 1);

    // A conflict, decided while each side has nothing but that connection.
    ada.run("UPDATE users SET name = 'hers' WHERE id = ?1", &key);
    bob.run("UPDATE users SET name = 'his' WHERE id = ?1", &key);
    assert_eq!(ada.client.upload_once().expect("uploaded").applied, 1);
    bob.client.sync().expect("synchronised");
    let conflicts = bob.client.conflicts().expect("a list");
    assert_eq!(conflicts.len(), 1);
    assert_eq!(people(&bob.path)[0].1, "hers");
    bob.client
        .restore_conflict(conflicts[0].id)
        .expect("restored");
    bob.client.sync().expect("synchronised");
    assert_eq!(ada.client.download_once(10).expect("a page").applied, 1);
    assert_eq!(people(&ada.path)[0].1, "his");
    assert!(bob.client.conflicts().expect("a list").is_empty());

    // A key that is no UUID stays here until it is given up.
    bob.run("INSERT INTO users (id, name) VALUES (?1, 'x')", "no uuid");
    bob.client.sync().expect("synchronised");
    let rejected = bob.client.rejected().expect("a list");
    assert_eq!(rejected[0].reason, "bad_key");
    assert!(
        bob.client
            .export_rejected()
            .expect("lines")
            .contains("no uuid")
    );
    assert!(matches!(
        bob.client.sign_out(SignOut::Refuse),
        Err(Error::Setup(SetupError::Unsent { rejected: 1, .. }))
    ));
    bob.client.drop_rejected(rejected[0].id).expect("dropped");
    assert_eq!(bob.client.retry_all_rejected().expect("none"), 0);
    bob.client.sign_out(SignOut::SyncFirst).expect("signed out");
    assert!(people(&bob.path).is_empty());
}

fn the_engine_runs_beside_the_program(backend: Backend) {
    let (runtime, server, _database) = server(backend);
    let user = fresh_user();
    let ada = Program::open(&server.target(), &user, "ada");
    let bob = Program::open(&server.target(), &user, "bob");
    for program in [&ada, &bob] {
        program.client.start().expect("starts");
        let online = program.client.status_stream().wait_until(SOON, |status| {
            status.connection == ConnectionState::Online && status.hydrated
        });
        assert!(online.is_some());
    }
    let mut heard = bob.client.changes();
    for _ in 0..10 {
        let key = ada.add();
        let keys = vec![key];
        let table = "users".to_owned();
        assert_eq!(heard.next_within(SOON), Some(Changed::Rows { table, keys }));
    }
    let began = Instant::now();
    while ada.client.status().expect("a status").unsent > 0 {
        assert!(began.elapsed() < SOON, "the last answer does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
    ada.client.pause(Direction::Uploads).expect("paused");
    ada.add();
    assert_eq!(ada.client.status().expect("a status").unsent, 1);
    ada.client.resume(Direction::Uploads).expect("resumed");
    assert!(matches!(heard.next(), Some(Changed::Rows { .. })));
    let found = blocking::diagnose(
        &config(&ada.path, &server.target(), &user, "ada"),
        None,
        |_, _| {},
    );
    assert!(found.expect("examined").found(Symptom::LeaseHeld));
    // Inside an async program it says so, instead of a panic.
    runtime.block_on(async {
        let refused = ada.client.sync();
        assert!(matches!(
            refused,
            Err(Error::Setup(SetupError::InsideRuntime))
        ));
        let opened = Client::open(config(&ada.path, &server.target(), &user, "ada"));
        assert!(matches!(
            opened,
            Err(Error::Setup(SetupError::InsideRuntime))
        ));
    });
    // Dropped without a word: the file is free for the next.
    let Program {
        client,
        path,
        _folder,
        ..
    } = ada;
    drop(client);
    let next = Client::open(config(&path, &server.target(), &user, "ada")).expect("opens");
    let start = Instant::now();
    while let Err(error) = next.sync() {
        assert!(
            matches!(error, Error::Setup(SetupError::InUse { .. })),
            "{error}"
        );
        let waited = start.elapsed();
        assert!(waited < SOON, "the dropped client keeps the file");
        std::thread::sleep(Duration::from_millis(20));
    }
    next.stop();
    assert!(matches!(next.status(), Err(Error::Stopped)));
}

#[test]
fn one_connection_embedded() {
    one_connection_is_enough(Backend::Embedded);
}

#[test]
fn one_connection_postgres() {
    one_connection_is_enough(Backend::Postgres);
}

#[test]
fn engine_embedded() {
    the_engine_runs_beside_the_program(Backend::Embedded);
}

#[test]
fn engine_postgres() {
    the_engine_runs_beside_the_program(Backend::Postgres);
}
