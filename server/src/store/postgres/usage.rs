//! What a user has.

use crate::store::usage::Usage;
use crate::store::{StoreError, UserKey};
use oversync_shared::ServerId;
use oversync_shared::upload::Amount;
use sqlx::Row as _;
use sqlx::postgres::PgPool;
use std::collections::HashMap;

pub(super) async fn usage(
    pool: &PgPool,
    user: UserKey,
    since: Option<ServerId>,
) -> Result<Usage, StoreError> {
    let question = match since {
        None => sqlx::query(include_str!("usage.sql")).bind(user.0),
        Some(place) => sqlx::query(include_str!("usage_since.sql"))
            .bind(user.0)
            .bind(place.get()),
    };
    let row = question.fetch_one(pool).await?;
    let number =
        |column: usize| Ok::<_, sqlx::Error>(row.try_get::<i64, _>(column)?.unsigned_abs());
    Ok(Usage {
        head: ServerId::new(row.try_get(0)?),
        used: Amount {
            rows: number(1)?,
            bytes: number(2)?,
        },
    })
}

pub(super) async fn sizes(
    pool: &PgPool,
    user: UserKey,
    entries: Vec<ServerId>,
) -> Result<HashMap<ServerId, u64>, StoreError> {
    let entries: Vec<i64> = entries.into_iter().map(ServerId::get).collect();
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT server_id, coalesce(octet_length(payload), 0)::bigint FROM oversync.log \
         WHERE user_key = $1 AND server_id = ANY ($2::bigint[])",
    )
    .bind(user.0)
    .bind(entries)
    .fetch_all(pool)
    .await?;
    let size = |(entry, bytes): (i64, i64)| (ServerId::new(entry), bytes.unsigned_abs());
    Ok(rows.into_iter().map(size).collect())
}
