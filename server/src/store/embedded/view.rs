//! What operators look at, in the embedded store: each question one job of a reading
//! thread, and one page.

use super::file;
use super::threads::Threads;
use crate::clock::Clock;
use crate::store::jumps::Jumps;
use crate::store::retention::{Rules, STARTING_SECONDS};
use crate::store::view::{
    BEGINNING, Beginning, Changed, DeviceView, EntryView, FailureAt, FailureView, LOOKED_AT,
    RowFilter, RowView, UserRecord, View, end_of,
};
use crate::store::{StoreError, moment, op_from_code, stored_user};
use async_trait::async_trait;
use oversync_shared::{ChangeId, RowKey, RowVersion, ServerId, TableName, UserId};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use std::path::Path;
use std::sync::Arc;
use time::OffsetDateTime;
use uuid::Uuid;

/// Jobs that may wait; there is never more than one.
const WAITING: usize = 4;

/// A SQLite file as operators see it.
pub(in crate::store) struct EmbeddedView {
    readers: Arc<Threads>,
    clock: Clock,
    /// Whether the threads are nobody else's.
    is_alone: bool,
}

impl EmbeddedView {
    /// Through the threads of a server.
    pub(super) fn of(readers: &Arc<Threads>, clock: &Clock) -> Self {
        Self {
            readers: readers.clone(),
            clock: clock.clone(),
            is_alone: false,
        }
    }

    /// With a thread of its own, beside the server that has the file.
    pub(in crate::store) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = file::open_reader(path)?;
        Ok(Self {
            readers: Arc::new(Threads::start("store-view", vec![connection], WAITING)?),
            clock: Clock::system(),
            is_alone: true,
        })
    }

    /// The time so long ago, as it is stored.
    fn ago(&self, seconds: f64) -> i64 {
        self.clock.micros().saturating_sub((seconds * 1e6) as i64)
    }
}

impl Drop for EmbeddedView {
    fn drop(&mut self) {
        if self.is_alone {
            self.readers.stop();
        }
    }
}

#[async_trait]
impl View for EmbeddedView {
    async fn now(&self) -> Result<Option<OffsetDateTime>, StoreError> {
        Ok(None)
    }

    async fn epoch(&self) -> Result<Arc<str>, StoreError> {
        let ask = |connection: &mut Connection| -> Result<String, StoreError> {
            Ok(connection.query_row("SELECT epoch FROM _oversync_meta", [], |row| row.get(0))?)
        };
        Ok(self.readers.run(ask).await?.into())
    }

