//! What a person at a real device does, drawn from the scenario's mix: local
//! transactions on the application's own tables. Seeded.

use crate::scenario::{Deed, Fleet};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use uuid::Uuid;

/// The tables of the server's development mode, as a device has them.
pub const SCHEMA: &str = include_str!("../../../examples/blog.sql");

/// An edit picks one of the newest rows …
const NEWEST: &str = "SELECT id FROM posts ORDER BY id DESC LIMIT 1 OFFSET ?1";

/// … of these many.
const RECENT: usize = 20;

/// All devices of a user change the oldest rows …
const OLDEST: &str = "SELECT id FROM posts ORDER BY id LIMIT 1 OFFSET ?1";

/// … of these many, when they conflict.
const CONTESTED: usize = 3;

/// One device's stream of edits.
pub struct Editor {
    connection: Connection,
    random: StdRng,
    count: u64,
}

impl Editor {
    /// Edits over this connection, drawn from this seed.
    pub fn new(connection: Connection, seed: u64) -> Self {
        Self {
            connection,
            random: StdRng::seed_from_u64(seed),
            count: 0,
        }
    }

    /// Goes on over another connection.
    pub fn reconnect(&mut self, connection: Connection) {
        self.connection = connection;
    }

    /// The next local transaction, committed when this returns; the number of
    /// changes in it. Keys of new rows are told before the commit.
    pub fn next(&mut self, fleet: &Fleet, mut new: impl FnMut(&str)) -> rusqlite::Result<u64> {
        let changes = fleet.batch.draw(&mut self.random);
        let random = &mut self.random;
        let tx = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut done = 0;
        for _ in 0..changes {
            self.count += 1;
            let bytes = fleet.payload_bytes.draw(random);
            done += match fleet.mix.draw(random) {
                Deed::Insert => {
                    let id = Uuid::now_v7().to_string();
                    new(&id);
                    insert(&tx, &id, self.count, bytes)?
                }
                Deed::Update => {
                    let row = pick(&tx, NEWEST, random.random_range(0..RECENT))?;
                    update(&tx, row, self.count, bytes)?
                }
                Deed::Conflict => {
                    let row = pick(&tx, OLDEST, random.random_range(0..CONTESTED))?;
                    update(&tx, row, self.count, bytes)?
                }
                Deed::Delete => match pick(&tx, NEWEST, random.random_range(0..RECENT))? {
                    Some(id) => tx
                        .prepare_cached("DELETE FROM posts WHERE id = ?1")?
                        .execute([id])?,
                    None => 0,
                },
            };
        }
        tx.commit()?;
        Ok(done as u64)
    }
}

fn insert(tx: &Transaction<'_>, id: &str, count: u64, bytes: usize) -> rusqlite::Result<usize> {
    tx.prepare_cached("INSERT INTO posts (id, title, content) VALUES (?1, ?2, ?3)")?
        .execute(params![id, format!("post {count}"), text(count, bytes)])
}

fn update(
    tx: &Transaction<'_>,
    id: Option<String>,
    count: u64,
    bytes: usize,
) -> rusqlite::Result<usize> {
    let Some(id) = id else { return Ok(0) };
    tx.prepare_cached("UPDATE posts SET content = ?2 WHERE id = ?1")?
        .execute(params![id, text(count, bytes)])
}

fn pick(tx: &Transaction<'_>, sql: &str, skip: usize) -> rusqlite::Result<Option<String>> {
    tx.prepare_cached(sql)?
        .query_row([skip as i64], |row| row.get(0))
        .optional()
}

fn text(count: u64, bytes: usize) -> String {
    let mut text = format!("{count} ");
    text.extend(
        "lorem ipsum "
            .chars()
            .cycle()
            .take(bytes.saturating_sub(text.len())),
    );
    text
}
