//! What a person at a device does: mostly new posts, often changes to any
//! post, now and then a deletion. Seeded.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

/// The tables of the server's development mode, as a device has them.
pub const SCHEMA: &str = include_str!("../../examples/blog.sql");

/// One device's stream of edits.
pub struct Editor {
    connection: Connection,
    random: StdRng,
    count: u64,
}

/// What was done, for whoever measures.
pub enum Edit {
    /// A new post with this key.
    Inserted(String),
    /// Anything else.
    Other,
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

    /// The next edit, committed when this returns.
    pub fn next(&mut self) -> rusqlite::Result<Edit> {
        self.count += 1;
        match self.random.random_range(0..100) {
            0..50 => self.insert(),
            50..92 => {
                if let Some(id) = self.any_post()? {
                    let content = format!("edit {} of {}", self.count, self.random.random::<u32>());
                    self.connection
                        .prepare_cached("UPDATE posts SET content = ?2 WHERE id = ?1")?
                        .execute(params![id, content])?;
                }
                Ok(Edit::Other)
            }
            _ => {
                if let Some(id) = self.any_post()? {
                    self.connection
                        .prepare_cached("DELETE FROM posts WHERE id = ?1")?
                        .execute([id])?;
                }
                Ok(Edit::Other)
            }
        }
    }

    fn insert(&mut self) -> rusqlite::Result<Edit> {
        let id = Uuid::now_v7().to_string();
        let title = format!("post {}", self.count);
        let content = "lorem ipsum ".repeat(self.random.random_range(0..20));
        self.connection
            .prepare_cached("INSERT INTO posts (id, title, content) VALUES (?1, ?2, ?3)")?
            .execute(params![id, title, content])?;
        Ok(Edit::Inserted(id))
    }

    fn any_post(&mut self) -> rusqlite::Result<Option<String>> {
        let skip = self.random.random_range(0..20);
        self.connection
            .prepare_cached("SELECT id FROM posts ORDER BY id DESC LIMIT 1 OFFSET ?1")?
            .query_row([skip], |row| row.get(0))
            .optional()
    }
}
