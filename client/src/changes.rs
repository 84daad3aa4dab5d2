//! What an application hears when rows of other devices have been written.

use crate::key::{LocalKey, RowRef};
use crate::schema::Tables;
use oversync_shared::RowKey;
use rusqlite::types::Value;
use serde::Serialize;
use std::collections::BTreeMap;
use tokio::sync::broadcast;

/// Events a slow reader may be behind before it is told that it missed some.
pub(crate) const BUFFER: usize = 1024;

/// Something has been written by the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Changed {
    /// Rows of one table, written or deleted, in one commit.
    Rows {
        /// The local table.
        table: String,
        /// Their keys: text as the table has it, BLOB keys as dashed UUIDs.
        keys: Vec<String>,
    },
    /// Anything may have changed: this reader was too slow, or another process
    /// synchronises the file and has written to it.
    Missed,
}

/// A stream of [`Changed`]; ends when the client is gone.
#[derive(Debug)]
pub struct Changes {
    events: broadcast::Receiver<Changed>,
}

impl Changes {
    pub(crate) fn new(events: broadcast::Receiver<Changed>) -> Self {
        Self { events }
    }

    /// Waits for the next event; `None` once the client is gone.
    pub async fn next(&mut self) -> Option<Changed> {
        match self.events.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Changed::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Groups written rows by table.
pub(crate) fn group(tables: &Tables, written: Vec<(RowRef, LocalKey)>) -> Vec<Changed> {
    let mut by_table: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for (row, key) in written {
        let shown = match key.0 {
            Value::Text(text) => text,
            _ => RowKey::to_string(&row.key),
        };
        by_table.entry(row.tbl).or_default().push(shown);
    }
    by_table
        .into_iter()
        .filter_map(|(n, keys)| {
            Some(Changed::Rows {
                table: tables.by_number(n)?.name.clone(),
                keys,
            })
        })
        .collect()
}
