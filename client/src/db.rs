//! The database thread: owns this crate's connection, runs jobs one after the
//! other.
//!
//! Everything that blocks on SQLite happens here, never on an async worker. A
//! job is a closure over a [`Store`]; a job that writes does so in one immediate
//! transaction through [`Store::write`].

use crate::clock::unix_now;
use crate::config::{Config, TableSpec};
use crate::discover;
use crate::error::{Error, SetupError, StorageError};
use crate::field_merge::FieldMerge;
use crate::learned::{self, LeftOut};
use crate::log;
use crate::resolver::Resolver;
use crate::schema::Tables;
use crate::state;
use crate::step::Step;
use crate::sweep;
use crate::triggers;
use crate::upgrade;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// How long to wait for another connection's write transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Jobs that may wait for the thread; callers beyond wait to enqueue.
const QUEUE: usize = 64;

/// Statements kept prepared: about four per table and a few dozen of our own.
const STATEMENTS: usize = 256;

const SCHEMA: &str = include_str!("../../migrations/device/schema.sql");

/// Opens a connection the way this crate and the ones it hands out need it.
pub(crate) fn connect(path: &Path) -> Result<Connection, Error> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    // Readers and the writer do not wait for one another, and commits are
    // noticed by wal_hook.
    conn.pragma_update(None, "journal_mode", "wal")?;
    // Off by default in SQLite, and per connection.
    conn.pragma_update(None, "foreign_keys", true)?;
    // A change id that has been sent must survive power loss.
    conn.pragma_update(None, "synchronous", "full")?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(conn)
}

/// What a job works on.
pub(crate) struct Store {
    conn: Connection,
    specs: Vec<TableSpec>,
    resolver: Arc<dyn Resolver>,
    keep_conflicts_days: i64,
    tables: Arc<Tables>,
    /// `PRAGMA schema_version` at which `tables` was read.
    schema_cookie: i64,
    data_version: i64,
    /// Whether `PRAGMA synchronous` is FULL.
    is_full: bool,
    learned: Learned,
    /// Whether an answer of the server has been taken in since the file was opened.
    has_heard: bool,
}

/// One write transaction, and what is true while it lasts.
pub(crate) struct Txn<'a> {
    pub(crate) conn: &'a Transaction<'a>,
    pub(crate) tables: &'a Tables,
    pub(crate) resolver: &'a dyn Resolver,
    /// How long the conflict list goes back.
    pub(crate) keep_conflicts_days: i64,
    /// Seconds since 1970; for people, never for order.
    pub(crate) now: i64,
}

/// When a commit must survive a loss of power; the end of the process, even by
/// SIGKILL, every commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    Now,
    /// With the next one that must; until then it may be undone, as a whole and with
    /// all after it.
    Later,
}

