//! What operators look at, on PostgreSQL: each question one statement, and one page.

use super::connect_options;
use crate::store::jumps::Jumps;
use crate::store::retention::{Rules, STARTING_SECONDS};
use crate::store::view::{
    BEGINNING, Beginning, Changed, DeviceView, EntryView, FailureAt, FailureView, LOOKED_AT,
    RowFilter, RowView, UserRecord, View, end_of,
};
use crate::store::{StoreError, moment, op_from_code, stored_user};
use async_trait::async_trait;
use oversync_shared::{ChangeId, RowKey, RowVersion, ServerId, TableName, UserId};
use sqlx::postgres::{PgPool, PgPoolOptions, PgRow};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use std::sync::Arc;
use time::OffsetDateTime;

/// A PostgreSQL database as operators see it.
pub(in crate::store) struct PostgresView {
    pool: PgPool,
}

impl PostgresView {
    /// Through the connections of a server.
    pub(super) fn of(pool: &PgPool) -> Self {
        Self { pool: pool.clone() }
    }

    /// With a connection of its own, which can only read.
    pub(in crate::store) async fn open(url: &str) -> Result<Self, StoreError> {
        let options = connect_options(url)?.options([("default_transaction_read_only", "on")]);
        // A pool keeps trying and then only says that time is up; the first
        // connection says why.
        options.connect().await?.close().await?;
        let pool = PgPoolOptions::new().max_connections(1);
        Ok(Self {
            pool: pool.connect_with(options).await?,
        })
    }
}

#[async_trait]
impl View for PostgresView {
    async fn now(&self) -> Result<Option<OffsetDateTime>, StoreError> {
        let now = sqlx::query_scalar("SELECT clock_timestamp()");
        Ok(Some(now.fetch_one(&self.pool).await?))
    }

    async fn epoch(&self) -> Result<Arc<str>, StoreError> {
        let epoch = sqlx::query_scalar("SELECT epoch FROM oversync.meta");
        let epoch: String = epoch.fetch_one(&self.pool).await?;
        Ok(epoch.into())
    }

