//! The one row of `_sync_client`: who and where this file is.

use crate::config::Config;
use crate::error::{Error, SetupError};
use oversync_shared::{ChangeId, DeviceId, ServerId, UserId};
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

/// What a new pass over everything means for rows the server does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resync {
    /// The history was replaced: rows this device has are sent again.
    HistoryReplaced,
    /// Old history was pruned: rows the server does not have were deleted.
    HistoryPruned,
}

impl Resync {
    fn as_str(self) -> &'static str {
        match self {
            Self::HistoryReplaced => "history_replaced",
            Self::HistoryPruned => "history_pruned",
        }
    }
}

/// Who and where this file is.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) schema: String,
    pub(crate) epoch: Option<String>,
    pub(crate) cursor: ServerId,
    pub(crate) hydrated: bool,
    pub(crate) window_until: Option<ServerId>,
    pub(crate) next_change_id: ChangeId,
    pub(crate) shares_device: bool,
    pub(crate) resync: Option<Resync>,
    pub(crate) last_confirmed_at: Option<i64>,
}

const LOAD: &str = "SELECT user_id, device_id, remote_schema, epoch, cursor, hydrated, \
     window_until, next_change_id, shares_device, resync, last_confirmed_at FROM _sync_client";

const SAVE: &str = "UPDATE _sync_client SET epoch = ?1, cursor = ?2, hydrated = ?3, \
     window_until = ?4, next_change_id = ?5, shares_device = ?6, resync = ?7, \
     last_confirmed_at = ?8";

impl State {
    pub(crate) fn load(conn: &Connection) -> Result<Self, Error> {
        Self::find(conn)?.ok_or_else(|| {
            SetupError::Other(
                "this file has no synchronisation state: open a client on it first".into(),
            )
            .into()
        })
    }

    fn find(conn: &Connection) -> Result<Option<Self>, Error> {
        let row = conn
            .prepare_cached(LOAD)?
            .query_row([], |row| {
                let resync: Option<String> = row.get(9)?;
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, String>(1)?,
                    Self {
                        // Replaced below, once checked.
                        user: UserId::new("?").expect("BUG: a plain name"),
                        device: DeviceId::server(),
                        schema: row.get(2)?,
                        epoch: row.get(3)?,
                        cursor: ServerId::new(row.get(4)?),
                        hydrated: row.get(5)?,
                        window_until: row.get::<_, Option<i64>>(6)?.map(ServerId::new),
                        next_change_id: ChangeId::new(row.get(7)?),
                        shares_device: row.get(8)?,
                        resync: [Resync::HistoryReplaced, Resync::HistoryPruned]
                            .into_iter()
                            .find(|known| Some(known.as_str()) == resync.as_deref()),
                        last_confirmed_at: row.get(10)?,
                    },
                ))
            })
            .optional()?;
        let Some((user, device, mut state)) = row else {
            return Ok(None);
        };
        let broken =
            |what: &str| SetupError::Other(format!("the {what} stored in this file is no name"));
        state.user = UserId::new(user).map_err(|_| broken("user"))?;
        state.device = DeviceId::new(device).map_err(|_| broken("device"))?;
        Ok(Some(state))
    }

    pub(crate) fn save(&self, conn: &Connection) -> Result<(), Error> {
        conn.prepare_cached(SAVE)?.execute(params![
            self.epoch,
            self.cursor.get(),
            self.hydrated,
            self.window_until.map(ServerId::get),
            self.next_change_id.get(),
            self.shares_device,
            self.resync.map(Resync::as_str),
            self.last_confirmed_at,
        ])?;
        Ok(())
    }
}

/// Makes the file this user's and device's, or checks that it is.
pub(crate) fn claim(conn: &Connection, config: &Config) -> Result<(), Error> {
    let Some(state) = State::find(conn)? else {
        let device = match &config.device {
            Some(device) => device.to_string(),
            None => Uuid::new_v4().to_string(),
        };
        conn.execute(
            "INSERT INTO _sync_client (id, user_id, device_id, remote_schema) VALUES (1, ?1, ?2, ?3)",
            params![config.user.as_str(), device, config.schema],
        )?;
        return Ok(());
    };
    let foreign = |what, stored: &str, given: &str| SetupError::Foreign {
        what,
        stored: stored.to_owned(),
        given: given.to_owned(),
    };
    if state.user != config.user {
        return Err(foreign("user", state.user.as_str(), config.user.as_str()).into());
    }
    if let Some(device) = &config.device
        && *device != state.device
    {
        return Err(foreign("device", state.device.as_str(), device.as_str()).into());
    }
    if state.schema != config.schema {
        return Err(foreign("schema", &state.schema, &config.schema).into());
    }
    Ok(())
}
