//! A device: the application's file, the application's connection, and this
//! crate's store on it, without the network.

use super::super::config as client_config;
use super::server::Server;
use crate::error::Error;
use crate::outbox::{self, BatchLimits, Frozen};
use crate::state::{Resync, State};
use crate::store::{Store, Txn};
use crate::{apply, capture, resync, settle, shadow};
use oversync_shared::DeviceId;
use oversync_shared::wire::{DownloadReply, UploadReply};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const TABLES: &str = "
PRAGMA journal_mode = wal;
CREATE TABLE p (id TEXT PRIMARY KEY NOT NULL, a INTEGER, b INTEGER);
CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, p_id TEXT REFERENCES p (id) ON DELETE CASCADE, a INTEGER, b INTEGER);";

/// Few changes at a time, so that batches are cut.
const BATCH: BatchLimits = BatchLimits {
    changes: 4,
    bytes: 1 << 20,
};

/// Values of a row by column; SQL literals.
pub(super) type Cells = BTreeMap<&'static str, String>;

/// Every row of the application's tables, by table and key.
pub(super) type Contents = BTreeMap<(&'static str, String), Cells>;

pub(super) struct Phone {
    pub(super) number: usize,
    /// `None` only while the process is down.
    store: Option<Store>,
    pub(super) app: Connection,
    path: PathBuf,
    _folder: TempDir,
}

/// What goes to the server in one request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) sent: Vec<(String, Frozen)>,
    pub(super) epoch: Option<String>,
}

fn connect(path: &Path) -> Connection {
    let app = Connection::open(path).expect("opens");
    app.execute_batch("PRAGMA foreign_keys = on; PRAGMA synchronous = off;")
        .expect("pragmas");
    app
}

impl Phone {
    pub(super) fn new(number: usize) -> Self {
        let folder = super::super::folder();
        let path = folder.path().join("app.db");
        let app = connect(&path);
        app.execute_batch(TABLES).expect("tables");
        let mut phone = Self {
            number,
            store: None,
            app,
            path,
            _folder: folder,
        };
        phone.restart();
        phone
    }

    /// The process ends anywhere between two transactions and starts again.
    pub(super) fn restart(&mut self) {
        self.store = None;
        self.app = connect(&self.path);
        let device = DeviceId::new(format!("device-{}", self.number)).expect("a name");
        let mut config = client_config(&self._folder)
            .device(device)
            .schema(super::server::SCHEMA);
        config = config.table("p").table("c");
        self.store = Some(Store::open(&config).expect("opens"));
    }

    /// A copy of the file as it is now.
    pub(super) fn backup(&self) -> PathBuf {
        let copy = self.path.with_extension("backup");
        let _ = std::fs::remove_file(&copy);
        self.app
            .execute("VACUUM INTO ?1", [copy.to_str().expect("text")])
            .expect("copied");
        copy
    }

    /// The copy takes the file's place.
    pub(super) fn put_back(&mut self, copy: &Path) {
        self.store = None;
        self.app = Connection::open_in_memory().expect("opens");
        for left in ["db-wal", "db-shm"] {
            let _ = std::fs::remove_file(self.path.with_extension(left));
        }
        std::fs::copy(copy, &self.path).expect("copied");
        self.app = connect(&self.path);
        self.app
            .pragma_update(None, "journal_mode", "wal")
            .expect("a pragma");
        self.restart();
    }

    pub(super) fn store(&mut self) -> &mut Store {
        self.store.as_mut().expect("the process runs")
    }

    pub(super) fn write<T>(&mut self, work: impl FnOnce(&Txn<'_>) -> Result<T, Error>) -> T {
        self.store().write(work).expect("writes")
    }

    pub(super) fn state(&mut self) -> State {
        self.write(|txn| State::load(txn.conn))
    }

    /// What the application does; refused by its own constraints, it is undone.
    pub(super) fn run(&self, sql: &str) {
        if self.app.execute_batch(sql).is_err() && !self.app.is_autocommit() {
            self.app.execute_batch("ROLLBACK").expect("rolls back");
        }
    }

    pub(super) fn contents(&self) -> Contents {
        let mut contents = Contents::new();
        for (table, columns) in [("p", &["a", "b"][..]), ("c", &["p_id", "a", "b"])] {
            let list: Vec<String> = columns
                .iter()
                .map(|name| format!("quote({name})"))
                .collect();
            let sql = format!("SELECT id, {} FROM {table}", list.join(", "));
            let mut statement = self.app.prepare_cached(&sql).expect("a query");
            let mut rows = statement.query([]).expect("rows");
            while let Some(row) = rows.next().expect("a row") {
                let cell = |(place, name): (usize, &&'static str)| {
                    (*name, row.get(place + 1).expect("text"))
                };
                let cells = columns.iter().enumerate().map(cell).collect();
                contents.insert((table, row.get(0).expect("a key")), cells);
            }
        }
        contents
    }

    /// Whether nothing new may be frozen before the server has answered.
    pub(super) fn must_ask(&mut self) -> bool {
        let is_hydrated = self.state().hydrated;
        is_hydrated && outbox::must_ask(self.store()).expect("reads")
    }

    /// The next request, frozen; `None` when there is nothing to send.
    pub(super) fn freeze(&mut self) -> Option<Request> {
        let state = self.state();
        if !state.hydrated {
            return None;
        }
        let sent = self.write(|txn| {
            capture::collect(txn)?;
            shadow::settle_all(txn, shadow::More::Coming, apply::Poison::Unknown)?;
            let frozen = outbox::next_batch(txn, BATCH)?;
            let named = frozen.into_iter().map(|one| {
                let table = txn.tables.by_number(one.row.tbl);
                (table.expect("listed").wire.clone(), one)
            });
            Ok(named.collect::<Vec<_>>())
        });
        let epoch = state.epoch;
        (!sent.is_empty()).then_some(Request { sent, epoch })
    }

    pub(super) fn acknowledge(&mut self, request: &Request, reply: &UploadReply) {
        let sent: Vec<Frozen> = request.sent.iter().map(|(_, one)| one.clone()).collect();
        settle::acknowledge(self.store(), &sent, reply).expect("settles");
    }

    /// A refusal: the server has another history.
    pub(super) fn start_over(&mut self, epoch: &str) {
        self.write(|txn| {
            capture::collect(txn)?;
            resync::begin(txn, Resync::HistoryReplaced, Some(epoch))
        });
    }

    /// The page that would be asked for now, or that the history is another.
    pub(super) fn ask(&mut self, server: &Server, limit: usize) -> Option<DownloadReply> {
        let state = self.state();
        if state.epoch.is_some_and(|known| known != server.epoch()) {
            return None;
        }
        let include_self = !state.hydrated || state.shares_device;
        Some(server.page(
            self.number,
            state.cursor,
            limit,
            include_self,
            state.window_until,
        ))
    }

    pub(super) fn apply(&mut self, page: DownloadReply) {
        let after = self.state().cursor;
        apply::apply(self.store(), page, after, true).expect("applies");
    }

    pub(super) fn count(&self, sql: &str) -> i64 {
        self.app
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .expect("a number")
    }
}