impl Store {
    /// Opens the file, installs tables and triggers. Several processes may:
    /// what each of them does here comes out the same.
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let conn = connect(&config.path)?;
        // Before anything is written: a file that cannot be synchronised stays
        // as it is.
        let tables = discover::discover(&conn, &config.tables, |_| Ok(0))?;
        check_policies(&tables, &config.merge)?;
        let (tx, (tables, learned)) = begin(&conn, |tx, left_out| {
            tx.execute_batch(SCHEMA)?;
            upgrade::run(tx)?;
            state::claim(tx, config)?;
            Step::FileClaimed.reached();
            let tables = install(tx, &config.tables, left_out)?;
            // Of an earlier time, too.
            let learned = learn(tx, &tables, left_out)?;
            Ok((tables, learned))
        })?;
        let schema_cookie = schema_cookie(&tx)?;
        Step::TriggersInstalled.reached();
        tx.commit()?;
        Step::FileOpened.reached();
        let data_version = data_version(&conn)?;
        Ok(Self {
            conn,
            specs: config.tables.clone(),
            resolver: match &config.resolver {
                Some(own) => Arc::clone(own),
                None => Arc::new(config.merge.clone()),
            },
            keep_conflicts_days: days(config.keep_conflicts),
            tables: Arc::new(tables),
            schema_cookie,
            data_version,
            is_full: true,
            has_heard: false,
            learned,
        })
    }

    /// Runs `work` in one immediate transaction; commits unless it fails. What is
    /// committed survives a loss of power.
    pub(crate) fn write<T>(
        &mut self,
        work: impl FnOnce(&Txn<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.in_full()?;
        self.transact(work)
    }

    fn in_full(&mut self) -> Result<(), Error> {
        if !self.is_full {
            self.conn.pragma_update(None, "synchronous", "full")?;
            self.is_full = true;
        }
        Ok(())
    }

    fn transact<T>(&mut self, work: impl FnOnce(&Txn<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let (tx, (tables, learned)) = begin(&self.conn, |tx, left_out| {
            // The application may have altered a table since the last job.
            if schema_cookie(tx)? == self.schema_cookie {
                return Ok((Arc::clone(&self.tables), self.learned));
            }
            let tables = Arc::new(install(tx, &self.specs, left_out)?);
            let learned = match left_out.waits {
                true => Learned::InPart,
                false => self.learned,
            };
            Ok((tables, learned))
        })?;
        let cookie = schema_cookie(&tx)?;
        let done = work(&Txn {
            conn: &tx,
            tables: &tables,
            resolver: &*self.resolver,
            keep_conflicts_days: self.keep_conflicts_days,
            now: unix_now(),
        })?;
        tx.commit()?;
        self.tables = tables;
        self.schema_cookie = cookie;
        self.learned = learned;
        Ok(done)
    }

    /// Tries again what waits to be written into a column that the application has
    /// learned; costs nothing where nothing does.
    pub(crate) fn learn_more(&mut self) -> Result<(), Error> {
        if self.learned == Learned::All {
            return Ok(());
        }
        self.in_full()?;
        let (tx, learned) = begin(&self.conn, |tx, left_out| learn(tx, &self.tables, left_out))?;
        tx.commit()?;
        self.learned = learned;
        Ok(())
    }

    /// The same; says whether it must survive a loss of power by itself.
    pub(crate) fn write_as<T>(
        &mut self,
        durability: Durability,
        work: impl FnOnce(&Txn<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if durability == Durability::Now {
            return self.write(work);
        }
        self.is_full = false;
        self.conn.pragma_update(None, "synchronous", "normal")?;
        let done = self.transact(work);
        // Else the next write makes sure: what is done is done.
        let _ = self.in_full();
        done
    }

    /// Reads outside a write transaction.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        work(&self.conn)
    }

    /// Whether the server has said since the file was opened which change ids it knows
    /// of this device. Before, the file may be an older state of itself that has been
    /// put back, and its next id may have been used: no new one is given out.
    pub(crate) fn has_heard(&self) -> bool {
        self.has_heard
    }

    /// An answer of the server has been taken in.
    pub(crate) fn hear(&mut self) {
        self.has_heard = true;
    }

    /// Whether triggers fire for what this connection does; the application's
    /// connections are not concerned.
    pub(crate) fn triggers(&self, on: bool) -> Result<(), Error> {
        Ok(switch_triggers(&self.conn, on)?)
    }

    /// The tables, as of the last write.
    pub(crate) fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables)
    }

    /// Whether another connection has committed since the last question.
    pub(crate) fn foreign_commit(&mut self) -> Result<bool, Error> {
        let version = data_version(&self.conn)?;
        Ok(std::mem::replace(&mut self.data_version, version) != version)
    }
}

