//! Edits that only this device has, as they stand: for looking at, and for
//! exporting before something drastic.
//!
//! Reads only: the log of the triggers is looked at and left as it is, so it works
//! beside the process that synchronises the file.

use crate::client::{Client, Inspection};
use crate::config::Config;
use crate::doctor::tables;
use crate::error::Error;
use crate::key::{LocalKey, RowRef};
use crate::row;
use crate::schema::{Table, Tables};
use oversync_shared::RowKey;
use rusqlite::Connection;
use serde::Serialize;
use serde_json::value::RawValue;

const UNSENT: &str = include_str!("../../migrations/device/unsent.sql");

/// How far an unsent edit has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Noted by the triggers; no client has looked at it yet.
    Captured,
    /// It goes with the next upload.
    Pending,
    /// It waits for the row it refers to.
    Waiting,
    /// Sent until it is answered.
    InFlight,
}

/// A row with an edit that the server has not acknowledged. The newest state is
/// what counts: a row stands here once for each stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unsent {
    /// The table.
    pub table: String,
    /// The row's key, as the application spells it.
    pub key: String,
    /// How far it has come.
    pub stage: Stage,
    /// The row as it is to be sent, as JSON; none when it is a delete, or when it
    /// cannot be written as JSON.
    pub payload: Option<String>,
    /// Whether it is a delete.
    pub is_delete: bool,
    /// The change id, once it has one.
    pub change_id: Option<i64>,
    /// The row it waits for, as `table/key`.
    pub waits_for: Option<String>,
    /// When it was first seen, in seconds since 1970; none while nobody has.
    pub since: Option<i64>,
}

impl Unsent {
    /// One line of JSON, the payload as an object.
    pub fn to_json_line(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            table: &'a str,
            key: &'a str,
            stage: Stage,
            payload: Option<&'a RawValue>,
            is_delete: bool,
            change_id: Option<i64>,
            waits_for: Option<&'a str>,
            since: Option<i64>,
        }
        let payload = self.payload.as_deref();
        let line = Line {
            table: &self.table,
            key: &self.key,
            stage: self.stage,
            payload: payload.and_then(|text| serde_json::from_str(text).ok()),
            is_delete: self.is_delete,
            change_id: self.change_id,
            waits_for: self.waits_for.as_deref(),
            since: self.since,
        };
        serde_json::to_string(&line).expect("BUG: texts and numbers always serialise") + "\n"
    }
}

impl Client {
    /// The rows with edits that the server has not acknowledged, oldest first; of those
    /// that were first seen together, table by table.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("notes.db");
    /// # rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, text)")?;
    /// # let token = || async { Ok(String::new()) };
    /// # let config = oversqlite::Config::new(&path, "http://127.0.0.1:1", oversqlite::UserId::new("user-ada")?, token).table("notes");
    /// # let client = oversqlite::Client::open(config).await?;
    /// let db = client.connection()?;
    /// db.execute("INSERT INTO notes VALUES ('0f8fad5b-d9cb-469f-a165-70867728950e', 'hello')", [])?;
    /// let unsent = client.unsent().await?;
    /// assert_eq!(unsent[0].table, "notes");
    /// assert!(unsent[0].to_json_line().contains(r#""text":"hello""#));
    /// # client.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn unsent(&self) -> Result<Vec<Unsent>, Error> {
        let read = self.core().db.run(|store| {
            let tables = store.tables();
            let mut all = Vec::new();
            store.read(|conn| each(conn, &tables, |edit| all.push(edit)))?;
            Ok(all)
        });
        read.await
    }
}

impl Inspection {
    /// Tells `tell` of each edit of [`Client::unsent`]. The tables are those of
    /// `config`; nothing else of it is used.
    pub fn unsent(&self, config: &Config, tell: impl FnMut(Unsent)) -> Result<(), Error> {
        each(
            self.as_connection(),
            &tables(self.as_connection(), config)?,
            tell,
        )
    }
}

struct Found {
    row: Option<RowRef>,
    tbl: i64,
    key: LocalKey,
    stage: Stage,
    payload: Option<String>,
    is_delete: bool,
    change_id: Option<i64>,
    waits: Option<RowRef>,
    since: Option<i64>,
}

fn each(conn: &Connection, tables: &Tables, mut tell: impl FnMut(Unsent)) -> Result<(), Error> {
    let mut statement = conn.prepare_cached(UNSENT)?;
    let found = statement.query_map([], |found| {
        let tbl = found.get(1)?;
        let pk: Option<uuid::Uuid> = found.get(2)?;
        let waits: Option<i64> = found.get(7)?;
        let waits = match waits {
            Some(tbl) => Some(RowRef {
                tbl,
                key: RowKey::new(found.get(8)?),
            }),
            None => None,
        };
        let op: Option<String> = found.get(4)?;
        Ok(Found {
            row: pk.map(|pk| RowRef {
                tbl,
                key: RowKey::new(pk),
            }),
            tbl,
            key: found.get(3)?,
            stage: match (found.get::<_, i64>(0)?, waits) {
                (0, _) => Stage::InFlight,
                (1, Some(_)) => Stage::Waiting,
                (1, None) => Stage::Pending,
                _ => Stage::Captured,
            },
            payload: found.get(5)?,
            is_delete: op.as_deref() == Some("DELETE"),
            change_id: found.get(6)?,
            waits,
            since: found.get(9)?,
        })
    })?;
    for found in found {
        // A table that is no longer listed keeps its name to itself.
        let found = found?;
        if let Some(table) = tables.by_number(found.tbl) {
            tell(unsent(conn, table, found)?);
        }
    }
    Ok(())
}

fn unsent(conn: &Connection, table: &Table, found: Found) -> Result<Unsent, Error> {
    let (mut payload, mut is_delete) = (found.payload, found.is_delete);
    if found.stage != Stage::InFlight {
        let cells = row::read(conn, table, &found.key)?;
        is_delete = cells.is_none();
        let canonical = found.key.canonical(table.key_kind);
        let row = found.row.or(canonical.map(|key| RowRef::new(table, key)));
        payload = match (cells, row) {
            (Some(cells), Some(row)) => row::to_payload(conn, table, row, &cells)?.ok(),
            _ => None,
        };
    }
    Ok(Unsent {
        table: table.name.clone(),
        key: found.key.display(),
        stage: found.stage,
        payload,
        is_delete,
        change_id: found.change_id,
        waits_for: match found.waits {
            Some(parent) => Some(crate::doctor::name(conn, parent)?),
            None => None,
        },
        since: found.since,
    })
}
