//! A user's devices on PostgreSQL: listed, revoked, reinstated.

use crate::store::{Access, DeviceRecord, Revocations, RevokedDevices, StoreError};
use oversync_shared::{ChangeId, DeviceId, UserId};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row as _};

/// The list, unless it is still the one that is known: one statement, so list
/// and count are of one moment.
pub(super) async fn revoked(
    pool: &PgPool,
    known: Option<Revocations>,
) -> Result<Option<RevokedDevices>, StoreError> {
    let rows = sqlx::query(
        "SELECT m.revocations, r.user_id, r.device_id FROM oversync.meta m LEFT JOIN oversync.revoked r ON true \
         WHERE m.revocations IS DISTINCT FROM $1",
    )
    .bind(known.map(|known| known.0))
    .fetch_all(pool)
    .await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let at = Revocations(first.try_get(0)?);
    let pairs = rows
        .iter()
        .map(pair)
        .collect::<Result<Vec<_>, StoreError>>()?;
    Ok(Some(RevokedDevices::new(at, pairs.into_iter().flatten())))
}

fn pair(row: &PgRow) -> Result<Option<(UserId, DeviceId)>, StoreError> {
    let (user, device): (Option<String>, Option<String>) = (row.try_get(1)?, row.try_get(2)?);
    let Some((user, device)) = user.zip(device) else {
        return Ok(None);
    };
    Ok(Some((
        UserId::new(user).map_err(bad_name)?,
        DeviceId::new(device).map_err(bad_name)?,
    )))
}

fn bad_name(error: oversync_shared::ids::NameError) -> StoreError {
    StoreError::Failed(format!("a stored name {error}"))
}

pub(super) async fn set_access(
    pool: &PgPool,
    user: &UserId,
    device: &DeviceId,
    access: Access,
) -> Result<(), StoreError> {
    let sql = match access {
        Access::Revoked => {
            "WITH changed AS (INSERT INTO oversync.revoked (user_id, device_id) VALUES ($1, $2) \
             ON CONFLICT DO NOTHING RETURNING user_id) \
             UPDATE oversync.meta SET revocations = revocations + 1 WHERE EXISTS (SELECT FROM changed)"
        }
        Access::Admitted => {
            "WITH changed AS (DELETE FROM oversync.revoked WHERE user_id = $1 AND device_id = $2 \
             RETURNING user_id) \
             UPDATE oversync.meta SET revocations = revocations + 1 WHERE EXISTS (SELECT FROM changed)"
        }
    };
    sqlx::query(sql)
        .bind(user.as_str())
        .bind(device.as_str())
        .execute(pool)
        .await?;
    Ok(())
}

pub(super) async fn list(pool: &PgPool, user: &UserId) -> Result<Vec<DeviceRecord>, StoreError> {
    let rows = sqlx::query(include_str!("devices.sql"))
        .bind(user.as_str())
        .fetch_all(pool)
        .await?;
    rows.iter()
        .map(|row| {
            let highest: Option<i64> = row.try_get(1)?;
            Ok(DeviceRecord {
                device: DeviceId::new(row.try_get::<String, _>(0)?).map_err(bad_name)?,
                highest_change_id: highest.map(ChangeId::new),
                last_change_at: row.try_get(2)?,
                revoked_at: row.try_get(3)?,
            })
        })
        .collect()
}
