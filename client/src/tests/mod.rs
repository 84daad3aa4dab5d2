//! Tests on real files that need no server.
//!
//! - `anew`: passes over everything, and rows made anew
//! - `answers`: what the server says to an upload, one case after the other
//! - `capture`: random SQL programs, with and without triggers
//! - `cancel`: calls that are dropped in the middle
//! - `listener`: sockets that end, fall silent or are refused, and what follows
//! - `listing`: tables that come and go: off the list, rebuilt, without triggers
//! - `open`: what is refused at opening, and how
//! - `flow`: pages into the tables, one case after the other
//! - `converge`: random histories of three devices end equal
//! - `merge`: two edits of one row, through page and upload
//! - `lists`: what lost or was refused, got back or given up
//! - `late`: answers that come when the file has gone on
//! - `leave`: pauses, what the status says, signing out
//! - `pages`: large pages, whose rows share most of the work
//! - `poison`: one row that can never succeed among a thousand
//! - `reach`: foreign-key actions that a page fires, from table to table
//! - `wake`: a commit is visible when it wakes
//! - `shapes`: tables of every shape, applications of every age
//! - `simulator`: random histories of several devices and a server
//! - `values`: every kind of value there and back
//! - `words`: tables, rows and answers that several of them use

mod anew;
mod answers;
mod cancel;
mod capture;
mod converge;
mod flow;
mod late;
mod leave;
mod listener;
mod listing;
mod lists;
mod merge;
mod open;
mod pages;
mod poison;
mod reach;
mod shapes;
mod simulator;
mod values;
mod wake;
mod words;

use crate::config::Config;
use crate::error::Error;
use crate::outbox::{self, BatchLimits, Frozen};
use crate::settle::{self, Acknowledged};
use crate::state::State;
use crate::store::{Store, Txn};
use crate::{apply, capture as log, shadow};
use oversync_shared::wire::{
    ChangeStatus, DownloadChange, DownloadReply, Op, StatusKind, UploadReply,
};
use oversync_shared::{ChangeId, RowVersion, ServerId, UserId};
use rusqlite::Connection;
use serde_json::value::RawValue;
use tempfile::TempDir;

pub(crate) const WIDE: BatchLimits = BatchLimits {
    changes: 1000,
    bytes: 1 << 20,
};

/// A file with the client's tables in it, and the application's connection.
pub(crate) struct Device {
    pub(crate) store: Store,
    pub(crate) app: Connection,
    _folder: TempDir,
}

pub(crate) fn config(folder: &TempDir) -> Config {
    let user = UserId::new("user-ada").expect("a name");
    let token = || async { Ok("unused".to_owned()) };
    Config::new(
        folder.path().join("app.db"),
        "http://127.0.0.1:1",
        user,
        token,
    )
}

impl Device {
    /// Creates the tables, opens the file, and takes the first pass as done.
    pub(crate) fn new(sql: &str, tables: &[&str]) -> Self {
        Self::with(sql, |config| {
            tables
                .iter()
                .fold(config, |config, name| config.table(*name))
        })
        .expect("opens")
    }

    pub(crate) fn with(sql: &str, tune: impl FnOnce(Config) -> Config) -> Result<Self, Error> {
        let folder = folder();
        let app = Connection::open(folder.path().join("app.db"))?;
        app.execute_batch("PRAGMA journal_mode = wal; PRAGMA foreign_keys = on;")?;
        app.execute_batch(sql)?;
        let mut store = Store::open(&tune(config(&folder)))?;
        store.write(|txn| {
            let mut state = State::load(txn.conn)?;
            state.hydrated = true;
            state.save(txn.conn)
        })?;
        Ok(Self {
            store,
            app,
            _folder: folder,
        })
    }

    /// The application opens the file anew, with another list of tables.
    pub(crate) fn reopen(&mut self, tables: &[&str]) {
        self.store = self.another(tables);
    }

    /// Another process opens the file, too.
    pub(crate) fn another(&self, tables: &[&str]) -> Store {
        let config = tables
            .iter()
            .fold(config(&self._folder), |config, name| config.table(*name));
        Store::open(&config).expect("opens")
    }

