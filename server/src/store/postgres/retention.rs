//! Folding on PostgreSQL, beside any number of serving processes. Who folds holds
//! an advisory lock on a connection of its own, and does everything on that one:
//! when it is lost, so are both.

use super::{PostgresStore, connect_options, reindex};
use crate::store::retention::{
    Heard, Moment, Part, Removed, Retention, Ripe, Rules, SEEN_SECONDS, STARTING_SECONDS, STEP,
    STEP_BYTES, Scanned, Stand,
};
use crate::store::{DeviceKey, FoldNumber, InFold, StoreError, UserKey, stored_user};
use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use oversync_shared::{DeviceId, RowKey, ServerId, UserId};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions as _, Connection as _, PgPool, Row as _};

/// The advisory lock of who folds; "ovfold" in ASCII.
const FOLD_LOCK: i64 = 0x6f76_666f_6c64;

/// Users looked for at a time.
const USERS: i64 = 50;

pub(super) struct PostgresRetention {
    connection: PgConnection,
    tables: Vec<i64>,
}

impl PostgresRetention {
    pub(super) async fn open(store: &PostgresStore) -> Result<Option<Self>, StoreError> {
        let options = connect_options(&store.url)?.options([("synchronous_commit", "on")]);
        let mut connection = options.connect().await?;
        let is_ours: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(FOLD_LOCK)
            .fetch_one(&mut connection)
            .await?;
        let tables = store.tables().keys.iter().map(|key| i64::from(*key));
        Ok(is_ours.then(|| Self {
            connection,
            tables: tables.collect(),
        }))
    }
}

pub(super) async fn heard(pool: &PgPool, readers: &[Heard]) -> Result<(), StoreError> {
    let read: Vec<(&Heard, Stand)> = readers
        .iter()
        .filter_map(|heard| Some((heard, heard.stand?)))
        .collect();
    if !read.is_empty() {
        let (users, devices) = names(read.iter().map(|(heard, _)| *heard));
        let number = |id: ServerId| id.get();
        let asked: Vec<Option<i64>> = read.iter().map(|(it, _)| it.asked.map(number)).collect();
        let cursors: Vec<i64> = read.iter().map(|(_, at)| at.cursor.get()).collect();
        let through: Vec<Option<i64>> = read.iter().map(|(_, at)| at.through.map(number)).collect();
        let wants_own: Vec<bool> = read.iter().map(|(_, at)| at.wants_own).collect();
        sqlx::query(include_str!("heard.sql"))
            .bind(users)
            .bind(devices)
            .bind(asked)
            .bind(cursors)
            .bind(through)
            .bind(wants_own)
            .bind(SEEN_SECONDS as f64)
            .execute(pool)
            .await?;
    }
    let (users, devices) = names(readers.iter().filter(|heard| heard.stand.is_none()));
    if !users.is_empty() {
        sqlx::query(include_str!("heard_of.sql"))
            .bind(users)
            .bind(devices)
            .bind(SEEN_SECONDS as f64)
            .execute(pool)
            .await?;
    }
    let (users, devices) = names(readers.iter().filter(|heard| heard.has_moved));
    if !users.is_empty() {
        sqlx::query(include_str!("heard_moved.sql"))
            .bind(users)
            .bind(devices)
            .execute(pool)
            .await?;
    }
    Ok(())
}

fn names<'a>(heard: impl Iterator<Item = &'a Heard>) -> (Vec<&'a str>, Vec<&'a str>) {
    heard
        .map(|heard| (heard.user.as_str(), heard.device.as_str()))
        .unzip()
}

pub(super) async fn reads_fold(
    pool: &PgPool,
    user: &UserId,
    device: &DeviceId,
    at: InFold,
    floor: ServerId,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO oversync.readers (user_key, device_id, cursor, fold, asked, place) \
         SELECT u.user_key, $2, $6, $3, $4, $5 FROM oversync.users u WHERE u.user_id = $1 \
         ON CONFLICT (user_key, device_id) DO UPDATE \
         SET cursor = excluded.cursor, through = NULL, fold = excluded.fold, asked = excluded.asked, \
             place = excluded.place, read_at = now(), seen_at = now()",
    )
    .bind(user.as_str())
    .bind(device.as_str())
    .bind(number(at.fold))
    .bind(at.asked.get())
    .bind(at.place.get())
    .bind(at.cursor(floor).get())
    .execute(pool)
    .await?;
    Ok(())
}

fn number(fold: FoldNumber) -> i32 {
    i32::try_from(fold.0).expect("BUG: the column holds no more")
}