    async fn users(
        &self,
        prefix: &str,
        after: Option<&UserId>,
        limit: i64,
    ) -> Result<Vec<UserRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT user_id, head, floor, folded_at, NULL::bigint AS aged FROM oversync.users \
             WHERE user_id >= $1 AND user_id > $2 AND user_id < $3 ORDER BY user_id LIMIT $4",
        )
        .bind(prefix)
        .bind(after.map_or("", UserId::as_str))
        .bind(end_of(prefix))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(user_record).collect()
    }

    async fn user(&self, user: &UserId, rules: Rules) -> Result<Option<UserRecord>, StoreError> {
        let row = sqlx::query(
            "SELECT u.user_id, u.head, u.floor, u.folded_at, coalesce(( \
                 SELECT l.server_id FROM oversync.log l WHERE l.user_key = u.user_key AND l.server_id > u.floor \
                   AND l.ts <= now() - make_interval(secs => $2) ORDER BY l.server_id DESC LIMIT 1), u.floor) AS aged \
             FROM oversync.users u WHERE u.user_id = $1",
        )
        .bind(user.as_str())
        .bind(rules.age.as_secs_f64())
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(user_record).transpose()
    }

    async fn jumps(&self, user: &UserId) -> Result<Jumps, StoreError> {
        let stored = sqlx::query_as(
            "SELECT j.after, j.through FROM oversync.jumps j JOIN oversync.users u USING (user_key) \
             WHERE u.user_id = $1 ORDER BY j.after DESC LIMIT 10000",
        )
        .bind(user.as_str())
        .fetch_all(&self.pool)
        .await?;
        Ok(Jumps::new(stored))
    }

    async fn devices(
        &self,
        user: &UserId,
        after: Option<&str>,
        rules: Rules,
        limit: i64,
    ) -> Result<Vec<DeviceView>, StoreError> {
        let rows = sqlx::query(include_str!("view_devices.sql"))
            .bind(user.as_str())
            .bind(after)
            .bind(rules.silent.as_secs_f64())
            .bind(STARTING_SECONDS as f64)
            .bind(limit)
            .bind(LOOKED_AT)
            .fetch_all(&self.pool)
            .await?;
        let device = |row: &PgRow| {
            let place = |name| -> Result<Option<ServerId>, sqlx::Error> {
                Ok(row.try_get::<Option<i64>, _>(name)?.map(ServerId::new))
            };
            let highest: Option<i64> = row.try_get("highest_change_id")?;
            Ok(DeviceView {
                device: row.try_get("device_id")?,
                highest_change_id: highest.map(ChangeId::new),
                last_change_at: row.try_get("last_change_at")?,
                cursor: place("cursor")?,
                needs_after: place("needs_after")?,
                counts: row.try_get("counts")?,
                read_at: row.try_get("read_at")?,
                seen_at: row.try_get("seen_at")?,
                revoked_at: row.try_get("revoked_at")?,
            })
        };
        rows.iter().map(device).collect()
    }

    async fn rows(
        &self,
        user: &UserId,
        only: RowFilter,
        limit: i64,
    ) -> Result<Vec<RowView>, StoreError> {
        let tables: Vec<(i32, String, String)> =
            sqlx::query_as("SELECT table_key, schema_name, table_name FROM oversync.tables")
                .fetch_all(&self.pool)
                .await?;
        let tables = tables
            .into_iter()
            .map(|(number, schema, table)| (TableName { schema, table }, number.into()));
        let ranges = only.ranges(tables.collect());
        let numbers = ranges.iter().map(|range| range.number as i32);
        let rows = sqlx::query(include_str!("view_rows.sql"))
            .bind(user.as_str())
            .bind(numbers.collect::<Vec<_>>())
            .bind(ranges.iter().map(|r| r.keys.low).collect::<Vec<_>>())
            .bind(ranges.iter().map(|r| r.keys.high).collect::<Vec<_>>())
            .bind(limit)
            .bind(BEGINNING as i32)
            .fetch_all(&self.pool)
            .await?;
        let view = |row: &PgRow| {
            let place: i64 = row.try_get("place")?;
            Ok(RowView {
                table: ranges[place as usize - 1].table.clone(),
                key: RowKey::new(row.try_get("pk")?),
                version: RowVersion::new(row.try_get("version")?),
                deleted: row.try_get("deleted")?,
                place: ServerId::new(row.try_get("server_id")?),
                changed: changed(row)?,
                payload: beginning(row)?,
            })
        };
        rows.iter().map(view).collect()
    }

    async fn entries(
        &self,
        user: &UserId,
        before: Option<ServerId>,
        limit: i64,
    ) -> Result<Vec<EntryView>, StoreError> {
        let rows = sqlx::query(include_str!("view_entries.sql"))
            .bind(user.as_str())
            .bind(before.map_or(i64::MAX, ServerId::get))
            .bind(limit)
            .bind(BEGINNING as i32)
            .fetch_all(&self.pool)
            .await?;
        let view = |row: &PgRow| {
            Ok(EntryView {
                place: ServerId::new(row.try_get("server_id")?),
                table: table_name(row)?,
                key: RowKey::new(row.try_get("pk")?),
                op: op_from_code(row.try_get::<i16, _>("op")?.into())?,
                version: RowVersion::new(row.try_get("version")?),
                changed: changed(row)?.ok_or_else(|| {
                    StoreError::Failed("an entry names a device that is not there".to_owned())
                })?,
                payload: beginning(row)?,
            })
        };
        rows.iter().map(view).collect()
    }

    async fn failures(
        &self,
        user: Option<&UserId>,
        after: Option<FailureAt>,
        limit: i64,
    ) -> Result<Vec<FailureView>, StoreError> {
        let mut of = None;
        if let Some(user) = user {
            of = sqlx::query_scalar("SELECT user_key FROM oversync.users WHERE user_id = $1")
                .bind(user.as_str())
                .fetch_optional(&self.pool)
                .await?;
            if of.is_none() {
                return Ok(Vec::new());
            }
        }
        let (first, last) = FailureAt::range(of, after);
        let rows = sqlx::query(include_str!("view_failures.sql"))
            .bind(first.user)
            .bind(first.id)
            .bind(last)
            .bind(limit)
            .bind(BEGINNING as i32)
            .fetch_all(&self.pool)
            .await?;
        let view = |row: &PgRow| {
            Ok(FailureView {
                at: FailureAt {
                    user: row.try_get("user_key")?,
                    id: row.try_get("id")?,
                },
                user: user_id(row)?,
                table: table_name(row)?,
                key: RowKey::new(row.try_get("pk")?),
                version: RowVersion::new(row.try_get("attempted_version")?),
                op: op_from_code(row.try_get::<i16, _>("op")?.into())?,
                payload: beginning(row)?,
                error: row.try_get("error")?,
                first_seen: row.try_get("first_seen")?,
                retries: row.try_get::<i32, _>("retry_count")?.into(),
            })
        };
        rows.iter().map(view).collect()
    }
}

fn user_id(row: &PgRow) -> Result<UserId, StoreError> {
    stored_user(row.try_get("user_id")?)
}

fn user_record(row: &PgRow) -> Result<UserRecord, StoreError> {
    let micros: i64 = row.try_get("folded_at")?;
    let aged: Option<i64> = row.try_get("aged")?;
    Ok(UserRecord {
        user: user_id(row)?,
        head: ServerId::new(row.try_get("head")?),
        floor: ServerId::new(row.try_get("floor")?),
        folded_at: moment(micros).ok().filter(|_| micros > 0),
        aged: aged.map(ServerId::new),
    })
}

fn table_name(row: &PgRow) -> Result<TableName, StoreError> {
    Ok(TableName {
        schema: row.try_get("schema_name")?,
        table: row.try_get("table_name")?,
    })
}

fn changed(row: &PgRow) -> Result<Option<Changed>, StoreError> {
    let device: Option<String> = row.try_get("device_id")?;
    let change_id: Option<i64> = row.try_get("change_id")?;
    let at: Option<OffsetDateTime> = row.try_get("ts")?;
    let all = device.zip(change_id).zip(at);
    Ok(all.map(|((device, change_id), at)| Changed {
        device,
        change_id: ChangeId::new(change_id),
        at,
    }))
}

fn beginning(row: &PgRow) -> Result<Option<Beginning>, StoreError> {
    let (text, bytes) = (row.try_get("beginning")?, row.try_get("bytes")?);
    Ok(Beginning::read(text, bytes))
}
