//! Connecting to PostgreSQL, and bringing the schema `oversync` up to date.

use super::PostgresStore;
use crate::store::StoreError;
use crate::store::recovery::refuse_unfinished;
use crate::unknown::UnknownColumns;
use sqlx::Executor as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use std::str::FromStr as _;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::Semaphore;
use uuid::Uuid;

/// Connections of one process. 8–16 gave the best throughput on 2 cores, 64
/// halved it (docs: BENCH, known floors).
const MAX_CONNECTIONS: u32 = 12;

/// How long a request waits for a connection before it is told to come back.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The advisory lock under which processes that start together take turns with
/// the schema file; "oversync" in ASCII.
pub(super) const SCHEMA_LOCK: i64 = 0x6f76_6572_7379_6e63;

/// Retries running at a time in one process; the others wait without a connection.
const MAX_RETRIES: usize = 2;

/// How every connection is made.
pub(super) fn connect_options(url: &str) -> Result<PgConnectOptions, StoreError> {
    Ok(PgConnectOptions::from_str(url)?
        .application_name("oversync")
        .options([("timezone", "UTC")]))
}

/// Brings the schema `oversync` up to date, and gives a new database its epoch.
pub(super) async fn migrate(connection: &mut PgConnection) -> Result<(), StoreError> {
    run_steps(connection).await?;
    sqlx::query("INSERT INTO oversync.meta (epoch) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(Uuid::new_v4().to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// Runs the schema steps that this database has not run yet.
pub(super) async fn run_steps(connection: &mut PgConnection) -> Result<(), StoreError> {
    let mut migrator = sqlx::migrate!("../migrations/postgres");
    migrator.dangerous_set_table_name("oversync._migrations");
    migrator.create_schemas.to_mut().push("oversync".into());
    // Not what is there already, at every start.
    sqlx::raw_sql("SET client_min_messages = warning")
        .execute(&mut *connection)
        .await?;
    let migrated = migrator.run(&mut *connection).await;
    sqlx::raw_sql("RESET client_min_messages")
        .execute(connection)
        .await?;
    migrated.map_err(|error| StoreError::Failed(format!("migration: {error}")))
}

impl PostgresStore {
    /// Connects, runs `schema_sql`, migrates the schema `oversync`.
    pub async fn open(url: &str, schema_sql: Option<&str>) -> Result<Self, StoreError> {
        let store = Self::connect(url).await?;
        let pool = &store.pool;
        if let Some(sql) = schema_sql {
            let mut tx = pool.begin().await?;
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .bind(SCHEMA_LOCK)
                .execute(&mut *tx)
                .await?;
            tx.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())))
                .await?;
            tx.commit().await?;
        }
        let mut connection = pool.acquire().await?;
        migrate(&mut connection).await?;
        let epoch: String = sqlx::query_scalar("SELECT epoch FROM oversync.meta")
            .fetch_one(&mut *connection)
            .await?;
        refuse_unfinished(&epoch)?;
        drop(connection);
        Ok(store)
    }

    /// Connects to a database whose schema is there.
    pub(super) async fn connect(url: &str) -> Result<Self, StoreError> {
        let options = connect_options(url)?.options([
            // The statements are few and their best plan does not depend on the
            // parameters: planning each time costs more than running.
            ("plan_cache_mode", "force_generic_plan"),
            // Compiling a statement each time it is run costs many times its few
            // milliseconds; what the planner thinks of a table that was never
            // analysed is reason enough for PostgreSQL to try.
            ("jit", "off"),
            // What is acknowledged is durable, whatever the database's default;
            // and the head row as a lock needs this isolation.
            ("synchronous_commit", "on"),
            ("default_transaction_isolation", "read committed"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options)
            .await?;
        Ok(Self {
            pool,
            url: url.to_owned(),
            tables: OnceLock::new(),
            unknown: UnknownColumns::default(),
            retries: Semaphore::new(MAX_RETRIES),
        })
    }
}