/// Begins an immediate transaction with what has to be done first in it; anew where a
/// trigger of the application has ended it, without the row that made it do so.
fn begin<T>(
    conn: &Connection,
    first: impl Fn(&Transaction<'_>, &mut LeftOut) -> Result<T, Error>,
) -> Result<(Transaction<'_>, T), Error> {
    let mut left_out = LeftOut::default();
    loop {
        let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
        match first(&tx, &mut left_out) {
            Ok(done) => return Ok((tx, done)),
            Err(Error::Storage(StorageError::RolledBack(_))) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether what was kept of columns that the application knows by now is in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Learned {
    All,
    /// Some refers to rows that are not here.
    InPart,
}

/// Fills columns that have been learned, of tables whose rows may have had to wait.
fn learn(conn: &Connection, tables: &Tables, left_out: &mut LeftOut) -> Result<Learned, Error> {
    left_out.waits = false;
    for table in tables.iter().filter(|table| !table.parents.is_empty()) {
        learned::fill(conn, table, left_out)?;
    }
    Ok(match left_out.waits {
        true => Learned::InPart,
        false => Learned::All,
    })
}

fn switch_triggers(conn: &Connection, on: bool) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, on)?;
    Ok(())
}

/// As long as it lives, no trigger fires for what this connection does.
pub(crate) struct NoTriggers<'a> {
    conn: &'a Connection,
}

impl<'a> NoTriggers<'a> {
    pub(crate) fn on(conn: &'a Connection) -> Result<Self, Error> {
        switch_triggers(conn, false)?;
        Ok(Self { conn })
    }
}

impl Drop for NoTriggers<'_> {
    fn drop(&mut self) {
        switch_triggers(self.conn, true).expect("BUG: a flag of a connection that is open");
    }
}

/// Whole days, rounded up.
fn days(time: Duration) -> i64 {
    i64::try_from(time.as_secs().div_ceil(86_400)).unwrap_or(i64::MAX)
}

/// A policy for a column that does not exist would never be asked.
fn check_policies(tables: &Tables, merge: &FieldMerge) -> Result<(), SetupError> {
    for (name, columns) in merge.named() {
        let missing = |what: String| SetupError::MergePolicy { what };
        let table = tables
            .by_name(name)
            .ok_or_else(|| missing(format!("table \"{name}\"")))?;
        if let Some(column) = columns
            .into_iter()
            .find(|column| table.column(column).is_none())
        {
            return Err(missing(format!("column \"{column}\" of table \"{name}\"")));
        }
    }
    Ok(())
}

fn schema_cookie(conn: &Connection) -> Result<i64, Error> {
    Ok(conn.query_row("PRAGMA schema_version", [], |row| row.get(0))?)
}

fn data_version(conn: &Connection) -> Result<i64, Error> {
    Ok(conn.query_row("PRAGMA data_version", [], |row| row.get(0))?)
}

/// Discovers the tables, numbers new ones, brings the triggers up to date. Where
/// the schema has changed since they were last looked at, they may have been gone
/// for a while: deletes of that time are looked for.
fn install(
    conn: &Connection,
    specs: &[TableSpec],
    left_out: &mut LeftOut,
) -> Result<Tables, Error> {
    let mut fresh = Vec::new();
    let tables = discover::discover(conn, specs, |name| {
        let known = conn
            .query_row("SELECT n FROM _sync_table WHERE name = ?1", [name], |row| {
                row.get(0)
            })
            .optional()?;
        if let Some(n) = known {
            return Ok(n);
        }
        conn.execute("INSERT INTO _sync_table (name) VALUES (?1)", [name])?;
        let n = conn.last_insert_rowid();
        fresh.push(n);
        Ok(n)
    })?;
    let seen: Option<i64> =
        conn.query_row("SELECT schema_seen FROM _sync_client", [], |row| row.get(0))?;
    let has_changed = seen != Some(schema_cookie(conn)?);
    for table in tables.iter() {
        triggers::install(conn, table, fresh.contains(&table.n), left_out)?;
        if has_changed && sweep::is_unambiguous(conn, table)? {
            sweep::note_missing(conn, table)?;
        }
    }
    let mut statement = conn.prepare("SELECT n FROM _sync_table")?;
    let numbers = statement.query_map([], |row| row.get(0))?;
    for n in numbers.collect::<Result<Vec<i64>, _>>()? {
        let listed = tables.by_number(n).is_some();
        if !listed {
            triggers::remove(conn, n)?;
        }
        conn.execute(
            "UPDATE _sync_table SET listed = ?2 WHERE n = ?1 AND listed <> ?2",
            (n, listed),
        )?;
    }
    log::show(conn)?;
    conn.execute(
        "UPDATE _sync_client SET schema_seen = ?1 WHERE schema_seen IS NOT ?1",
        [schema_cookie(conn)?],
    )?;
    Ok(tables)
}