    pub(crate) fn write<T>(&mut self, work: impl FnOnce(&Txn<'_>) -> Result<T, Error>) -> T {
        self.store.write(work).expect("writes")
    }

    pub(crate) fn run(&self, sql: &str) {
        self.app.execute_batch(sql).expect("runs");
    }

    /// One value of the application's tables, as text.
    pub(crate) fn text(&self, sql: &str) -> Option<String> {
        self.app
            .query_row(sql, [], |row| row.get(0))
            .expect("one value")
    }

    pub(crate) fn count(&self, sql: &str) -> i64 {
        self.app
            .query_row(sql, [], |row| row.get(0))
            .expect("a number")
    }

    pub(crate) fn freeze(&mut self) -> Vec<Frozen> {
        self.write(|txn| {
            log::collect(txn)?;
            shadow::settle_all(txn, shadow::More::Coming, apply::Poison::Unknown)?;
            outbox::next_batch(txn, WIDE)
        })
    }

    /// Settles with "applied", each row one version further.
    pub(crate) fn settle_applied(&mut self, sent: &[Frozen]) -> Acknowledged {
        let statuses = sent.iter().map(applied).collect();
        self.settle(sent, statuses)
    }

    pub(crate) fn settle(&mut self, sent: &[Frozen], statuses: Vec<ChangeStatus>) -> Acknowledged {
        self.acknowledge(sent, &reply(statuses))
    }

    /// Takes in an answer to what was sent.
    pub(crate) fn acknowledge(&mut self, sent: &[Frozen], reply: &UploadReply) -> Acknowledged {
        settle::acknowledge(&mut self.store, sent, reply).expect("settles")
    }

    pub(crate) fn apply(&mut self, changes: Vec<DownloadChange>) -> apply::PageDone {
        self.apply_page(changes, false)
    }

    /// A page, perhaps with more behind it.
    pub(crate) fn apply_page(
        &mut self,
        changes: Vec<DownloadChange>,
        has_more: bool,
    ) -> apply::PageDone {
        let after = self.write(|txn| State::load(txn.conn)).cursor;
        let next_after = ServerId::new(after.get() + 100);
        let mut changes = changes;
        for (n, change) in (1..).zip(&mut changes) {
            change.server_id = ServerId::new(after.get() + n);
        }
        let page = DownloadReply {
            changes,
            has_more,
            next_after,
            window_until: next_after,
            epoch: None,
            head: None,
            highest_source_change_id: None,
        };
        apply::apply(&mut self.store, page, after, true).expect("applies")
    }
}

pub(crate) fn applied(frozen: &Frozen) -> ChangeStatus {
    ChangeStatus {
        source_change_id: frozen.id,
        status: StatusKind::Applied,
        new_server_version: Some(frozen.version.next()),
        server_row: None,
        message: None,
        invalid: None,
    }
}

/// An answer with these statuses, as of a server that says nothing else.
pub(crate) fn reply(statuses: Vec<ChangeStatus>) -> UploadReply {
    UploadReply {
        accepted: true,
        highest_server_seq: ServerId::ZERO,
        statuses,
        epoch: None,
        head: None,
        highest_source_change_id: None,
    }
}

pub(crate) fn entry(table: &str, pk: &str, version: i64, payload: Option<&str>) -> DownloadChange {
    let payload = payload.map(|text| RawValue::from_string(text.to_owned()).expect("JSON"));
    DownloadChange {
        server_id: ServerId::new(version),
        schema: "public".to_owned(),
        table: table.to_owned(),
        op: if payload.is_some() {
            Op::Update
        } else {
            Op::Delete
        },
        pk: pk.to_owned(),
        deleted: payload.is_none(),
        payload,
        server_version: RowVersion::new(version),
        source_id: "other".to_owned(),
        source_change_id: ChangeId::new(version),
        ts: String::new(),
    }
}

/// The UUID that ends in a number.
pub(crate) fn uuid(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// A folder of the test's own; in memory, where the system has a place for that.
/// What outlives a crash of the system is not tested here.
pub(crate) fn folder() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        TempDir::new_in(memory)
    } else {
        TempDir::new()
    };
    folder.expect("a folder")
}

/// A number from the environment, for longer runs by hand and in CI.
pub(crate) fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// Runs a test for every seed, on as many threads as there are cores.
pub(crate) fn on_all_cores(seeds: std::ops::Range<u64>, test: impl Fn(u64) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (test, share) = (&test, |thread| seeds.clone().skip(thread).step_by(threads));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let seeds = share(thread);
            scope.spawn(move || seeds.for_each(test));
        }
    });
}
