//! The embedded store: one SQLite file, one writer thread, a few readers.
//!
//! The default for development and for a single server process. WAL with
//! `synchronous=FULL`: an acknowledged upload survives power loss. Business
//! tables may share the file; `business.users` is then the table `users`.

mod audit;
mod business_row;
mod compare;
mod describe;
mod devices;
mod failures;
mod file;
mod handled;
mod history;
mod lookup;
mod moved;
pub(crate) mod moving;
mod owner;
mod project;
mod read;
pub(crate) mod recovery;
mod retention;
mod standing;
mod storage;
mod threads;
mod usage;
mod view;
mod write;

pub(super) use audit::EmbeddedAudit;
pub(super) use view::EmbeddedView;

use super::{
    Access, Ask, Bus, Commit, DeviceRecord, FailureFilter, InFold, Loaded, OpenError, Outcome,
    Page, PageQuery, PoolUse, Reached, Referred, Revocations, RevokedDevices, Store, StoreError,
    Stored, StoredRow, UserKey,
};
use crate::clock::Clock;
use crate::projection::{Business, BusinessTable, Failure, Handled, Lookup, Projection, Retried};
use crate::store::retention::{Heard, Retention};
use crate::store::usage::Usage;
use crate::store::view::View;
use crate::unknown::UnknownColumns;
use async_trait::async_trait;
use oversync_shared::catalog::ColumnIx;
use oversync_shared::upload::{Holder, RowAt};
use oversync_shared::{Catalog, DeviceId, ServerId, TableName, UserId};
use project::Writer;
use rusqlite::{Connection, params};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use threads::Threads;

/// Connections that read. Reads are short and mostly from memory; more threads
/// than cores only wait for each other.
const READERS: usize = 4;

/// Reads that may wait for a thread before callers are told to come back.
const READS_WAITING: usize = 4_096;

/// Writes that may wait. Uploads come grouped through one lane; the rest are
/// first sights of a user.
const WRITES_WAITING: usize = 1_024;

/// A store in one SQLite file, owned by one process.
pub struct EmbeddedStore {
    writer: Arc<Threads>,
    readers: Arc<Threads>,
    tables: OnceLock<Arc<Tables>>,
    clock: Clock,
    lock: File,
}

/// The registered tables as this database numbers them.
#[derive(Debug)]
struct Tables {
    /// By place in the catalog.
    keys: Vec<i64>,
    /// By number.
    projections: HashMap<i64, Projection>,
    /// By number.
    handled: HashMap<i64, Handled>,
    lookups: HashMap<ColumnIx, Lookup>,
    unknown: UnknownColumns,
}

impl Tables {
    /// Who writes the business rows of a table.
    fn writer(&self, table_key: i64) -> Option<Writer<'_>> {
        let projection = self.projections.get(&table_key).map(Writer::Projection);
        projection.or_else(|| self.handled.get(&table_key).map(Writer::Handler))
    }
}