type Work = Box<dyn FnOnce(&mut Store) + Send>;

enum Job {
    Run(Work),
    Close(oneshot::Sender<()>),
}

/// The handle to the database thread.
#[derive(Clone)]
pub(crate) struct Db {
    jobs: mpsc::Sender<Job>,
    /// Somebody has left before a job was done.
    left: Arc<AtomicBool>,
}

/// Somebody who waits for a job.
struct Waiting<'a> {
    left: &'a AtomicBool,
    is_answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.left.store(true, Ordering::Release);
        }
    }
}

impl Db {
    /// Starts the thread and opens the file on it.
    pub(crate) async fn open(config: Config) -> Result<Self, Error> {
        let (jobs, mut queue) = mpsc::channel(QUEUE);
        let (opened, answer) = oneshot::channel();
        let path = config.path.clone();
        std::thread::Builder::new()
            .name("oversqlite-db".to_owned())
            .spawn(move || {
                let mut store = match Store::open(&config) {
                    Ok(store) => store,
                    Err(error) => {
                        let _ = opened.send(Err(error));
                        return;
                    }
                };
                let _ = opened.send(Ok(()));
                drop(config);
                while let Some(job) = queue.blocking_recv() {
                    match job {
                        Job::Run(work) => work(&mut store),
                        Job::Close(done) => {
                            drop(store);
                            let _ = done.send(());
                            return;
                        }
                    }
                }
            })
            .map_err(|source| StorageError::File { path, source })?;
        answer.await.map_err(|_| Error::Stopped)??;
        Ok(Self {
            jobs,
            left: Arc::default(),
        })
    }

    /// Runs a job and waits for its result.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, result) = oneshot::channel();
        let job = Job::Run(Box::new(move |store| {
            let _ = done.send(work(store));
        }));
        self.jobs.send(job).await.map_err(|_| Error::Stopped)?;
        let mut waiting = Waiting {
            left: &self.left,
            is_answered: false,
        };
        let done = result.await;
        waiting.is_answered = true;
        done.map_err(|_| Error::Stopped)?
    }

    /// Whether a future was dropped, since the last question, whose job may still
    /// be running.
    pub(crate) fn was_left(&self) -> bool {
        self.left.swap(false, Ordering::AcqRel)
    }

    /// Runs something small once all jobs before it are done; at once when the
    /// file has been closed.
    pub(crate) fn after(&self, work: impl FnOnce() + Send + 'static) {
        let job = Job::Run(Box::new(|_| work()));
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => {
                let jobs = self.jobs.clone();
                // Not on this thread: it may be one of an async runtime. Where no
                // thread can be had, the job is dropped, and what it holds with it.
                let _ = std::thread::Builder::new().spawn(move || jobs.blocking_send(job));
            }
            Err(TrySendError::Closed(job)) => drop(job),
        }
    }

    /// Runs a job that writes, in one transaction.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Txn<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(|store| store.write(work)).await
    }

    /// Runs a job that only reads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(|store| store.read(work)).await
    }

    /// Closes the file once the jobs before this one are done. Every later job
    /// fails with [`Error::Stopped`].
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}