#[async_trait]
impl Retention for PostgresRetention {
    fn table_numbers(&self) -> Vec<i64> {
        self.tables.clone()
    }

    async fn forget_silent(&mut self, rules: Rules) -> Result<u64, StoreError> {
        let forgotten: i64 = sqlx::query_scalar(include_str!("retention_forget.sql"))
            .bind(rules.silent.as_secs_f64())
            .bind(STEP)
            .fetch_one(&mut self.connection)
            .await?;
        Ok(forgotten as u64)
    }

    async fn now(&mut self) -> Result<Moment, StoreError> {
        let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let now = sqlx::query_scalar(now);
        Ok(Moment(now.fetch_one(&mut self.connection).await?))
    }

    async fn ripe(
        &mut self,
        after: (Moment, UserKey),
        until: Moment,
        rules: Rules,
    ) -> Result<Vec<Ripe>, StoreError> {
        let rows = sqlx::query(include_str!("retention_ripe.sql"))
            .bind(after.0.0)
            .bind(after.1.0)
            .bind(until.0)
            .bind(rules.silent.as_secs_f64())
            .bind(rules.age.as_secs_f64())
            .bind(rules.at_least)
            .bind(STARTING_SECONDS as f64)
            .bind(USERS)
            .fetch_all(&mut self.connection)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Ripe {
                    user: UserKey(row.try_get(0)?),
                    user_id: stored_user(row.try_get(1)?)?,
                    floor: ServerId::new(row.try_get(2)?),
                    ceiling: ServerId::new(row.try_get(3)?),
                    entries: row.try_get(8)?,
                    fold: FoldNumber(row.try_get::<i32, _>(4)?.into()),
                    size: row.try_get(5)?,
                    is_swept: row.try_get(6)?,
                    folded_at: Moment(row.try_get(7)?),
                })
            })
            .collect()
    }

    async fn unmoved(&mut self, user: UserKey) -> Result<Vec<DeviceKey>, StoreError> {
        let keys: Vec<i32> = sqlx::query_scalar(
            "SELECT d.device_key FROM oversync.devices d \
             JOIN oversync.users u ON u.user_key = d.user_key \
             WHERE d.user_key = $1 AND d.device_key > 0 AND NOT d.has_moved \
               AND NOT EXISTS (SELECT FROM oversync.revoked r \
                               WHERE r.user_id = u.user_id AND r.device_id = d.device_id)",
        )
        .bind(user.0)
        .fetch_all(&mut self.connection)
        .await?;
        Ok(keys.into_iter().map(DeviceKey).collect())
    }

    async fn scan(
        &mut self,
        ripe: &Ripe,
        part: Part,
        after: ServerId,
        until: ServerId,
        payloads_of: &[i64],
    ) -> Result<Vec<Scanned>, StoreError> {
        let sql = match part {
            Part::Folded => {
                "SELECT f.place, l.server_id, l.table_key, l.pk, l.op <> 3, \
                        CASE WHEN l.table_key = ANY ($4) THEN l.payload END, l.device_key \
                 FROM oversync.folded f \
                 CROSS JOIN LATERAL (SELECT x.* FROM oversync.log x \
                     WHERE x.user_key = f.user_key AND x.server_id = f.server_id OFFSET 0) l \
                 WHERE f.user_key = $1 AND f.fold = $6 AND f.place > $2 AND f.place <= $3 \
                 ORDER BY f.place LIMIT $5"
            }
            Part::Logged => {
                "SELECT l.server_id, l.server_id, l.table_key, l.pk, l.op <> 3, \
                        CASE WHEN l.table_key = ANY ($4) THEN l.payload END, l.device_key \
                 FROM oversync.log l \
                 WHERE l.user_key = $1 AND l.server_id > $2 AND l.server_id <= $3 AND $6::integer IS NOT NULL \
                 ORDER BY l.server_id LIMIT $5"
            }
        };
        let payloads_of: Vec<i32> = payloads_of.iter().map(|key| *key as i32).collect();
        let mut rows = sqlx::query(sql)
            .bind(ripe.user.0)
            .bind(after.get())
            .bind(until.get())
            .bind(payloads_of)
            .bind(STEP)
            .bind(number(ripe.fold))
            .fetch(&mut self.connection);
        let (mut scanned, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            let payload: Option<String> = row.try_get(5)?;
            bytes += payload.as_ref().map_or(0, String::len);
            scanned.push(Scanned {
                place: ServerId::new(row.try_get(0)?),
                at: ServerId::new(row.try_get(1)?),
                table: row.try_get::<i32, _>(2)?.into(),
                device: DeviceKey(row.try_get(6)?),
                key: RowKey::new(row.try_get(3)?),
                lives: row.try_get(4)?,
                payload,
            });
            if bytes > STEP_BYTES {
                break;
            }
        }
        Ok(scanned)
    }

    async fn clear_all_but(&mut self, user: UserKey, fold: FoldNumber) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "DELETE FROM oversync.folded WHERE ctid = ANY (ARRAY( \
                 SELECT f.ctid FROM oversync.folded f WHERE f.user_key = $1 AND f.fold <> $2 LIMIT $3))",
        )
        .bind(user.0)
        .bind(number(fold))
        .bind(STEP)
        .execute(&mut self.connection)
        .await?;
        Ok(done.rows_affected() == STEP as u64)
    }

    async fn write(
        &mut self,
        user: UserKey,
        fold: FoldNumber,
        first: ServerId,
        entries: &[ServerId],
    ) -> Result<(), StoreError> {
        let ids: Vec<i64> = entries.iter().map(|id| id.get()).collect();
        sqlx::query(
            "INSERT INTO oversync.folded (user_key, fold, place, server_id) \
             SELECT $1, $2, $3 + e.nth - 1, e.server_id \
             FROM unnest($4::bigint[]) WITH ORDINALITY AS e (server_id, nth)",
        )
        .bind(user.0)
        .bind(number(fold))
        .bind(first.get())
        .bind(ids)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    async fn put_in_place(
        &mut self,
        ripe: &Ripe,
        floor: ServerId,
        rules: Rules,
    ) -> Result<bool, StoreError> {
        let mut tx = self.connection.begin().await?;
        sqlx::query(include_str!("retention_through.sql"))
            .bind(ripe.user.0)
            .bind(floor.get())
            .execute(&mut *tx)
            .await?;
        let done = sqlx::query(include_str!("retention_place.sql"))
            .bind(ripe.user.0)
            .bind(number(ripe.fold))
            .bind(floor.get())
            .bind(rules.silent.as_secs_f64())
            .bind(STARTING_SECONDS as f64)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    async fn entries(
        &mut self,
        user: UserKey,
        after: ServerId,
        until: ServerId,
    ) -> Result<Vec<ServerId>, StoreError> {
        let ids: Vec<i64> = sqlx::query_scalar(
            "SELECT server_id FROM oversync.log WHERE user_key = $1 AND server_id > $2 AND server_id <= $3 \
             ORDER BY server_id LIMIT $4",
        )
        .bind(user.0)
        .bind(after.get())
        .bind(until.get())
        .bind(STEP)
        .fetch_all(&mut self.connection)
        .await?;
        Ok(ids.into_iter().map(ServerId::new).collect())
    }

    async fn remove(
        &mut self,
        user: UserKey,
        fold: FoldNumber,
        entries: &[ServerId],
        removed: Removed,
    ) -> Result<u64, StoreError> {
        let ids: Vec<i64> = entries.iter().map(|id| id.get()).collect();
        let gone: i64 = sqlx::query_scalar(include_str!("retention_remove.sql"))
            .bind(user.0)
            .bind(number(fold))
            .bind(ids)
            .bind(removed == Removed::Kept)
            .fetch_one(&mut self.connection)
            .await?;
        Ok(gone as u64)
    }

    async fn swept(&mut self, user: UserKey, fold: FoldNumber) -> Result<(), StoreError> {
        loop {
            let done = sqlx::query(
                "DELETE FROM oversync.records WHERE ctid = ANY (ARRAY( \
                     SELECT r.ctid FROM oversync.devices d \
                     JOIN oversync.records r ON r.user_key = d.user_key AND r.device_key = d.device_key \
                     WHERE d.user_key = $1 AND r.change_id < d.settled_below LIMIT $2))",
            )
            .bind(user.0)
            .bind(STEP)
            .execute(&mut self.connection)
            .await?;
            if done.rows_affected() < STEP as u64 {
                break;
            }
        }
        sqlx::query("UPDATE oversync.users SET swept = fold WHERE user_key = $1 AND fold = $2")
            .bind(user.0)
            .bind(number(fold))
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    async fn tidy(&mut self) -> Result<(), StoreError> {
        reindex::loose_ones(&mut self.connection).await
    }

    async fn compact(&mut self) -> Result<(), StoreError> {
        reindex::all(&mut self.connection).await
    }
}
