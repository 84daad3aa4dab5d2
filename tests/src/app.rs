//! An application with its own SQLite file and the real client: the tables of
//! the README's example, a token from the test's secret.

use crate::canary;
use crate::eventually::eventually;
use crate::target::Target;
use oversqlite::{Client, Config, DeviceId, TokenProvider, UserId};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// The tables of the README's example.
pub const BLOG: &str = include_str!("../../examples/blog.sql");

/// Longer than any test: what arrives came by a hint.
const NEVER: Duration = Duration::from_secs(3_600);

/// One device of a user.
pub struct App {
    /// Its client.
    pub client: Client,
    path: PathBuf,
    _folder: Arc<TempDir>,
}

impl App {
    /// A fresh file with the example's tables. It polls once an hour, so that
    /// only hints and its own commits move anything.
    pub async fn open(target: &Target, user: &str, device: &str) -> Self {
        Self::open_with(target, user, device, |config| config).await
    }

    /// The same with settings of its own.
    pub async fn open_with(
        target: &Target,
        user: &str,
        device: &str,
        tune: impl FnOnce(Config) -> Config,
    ) -> Self {
        let (folder, path) = fresh_file();
        Self::on(folder, &path, tune(config(&path, target, user, device))).await
    }

    async fn on(folder: TempDir, path: &Path, config: Config) -> Self {
        canary::watch_own_logs();
        Self {
            client: Client::open(config).await.expect("the client opens"),
            path: path.to_owned(),
            _folder: Arc::new(folder),
        }
    }

    /// The same with tokens of its own.
    pub async fn open_as(
        target: &Target,
        user: &str,
        device: &str,
        tokens: impl TokenProvider,
    ) -> Self {
        let (folder, path) = fresh_file();
        Self::on(
            folder,
            &path,
            config_as(&path, target, user, device, tokens),
        )
        .await
    }

    /// Another client on the same file, which notices by itself what others
    /// write there.
    pub async fn second(&self, target: &Target) -> Self {
        let (user, device) = (self.client.user().clone(), self.client.device().clone());
        let config = config(&self.path, target, user.as_str(), device.as_str())
            .foreign_writers_interval(Duration::from_millis(50));
        Self {
            client: Client::open(config).await.expect("the client opens"),
            path: self.path.clone(),
            _folder: Arc::clone(&self._folder),
        }
    }

    /// The file of a client that has been stopped, with a new one; perhaps at
    /// another server.
    pub async fn reopen(self, target: &Target) -> Self {
        let (user, device) = (self.client.user().clone(), self.client.device().clone());
        let config = config(&self.path, target, user.as_str(), device.as_str());
        let client = Client::open(config).await.expect("the client opens again");
        Self { client, ..self }
    }

    /// The same with the engine running.
    pub async fn start(target: &Target, user: &str, device: &str) -> Self {
        let app = Self::open(target, user, device).await;
        app.client.start().expect("the engine starts");
        app
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A connection whose commits wake the engine.
    pub fn connection(&self) -> Connection {
        self.client.connection().expect("a connection")
    }

    /// Adds a person through a connection.
    pub fn add(&self, id: &str, name: &str) {
        self.connection()
            .execute("INSERT INTO users (id, name) VALUES (?1, ?2)", [id, name])
            .expect("the row is inserted");
    }

    /// All people, ordered.
    pub fn people(&self) -> Vec<(String, String)> {
        people(&self.path)
    }

    /// Waits until nothing is unsent.
    pub async fn sent(&self) {
        eventually("everything is sent", || async {
            let status = self.client.status().await.expect("a status");
            (status.hydrated && status.unsent == 0).then_some(())
        })
        .await;
    }
}

/// All people in a file, ordered.
pub fn people(path: &Path) -> Vec<(String, String)> {
    let file = Connection::open(path).expect("the file opens");
    let mut statement = file
        .prepare("SELECT id, name FROM users ORDER BY id")
        .expect("the table is there");
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("rows");
    rows.collect::<Result<_, _>>().expect("two texts")
}

fn fresh_file() -> (TempDir, PathBuf) {
    let folder = TempDir::with_prefix("oversync-app.").expect("a temporary folder");
    let path = folder.path().join("app.db");
    Connection::open(&path)
        .and_then(|file| file.execute_batch(BLOG))
        .expect("the tables are made");
    (folder, path)
}

fn config(path: &Path, target: &Target, user: &str, device: &str) -> Config {
    let token = target.token(user, device, NEVER);
    config_as(path, target, user, device, move || {
        let token = token.clone();
        async move { Ok(token) }
    })
}

fn config_as(
    path: &Path,
    target: &Target,
    user: &str,
    device: &str,
    tokens: impl TokenProvider,
) -> Config {
    let user = UserId::new(user).expect("a user");
    Config::new(path, target.base(), user, tokens)
        .device(DeviceId::new(device).expect("a device"))
        .schema("business")
        .table("users")
        .table("posts")
        .poll_interval(NEVER)
        .foreign_writers_interval(NEVER)
}
