//! Power lost at any moment of a device's life: what SQLite had not synced is gone,
//! all of it or any part, sector by sector.
//!
//! A window of pages commits without a sync of its own, so rows and cursor may go
//! back, but only together; an edit of the application and what was sent never do.
//! The disk is `oversync-disk`; client, SQLite and server are the real ones. After
//! the power is back the same server goes on with what the file then holds.

use futures_util::StreamExt as _;
use oversqlite::{Client, Error};
use oversync_disk::{Disk, Unsynced};
use oversync_tests::device::{insert, update};
use oversync_tests::story::ending::folder;
use oversync_tests::story::play::{config, connect};
use oversync_tests::story::{DEVICE, PEER, TABLES, Which, settings};
use oversync_tests::target::fresh_user;
use oversync_tests::{Backend, HttpDevice, Seed, Server, Target, on_both_stores};
use rand::Rng as _;
use rand::rngs::StdRng;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

on_both_stores!(a_device_that_loses_power_goes_on_as_if_pages_had_not_come);

/// Lives per store, each cut somewhere else.
const LIVES: usize = 24;

/// Lives at a time.
const AT_ONCE: usize = 4;

/// Rows of the other device, in pages of four: seven commits in one window.
const ROWS: u32 = 26;

const EVERY_KIND: [Unsynced; 4] = [
    Unsynced::Lost,
    Unsynced::Any,
    Unsynced::Prefix,
    Unsynced::Kept,
];

/// The name of the row that ends in a number.
fn key(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// Rows by key.
type Rows = BTreeMap<String, String>;

/// What the application knows it has written: a row's last name, `None` when it
/// has deleted it. Names grow.
#[derive(Debug, Default)]
struct Known {
    count: u32,
    /// Committed, by the word of SQLite.
    committed: BTreeMap<String, Option<u32>>,
    /// Whether it was committed, nobody has heard.
    attempted: BTreeMap<String, Option<u32>>,
}

fn name(n: u32) -> String {
    format!("mine {n:06}")
}

impl Known {
    /// Writes rows in one transaction, or deletes them.
    fn write(
        &mut self,
        app: &Connection,
        rows: &[u32],
        is_delete: bool,
    ) -> Result<(), rusqlite::Error> {
        self.count += 1;
        let value = (!is_delete).then_some(self.count);
        let tx = app.unchecked_transaction()?;
        for n in rows {
            self.attempted.insert(key(*n), value);
            match value {
                Some(value) => tx.execute(
                    "INSERT INTO people (id, name) VALUES (?1, ?2)
                     ON CONFLICT (id) DO UPDATE SET name = excluded.name",
                    [key(*n), name(value)],
                )?,
                None => tx.execute("DELETE FROM people WHERE id = ?1", [key(*n)])?,
            };
        }
        tx.commit()?;
        for n in rows {
            self.committed.insert(key(*n), value);
        }
        Ok(())
    }

    /// What must be there is there: the last edit that was committed, or one behind
    /// it that nobody has heard of.
    fn is_kept_in(&self, rows: &Rows, what: &str) {
        for (key, committed) in &self.committed {
            let attempted = self.attempted[key];
            let found = rows.get(key).cloned();
            let is_known = [*committed, attempted]
                .iter()
                .any(|value| value.map(name) == found);
            assert!(
                is_known,
                "{what}: {key} is {found:?}, committed {committed:?}, attempted {attempted:?}"
            );
        }
    }
}

struct World<'a> {
    target: &'a Target,
    user: String,
    peer: HttpDevice,
    /// The other device's next change id.
    next: i64,
}

