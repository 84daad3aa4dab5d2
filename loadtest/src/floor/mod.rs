//! The floors: the least work that does the same writes or reads, written by
//! hand, so that a figure of ours has something to be compared with; and the
//! reference style of working, row by row or batched. Programs of the project,
//! so that anybody can run them.

mod device;
pub mod driver;
mod postgres;
mod serve;
mod sqlite;

pub use device::{Width, edits, load_rows};
pub use postgres::{Database, Postgres, empty_commits, uploads};
pub use serve::{Serve, Served, USERS, serve};
pub use sqlite::upload_rows;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Bytes of text in a row, as in the scenarios.
pub const CONTENT_BYTES: usize = 120;

/// How uploads are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Style {
    /// One set-based statement for many users: the floor.
    Set,
    /// A statement per row, under savepoints: the naive way.
    Rows,
    /// About ten statements per upload, as the reference server does today.
    Batched,
}

/// A new row.
#[derive(Debug, Clone)]
pub struct NewRow {
    /// The device's number for it.
    pub change_id: i64,
    /// Its key.
    pub key: Uuid,
    /// Its JSON.
    pub payload: String,
}

impl NewRow {
    /// A row as lean devices make them.
    pub fn make(change_id: i64) -> Self {
        let key = Uuid::now_v7();
        let text = "x".repeat(CONTENT_BYTES);
        Self {
            change_id,
            key,
            payload: format!(
                "{{\"id\":\"{key}\",\"name\":\"load {change_id}\",\"email\":\"{text}\"}}"
            ),
        }
    }
}

/// One upload of one user.
#[derive(Debug)]
pub struct Upload {
    /// The user's number.
    pub user: i64,
    /// The head before it.
    pub head: i64,
    /// What is uploaded.
    pub rows: Vec<NewRow>,
}

/// What was measured in rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rounds {
    /// Raw values, in order.
    pub values: Vec<f64>,
}

impl Rounds {
    /// The middle one.
    pub fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => 0.0,
            count if count % 2 == 1 => sorted[count / 2],
            count => (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0,
        }
    }
}
