//! Life stories: what happens to an application on a user's devices over the
//! years, each story lived by many users at once. The stories are in [`stories`];
//! here is what they are told with: the devices of one user, real clients on
//! real files, and the time that each step takes.
//!
//! A server that is away for a moment is part of life: every step that needs it
//! is tried again for a while.

mod stories;

use crate::devices::Surroundings;
use crate::devices::edits::SCHEMA;
use crate::devices::real::open_client;
use crate::measure::Stage;
use anyhow::{Context as _, ensure};
use oversqlite::{Client, SetupError, SignOut};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
pub use stories::STORIES;
use uuid::Uuid;

/// How long a step may take; nobody waits longer than the promise.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Rounds in which all devices of a user hear of everything.
const ROUNDS: usize = 3;

/// The same tables with keys and references that are BLOBs.
const BLOB_KEYS: &str = "
    CREATE TABLE users (id BLOB PRIMARY KEY NOT NULL DEFAULT (randomblob(16)),
        name TEXT NOT NULL, email TEXT);
    CREATE TABLE posts (id BLOB PRIMARY KEY NOT NULL DEFAULT (randomblob(16)),
        title TEXT NOT NULL, content TEXT, author_id BLOB REFERENCES users (id) ON DELETE CASCADE);
    CREATE INDEX posts_author ON posts (author_id);";

/// One user's life: where it takes place, and which story it is.
pub struct Life {
    around: Surroundings,
    folder: PathBuf,
    user: String,
    number: usize,
}

/// A device in a story.
pub struct Phone {
    /// Its user's sign-in name.
    pub user: String,
    /// Its name.
    pub device: String,
    /// Its file.
    pub path: PathBuf,
    client: Option<Client>,
    around: Surroundings,
    number: usize,
}

impl Life {
    /// The life of this user, whose devices' files are kept in this folder.
    pub fn new(around: &Surroundings, folder: &Path, user: String, number: usize) -> Self {
        Self {
            around: around.clone(),
            folder: folder.to_owned(),
            user,
            number,
        }
    }

    /// Lives the story, which goes by the number, and brings all devices
    /// together; the devices that are left. The error says which story it was.
    pub async fn live(self) -> anyhow::Result<Vec<Phone>> {
        let story = STORIES[self.number % STORIES.len()];
        let told = || format!("{}, story {:?}", self.user, story.name());
        let phones = story.tell(&self).await.with_context(told)?;
        for _ in 0..ROUNDS {
            for phone in &phones {
                phone.sync().await.with_context(told)?;
            }
        }
        Ok(phones)
    }

    /// A file that the application has made, and nobody synchronises yet.
    fn bought(&self, device: &str) -> anyhow::Result<Phone> {
        self.made(device, SCHEMA)
    }

    fn made(&self, device: &str, schema: &str) -> anyhow::Result<Phone> {
        // A device that is bought again has a file of its own.
        let file = format!("{}-{device}-{}.db", self.user, Uuid::new_v4().simple());
        let phone = Phone {
            user: self.user.clone(),
            device: device.to_owned(),
            path: self.folder.join(file),
            client: None,
            around: self.around.clone(),
            number: self.number,
        };
        phone.sql(schema)?;
        Ok(phone)
    }

    /// One that has everything the user has.
    async fn online(&self, device: &str) -> anyhow::Result<Phone> {
        let mut phone = self.bought(device)?;
        phone.open().await?;
        phone.first_sync().await?;
        Ok(phone)
    }
}

impl Phone {
    /// Its client.
    pub fn client(&self) -> anyhow::Result<&Client> {
        self.client.as_ref().context("the device is switched off")
    }

