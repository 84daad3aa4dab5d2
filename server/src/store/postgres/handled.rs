//! Rows that the host's own handler writes.

use super::work::Trouble;
use crate::projection::Handled;
use crate::store::handler::{Call, HandlerError, PANICKED, Row, recorded};
use futures_util::FutureExt as _;
use sqlx::PgConnection;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// How long one call may take. Everybody whose upload is in the transaction
/// waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn write(
    connection: &mut PgConnection,
    handled: &Handled,
    row: Row<'_>,
) -> Result<(), Trouble> {
    let handler = handled
        .handlers
        .postgres
        .as_ref()
        .expect("BUG: registration has checked that there is one");
    // The deadline below lets go of the handler, but not of a statement that runs.
    let limit = format!("SET LOCAL statement_timeout = {}", PATIENCE.as_millis());
    sqlx::query(sqlx::AssertSqlSafe(limit))
        .execute(&mut *connection)
        .await
        .map_err(Trouble::Store)?;
    let call = async {
        match row.call() {
            Call::Upsert(row) => handler.upsert(&mut *connection, &row).await,
            Call::Delete(row) => handler.delete(&mut *connection, &row).await,
        }
    };
    let call = tokio::time::timeout(PATIENCE, AssertUnwindSafe(call).catch_unwind()).await;
    match call {
        Ok(Ok(Ok(()))) => {
            // A transaction that the handler has broken in silence says so here.
            sqlx::query("SET LOCAL statement_timeout TO DEFAULT")
                .execute(connection)
                .await?;
            Ok(())
        }
        Ok(Ok(Err(error))) => Err(trouble(connection, error).await),
        Ok(Err(_)) => Err(Trouble::Data(PANICKED.to_owned())),
        Err(_) => {
            settle(connection).await?;
            Err(Trouble::Data(format!(
                "the handler took more than {PATIENCE:?}"
            )))
        }
    }
}

/// Waits for the statement that a handler was let go of in; the limit above ends it
/// soon. Its error would else be the answer to the next statement, which is ours.
async fn settle(connection: &mut PgConnection) -> Result<(), Trouble> {
    let answered = sqlx::query("SELECT 1").execute(connection);
    match tokio::time::timeout(PATIENCE, answered).await {
        Ok(Ok(_) | Err(sqlx::Error::Database(_))) => Ok(()),
        Ok(Err(error)) => Err(Trouble::Store(error)),
        Err(_) => Err(Trouble::Store(sqlx::Error::Io(
            std::io::ErrorKind::TimedOut.into(),
        ))),
    }
}

/// The row's, whatever it is: a handler may speak of another connection, and if
/// ours is lost, what the caller does next fails. But for a deadlock and the like
/// of our own transaction, which is broken then: that may be tried again.
async fn trouble(connection: &mut PgConnection, error: HandlerError) -> Trouble {
    match error {
        HandlerError::Postgres(sqlx::Error::Database(cause)) => {
            let is_passing = cause.code().is_some_and(|code| code.starts_with("40"));
            let is_ours = is_passing && sqlx::query("SELECT 1").execute(connection).await.is_err();
            if is_ours {
                Trouble::Store(sqlx::Error::Database(cause))
            } else {
                Trouble::Data(recorded(cause.message()))
            }
        }
        other => Trouble::Data(recorded(&other.to_string())),
    }
}
