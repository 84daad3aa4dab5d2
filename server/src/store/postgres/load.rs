//! What an upload needs to know of its user, by one question.

use super::PostgresStore;
use crate::store::{
    Ask, DeviceKey, Head, KnownDevice, Loaded, Revision, StoreError, UserKey, fingerprint_from,
};
use oversync_shared::upload::{Recorded, RowState};
use oversync_shared::{ChangeId, RowVersion, ServerId};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

impl PostgresStore {
    /// Reads what an upload needs from one snapshot; a user never seen is made.
    pub(super) async fn read_for(&self, ask: &Ask) -> Result<Loaded, StoreError> {
        let tables: Vec<i32> = ask
            .rows
            .iter()
            .map(|row| self.table_key(row.table))
            .collect();
        let keys: Vec<Uuid> = ask.rows.iter().map(|row| row.key.uuid()).collect();
        let ids: Vec<i64> = ask.ids.iter().map(|id| id.get()).collect();
        loop {
            let row = sqlx::query(include_str!("load.sql"))
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
            sqlx::query(include_str!("new_user.sql"))
                .bind(ask.user.as_str())
                .execute(&self.pool)
                .await?;
        }
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
