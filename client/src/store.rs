//! The file as this crate writes it: one connection, and every write one immediate
//! transaction.
//!
//! Where the application has changed its schema since the last one, a transaction reads
//! the tables again and brings the triggers up to date before its own work. A [`Store`]
//! lives on the database thread (`db.rs`), never on an async worker.

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
use std::time::Duration;

/// How long to wait for another connection's write transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

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
    // A plan does not depend on what is bound: else SQLite (since 3.46) prepares a
    // statement anew whenever another value is bound to its LIMIT.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
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
    /// [`data_version`] when what waits for rows was last tried again; nothing once this
    /// connection has written a page's rows since.
    tried_at: Option<i64>,
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
        let (tx, tables) = begin(&conn, |tx, left_out| {
            tx.execute_batch(SCHEMA)?;
            upgrade::run(tx)?;
            state::claim(tx, config)?;
            Step::FileClaimed.reached();
            let tables = install(tx, &config.tables, left_out)?;
            // Of an earlier time, too.
            learned::fill_rest(tx, &tables, left_out)?;
            Ok(tables)
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
            tried_at: None,
            has_heard: false,
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
        let (tx, tables) = begin(&self.conn, |tx, left_out| {
            // The application may have altered a table since the last job.
            if schema_cookie(tx)? == self.schema_cookie {
                return Ok(Arc::clone(&self.tables));
            }
            Ok(Arc::new(install(tx, &self.specs, left_out)?))
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
        Ok(done)
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

    /// Tries again what waits to be written into a column that the application has
    /// learned, if anything was written since the last time: by this connection's pages
    /// ([`Store::has_new_rows`]), or by any other connection.
    pub(crate) fn learn_more(&mut self) -> Result<(), Error> {
        let version = data_version(&self.conn)?;
        if self.tried_at == Some(version) {
            return Ok(());
        }
        if learned::is_any_waiting(&self.conn)? {
            self.in_full()?;
            let (tx, ()) = begin(&self.conn, |tx, left_out| {
                learned::fill_rest(tx, &self.tables, left_out)
            })?;
            tx.commit()?;
        }
        self.tried_at = Some(version);
        Ok(())
    }

    /// A page has written rows.
    pub(crate) fn has_new_rows(&mut self) {
        self.tried_at = None;
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

    /// Does something when another connection has committed since it was last done:
    /// one that fails is done again at the next call.
    pub(crate) fn after_foreign_commit<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let version = data_version(&self.conn)?;
        if version == self.data_version {
            return Ok(None);
        }
        let done = work(self)?;
        self.data_version = version;
        Ok(Some(done))
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
        left_out.begin();
        let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
        match first(&tx, &mut left_out) {
            Ok(done) => return Ok((tx, done)),
            Err(Error::Storage(StorageError::RolledBack(_))) => {}
            Err(error) => return Err(error),
        }
    }
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
