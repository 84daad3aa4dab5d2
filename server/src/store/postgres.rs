//! The PostgreSQL store: set-based statements, the head row as the lock.
//!
//! READ COMMITTED throughout. Every verb is one statement and so one snapshot;
//! prepared once per connection with generic plans. Other processes may write
//! to the same database at any time.

mod audit;
mod bus;
mod cascade;
mod columns;
mod constraints;
mod describe;
mod devices;
mod expressions;
mod failures;
mod handled;
mod lookup;
mod page;
mod project;
mod retention;
mod standing;
mod work;

pub(super) use audit::PostgresAudit;

use super::{
    Access, Ask, Bus, Commit, DeviceKey, DeviceRecord, FailureFilter, Head, InFold, KnownDevice,
    Loaded, NewEntry, Outcome, Page, PageQuery, PoolUse, Referred, Revision, Revocations,
    RevokedDevices, Store, StoreError, Stored, StoredRow, UserKey, fingerprint_from, op_code,
};
use crate::projection::{
    Business, BusinessTable, Constraints, Failure, Handled, Lookup, Projection, Retried,
};
use crate::store::handler::Before;
use crate::store::retention::{Heard, Retention};
use crate::unknown::UnknownColumns;
use async_trait::async_trait;
use cascade::Cascades;
use columns::Columns;
use lookup::Searched;
use oversync_shared::Catalog;
use oversync_shared::catalog::ColumnIx;
use oversync_shared::upload::{Holder, Recorded, RowAt, RowState};
use oversync_shared::{ChangeId, DeviceId, RowVersion, ServerId, TableIx, TableName, UserId};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::{Executor as _, Postgres, Row as _, Transaction};
use standing::Standing;
use std::collections::{HashMap, HashSet};
use std::str::FromStr as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use uuid::Uuid;
use work::{Passing, Work, Writer};

/// Connections of one process. 8–16 gave the best throughput on 2 cores, 64
/// halved it (docs: BENCH, known floors).
const MAX_CONNECTIONS: u32 = 12;

/// Group commits running at a time. Two connections with many users each gave
/// 7–14 times the throughput of 64 connections with one (BENCH, known floors).
const LANES: usize = 2;

/// How long a request waits for a connection before it is told to come back.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The advisory lock under which processes that start together take turns with
/// the schema file; "oversync" in ASCII.
const SCHEMA_LOCK: i64 = 0x6f76_6572_7379_6e63;

/// A store on PostgreSQL 13 or later.
pub struct PostgresStore {
    pool: PgPool,
    url: String,
    tables: OnceLock<Tables>,
    unknown: UnknownColumns,
    /// Retries hold a connection and their user's head row for as long as a
    /// host's handler takes.
    retries: Semaphore,
}

/// Retries running at a time in one process; the others wait without a connection.
const MAX_RETRIES: usize = 2;

/// How often a group is written before a fault that should pass is the fault of the
/// row it came with. A deadlock has passed by the second time; each takes a second.
const GROUP_TRIES: usize = 3;

/// How every connection is made.
fn connect_options(url: &str) -> Result<PgConnectOptions, StoreError> {
    Ok(PgConnectOptions::from_str(url)?
        .application_name("oversync")
        .options([("timezone", "UTC")]))
}

/// Where a group commit went wrong.
enum GroupFault {
    /// Business rows were being written: nothing is committed.
    Projecting(sqlx::Error),
    /// Anywhere else, the COMMIT included, of which nobody knows how it ended.
    Other(sqlx::Error),
}

impl From<sqlx::Error> for GroupFault {
    fn from(error: sqlx::Error) -> Self {
        Self::Other(error)
    }
}

/// The registered tables as this database numbers them.
struct Tables {
    keys: Vec<i32>,
    /// By place in the catalog.
    projections: Vec<Option<Projection>>,
    /// By place in the catalog.
    handled: Vec<Option<Handled>>,
    lookups: HashMap<ColumnIx, Lookup>,
    cascades: Cascades,
    standing: Standing,
    any_written: bool,
}