impl EmbeddedStore {
    /// Creates or opens the file (and its folder), locks it against a second
    /// process, runs `schema_sql`, and brings the schema up to date. A backup that was
    /// copied into place is refused: no new history has begun in it.
    pub fn open(path: &Path, schema_sql: Option<&str>, clock: Clock) -> Result<Self, OpenError> {
        if path.as_os_str().is_empty() {
            let problem = "database_url names no file: write sqlite://data/oversync.db";
            return Err(StoreError::Failed(problem.to_owned()).into());
        }
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::create_dir_all(folder)
                .map_err(|error| StoreError::Failed(format!("{}: {error}", folder.display())))?;
        }
        let lock = file::lock(path)?;
        let mut connection = file::open_writer(path)?;
        if let Some(sql) = schema_sql {
            connection.execute_batch(sql).map_err(StoreError::from)?;
        }
        file::migrate(&mut connection)?;
        let readers = (0..READERS)
            .map(|_| file::open_reader(path))
            .collect::<Result<_, StoreError>>()?;
        Ok(Self {
            writer: Arc::new(Threads::start(
                "store-write",
                vec![connection],
                WRITES_WAITING,
            )?),
            readers: Arc::new(Threads::start("store-read", readers, READS_WAITING)?),
            tables: OnceLock::new(),
            clock,
            lock,
        })
    }

    fn tables(&self) -> Arc<Tables> {
        self.tables
            .get()
            .expect("BUG: register comes first")
            .clone()
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    fn is_shared(&self) -> bool {
        false
    }

    fn bus(&self) -> Option<Arc<dyn Bus>> {
        None
    }

    fn lanes(&self) -> usize {
        1
    }

    async fn describe(
        &self,
        tables: &[TableName],
    ) -> Result<HashMap<TableName, BusinessTable>, StoreError> {
        let tables = tables.to_vec();
        self.readers
            .run(move |connection| describe::describe(connection, &tables))
            .await
    }

    async fn register(&self, catalog: &Catalog, business: Business) -> Result<(), StoreError> {
        let names: Vec<TableName> = catalog
            .tables()
            .map(|(_, table)| table.name.clone())
            .collect();
        let keys = self
            .writer
            .run(move |connection| register(connection, &names))
            .await?;
        let projections = business.projections.into_iter();
        let handled = business.handled.into_iter();
        let lookups = business.lookups.into_iter();
        let tables = Tables {
            projections: projections
                .map(|projection| (keys[projection.table.index()], projection))
                .collect(),
            handled: handled
                .map(|table| (keys[table.table.index()], table))
                .collect(),
            lookups: lookups.map(|lookup| (lookup.place, lookup)).collect(),
            keys,
            unknown: UnknownColumns::default(),
        };
        self.tables
            .set(Arc::new(tables))
            .map_err(|_| StoreError::Failed("tables are registered already".to_owned()))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // The one that writes: readers alone would not make a server ready.
        self.writer
            .run(|connection| {
                Ok(connection.query_row("SELECT 1 FROM _oversync_meta", [], |_| Ok(()))?)
            })
            .await
    }

    async fn epoch(&self) -> Result<Arc<str>, StoreError> {
        let epoch: String = self
            .readers
            .run(|connection| {
                Ok(connection
                    .query_row("SELECT epoch FROM _oversync_meta", [], |row| row.get(0))?)
            })
            .await?;
        Ok(epoch.into())
    }

    async fn load(&self, ask: &Ask) -> Result<Loaded, StoreError> {
        let tables = self.tables();
        loop {
            let (tables, question) = (tables.clone(), ask.clone());
            if let Some(loaded) = self
                .readers
                .run(move |connection| read::load(connection, &question, &tables.keys))
                .await?
            {
                return Ok(loaded);
            }
            let user = ask.user.clone();
            self.writer
                .run(move |connection| new_user(connection, &user))
                .await?;
        }
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Outcome>, StoreError> {
        let tables = self.tables();
        let ts = self.clock.micros();
        self.writer
            .run(move |connection| write::commit(connection, &commits, &tables, ts))
            .await
    }

    async fn in_business(
        &self,
        user: UserKey,
        user_id: &UserId,
        rows: &[RowAt],
    ) -> Result<HashSet<RowAt>, StoreError> {
        let tables = self.tables();
        let rows: Vec<(i64, RowAt)> = rows
            .iter()
            .map(|row| (tables.keys[row.table.index()], *row))
            .collect();
        let user_id = user_id.clone();
        self.readers
            .run(move |connection| {
                business_row::in_business(connection, &tables.projections, user.0, &user_id, &rows)
            })
            .await
    }

    async fn holders(
        &self,
        user: UserKey,
        user_id: &UserId,
        values: Vec<Referred>,
        at_most: usize,
    ) -> Result<HashMap<Referred, Vec<Holder>>, StoreError> {
        let (tables, user_id) = (self.tables(), user_id.clone());
        self.readers
            .run(move |connection| {
                lookup::holders(connection, &tables, user.0, &user_id, values, at_most)
            })
            .await
    }

    async fn failures(
        &self,
        user: &UserId,
        only: FailureFilter,
        limit: i64,
    ) -> Result<Vec<Failure>, StoreError> {
        let user = user.clone();
        self.readers
            .run(move |connection| failures::list(connection, &user, &only, limit))
            .await
    }

    async fn retry(&self, user: &UserId, failure: i64) -> Result<Retried, StoreError> {
        let (tables, user) = (self.tables(), user.clone());
        self.writer
            .run(move |connection| failures::retry(connection, &user, failure, &tables))
            .await
    }

    async fn usage(&self, user: UserKey, since: Option<ServerId>) -> Result<Usage, StoreError> {
        self.readers
            .run(move |connection| usage::usage(connection, user, since))
            .await
    }

    async fn sizes(
        &self,
        user: UserKey,
        entries: Vec<ServerId>,
    ) -> Result<HashMap<ServerId, u64>, StoreError> {
        self.readers
            .run(move |connection| usage::sizes(connection, user, &entries))
            .await
    }

    async fn page(&self, query: PageQuery) -> Result<Page, StoreError> {
        self.readers
            .run(move |connection| read::page(connection, &query))
            .await
    }

    async fn row(&self, user: &UserId, row: RowAt) -> Result<Option<StoredRow>, StoreError> {
        let table = self.tables().keys[row.table.index()];
        let user = user.clone();
        self.readers
            .run(move |connection| read::row(connection, &user, table, row.key))
            .await
    }

    async fn heads(&self, of: &[(UserId, Option<DeviceId>)]) -> Result<Reached, StoreError> {
        let of = of.to_vec();
        self.readers
            .run(move |connection| read::heads(connection, &of))
            .await
    }

    async fn devices(&self, user: &UserId) -> Result<Vec<DeviceRecord>, StoreError> {
        let user = user.clone();
        self.readers
            .run(move |connection| devices::list(connection, &user))
            .await
    }

    async fn set_access(
        &self,
        user: &UserId,
        device: &DeviceId,
        access: Access,
    ) -> Result<(), StoreError> {
        let (user, device, ts) = (user.clone(), device.clone(), self.clock.micros());
        self.writer
            .run(move |connection| devices::set_access(connection, &user, &device, access, ts))
            .await
    }

    async fn heard(&self, readers: Vec<Heard>) -> Result<(), StoreError> {
        let ts = self.clock.micros();
        self.writer
            .run(move |connection| retention::heard(connection, &readers, ts))
            .await
    }

    async fn reads_fold(
        &self,
        user: &UserId,
        device: &DeviceId,
        at: InFold,
        floor: ServerId,
    ) -> Result<(), StoreError> {
        let (user, device, ts) = (user.clone(), device.clone(), self.clock.micros());
        self.writer
            .run(move |connection| retention::reads_fold(connection, &user, &device, at, floor, ts))
            .await
    }

    async fn retention(&self) -> Result<Option<Box<dyn Retention>>, StoreError> {
        Ok(Some(Box::new(retention::EmbeddedRetention {
            writer: self.writer.clone(),
            readers: self.readers.clone(),
            tables: self.tables(),
            clock: self.clock.clone(),
        })))
    }

    async fn revoked(
        &self,
        known: Option<Revocations>,
    ) -> Result<Option<RevokedDevices>, StoreError> {
        self.readers
            .run(move |connection| devices::revoked(connection, known))
            .await
    }

    fn pool(&self) -> PoolUse {
        // Its threads have a connection each, for good.
        PoolUse::default()
    }

    fn view(&self) -> Arc<dyn View> {
        Arc::new(EmbeddedView::of(&self.readers, &self.clock))
    }

    async fn storage(&self) -> Result<Vec<Stored>, StoreError> {
        self.readers
            .run(|connection| storage::sizes(connection))
            .await
    }

    async fn close(&self) {
        self.readers.stop();
        self.writer.stop();
        if let Err(error) = self.lock.unlock() {
            // It ends with the process at the latest.
            tracing::warn!(%error, "the lock on the database file stays");
        }
    }
}

/// A user that was never seen. After a restore its stream begins above what the lost
/// history may have used.
fn new_user(connection: &mut Connection, user: &UserId) -> Result<(), StoreError> {
    let tx = connection.transaction()?;
    let made = tx.execute(
        "INSERT INTO _oversync_users (user_id, head) SELECT ?1, first_head FROM _oversync_meta WHERE true \
         ON CONFLICT DO NOTHING",
        [user.as_str()],
    )?;
    if made > 0 {
        tx.execute(
            "INSERT INTO _oversync_jumps (user_key, after, through) \
             SELECT user_key, 0, head FROM _oversync_users WHERE user_id = ?1 AND head > 0",
            [user.as_str()],
        )?;
    }
    Ok(tx.commit()?)
}

fn register(connection: &mut Connection, names: &[TableName]) -> Result<Vec<i64>, StoreError> {
    let tx = connection.transaction()?;
    let mut keys = Vec::with_capacity(names.len());
    for name in names {
        let pair = params![name.schema, name.table];
        tx.execute(
            "INSERT INTO _oversync_tables (schema_name, table_name) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            pair,
        )?;
        keys.push(tx.query_row(
            "SELECT table_key FROM _oversync_tables WHERE schema_name = ?1 AND table_name = ?2",
            pair,
            |row| row.get(0),
        )?);
    }
    tx.commit()?;
    Ok(keys)
}
