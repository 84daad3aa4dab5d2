//! Holding uploads or downloads back, on the application's word.
//!
//! The word stands in the file: it outlives the process, and it holds for
//! whichever process synchronises the file. It is for the engine; who asks for a
//! single [`Client::sync`](crate::Client::sync), gets it.

use crate::client::Client;
use crate::error::Error;
use rusqlite::Connection;
use serde::Serialize;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// This device's edits to the server.
    Uploads,
    /// Other devices' changes to this one.
    Downloads,
    /// Both.
    Both,
}

impl Direction {
    fn uploads(self) -> bool {
        self != Self::Downloads
    }

    fn downloads(self) -> bool {
        self != Self::Uploads
    }
}

/// What is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Paused {
    /// Local edits wait.
    pub uploads: bool,
    /// Other devices' changes are not fetched.
    pub downloads: bool,
}

pub(crate) fn read(conn: &Connection) -> Result<Paused, Error> {
    let sql = "SELECT paused_uploads, paused_downloads FROM _sync_client";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| {
        Ok(Paused {
            uploads: row.get(0)?,
            downloads: row.get(1)?,
        })
    })?)
}

pub(crate) fn set(conn: &Connection, which: Direction, on: bool) -> Result<(), Error> {
    conn.prepare_cached(
        "UPDATE _sync_client SET
             paused_uploads = CASE WHEN ?1 THEN ?3 ELSE paused_uploads END,
             paused_downloads = CASE WHEN ?2 THEN ?3 ELSE paused_downloads END",
    )?
    .execute([which.uploads(), which.downloads(), on])?;
    Ok(())
}

impl Client {
    /// The engine stops sending, fetching, or both, until [`Client::resume`],
    /// also after a restart. A request under way is finished. Edits go on being
    /// captured; [`Status::paused`](crate::Status::paused) says what is held
    /// back.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("notes.db");
    /// # rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, text)")?;
    /// # let token = || async { Ok(String::new()) };
    /// # let user = oversqlite::UserId::new("user-ada")?;
    /// # let config = oversqlite::Config::new(&path, "http://127.0.0.1:1", user, token).table("notes");
    /// # let client = oversqlite::Client::open(config).await?;
    /// use oversqlite::Direction;
    ///
    /// // On an expensive line: look, but send nothing.
    /// client.pause(Direction::Uploads).await?;
    /// assert!(client.status().await?.paused.uploads);
    /// // At home again.
    /// client.resume(Direction::Both).await?;
    /// # client.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn pause(&self, which: Direction) -> Result<(), Error> {
        let core = self.core();
        core.db.write(move |txn| set(txn.conn, which, true)).await?;
        core.refresh_status().await.map(drop)
    }

    /// Takes a [`Client::pause`] back: what has waited moves at once.
    pub async fn resume(&self, which: Direction) -> Result<(), Error> {
        let core = self.core();
        core.db
            .write(move |txn| set(txn.conn, which, false))
            .await?;
        self.notify();
        core.refresh_status().await.map(drop)
    }
}