impl World<'_> {
    /// The other device writes its rows from here on.
    async fn peer_writes(&mut self, rows: impl IntoIterator<Item = (u32, i64)>) {
        let mut changes = Vec::new();
        for (n, version) in rows {
            let (id, payload) = (self.next, json!({"name": format!("theirs {}", self.next)}));
            self.next += 1;
            changes.push(match version {
                0 => insert(id, "story.people", &key(n), payload),
                _ => update(id, "story.people", &key(n), version, payload),
            });
        }
        let statuses = self.peer.statuses(&changes).await;
        assert!(
            statuses.iter().all(|status| status["status"] == "applied"),
            "{statuses:?}"
        );
    }

    /// The whole log, up to a place.
    async fn log(&self) -> Vec<Value> {
        let observer = self.target.device(&self.user, "observer");
        observer.download_all(0, 4, "").await.0
    }

    async fn open(&self, file: &Path) -> Result<Client, Error> {
        Client::open(config(file, self.target, &self.user, DEVICE)).await
    }

    /// A device's life: a first pass of several pages, edits in the middle of it,
    /// uploads, a second window, deletes.
    async fn live(&mut self, file: &Path, known: &mut Known) -> Result<(), Error> {
        let client = self.open(file).await?;
        let lived = self.live_with(&client, known).await;
        client.stop().await;
        lived
    }

    async fn live_with(&mut self, client: &Client, known: &mut Known) -> Result<(), Error> {
        let app = client.connection()?;
        known.write(&app, &[100, 101, 102], false)?;
        for page in 0.. {
            let done = client.download_once(4).await?;
            match page {
                1 => known.write(&app, &[1], false)?,
                3 => known.write(&app, &[100, 2], false)?,
                5 => known.write(&app, &[103], false)?,
                _ => {}
            }
            if !done.has_more {
                break;
            }
        }
        client.upload_once().await?;
        known.write(&app, &[100], false)?;
        client.upload_once().await?;
        known.write(&app, &[3, 101], false)?;
        self.peer_writes((10..22).map(|n| (n, 1))).await;
        // A page of the second window, an upload in the middle, the rest.
        client.download_once(4).await?;
        client.upload_once().await?;
        client.download_once(4).await?;
        known.write(&app, &[102], true)?;
        known.write(&app, &[104, 105], false)?;
        client.sync().await?;
        self.peer_writes([(30, 0), (31, 0), (12, 2), (13, 2), (14, 2)])
            .await;
        client.download_once(4).await?;
        known.write(&app, &[100, 103], false)?;
        client.sync().await?;
        Ok(())
    }

    /// What must be true of a file before it has met the server again.
    async fn judge(&self, file: &Path, known: &Known, what: &str) {
        let raw = connect(file);
        let check: String = raw
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .expect("a check");
        assert_eq!(check, "ok", "{what}");
        drop(raw);
        // Opens the file as the application would, and asks nobody.
        let client = self.open(file).await.expect("opens");
        client.stop().await;
        let raw = connect(file);
        let rows = people(&raw);
        known.is_kept_in(&rows, what);
        let (cursor, next): (i64, i64) = raw
            .query_row(
                "SELECT cursor, next_change_id FROM _sync_client",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .expect("the client's row");
        let log = self.log().await;
        let own: BTreeSet<&String> = known.attempted.keys().collect();
        let mut expected = Rows::new();
        for entry in &log {
            let text = |name: &str| entry[name].as_str().expect("text").to_owned();
            let number = |name: &str| entry[name].as_i64().expect("a number");
            if text("source_id") == DEVICE {
                let id = number("source_change_id");
                assert!(id < next, "{what}: {id} has been sent, and {next} is next");
            }
            if text("source_id") == PEER && number("server_id") <= cursor {
                let name = entry["payload"]["name"].as_str().expect("a name");
                expected.insert(text("pk"), name.to_owned());
            }
        }
        let others = |rows: Rows| -> Rows {
            let others = rows.into_iter().filter(|(key, _)| !own.contains(key));
            others.collect()
        };
        assert_eq!(
            others(rows),
            others(expected),
            "{what}: the rows of a cursor at {cursor}"
        );
    }

    /// The server goes on with what is left; at the end everything is everywhere.
    async fn converge(&self, file: &Path, known: &Known, what: &str) {
        let client = self.open(file).await.expect("opens");
        while !client.sync().await.expect("synchronises").complete {}
        let status = client.status().await.expect("a status");
        assert_eq!(
            (status.unsent, status.rejected, status.conflicts),
            (0, 0, 0),
            "{what}"
        );
        client.stop().await;
        let raw = connect(file);
        let shares: bool = raw
            .query_row("SELECT shares_device FROM _sync_client", [], |row| {
                row.get(0)
            })
            .expect("a flag");
        assert!(!shares, "{what}: taken for a copy of itself");
        let here = people(&raw);
        known.is_kept_in(&here, what);
        let mut there = Rows::new();
        let mut ids = BTreeSet::new();
        for entry in self.log().await {
            let key = entry["pk"].as_str().expect("a key").to_owned();
            match entry["payload"]["name"].as_str() {
                Some(name) => there.insert(key, name.to_owned()),
                None => there.remove(&key),
            };
            if entry["source_id"] == DEVICE {
                let id = entry["source_change_id"].as_i64();
                assert!(ids.insert(id), "{what}: {id:?} twice");
            }
        }
        assert_eq!(here, there, "{what}");
    }
}