    async fn open(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let user = self.user.as_str();
            let opened =
                open_client(&self.around, &self.path, user, &self.device, self.number).await;
            match opened {
                Ok(client) => {
                    self.client = Some(client);
                    return Ok(());
                }
                // Signing in needs the server.
                Err(error) if begun.elapsed() > PATIENCE || is_refusal(&error) => {
                    return Err(error);
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn close(&mut self) {
        if let Some(client) = self.client.take() {
            client.stop().await;
        }
    }

    async fn first_sync(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.try_to_sync().await?;
        let recorder = &self.around.recorder;
        recorder.record(Stage::Hydrated, begun.elapsed());
        Ok(())
    }

    async fn sync(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.try_to_sync().await?;
        let recorder = &self.around.recorder;
        recorder.record(Stage::Acknowledged, begun.elapsed());
        Ok(())
    }

    async fn try_to_sync(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let client = self.client()?;
        loop {
            match client.sync().await {
                Ok(done) if done.complete => return Ok(()),
                Ok(_) => {}
                Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => self.around.recorder.error("a sync was tried again"),
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "a sync does not come to its end"
            );
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The application, or any other program, in the file.
    fn sql(&self, sql: &str) -> anyhow::Result<()> {
        tokio::task::block_in_place(|| {
            self.file()?
                .execute_batch(sql)
                .with_context(|| sql.to_owned())
        })
    }

    /// So many edits in one transaction, which counts as one operation.
    fn edit(&self, changes: u64, sql: &str) -> anyhow::Result<()> {
        self.sql(&format!(
            "BEGIN; PRAGMA defer_foreign_keys = ON; {sql}; COMMIT"
        ))?;
        self.around.recorder.did(1, changes);
        Ok(())
    }

    fn file(&self) -> anyhow::Result<Connection> {
        let file = Connection::open(&self.path)?;
        file.busy_timeout(Duration::from_secs(10))?;
        file.pragma_update(None, "foreign_keys", true)?;
        Ok(file)
    }

    fn count(&self, table: &str) -> anyhow::Result<i64> {
        let sql = format!("SELECT count(*) FROM {table}");
        Ok(self.file()?.query_row(&sql, [], |row| row.get(0))?)
    }

    /// Waits until there are so many rows.
    async fn has(&self, table: &str, rows: i64) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.count(table)? != rows {
            ensure!(
                begun.elapsed() < PATIENCE,
                "{} has {} rows of {table} and not {rows}",
                self.device,
                self.count(table)?
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// A copy of the file as it is now, made by SQLite.
    fn backup(&self) -> anyhow::Result<PathBuf> {
        let copy = self
            .path
            .with_extension(Uuid::new_v4().simple().to_string());
        let name = copy.to_str().context("a path that is no text")?;
        self.file()?.execute("VACUUM INTO ?1", [name])?;
        Ok(copy)
    }

    /// A copy takes the place of the file; the client is closed.
    fn put_back(&self, copy: &Path) -> anyhow::Result<()> {
        for left in ["db-wal", "db-shm"] {
            // They need not be there.
            let _ = std::fs::remove_file(self.path.with_extension(left));
        }
        std::fs::copy(copy, &self.path)?;
        Ok(())
    }

    async fn sign_out(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while let Err(error) = self.client()?.sign_out(SignOut::SyncFirst).await {
            if begun.elapsed() > PATIENCE {
                return Err(error.into());
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.close().await;
        Ok(())
    }

    /// Ends it.
    pub async fn end(mut self) {
        self.close().await;
    }
}

/// Whether a client refused the file itself, which no patience changes.
fn is_refusal(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<oversqlite::Error>(),
        Some(oversqlite::Error::Setup(refused)) if !matches!(refused, SetupError::InUse { .. })
    )
}

fn key() -> String {
    Uuid::now_v7().to_string()
}

fn person(id: &str, name: &str) -> String {
    format!("INSERT INTO users (id, name) VALUES ('{id}', '{name}');")
}

fn post(author: &str, title: &str) -> String {
    format!(
        "INSERT INTO posts (id, author_id, title) VALUES ('{}', '{author}', '{title}');",
        key()
    )
}
