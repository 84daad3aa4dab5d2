//! Floors of the device: rows into plain SQLite by a prepared statement, and an
//! application's own edits with and without the capture triggers.

use super::NewRow;
use crate::devices::edits::SCHEMA;
use oversqlite::{Client, Config, TokenError, UserId};
use rusqlite::{Connection, TransactionBehavior, params};
use std::path::Path;
use std::time::Instant;

/// Rows per transaction while loading, as many as a page has.
const PAGE: usize = 1_000;

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

/// Rows per second that plain SQLite takes, a page per transaction.
pub fn load_rows(folder: &Path, rows: usize) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    let mut connection = open(&folder.path().join("load.db"))?;
    connection.execute_batch(SCHEMA)?;
    let all: Vec<NewRow> = (0..rows).map(|n| NewRow::make(n as i64)).collect();
    let began = Instant::now();
    for page in all.chunks(PAGE) {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut insert =
            tx.prepare_cached("INSERT INTO users (id, name, email) VALUES (?1, ?2, ?3)")?;
        for row in page {
            insert.execute(params![row.key.to_string(), "load", row.payload])?;
        }
        drop(insert);
        tx.commit()?;
    }
    Ok(rows as f64 / began.elapsed().as_secs_f64())
}

/// Microseconds per statement.
#[derive(Debug, Clone, Copy)]
pub struct Edits {
    /// Of an insert.
    pub insert: f64,
    /// Of an update.
    pub update: f64,
    /// Of a delete.
    pub delete: f64,
}

/// Whose edits they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Three columns: the people of the example.
    Narrow,
    /// Twenty columns.
    Wide,
}

/// A table of twenty columns, of which an update changes three.
const WIDE: &str = "CREATE TABLE wide (id TEXT PRIMARY KEY NOT NULL, a TEXT, b INTEGER, c REAL, \
     d TEXT, e TEXT, f INTEGER, g TEXT, h TEXT, i TEXT, j INTEGER, k TEXT, l TEXT, m TEXT, \
     n INTEGER, o TEXT, p TEXT, q TEXT, r TEXT, s TEXT)";

impl Width {
    /// Insert, update and delete; ?1 is the key, ?2 some text.
    fn statements(self) -> [&'static str; 3] {
        match self {
            Self::Narrow => [
                "INSERT INTO users (id, name, email) VALUES (?1, 'load', ?2)",
                "UPDATE users SET name = 'again', email = ?2 || '.' WHERE id = ?1",
                "DELETE FROM users WHERE id = ?1 AND ?2 IS NOT NULL",
            ],
            Self::Wide => [
                "INSERT INTO wide VALUES (?1, 'a', 2, 3.5, ?2, 'e', 6, 'g', 'h', 'i', 10, 'k', \
                 'l', 'm', 14, 'o', 'p', 'q', 'r', 's')",
                "UPDATE wide SET a = 'again', b = b + 1, d = ?2 || '.' WHERE id = ?1",
                "DELETE FROM wide WHERE id = ?1 AND ?2 IS NOT NULL",
            ],
        }
    }
}

/// An application's inserts, updates and deletes, this many rows in each transaction,
/// with the capture triggers or without.
pub async fn edits(
    folder: &Path,
    rows: usize,
    per_transaction: usize,
    shape: Width,
    captured: bool,
) -> anyhow::Result<Edits> {
    let folder = tempfile::tempdir_in(folder)?;
    let path = folder.path().join("edits.db");
    let connection = Connection::open(&path)?;
    connection.execute_batch(SCHEMA)?;
    connection.execute_batch(WIDE)?;
    drop(connection);
    let client = if captured {
        // Opening installs the triggers; the server is never asked.
        let token = || async { Err::<String, _>(TokenError::new("no server here")) };
        let config = Config::new(&path, "http://127.0.0.1:9", UserId::new("nobody")?, token)
            .schema("business")
            .table("users")
            .table("posts")
            .table("wide");
        Some(Client::open(config).await?)
    } else {
        None
    };
    let done = tokio::task::block_in_place(|| run_edits(&path, rows, per_transaction, shape));
    if let Some(client) = client {
        client.stop().await;
    }
    done
}

fn run_edits(
    path: &Path,
    rows: usize,
    per_transaction: usize,
    shape: Width,
) -> anyhow::Result<Edits> {
    let mut connection = open(path)?;
    let all: Vec<NewRow> = (0..rows).map(|n| NewRow::make(n as i64)).collect();
    let mut timed = |sql: &str| -> rusqlite::Result<f64> {
        let began = Instant::now();
        for chunk in all.chunks(per_transaction) {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut statement = tx.prepare_cached(sql)?;
            for row in chunk {
                statement.execute(params![row.key.to_string(), row.payload])?;
            }
            drop(statement);
            tx.commit()?;
        }
        Ok(began.elapsed().as_secs_f64() * 1e6 / rows as f64)
    };
    let [insert, update, delete] = shape.statements();
    Ok(Edits {
        insert: timed(insert)?,
        update: timed(update)?,
        delete: timed(delete)?,
    })
}