    async fn users(
        &self,
        prefix: &str,
        after: Option<&UserId>,
        limit: i64,
    ) -> Result<Vec<UserRecord>, StoreError> {
        let (prefix, end) = (prefix.to_owned(), end_of(prefix));
        let after = after.map_or(String::new(), |user| user.as_str().to_owned());
        let ask = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT user_id, head, floor, folded_at, NULL FROM _oversync_users \
                 WHERE user_id >= ?1 AND user_id > ?2 AND user_id < ?3 ORDER BY user_id LIMIT ?4",
            )?;
            let mut rows = statement.query(params![prefix, after, end, limit])?;
            let mut users = Vec::new();
            while let Some(row) = rows.next()? {
                users.push(user_record(row)?);
            }
            Ok(users)
        };
        self.readers.run(ask).await
    }

    async fn user(&self, user: &UserId, rules: Rules) -> Result<Option<UserRecord>, StoreError> {
        let (user, old) = (user.clone(), self.ago(rules.age.as_secs_f64()));
        let ask = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT u.user_id, u.head, u.floor, u.folded_at, coalesce(( \
                     SELECT l.server_id FROM _oversync_log l WHERE l.user_key = u.user_key \
                       AND l.server_id > u.floor AND l.ts <= ?2 ORDER BY l.server_id DESC LIMIT 1), u.floor) \
                 FROM _oversync_users u WHERE u.user_id = ?1",
            )?;
            let mut rows = statement.query(params![user.as_str(), old])?;
            rows.next()?.map(user_record).transpose()
        };
        self.readers.run(ask).await
    }

    async fn jumps(&self, user: &UserId) -> Result<Jumps, StoreError> {
        let user = user.clone();
        let ask = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT j.after, j.through FROM _oversync_users u JOIN _oversync_jumps j ON j.user_key = u.user_key \
                 WHERE u.user_id = ?1 ORDER BY j.after DESC LIMIT 10000",
            )?;
            let rows =
                statement.query_map([user.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(Jumps::new(rows.collect::<Result<_, _>>()?))
        };
        self.readers.run(ask).await
    }

    async fn devices(
        &self,
        user: &UserId,
        after: Option<&str>,
        rules: Rules,
        limit: i64,
    ) -> Result<Vec<DeviceView>, StoreError> {
        let (user, after) = (user.clone(), after.map(str::to_owned));
        let silent = self.ago(rules.silent.as_secs_f64());
        let starting = self.ago(STARTING_SECONDS as f64);
        let ask = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(include_str!("view_devices.sql"))?;
            let mut rows = statement.query(params![
                user.as_str(),
                after,
                silent,
                starting,
                limit,
                LOOKED_AT
            ])?;
            let mut devices = Vec::new();
            while let Some(row) = rows.next()? {
                devices.push(DeviceView {
                    device: row.get(0)?,
                    highest_change_id: row.get::<_, Option<i64>>(1)?.map(ChangeId::new),
                    last_change_at: row.get::<_, Option<i64>>(2)?.map(moment).transpose()?,
                    cursor: row.get::<_, Option<i64>>(3)?.map(ServerId::new),
                    read_at: row.get::<_, Option<i64>>(4)?.map(moment).transpose()?,
                    seen_at: row.get::<_, Option<i64>>(5)?.map(moment).transpose()?,
                    revoked_at: row.get::<_, Option<i64>>(6)?.map(moment).transpose()?,
                    needs_after: row.get::<_, Option<i64>>(7)?.map(ServerId::new),
                    counts: row.get(8)?,
                });
            }
            Ok(devices)
        };
        self.readers.run(ask).await
    }

    async fn rows(
        &self,
        user: &UserId,
        only: RowFilter,
        limit: i64,
    ) -> Result<Vec<RowView>, StoreError> {
        let user = user.clone();
        let ask = move |connection: &mut Connection| {
            // One moment for all tables.
            let tx = connection.transaction()?;
            let mut found = Vec::new();
            let tables = tables(&tx)?;
            let mut statement = tx.prepare_cached(include_str!("view_rows.sql"))?;
            for range in only.ranges(tables) {
                let left = limit - found.len() as i64;
                if left <= 0 {
                    break;
                }
                let (low, high) = (range.keys.low, range.keys.high);
                let mut rows = statement.query(params![
                    user.as_str(),
                    range.number,
                    low.as_bytes(),
                    high.as_bytes(),
                    left,
                    BEGINNING
                ])?;
                while let Some(row) = rows.next()? {
                    found.push(RowView {
                        table: range.table.clone(),
                        key: RowKey::new(Uuid::from_bytes(row.get(0)?)),
                        version: RowVersion::new(row.get(1)?),
                        place: ServerId::new(row.get(2)?),
                        deleted: row.get(3)?,
                        changed: changed(row, 4)?,
                        payload: Beginning::read(row.get(7)?, row.get(8)?),
                    });
                }
            }
            Ok(found)
        };
        self.readers.run(ask).await
    }

    async fn entries(
        &self,
        user: &UserId,
        before: Option<ServerId>,
        limit: i64,
    ) -> Result<Vec<EntryView>, StoreError> {
        let (user, before) = (user.clone(), before.map_or(i64::MAX, ServerId::get));
        let ask = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(include_str!("view_entries.sql"))?;
            let mut rows = statement.query(params![user.as_str(), before, limit, BEGINNING])?;
            let mut entries = Vec::new();
            while let Some(row) = rows.next()? {
                entries.push(EntryView {
                    place: ServerId::new(row.get(0)?),
                    table: TableName {
                        schema: row.get(1)?,
                        table: row.get(2)?,
                    },
                    key: RowKey::new(Uuid::from_bytes(row.get(3)?)),
                    op: op_from_code(row.get(4)?)?,
                    version: RowVersion::new(row.get(5)?),
                    changed: changed(row, 6)?.ok_or_else(|| {
                        StoreError::Failed("an entry names a device that is not there".to_owned())
                    })?,
                    payload: Beginning::read(row.get(9)?, row.get(10)?),
                });
            }
            Ok(entries)
        };
        self.readers.run(ask).await
    }

    async fn failures(
        &self,
        user: Option<&UserId>,
        after: Option<FailureAt>,
        limit: i64,
    ) -> Result<Vec<FailureView>, StoreError> {
        let user = user.cloned();
        let ask = move |connection: &mut Connection| {
            let mut of = None;
            if let Some(user) = user {
                let mut key = connection
                    .prepare_cached("SELECT user_key FROM _oversync_users WHERE user_id = ?1")?;
                of = key
                    .query_row([user.as_str()], |row| row.get(0))
                    .optional()?;
                if of.is_none() {
                    return Ok(Vec::new());
                }
            }
            let (first, last) = FailureAt::range(of, after);
            let mut statement = connection.prepare_cached(include_str!("view_failures.sql"))?;
            let mut rows =
                statement.query(params![first.user, first.id, last, limit, BEGINNING])?;
            let mut failures = Vec::new();
            while let Some(row) = rows.next()? {
                failures.push(FailureView {
                    at: FailureAt {
                        user: row.get(0)?,
                        id: row.get(1)?,
                    },
                    user: stored_user(row.get(2)?)?,
                    table: TableName {
                        schema: row.get(3)?,
                        table: row.get(4)?,
                    },
                    key: RowKey::new(Uuid::from_bytes(row.get(5)?)),
                    version: RowVersion::new(row.get(6)?),
                    op: op_from_code(row.get(7)?)?,
                    payload: Beginning::read(row.get(8)?, row.get(9)?),
                    error: row.get(10)?,
                    first_seen: moment(row.get(11)?)?,
                    retries: row.get(12)?,
                });
            }
            Ok(failures)
        };
        self.readers.run(ask).await
    }
}