impl Tables {
    /// Who writes the business rows of a table.
    fn writer(&self, place: usize) -> Option<Writer<'_>> {
        let projection = self.projections[place].as_ref().map(Writer::Projection);
        projection.or_else(|| self.handled[place].as_ref().map(Writer::Handler))
    }

    fn searched(&self, column: ColumnIx) -> Option<Searched<'_>> {
        let lookup = self.lookups.get(&column)?;
        let owned = lookup.registered.and_then(|table| {
            let projection = self.projections[table.index()].as_ref()?;
            Some((projection, self.keys[table.index()]))
        });
        Some(Searched { lookup, owned })
    }
}

impl PostgresStore {
    /// Connects, runs `schema_sql`, migrates the schema `oversync`.
    pub async fn open(url: &str, schema_sql: Option<&str>) -> Result<Self, StoreError> {
        let options = connect_options(url)?.options([
            // The statements are few and their best plan does not depend on the
            // parameters: planning each time costs more than running.
            ("plan_cache_mode", "force_generic_plan"),
            // Compiling a statement each time it is run costs many times its few
            // milliseconds; what the planner thinks of a table that was never
            // analysed is reason enough for PostgreSQL to try.
            ("jit", "off"),
            // What is acknowledged is durable, whatever the database's default;
            // and the head row as a lock needs this isolation.
            ("synchronous_commit", "on"),
            ("default_transaction_isolation", "read committed"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options)
            .await?;
        if let Some(sql) = schema_sql {
            let mut tx = pool.begin().await?;
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .bind(SCHEMA_LOCK)
                .execute(&mut *tx)
                .await?;
            tx.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())))
                .await?;
            tx.commit().await?;
        }
        let mut migrator = sqlx::migrate!("../migrations/postgres");
        migrator.dangerous_set_table_name("oversync._migrations");
        migrator.create_schemas.to_mut().push("oversync".into());
        migrator
            .run(&pool)
            .await
            .map_err(|error| StoreError::Failed(format!("migration: {error}")))?;
        sqlx::query("INSERT INTO oversync.meta (epoch) VALUES ($1) ON CONFLICT DO NOTHING")
            .bind(Uuid::new_v4().to_string())
            .execute(&pool)
            .await?;
        Ok(Self {
            pool,
            url: url.to_owned(),
            tables: OnceLock::new(),
            unknown: UnknownColumns::default(),
            retries: Semaphore::new(MAX_RETRIES),
        })
    }

    fn tables(&self) -> &Tables {
        self.tables.get().expect("BUG: register comes first")
    }

    fn table_key(&self, table: TableIx) -> i32 {
        self.tables().keys[table.index()]
    }

    /// Writes the rows of committed uploads into their business tables, in the
    /// same transaction; how many could not be.
    async fn project(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        commits: &[Commit],
        held: &[i64],
        passing: Passing,
    ) -> Result<usize, sqlx::Error> {
        let mut work = Vec::new();
        for commit in commits
            .iter()
            .filter(|commit| held.contains(&commit.user.0))
        {
            let payloads: HashMap<ServerId, &NewEntry> = commit
                .entries
                .iter()
                .map(|entry| (entry.server_id, entry))
                .collect();
            for write in &commit.rows {
                let Some(writer) = self.tables().writer(write.row.table.index()) else {
                    continue;
                };
                let entry = payloads[&write.state.at];
                work.push(Work {
                    user: commit.user.0,
                    user_id: &commit.user_id,
                    writer,
                    before: if write.base == RowVersion::NEVER_SEEN {
                        Before::NeverSeen
                    } else {
                        Before::Seen
                    },
                    table_key: self.table_key(write.row.table),
                    pk: write.row.key.uuid(),
                    version: write.state.version,
                    payload: entry.payload.as_deref(),
                    op: op_code(entry.op),
                    columns: match (writer, &entry.payload) {
                        (Writer::Projection(projection), Some(payload)) => {
                            work::present(projection, &commit.user_id, payload, |members| {
                                let names = members.iter().map(|(name, _)| name);
                                self.unknown.look(projection, names);
                            })
                        }
                        _ => Ok(Vec::new()),
                    },
                    cascades: &self.tables().cascades,
                    standing: &self.tables().standing,
                });
            }
        }
        if work.is_empty() {
            return Ok(0);
        }
        work.sort_by_key(Work::order);
        let done = project::project(tx, &work, passing).await?;
        failures::record(tx, &work, &done).await?;
        Ok(done.failed.len())
    }

    /// Reads what the answers show; `None` for an upload that shows too much.
    /// The sizes come first, so that what is too much is never read.
    async fn show(
        &self,
        commits: &[Commit],
    ) -> Result<Vec<Option<HashMap<ServerId, Option<String>>>>, StoreError> {
        let mut all = Vec::with_capacity(commits.len());
        for commit in commits {
            all.push(if commit.show.entries.is_empty() {
                Some(HashMap::new())
            } else {
                self.show_one(commit).await?
            });
        }
        Ok(all)
    }

    async fn show_one(
        &self,
        commit: &Commit,
    ) -> Result<Option<HashMap<ServerId, Option<String>>>, StoreError> {
        let ids: Vec<i64> = commit.show.entries.keys().map(|id| id.get()).collect();
        let times: Vec<i64> = commit.show.entries.values().map(|n| *n as i64).collect();
        let bytes: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(octet_length(l.payload) * w.times), 0)::bigint \
             FROM unnest($2::bigint[], $3::bigint[]) AS w (server_id, times) \
             JOIN oversync.log l ON l.user_key = $1 AND l.server_id = w.server_id",
        )
        .bind(commit.user.0)
        .bind(&ids)
        .bind(times)
        .fetch_one(&self.pool)
        .await?;
        if bytes as usize > commit.show.max_bytes {
            return Ok(None);
        }
        let rows = sqlx::query(
            "SELECT l.server_id, l.payload FROM oversync.log l \
             WHERE l.user_key = $1 AND l.server_id = ANY ($2::bigint[])",
        )
        .bind(commit.user.0)
        .bind(ids)
        .fetch_all(&self.pool)
        .await?;
        let shown = rows
            .iter()
            .map(|row| Ok((ServerId::new(row.try_get(0)?), row.try_get(1)?)));
        Ok(Some(shown.collect::<Result<_, sqlx::Error>>()?))
    }

    /// Writes a group in one transaction; the users whose uploads were written.
    async fn write_group(
        &self,
        commits: &[Commit],
        passing: Passing,
    ) -> Result<Vec<i64>, GroupFault> {
        let columns = Columns::collect(commits, |table| self.table_key(table));
        let read_held =
            |rows: Vec<PgRow>| -> Vec<i64> { rows.iter().map(|row| row.get(0)).collect() };
        if !self.tables().any_written {
            // One statement is its own transaction.
            return Ok(read_held(columns.query().fetch_all(&self.pool).await?));
        }
        let mut tx = self.pool.begin().await?;
        let held = read_held(columns.query().fetch_all(&mut *tx).await?);
        let failed = self.project(&mut tx, commits, &held, passing).await;
        let failed = failed.map_err(GroupFault::Projecting)?;
        tx.commit().await?;
        // What was taken back did not happen.
        crate::meters::projection_failures(failed);
        Ok(held)
    }

    /// The same, again while a fault of the database may pass: each time all of the
    /// group is taken back. What does not pass fails the row that it came with.
    async fn write_patiently(&self, commits: &[Commit]) -> Result<Vec<i64>, sqlx::Error> {
        for left in (0..GROUP_TRIES).rev() {
            let passing = if left > 0 {
                Passing::TakesBack
            } else {
                Passing::IsTheRows
            };
            match self.write_group(commits, passing).await {
                Err(GroupFault::Projecting(sqlx::Error::Database(cause)))
                    if left > 0 && work::is_passing(&*cause) =>
                {
                    tracing::warn!(%cause, "a group commit was rolled back and is tried again");
                }
                Ok(held) => return Ok(held),
                Err(GroupFault::Projecting(error) | GroupFault::Other(error)) => return Err(error),
            }
        }
        unreachable!("BUG: the last try ends")
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn is_shared(&self) -> bool {
        true
    }

    fn bus(&self) -> Option<Arc<dyn Bus>> {
        Some(Arc::new(bus::PostgresBus {
            pool: self.pool.clone(),
        }))
    }

    fn lanes(&self) -> usize {
        LANES
    }

    async fn describe(
        &self,
        tables: &[TableName],
    ) -> Result<HashMap<TableName, BusinessTable>, StoreError> {
        describe::describe(&self.pool, tables).await
    }

    async fn register(&self, catalog: &Catalog, business: Business) -> Result<(), StoreError> {
        let mut keys = Vec::with_capacity(catalog.len());
        for (_, table) in catalog.tables() {
            sqlx::query("INSERT INTO oversync.tables (schema_name, table_name) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(&table.name.schema)
                .bind(&table.name.table)
                .execute(&self.pool)
                .await?;
            let key = sqlx::query_scalar(
                "SELECT table_key FROM oversync.tables WHERE schema_name = $1 AND table_name = $2",
            )
            .bind(&table.name.schema)
            .bind(&table.name.table)
            .fetch_one(&self.pool)
            .await?;
            keys.push(key);
        }
        if business.constraints == Constraints::Defer {
            let names: Vec<&TableName> = catalog.tables().map(|(_, table)| &table.name).collect();
            constraints::defer(&self.pool, &names).await?;
        }
        let numbered: Vec<(&Projection, i32)> = business
            .projections
            .iter()
            .map(|projection| (projection, keys[projection.table.index()]))
            .collect();
        let cascades = cascade::discover(&self.pool, &numbered).await?;
        let standing = Standing::new(&numbered);
        let any_written = !(business.projections.is_empty() && business.handled.is_empty());
        let mut by_place: Vec<Option<Projection>> = vec![None; catalog.len()];
        for projection in business.projections {
            let place = projection.table.index();
            by_place[place] = Some(projection);
        }
        let mut handled: Vec<Option<Handled>> = vec![None; catalog.len()];
        for table in business.handled {
            let place = table.table.index();
            handled[place] = Some(table);
        }
        let lookups = business.lookups.into_iter();
        let tables = Tables {
            keys,
            projections: by_place,
            handled,
            lookups: lookups.map(|lookup| (lookup.place, lookup)).collect(),
            cascades,
            standing,
            any_written,
        };
        for searched in tables
            .lookups
            .keys()
            .filter_map(|place| tables.searched(*place))
        {
            lookup::probe(&self.pool, &searched).await?;
        }
        self.tables
            .set(tables)
            .map_err(|_| StoreError::Failed("tables are registered already".to_owned()))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    async fn epoch(&self) -> Result<Arc<str>, StoreError> {
        let epoch: String = sqlx::query_scalar("SELECT epoch FROM oversync.meta")
            .fetch_one(&self.pool)
            .await?;
        Ok(epoch.into())
    }

    async fn load(&self, ask: &Ask) -> Result<Loaded, StoreError> {
        let tables: Vec<i32> = ask
            .rows
            .iter()
            .map(|row| self.table_key(row.table))
            .collect();
        let keys: Vec<Uuid> = ask.rows.iter().map(|row| row.key.uuid()).collect();
        let ids: Vec<i64> = ask.ids.iter().map(|id| id.get()).collect();
        loop {
            let row = sqlx::query(include_str!("postgres/load.sql"))
                .bind(ask.user.as_str())
                .bind(ask.device.as_str())
                .bind(&tables)
                .bind(&keys)
                .bind(&ids)
                .fetch_optional(&self.pool)
                .await?;
            if let Some(row) = row {
                return read_loaded(&row, ask);
            }
            sqlx::query("INSERT INTO oversync.users (user_id) VALUES ($1) ON CONFLICT DO NOTHING")
                .bind(ask.user.as_str())
                .execute(&self.pool)
                .await?;
        }
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Outcome>, StoreError> {
        // Entries never change, so what a conflict shows can be read before the
        // guard; the guard then proves that it was current.
        let shown = self.show(&commits).await?;
        let (to_write, places): (Vec<Commit>, Vec<usize>) = commits
            .iter()
            .enumerate()
            .filter(|(place, _)| shown[*place].is_some())
            .map(|(place, commit)| (commit.clone(), place))
            .unzip();
        let held = match self.write_patiently(&to_write).await {
            Ok(held) => held,
            // A deadlock or the like, or somebody's head row that was not to be had
            // in time: the transaction is gone, and with it all of the group.
            // Everybody decides again and comes back.
            Err(sqlx::Error::Database(cause))
                if cause
                    .code()
                    .is_some_and(|code| code.starts_with("40") || code == "55P03") =>
            {
                tracing::warn!(%cause, "a group commit was rolled back and is tried again");
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
        let mut outcomes: Vec<Outcome> = vec![Outcome::TooMuchToShow; commits.len()];
        let mut shown = shown;
        for (commit, place) in to_write.iter().zip(places) {
            let payloads = shown[place].take().unwrap_or_default();
            let is_complete = payloads.len() == commit.show.entries.len();
            outcomes[place] = if held.contains(&commit.user.0) && is_complete {
                Outcome::Done { shown: payloads }
            } else {
                Outcome::LeftOut
            };
        }
        Ok(outcomes)
    }

    async fn in_business(
        &self,
        user: UserKey,
        user_id: &UserId,
        rows: &[RowAt],
    ) -> Result<HashSet<RowAt>, StoreError> {
        let mut found = HashSet::new();
        for (place, projection) in self.tables().projections.iter().enumerate() {
            let Some(projection) = projection else {
                continue;
            };
            let asked: Vec<RowAt> = rows
                .iter()
                .copied()
                .filter(|row| row.table.index() == place)
                .collect();
            if !asked.is_empty() {
                let key = self.table_key(projection.table);
                let held =
                    project::visible(&self.pool, projection, key, user.0, user_id, &asked).await?;
                found.extend(held);
            }
        }
        Ok(found)
    }

    async fn holders(
        &self,
        user: UserKey,
        user_id: &UserId,
        values: Vec<Referred>,
        at_most: usize,
    ) -> Result<HashMap<Referred, Vec<Holder>>, StoreError> {
        let searched = |referred: &Referred| self.tables().searched(referred.0);
        lookup::holders(&self.pool, user.0, user_id, values, at_most, searched).await
    }

    async fn failures(
        &self,
        user: &UserId,
        only: FailureFilter,
        limit: i64,
    ) -> Result<Vec<Failure>, StoreError> {
        failures::list(&self.pool, user, &only, limit).await
    }

    async fn retry(&self, user: &UserId, failure: i64) -> Result<Retried, StoreError> {
        let _turn = self
            .retries
            .acquire()
            .await
            .expect("BUG: it is never closed");
        let tables = self.tables();
        let writer = |table_key: i32| {
            let place = tables.keys.iter().position(|key| *key == table_key)?;
            tables.writer(place)
        };
        failures::retry(
            &self.pool,
            user,
            failure,
            writer,
            &tables.cascades,
            &tables.standing,
        )
        .await
    }

    async fn page(&self, query: PageQuery) -> Result<Page, StoreError> {
        page::read(&self.pool, &query).await
    }

    async fn row(&self, user: &UserId, row: RowAt) -> Result<Option<StoredRow>, StoreError> {
        let found = sqlx::query(
            "SELECT r.version, r.deleted, l.payload FROM oversync.users u \
             JOIN oversync.rows r ON r.user_key = u.user_key \
             LEFT JOIN oversync.log l ON l.user_key = r.user_key AND l.server_id = r.server_id \
             WHERE u.user_id = $1 AND r.table_key = $2 AND r.pk = $3",
        )
        .bind(user.as_str())
        .bind(self.table_key(row.table))
        .bind(row.key.uuid())
        .fetch_optional(&self.pool)
        .await?;
        let Some(found) = found else { return Ok(None) };
        Ok(Some(StoredRow {
            version: RowVersion::new(found.try_get(0)?),
            deleted: found.try_get(1)?,
            payload: found.try_get(2)?,
        }))
    }

    async fn heads(&self, users: &[UserId]) -> Result<HashMap<UserId, ServerId>, StoreError> {
        let ids: Vec<&str> = users.iter().map(UserId::as_str).collect();
        let rows = sqlx::query("SELECT user_id, head FROM oversync.users WHERE user_id = ANY ($1)")
            .bind(ids)
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                let user = UserId::new(row.try_get::<String, _>(0)?)
                    .map_err(|error| StoreError::Failed(format!("a stored user name {error}")))?;
                Ok((user, ServerId::new(row.try_get(1)?)))
            })
            .collect()
    }

    async fn devices(&self, user: &UserId) -> Result<Vec<DeviceRecord>, StoreError> {
        devices::list(&self.pool, user).await
    }

    async fn set_access(
        &self,
        user: &UserId,
        device: &DeviceId,
        access: Access,
    ) -> Result<(), StoreError> {
        devices::set_access(&self.pool, user, device, access).await
    }

    async fn heard(&self, readers: Vec<Heard>) -> Result<(), StoreError> {
        retention::heard(&self.pool, &readers).await
    }

    async fn reads_fold(
        &self,
        user: &UserId,
        device: &DeviceId,
        at: InFold,
        floor: ServerId,
    ) -> Result<(), StoreError> {
        retention::reads_fold(&self.pool, user, device, at, floor).await
    }

    async fn retention(&self) -> Result<Option<Box<dyn Retention>>, StoreError> {
        let opened = retention::PostgresRetention::open(self).await?;
        Ok(opened.map(|retention| Box::new(retention) as Box<dyn Retention>))
    }

    async fn revoked(
        &self,
        known: Option<Revocations>,
    ) -> Result<Option<RevokedDevices>, StoreError> {
        devices::revoked(&self.pool, known).await
    }

    fn pool(&self) -> PoolUse {
        let idle = self.pool.num_idle();
        let open = usize::try_from(self.pool.size()).unwrap_or(usize::MAX);
        PoolUse {
            idle,
            busy: open.saturating_sub(idle),
        }
    }

    async fn storage(&self) -> Result<Vec<Stored>, StoreError> {
        let sizes: Vec<(String, i64)> = sqlx::query_as(include_str!("postgres/storage.sql"))
            .fetch_all(&self.pool)
            .await?;
        let stored = |(kind, bytes): (String, i64)| Stored {
            kind,
            bytes: bytes.unsigned_abs(),
        };
        Ok(sizes.into_iter().map(stored).collect())
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

fn read_loaded(row: &PgRow, ask: &Ask) -> Result<Loaded, StoreError> {
    let epoch: String = row.try_get("epoch")?;
    let device_key: Option<i32> = row.try_get("device_key")?;
    let highest: Option<i64> = row.try_get("highest_change_id")?;
    let last_device: Option<i32> = row.try_get("last_device")?;
    let places: Vec<i64> = row.try_get::<Option<_>, _>("places")?.unwrap_or_default();
    let versions: Vec<i64> = row.try_get::<Option<_>, _>("versions")?.unwrap_or_default();
    let server_ids: Vec<i64> = row
        .try_get::<Option<_>, _>("server_ids")?
        .unwrap_or_default();
    let deleted: Vec<bool> = row.try_get::<Option<_>, _>("deleted")?.unwrap_or_default();
    let rows = places
        .iter()
        .zip(versions.iter().zip(&server_ids).zip(&deleted))
        .map(|(place, ((version, server_id), deleted))| {
            let at = ServerId::new(*server_id);
            let state = RowState {
                version: RowVersion::new(*version),
                deleted: *deleted,
                at,
            };
            (ask.rows[*place as usize - 1], state)
        })
        .collect();
    let change_ids: Vec<i64> = row
        .try_get::<Option<_>, _>("change_ids")?
        .unwrap_or_default();
    let fingerprints: Vec<Vec<u8>> = row
        .try_get::<Option<_>, _>("fingerprints")?
        .unwrap_or_default();
    let known_versions: Vec<i64> = row
        .try_get::<Option<_>, _>("known_versions")?
        .unwrap_or_default();
    let recorded = change_ids
        .iter()
        .zip(fingerprints.iter().zip(&known_versions))
        .map(|(id, (bytes, version))| {
            let recorded = Recorded {
                fingerprint: fingerprint_from(bytes)?,
                version: RowVersion::new(*version),
            };
            Ok((ChangeId::new(*id), recorded))
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Loaded {
        head: Head {
            user: UserKey(row.try_get("user_key")?),
            user_id: ask.user.clone(),
            head: ServerId::new(row.try_get("head")?),
            revision: Revision(row.try_get("revision")?),
        },
        epoch: epoch.into(),
        device: device_key.zip(highest).map(|(key, highest)| KnownDevice {
            key: DeviceKey(key),
            highest: ChangeId::new(highest),
        }),
        next_device: DeviceKey(last_device.unwrap_or(0) + 1),
        rows,
        recorded,
    })
}
