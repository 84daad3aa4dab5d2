//! Outages of the server, again and again, at no special place, under two
//! devices that go on writing. Polling is off (an hour): what brings the devices
//! back is reconnecting.

use oversqlite::{Client, Config as DeviceConfig, TokenError};
use oversync_shared::{DeviceId, UserId};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Backend, Config, Port, Seed, Server, on_both_stores, within};
use rand::Rng as _;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

on_both_stores!(devices_converge_through_crashes_of_the_server);

/// CONVERGE: without restart or a new write, at most this long after the fault.
const CONVERGE: Duration = Duration::from_secs(60);

const SCHEMA: &str = "
    PRAGMA journal_mode = wal;
    CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT);
";

/// Every row, in an order of its own.
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
        .prepare("SELECT id, name FROM users ORDER BY 1")
        .and_then(|mut select| {
            select
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .expect("the table can be read")
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
            .poll_interval(Duration::from_secs(3_600));
        let client = Client::open(config).await.expect("the client opens");
        client.start().expect("the client starts");
        Self { client, path }
    }

    /// The application adds a user.
    fn add(&self, key: &str, name: &str) {
        let connection = self.client.connection().expect("a connection");
        connection
            .execute("INSERT INTO users VALUES (?1, ?2)", [key, name])
            .expect("the application writes");
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
            device.add(&fresh_key(), &format!("row {n}"));
            count += 1;
            // Lets uploads begin, at no special place.
            tokio::time::sleep(Duration::from_millis(chance.random_range(0..8))).await;
        }
        server.kill();
        ada.add(&fresh_key(), "while it is down");
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
