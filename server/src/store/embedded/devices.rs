//! A user's devices in the embedded store: listed, revoked, reinstated.

use crate::store::{Access, DeviceRecord, Revocations, RevokedDevices, StoreError, moment};
use oversync_shared::{ChangeId, DeviceId, UserId};
use rusqlite::{Connection, TransactionBehavior, params};

/// The list, unless it is still the one that is known.
pub(super) fn revoked(
    connection: &mut Connection,
    known: Option<Revocations>,
) -> Result<Option<RevokedDevices>, StoreError> {
    let tx = connection.transaction()?;
    let at = Revocations(
        tx.query_row("SELECT revocations FROM _oversync_meta", [], |row| {
            row.get(0)
        })?,
    );
    if known == Some(at) {
        return Ok(None);
    }
    let mut statement = tx.prepare("SELECT user_id, device_id FROM _oversync_revoked")?;
    let mut rows = statement.query([])?;
    let mut pairs = Vec::new();
    while let Some(row) = rows.next()? {
        let (user, device): (String, String) = (row.get(0)?, row.get(1)?);
        let user = UserId::new(user).map_err(bad_name)?;
        pairs.push((user, DeviceId::new(device).map_err(bad_name)?));
    }
    Ok(Some(RevokedDevices::new(at, pairs)))
}

fn bad_name(error: oversync_shared::ids::NameError) -> StoreError {
    StoreError::Failed(format!("a stored name {error}"))
}

pub(super) fn set_access(
    connection: &mut Connection,
    user: &UserId,
    device: &DeviceId,
    access: Access,
    ts: i64,
) -> Result<(), StoreError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (user, device) = (user.as_str(), device.as_str());
    let changed = match access {
        Access::Revoked => tx.execute(
            "INSERT INTO _oversync_revoked (user_id, device_id, revoked_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![user, device, ts],
        )?,
        Access::Admitted => tx.execute(
            "DELETE FROM _oversync_revoked WHERE user_id = ?1 AND device_id = ?2",
            params![user, device],
        )?,
    };
    if changed > 0 {
        tx.execute(
            "UPDATE _oversync_meta SET revocations = revocations + 1",
            [],
        )?;
    }
    tx.commit()?;
    Ok(())
}

pub(super) fn list(
    connection: &mut Connection,
    user: &UserId,
) -> Result<Vec<DeviceRecord>, StoreError> {
    let mut statement = connection.prepare(include_str!("devices.sql"))?;
    let mut rows = statement.query([user.as_str()])?;
    let mut devices = Vec::new();
    while let Some(row) = rows.next()? {
        let highest: Option<i64> = row.get(1)?;
        devices.push(DeviceRecord {
            device: DeviceId::new(row.get::<_, String>(0)?).map_err(bad_name)?,
            highest_change_id: highest.map(ChangeId::new),
            last_change_at: row.get::<_, Option<i64>>(2)?.map(moment).transpose()?,
            revoked_at: row.get::<_, Option<i64>>(3)?.map(moment).transpose()?,
        });
    }
    Ok(devices)
}
