//! Rows that the host's own handler writes.

use super::work::Trouble;
use crate::projection::Handled;
use crate::store::handler::{Before, Deleted, HandlerError, PANICKED, Upserted, recorded};
use futures_util::FutureExt as _;
use oversync_shared::{RowKey, RowVersion, UserId};
use sqlx::PgConnection;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// How long one call may take. Everybody whose upload is in the transaction
/// waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A row for a handler.
pub(super) struct Row<'a> {
    pub(super) user: &'a UserId,
    pub(super) key: RowKey,
    pub(super) version: RowVersion,
    pub(super) payload: Option<&'a str>,
    pub(super) before: Before,
}

pub(super) async fn write(
    connection: &mut PgConnection,
    handled: &Handled,
    row: &Row<'_>,
) -> Result<(), Trouble> {
    let handler = handled
        .handlers
        .postgres
        .as_ref()
        .expect("BUG: registration has checked that there is one");
    let (user, key, version) = (row.user, row.key, row.version);
    // The deadline below lets go of the handler, but not of a statement that runs.
    let limit = format!("SET LOCAL statement_timeout = {}", PATIENCE.as_millis());
    sqlx::query(sqlx::AssertSqlSafe(limit))
        .execute(&mut *connection)
        .await
        .map_err(Trouble::Store)?;
    let call = async {
        match row.payload {
            Some(payload) => {
                let before = row.before;
                let row = Upserted {
                    user,
                    key,
                    payload,
                    version,
                    before,
                };
                handler.upsert(connection, &row).await
            }
            None => {
                let row = Deleted { user, key, version };
                handler.delete(connection, &row).await
            }
        }
    };
    let call = tokio::time::timeout(PATIENCE, AssertUnwindSafe(call).catch_unwind());
    match call.await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(trouble(error)),
        Ok(Err(_)) => Err(Trouble::Data(PANICKED.to_owned())),
        Err(_) => Err(Trouble::Data(format!(
            "the handler took more than {PATIENCE:?}"
        ))),
    }
}

fn trouble(error: HandlerError) -> Trouble {
    match error {
        HandlerError::Postgres(sqlx::Error::Database(cause))
            if cause.code().is_some_and(|code| code.starts_with("40")) =>
        {
            // A deadlock and the like: the whole transaction is decided again.
            Trouble::Store(sqlx::Error::Database(cause))
        }
        HandlerError::Postgres(sqlx::Error::Database(cause)) => {
            Trouble::Data(recorded(cause.message()))
        }
        HandlerError::Postgres(
            error @ (sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_)),
        ) => Trouble::Store(error),
        other => Trouble::Data(recorded(&other.to_string())),
    }
}
