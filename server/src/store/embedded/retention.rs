//! Folding in the embedded store: reads beside the readers, and writes that take
//! their turn between uploads, a small transaction each.

use super::threads::Threads;
use super::{Tables, storage};
use crate::clock::Clock;
use crate::store::retention::{
    Heard, Moment, Part, Removed, Retention, Ripe, Rules, SEEN_SECONDS, STARTING_SECONDS, STEP,
    STEP_BYTES, Scanned,
};
use crate::store::{DeviceKey, FoldNumber, InFold, StoreError, UserKey, stored_user};
use async_trait::async_trait;
use oversync_shared::{DeviceId, RowKey, ServerId, UserId};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Users looked for at a time.
const USERS: i64 = 50;

const SECOND: i64 = 1_000_000;

pub(super) struct EmbeddedRetention {
    pub(super) writer: Arc<Threads>,
    pub(super) readers: Arc<Threads>,
    pub(super) tables: Arc<Tables>,
    pub(super) clock: Clock,
}

impl EmbeddedRetention {
    /// The time so long ago, as it is stored.
    fn ago(&self, time: Duration) -> i64 {
        let now = self.clock.micros();
        now.saturating_sub(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
    }

    fn starting(&self) -> i64 {
        self.ago(Duration::from_secs(STARTING_SECONDS as u64))
    }
}

pub(super) fn heard(
    connection: &mut Connection,
    readers: &[Heard],
    ts: i64,
) -> Result<(), StoreError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut read = tx.prepare_cached(include_str!("heard.sql"))?;
        let mut alive = tx.prepare_cached(
            "INSERT INTO _oversync_readers (user_key, device_id, cursor, read_at, seen_at) \
             SELECT user_key, ?2, 0, ?3, ?3 FROM _oversync_users WHERE user_id = ?1 \
             ON CONFLICT (user_key, device_id) DO UPDATE SET seen_at = excluded.seen_at WHERE seen_at < ?3 - ?4",
        )?;
        let mut moved = tx.prepare_cached(
            "UPDATE _oversync_devices SET has_moved = 1 \
             WHERE user_key = (SELECT user_key FROM _oversync_users WHERE user_id = ?1) AND device_id = ?2 \
               AND NOT has_moved",
        )?;
        for heard in readers {
            let (user, device) = (heard.user.as_str(), heard.device.as_str());
            if let Some(stand) = heard.stand {
                read.execute(params![
                    user,
                    device,
                    ts,
                    SEEN_SECONDS * SECOND,
                    heard.asked.map(ServerId::get),
                    stand.cursor.get(),
                    stand.through.map(ServerId::get),
                    stand.wants_own,
                ])?;
            } else {
                alive.execute(params![user, device, ts, SEEN_SECONDS * SECOND])?;
            }
            if heard.has_moved {
                moved.execute(params![user, device])?;
            }
        }
    }
    Ok(tx.commit()?)
}

pub(super) fn reads_fold(
    connection: &Connection,
    user: &UserId,
    device: &DeviceId,
    at: InFold,
    floor: ServerId,
    ts: i64,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO _oversync_readers (user_key, device_id, cursor, fold, asked, place, read_at, seen_at) \
             SELECT user_key, ?2, ?7, ?3, ?5, ?6, ?4, ?4 FROM _oversync_users WHERE user_id = ?1 \
             ON CONFLICT (user_key, device_id) DO UPDATE \
             SET cursor = excluded.cursor, through = NULL, fold = excluded.fold, asked = excluded.asked, \
                 place = excluded.place, read_at = excluded.read_at, seen_at = excluded.seen_at",
        )?
        .execute(params![
            user.as_str(),
            device.as_str(),
            at.fold.0,
            ts,
            at.asked.get(),
            at.place.get(),
            at.cursor(floor).get(),
        ])?;
    Ok(())
}

#[async_trait]
impl Retention for EmbeddedRetention {
    fn table_numbers(&self) -> Vec<i64> {
        self.tables.keys.clone()
    }

