//! A user's history.

use crate::store::history::{Only, STEP, STEP_BYTES, Written, device_name, time_from};
use crate::store::{StoreError, op_from_code};
use futures_util::TryStreamExt as _;
use oversync_shared::{ChangeId, RowKey, RowVersion, ServerId, TableName, UserId};
use sqlx::Row as _;
use sqlx::postgres::PgPool;

pub(super) async fn read(
    pool: &PgPool,
    user: &UserId,
    after: ServerId,
    only: &Only,
) -> Result<Option<Vec<Written>>, StoreError> {
    let table = only.table.as_ref();
    let mut rows = sqlx::query(include_str!("history.sql"))
        .bind(user.as_str())
        .bind(after.get())
        .bind(table.map(|table| &table.schema))
        .bind(table.map(|table| &table.table))
        .bind(only.key.map(|key| key.uuid()))
        .bind(only.since_micros())
        .bind(STEP)
        .fetch(pool);
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.try_next().await? {
        let payload: Option<String> = row.try_get(10)?;
        bytes += payload.as_ref().map_or(0, String::len);
        entries.push(Written {
            server_id: ServerId::new(row.try_get(0)?),
            table: TableName {
                schema: row.try_get(1)?,
                table: row.try_get(2)?,
            },
            op: op_from_code(row.try_get::<i16, _>(3)?.into())?,
            key: RowKey::new(row.try_get(4)?),
            version: RowVersion::new(row.try_get(5)?),
            device: device_name(row.try_get::<i32, _>(6)?.into(), row.try_get(7)?),
            change_id: ChangeId::new(row.try_get(8)?),
            ts: time_from(row.try_get(9)?),
            payload,
            is_folded: row.try_get(11)?,
        });
        if bytes > STEP_BYTES {
            break;
        }
    }
    // Its connection may be the only one.
    drop(rows);
    if entries.is_empty() {
        let known = "SELECT EXISTS (SELECT FROM oversync.users WHERE user_id = $1)";
        let is_known: bool = sqlx::query_scalar(known)
            .bind(user.as_str())
            .fetch_one(pool)
            .await?;
        return Ok(is_known.then_some(entries));
    }
    Ok(Some(entries))
}
