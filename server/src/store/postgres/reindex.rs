//! The indexes of what folding removes from, built anew beside whoever reads and writes.
//!
//! PostgreSQL uses a page of an index for other keys only when nothing is left in it. Of
//! a log from which entries go at random, most pages keep a few: its indexes grow to five
//! or six times of what they must be. Its heap has no such trouble.

use super::recovery::LET_GO;
use crate::store::StoreError;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};
use std::time::Duration;

/// What folding removes from.
const FOLDED: [&str; 3] = ["log", "folded", "records"];

/// Built anew only on an operator's word: keys that come at random split its pages, which
/// is no waste, and would soon split them again.
const ROWS: &str = "rows";

/// An index is built anew when it is so many times as large as it must be: it is read and
/// written whole then once for each half of it that is written anyway.
const LOOSE: f64 = 1.5;

/// Bytes above that below which nothing is worth it.
const SLACK: i64 = 256 * 1024;

/// Transactions older than this are waited for by nobody.
const OLD: Duration = Duration::from_secs(1);

/// How long it waits for those that have come since.
const PATIENCE: &str = "'10s'";

/// PostgreSQL 14 damaged indexes that it built beside writers, until 14.4 (its release
/// notes).
const DAMAGING: std::ops::Range<i32> = 140_000..140_004;

/// Builds all of them anew, and has dead entries of their tables removed first. Waits for
/// transactions that began earlier for as long as it takes.
pub(super) async fn all(connection: &mut PgConnection) -> Result<(), StoreError> {
    if is_damaging(connection).await? {
        return Err(StoreError::Failed(
            "PostgreSQL 14.0 to 14.3 damages indexes that it builds beside writers: bring it to 14.4 or later"
                .to_owned(),
        ));
    }
    begin(connection, "0").await?;
    for table in FOLDED.iter().chain([&ROWS]) {
        let vacuum = format!("VACUUM oversync.{table}");
        connection.execute(AssertSqlSafe(vacuum)).await?;
        // Not the whole table: what is left of a TOAST index that was cut off is in a
        // schema where we may not drop it.
        let indexes: Vec<String> = sqlx::query_scalar(
            "SELECT format('REINDEX INDEX CONCURRENTLY %s', indexrelid::regclass) FROM pg_index \
             WHERE indrelid = $1::regclass ORDER BY indexrelid",
        )
        .bind(format!("oversync.{table}"))
        .fetch_all(&mut *connection)
        .await?;
        for reindex in indexes {
            // The name is quoted by PostgreSQL.
            connection.execute(AssertSqlSafe(reindex)).await?;
        }
    }
    Ok(())
}

/// Builds those anew that have become loose. Where somebody has been in a
/// transaction for long, a `pg_dump` perhaps, it leaves them for another time: the new
/// index could not be used before that one ends.
pub(super) async fn loose_ones(connection: &mut PgConnection) -> Result<(), StoreError> {
    if is_damaging(connection).await? {
        return Ok(());
    }
    let is_tidy = which_are_loose(connection).await?.is_empty()
        && which_are_left_over(connection).await?.is_empty();
    if is_tidy || is_somebody_at_work(connection).await? {
        return Ok(());
    }
    // Once more: what this connection has written itself is counted after a second.
    let loose = which_are_loose(connection).await?;
    let done = async {
        begin(connection, PATIENCE).await?;
        for index in loose {
            let reindex = format!("REINDEX INDEX CONCURRENTLY {index}");
            // The name is quoted by PostgreSQL.
            connection.execute(AssertSqlSafe(reindex)).await?;
            tracing::info!(index, "built anew: much of it was empty");
        }
        Ok(())
    };
    match done.await {
        Err(sqlx::Error::Database(cause)) if cause.code().as_deref() == Some("55P03") => {
            tracing::info!("an index is built anew later: a transaction is in its way");
            Ok(())
        }
        done => Ok(done?),
    }
}

async fn is_damaging(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let version = "SELECT current_setting('server_version_num')::integer";
    let version: i32 = sqlx::query_scalar(version).fetch_one(connection).await?;
    Ok(DAMAGING.contains(&version))
}

async fn which_are_loose(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let loose = sqlx::query_scalar(include_str!("loose_indexes.sql"))
        .bind(FOLDED.as_slice())
        .bind(LOOSE)
        .bind(SLACK);
    Ok(loose.fetch_all(connection).await?)
}

/// What was built anew and cut off before it was whole, or before the old one was dropped:
/// large, and written to all the same.
async fn which_are_left_over(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    let left = sqlx::query_scalar(
        "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
         WHERE NOT i.indisvalid AND c.relnamespace = 'oversync'::regnamespace AND c.relname ~ '_cc(new|old)\\d*$'",
    );
    left.fetch_all(connection).await
}

/// Lets statements take hours, and locks so long, and drops what is left over.
async fn begin(connection: &mut PgConnection, lock_timeout: &str) -> Result<(), sqlx::Error> {
    // Whoever has it take hours may kill it, and PostgreSQL is not to go on with it then.
    let patiently =
        format!("SET statement_timeout = 0; SET lock_timeout = {lock_timeout}; {LET_GO}");
    connection.execute(AssertSqlSafe(patiently)).await?;
    for left in which_are_left_over(connection).await? {
        // The name is quoted by PostgreSQL.
        let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {left}");
        connection.execute(AssertSqlSafe(drop)).await?;
    }
    Ok(())
}

/// Whether a transaction of this database lasts: building an index anew waits for all that
/// began before.
async fn is_somebody_at_work(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let before = transactions(connection).await?;
    tokio::time::sleep(OLD).await;
    let after = transactions(connection).await?;
    Ok(before.iter().any(|one| after.contains(one)))
}

/// Those that run now, of all roles: their age is not for everybody to see.
async fn transactions(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let running = sqlx::query_scalar(
        "SELECT l.virtualtransaction FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'virtualxid' AND l.granted AND l.pid <> pg_backend_pid() \
           AND a.datname = current_database()",
    );
    Ok(running.fetch_all(connection).await?)
}
