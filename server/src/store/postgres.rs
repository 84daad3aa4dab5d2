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
mod group;
mod handled;
mod history;
mod load;
mod lookup;
pub(crate) mod moving;
mod open;
mod page;
mod project;
pub(crate) mod recovery;
mod reindex;
mod retention;
mod standing;
mod tables;
mod usage;
mod view;
mod work;

pub(super) use audit::PostgresAudit;
pub(super) use view::PostgresView;

use super::{
    Access, Ask, Bus, Commit, DeviceRecord, FailureFilter, InFold, Loaded, Outcome, Page,
    PageQuery, PoolUse, Reach, Reached, Referred, Revocations, RevokedDevices, Store, StoreError,
    Stored, StoredRow, UserKey,
};
use crate::projection::{Business, BusinessTable, Failure, Retried};
use crate::store::retention::{Heard, Retention};
use crate::store::usage::Usage;
use crate::store::view::View;
use crate::unknown::UnknownColumns;
use async_trait::async_trait;
use group::Held;
use open::{connect_options, migrate, run_steps};
use oversync_shared::Catalog;
use oversync_shared::upload::{Holder, RowAt};
use oversync_shared::{ChangeId, DeviceId, RowVersion, ServerId, TableIx, TableName, UserId};
use sqlx::Row as _;
use sqlx::postgres::PgPool;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use tables::Tables;
use tokio::sync::Semaphore;

/// Group commits running at a time. Two connections with many users each gave
/// 7–14 times the throughput of 64 connections with one (BENCH, known floors).
const LANES: usize = 2;

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

impl PostgresStore {
    fn tables(&self) -> &Tables {
        self.tables.get().expect("BUG: register comes first")
    }

    fn table_key(&self, table: TableIx) -> i32 {
        self.tables().keys[table.index()]
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
        let tables = self.numbered(catalog, business).await?;
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
        self.read_for(ask).await
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Outcome>, StoreError> {
        self.commit_group(commits).await
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

    async fn usage(&self, user: UserKey, since: Option<ServerId>) -> Result<Usage, StoreError> {
        usage::usage(&self.pool, user, since).await
    }

    async fn sizes(
        &self,
        user: UserKey,
        entries: Vec<ServerId>,
    ) -> Result<HashMap<ServerId, u64>, StoreError> {
        usage::sizes(&self.pool, user, entries).await
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

    async fn heads(&self, of: &[(UserId, Option<DeviceId>)]) -> Result<Reached, StoreError> {
        let (users, devices): (Vec<&str>, Vec<Option<&str>>) = of
            .iter()
            .map(|(user, device)| (user.as_str(), device.as_ref().map(DeviceId::as_str)))
            .unzip();
        let rows = sqlx::query(include_str!("postgres/heads.sql"))
            .bind(users)
            .bind(devices)
            .fetch_all(&self.pool)
            .await?;
        let first = rows.first().ok_or_else(page::no_epoch)?;
        let epoch = first.try_get::<&str, _>(0)?.into();
        let mut reaches = vec![None; of.len()];
        for row in &rows {
            let (Some(place), Some(head)) = (row.try_get(1)?, row.try_get(2)?) else {
                continue;
            };
            let place: i64 = place;
            reaches[place as usize - 1] = Some(Reach {
                head: ServerId::new(head),
                floor: ServerId::new(row.try_get(3)?),
                highest_change_id: row.try_get::<Option<i64>, _>(4)?.map(ChangeId::new),
            });
        }
        Ok(Reached { epoch, reaches })
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

    fn view(&self) -> Arc<dyn View> {
        Arc::new(PostgresView::of(&self.pool))
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
