//! `oversync devices`, `revoke` and `reinstate`: beside running servers on
//! PostgreSQL, and while none runs on the embedded store.

use super::flags::{DeviceFlags, Flags, UserFlags};
use super::{block_on, load, start_logs};
use crate::clock::Clock;
use crate::settings::Settings;
use crate::store::{self, Access, DeviceRecord, OpenError, Place, Store};
use anyhow::{Context as _, anyhow, bail};
use oversync_shared::{DeviceId, UserId};
use std::sync::Arc;
use time::format_description::well_known::Rfc3339;

pub(super) fn set_access(wanted: &DeviceFlags, access: Access) -> anyhow::Result<()> {
    let user = UserId::new(&*wanted.user.user).context("--user")?;
    let device = DeviceId::new(&*wanted.device).context("--device")?;
    with_store(&wanted.user.flags, async |store| {
        Ok(store.set_access(&user, &device, access).await?)
    })?;
    match access {
        Access::Revoked => println!("revoked: {device} of {user}"),
        Access::Admitted => println!("reinstated: {device} of {user}"),
    }
    Ok(())
}

pub(super) fn list(wanted: &UserFlags) -> anyhow::Result<()> {
    let user = UserId::new(&*wanted.user).context("--user")?;
    let devices = with_store(&wanted.flags, async |store| {
        Ok(store.devices(&user).await?)
    })?;
    println!("device\thighest change id\tlast change\trevoked");
    for DeviceRecord {
        device,
        highest_change_id,
        last_change_at,
        revoked_at,
    } in devices
    {
        let id = highest_change_id.map_or("-".to_owned(), |id| id.to_string());
        let time = |time: Option<time::OffsetDateTime>| match time {
            Some(time) => time.format(&Rfc3339),
            None => Ok("-".to_owned()),
        };
        println!(
            "{device}\t{id}\t{}\t{}",
            time(last_change_at)?,
            time(revoked_at)?
        );
    }
    Ok(())
}

/// Does one thing with the database that the settings name.
pub(super) fn with_store<T>(
    flags: &Flags,
    work: impl AsyncFnOnce(Arc<dyn Store>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let settings = load(flags)?;
    start_logs(&settings)?;
    block_on(async {
        let store = open(&settings).await?;
        let done = work(store.clone()).await;
        store.close().await;
        done
    })
}

async fn open(settings: &Settings) -> anyhow::Result<Arc<dyn Store>> {
    let url = &settings.database_url;
    // Opening would make one.
    if let Place::Embedded(path) = Place::of(url)?
        && !path.exists()
    {
        bail!("database_url: there is no file {}", path.display());
    }
    store::open(url, None, Clock::system())
        .await
        .map_err(|error| match error {
            OpenError::InUse(path) => {
                let place = match settings.admin_listen {
                    Some(address) => format!("http://{address}"),
                    None => "its operators' listener (setting admin_listen)".to_owned(),
                };
                anyhow!(
                    "{path} belongs to a running server; ask that one, on {place}: \
                     POST /admin/revoke, POST /admin/reinstate, GET /admin/devices"
                )
            }
            other => other.into(),
        })
}