fn people(file: &Connection) -> Rows {
    let mut statement = file
        .prepare("SELECT id, name FROM people")
        .expect("the table is there");
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("rows");
    rows.collect::<Result<_, _>>().expect("two texts")
}

/// A file system's folder, and its file.
fn place() -> (TempDir, PathBuf) {
    let folder = folder();
    let file = folder.path().join("app.db");
    (folder, file)
}

/// Lives once; the power goes after so many things have happened, and once more
/// while the device is on its way back. Tells how much happened on the whole.
async fn life(target: &Target, cut: Option<usize>, mut rng: StdRng) -> usize {
    let user = fresh_user();
    let mut world = World {
        target,
        peer: target.device(&user, PEER),
        user,
        next: 1,
    };
    world.peer_writes((1..=ROWS).map(|n| (n, 0))).await;
    let (mut known, (here, file)) = (Known::default(), place());
    connect(&file).execute_batch(TABLES).expect("made");
    let disk = Disk::watch(here.path());
    if let Some(cut) = cut {
        disk.cut_at(cut);
    }
    let lived = world.live(&file, &mut known).await;
    let events = disk.events();
    if cut.is_none() {
        lived.expect("with power all is well");
    }
    disk.cut();
    let unsynced = EVERY_KIND[rng.random_range(0..EVERY_KIND.len())];
    let what = format!("cut at {cut:?} of {events}, {unsynced:?}");
    let (back, file) = place();
    disk.rebuild(unsynced, &mut rng, back.path());
    drop(disk);

    // On the way back the power goes again.
    let disk = Disk::watch(back.path());
    disk.cut_at(rng.random_range(0..120));
    if let Ok(client) = world.open(&file).await {
        let _ = client.sync().await;
        client.stop().await;
    }
    let again = disk.events();
    disk.cut();
    let unsynced = EVERY_KIND[rng.random_range(0..EVERY_KIND.len())];
    let what = format!("{what}; again at {again}, {unsynced:?}");
    let (last, file) = place();
    disk.rebuild(unsynced, &mut rng, last.path());
    drop(disk);

    world.judge(&file, &known, &what).await;
    world.converge(&file, &known, &what).await;
    events
}

async fn a_device_that_loses_power_goes_on_as_if_pages_had_not_come(backend: Backend) {
    let seed = Seed::from_env();
    let database = backend.database().await;
    let server = Server::start(&database, settings(Which::First)).await;
    let target = server.target();
    let events = life(&target, None, seed.rng(0)).await;
    let lives = oversync_tests::seed::cases(LIVES);
    println!("{events} moments, {lives} lives");
    futures_util::stream::iter(1..=lives)
        .map(|n| {
            let mut rng = seed.rng(n as u64);
            // Each in a part of its own.
            let cut = (n - 1) * events / lives + rng.random_range(0..=events / lives);
            life(&target, Some(cut), rng)
        })
        .buffer_unordered(AT_ONCE)
        .for_each(|_| async {})
        .await;
    server.verified().await;
}