    async fn forget_silent(&mut self, rules: Rules) -> Result<u64, StoreError> {
        let silent = self.ago(rules.silent);
        self.writer
            .run(move |connection| {
                let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let names: Vec<(i64, String)> = tx
                    .prepare_cached(
                        "SELECT user_key, device_id FROM _oversync_readers WHERE seen_at <= ?1 LIMIT ?2",
                    )?
                    .query_map(params![silent, STEP], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<Result<_, _>>()?;
                for (user, device) in &names {
                    tx.prepare_cached(
                        "DELETE FROM _oversync_readers WHERE user_key = ?1 AND device_id = ?2",
                    )?
                    .execute(params![user, device])?;
                    tx.prepare_cached(
                        "DELETE FROM _oversync_records WHERE user_key = ?1 AND device_key = ( \
                             SELECT device_key FROM _oversync_devices WHERE user_key = ?1 AND device_id = ?2)",
                    )?
                    .execute(params![user, device])?;
                }
                tx.commit()?;
                Ok(names.len() as u64)
            })
            .await
    }

    async fn now(&mut self) -> Result<Moment, StoreError> {
        Ok(Moment(self.ago(Duration::ZERO)))
    }

    async fn ripe(
        &mut self,
        after: (Moment, UserKey),
        until: Moment,
        rules: Rules,
    ) -> Result<Vec<Ripe>, StoreError> {
        let (silent, old, starting) =
            (self.ago(rules.silent), self.ago(rules.age), self.starting());
        self.readers
            .run(move |connection| {
                let mut statement =
                    connection.prepare_cached(include_str!("retention_ripe.sql"))?;
                let mut rows = statement.query(params![
                    after.0.0,
                    after.1.0,
                    until.0,
                    silent,
                    old,
                    rules.at_least,
                    starting,
                    USERS
                ])?;
                let mut ripe = Vec::new();
                while let Some(row) = rows.next()? {
                    let (floor, first): (i64, Option<i64>) = (row.get(2)?, row.get(7)?);
                    let (fold, swept): (i64, i64) = (row.get(4)?, row.get(5)?);
                    ripe.push(Ripe {
                        user: UserKey(row.get(0)?),
                        user_id: stored_user(row.get(1)?)?,
                        floor: ServerId::new(floor),
                        ceiling: ServerId::new(row.get(3)?),
                        entries: row.get(8)?,
                        fold: FoldNumber(fold),
                        size: first.map_or(0, |first| floor - first + 1),
                        is_swept: swept == fold,
                        folded_at: Moment(row.get(6)?),
                    });
                }
                Ok(ripe)
            })
            .await
    }

    async fn unmoved(&mut self, user: UserKey) -> Result<Vec<DeviceKey>, StoreError> {
        self.readers
            .run(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT d.device_key FROM _oversync_devices d \
                     JOIN _oversync_users u ON u.user_key = d.user_key \
                     WHERE d.user_key = ?1 AND d.device_key > 0 AND NOT d.has_moved \
                       AND NOT EXISTS (SELECT 1 FROM _oversync_revoked r \
                                       WHERE r.user_id = u.user_id AND r.device_id = d.device_id)",
                )?;
                let keys = statement.query_map([user.0], |row| Ok(DeviceKey(row.get(0)?)))?;
                Ok(keys.collect::<Result<_, _>>()?)
            })
            .await
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
                        CASE WHEN l.table_key IN (SELECT value FROM json_each(?4)) THEN l.payload END, l.device_key \
                 FROM _oversync_folded f \
                 CROSS JOIN _oversync_log l ON l.user_key = f.user_key AND l.server_id = f.server_id \
                 WHERE f.user_key = ?1 AND f.fold = ?6 AND f.place > ?2 AND f.place <= ?3 \
                 ORDER BY f.place LIMIT ?5"
            }
            Part::Logged => {
                "SELECT l.server_id, l.server_id, l.table_key, l.pk, l.op <> 3, \
                        CASE WHEN l.table_key IN (SELECT value FROM json_each(?4)) THEN l.payload END, l.device_key \
                 FROM _oversync_log l \
                 WHERE l.user_key = ?1 AND l.server_id > ?2 AND l.server_id <= ?3 AND ?6 IS NOT NULL \
                 ORDER BY l.server_id LIMIT ?5"
            }
        };
        let (user, fold) = (ripe.user.0, ripe.fold.0);
        let numbers: Vec<String> = payloads_of.iter().map(i64::to_string).collect();
        let numbers = format!("[{}]", numbers.join(","));
        self.readers
            .run(move |connection| {
                let mut statement = connection.prepare_cached(sql)?;
                let mut rows = statement.query(params![
                    user,
                    after.get(),
                    until.get(),
                    numbers,
                    STEP,
                    fold
                ])?;
                let (mut scanned, mut bytes) = (Vec::new(), 0);
                while let Some(row) = rows.next()? {
                    let payload: Option<String> = row.get(5)?;
                    bytes += payload.as_ref().map_or(0, String::len);
                    scanned.push(Scanned {
                        place: ServerId::new(row.get(0)?),
                        at: ServerId::new(row.get(1)?),
                        table: row.get(2)?,
                        device: DeviceKey(row.get(6)?),
                        key: RowKey::new(Uuid::from_bytes(row.get(3)?)),
                        lives: row.get(4)?,
                        payload,
                    });
                    if bytes > STEP_BYTES {
                        break;
                    }
                }
                Ok(scanned)
            })
            .await
    }

    async fn clear_all_but(&mut self, user: UserKey, fold: FoldNumber) -> Result<bool, StoreError> {
        self.writer
            .run(move |connection| {
                let done = connection
                    .prepare_cached(
                        "DELETE FROM _oversync_folded WHERE (user_key, fold, place) IN ( \
                             SELECT user_key, fold, place FROM _oversync_folded \
                             WHERE user_key = ?1 AND fold <> ?2 LIMIT ?3)",
                    )?
                    .execute(params![user.0, fold.0, STEP])?;
                Ok(done == STEP as usize)
            })
            .await
    }

    async fn write(
        &mut self,
        user: UserKey,
        fold: FoldNumber,
        first: ServerId,
        entries: &[ServerId],
    ) -> Result<(), StoreError> {
        let entries = entries.to_vec();
        self.writer
            .run(move |connection| {
                let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                {
                    let mut insert = tx.prepare_cached(
                        "INSERT INTO _oversync_folded (user_key, fold, place, server_id) VALUES (?1, ?2, ?3, ?4)",
                    )?;
                    for (place, entry) in (first.get()..).zip(&entries) {
                        insert.execute(params![user.0, fold.0, place, entry.get()])?;
                    }
                }
                Ok(tx.commit()?)
            })
            .await
    }

    async fn put_in_place(
        &mut self,
        ripe: &Ripe,
        floor: ServerId,
        rules: Rules,
    ) -> Result<bool, StoreError> {
        let (silent, starting) = (self.ago(rules.silent), self.starting());
        let now = self.ago(Duration::ZERO);
        let (user, fold) = (ripe.user.0, ripe.fold.0);
        self.writer
            .run(move |connection| {
                let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                tx.prepare_cached(include_str!("retention_through.sql"))?
                    .execute(params![user, floor.get()])?;
                let done = tx
                    .prepare_cached(include_str!("retention_place.sql"))?
                    .execute(params![user, fold, floor.get(), silent, starting, now])?;
                tx.commit()?;
                Ok(done == 1)
            })
            .await
    }

    async fn entries(
        &mut self,
        user: UserKey,
        after: ServerId,
        until: ServerId,
    ) -> Result<Vec<ServerId>, StoreError> {
        self.readers
            .run(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT server_id FROM _oversync_log \
                     WHERE user_key = ?1 AND server_id > ?2 AND server_id <= ?3 ORDER BY server_id LIMIT ?4",
                )?;
                let ids = statement
                    .query_map(params![user.0, after.get(), until.get(), STEP], |row| {
                        Ok(ServerId::new(row.get(0)?))
                    })?;
                Ok(ids.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn remove(
        &mut self,
        user: UserKey,
        fold: FoldNumber,
        entries: &[ServerId],
        removed: Removed,
    ) -> Result<u64, StoreError> {
        let (entries, now) = (entries.to_vec(), self.ago(Duration::ZERO));
        self.writer
            .run(move |connection| remove(connection, user, fold, &entries, removed, now))
            .await
    }

    async fn swept(&mut self, user: UserKey, fold: FoldNumber) -> Result<(), StoreError> {
        loop {
            let done = self
                .writer
                .run(move |connection| {
                    Ok(connection
                        .prepare_cached(
                            "DELETE FROM _oversync_records WHERE (user_key, device_key, change_id) IN ( \
                                 SELECT r.user_key, r.device_key, r.change_id FROM _oversync_devices d \
                                 CROSS JOIN _oversync_records r \
                                     ON r.user_key = d.user_key AND r.device_key = d.device_key \
                                 WHERE d.user_key = ?1 AND r.change_id < d.settled_below LIMIT ?2)",
                        )?
                        .execute(params![user.0, STEP])?)
                })
                .await?;
            if done < STEP as usize {
                break;
            }
        }
        self.writer
            .run(move |connection| {
                connection
                    .prepare_cached(
                        "UPDATE _oversync_users SET swept = fold WHERE user_key = ?1 AND fold = ?2",
                    )?
                    .execute(params![user.0, fold.0])?;
                Ok(())
            })
            .await
    }

    async fn tidy(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn compact(&mut self) -> Result<(), StoreError> {
        self.writer
            .run(|connection| storage::compact(connection))
            .await
    }
}

/// A change that its device may send again keeps its record; the server itself
/// (device 0) numbers each change anew. A device that is not known is waited for from
/// `now` on: its records too go with it.
fn remove(
    connection: &mut Connection,
    user: UserKey,
    fold: FoldNumber,
    entries: &[ServerId],
    removed: Removed,
    now: i64,
) -> Result<u64, StoreError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let floor: Option<i64> = tx
        .prepare_cached("SELECT floor FROM _oversync_users WHERE user_key = ?1 AND fold = ?2")?
        .query_row(params![user.0, fold.0], |row| row.get(0))
        .optional()?;
    let Some(floor) = floor else { return Ok(0) };
    let mut gone = 0;
    {
        let mut keep = tx.prepare_cached(
            "INSERT INTO _oversync_records (user_key, device_key, change_id, version, fingerprint) \
             SELECT l.user_key, l.device_key, l.change_id, l.version, l.fingerprint \
             FROM _oversync_log l \
             LEFT JOIN _oversync_devices d ON d.user_key = l.user_key AND d.device_key = l.device_key \
             WHERE l.user_key = ?1 AND l.server_id = ?2 AND l.device_key <> 0 \
               AND (d.settled_below IS NULL OR l.change_id >= d.settled_below) \
             ON CONFLICT DO NOTHING",
        )?;
        let mut there = tx.prepare_cached(
            "INSERT INTO _oversync_readers (user_key, device_id, cursor, read_at, seen_at) \
             SELECT d.user_key, d.device_id, 0, ?3, ?3 FROM _oversync_log l \
             JOIN _oversync_devices d ON d.user_key = l.user_key AND d.device_key = l.device_key \
             WHERE l.user_key = ?1 AND l.server_id = ?2 AND l.device_key <> 0 \
             ON CONFLICT DO NOTHING",
        )?;
        let mut history = tx.prepare_cached(
            "INSERT INTO _oversync_history (user_key, server_id, device_key, change_id, table_key, pk, op, version, ts, \
                 fingerprint, payload) \
             SELECT user_key, server_id, device_key, change_id, table_key, pk, op, version, ts, fingerprint, payload \
             FROM _oversync_log WHERE user_key = ?1 AND server_id = ?2",
        )?;
        let mut delete =
            tx.prepare_cached("DELETE FROM _oversync_log WHERE user_key = ?1 AND server_id = ?2")?;
        for entry in entries.iter().filter(|entry| entry.get() <= floor) {
            keep.execute(params![user.0, entry.get()])?;
            there.execute(params![user.0, entry.get(), now])?;
            if removed == Removed::Kept {
                history.execute(params![user.0, entry.get()])?;
            }
            gone += delete.execute(params![user.0, entry.get()])? as u64;
        }
    }
    tx.commit()?;
    Ok(gone)
}