fn tables(connection: &Connection) -> Result<Vec<(TableName, i64)>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT schema_name, table_name, table_key FROM _oversync_tables")?;
    let tables = statement.query_map([], |row| {
        let (schema, table) = (row.get(0)?, row.get(1)?);
        Ok((TableName { schema, table }, row.get(2)?))
    })?;
    Ok(tables.collect::<Result<_, _>>()?)
}

fn user_record(row: &Row<'_>) -> Result<UserRecord, StoreError> {
    let micros: i64 = row.get(3)?;
    Ok(UserRecord {
        user: stored_user(row.get(0)?)?,
        head: ServerId::new(row.get(1)?),
        floor: ServerId::new(row.get(2)?),
        folded_at: (micros > 0).then(|| moment(micros)).transpose()?,
        aged: row.get::<_, Option<i64>>(4)?.map(ServerId::new),
    })
}

/// Of a row that has device, change id and time from a column on.
fn changed(row: &Row<'_>, from: usize) -> Result<Option<Changed>, StoreError> {
    let device: Option<String> = row.get(from)?;
    let change_id: Option<i64> = row.get(from + 1)?;
    let at: Option<i64> = row.get(from + 2)?;
    let Some(((device, change_id), at)) = device.zip(change_id).zip(at) else {
        return Ok(None);
    };
    Ok(Some(Changed {
        device,
        change_id: ChangeId::new(change_id),
        at: moment(at)?,
    }))
}
