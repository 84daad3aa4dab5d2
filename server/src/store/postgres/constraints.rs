//! Foreign keys between synchronised business tables, made to wait for the end
//! of what is written together.
//!
//! Rows that need each other in a ring can only be written when the database
//! looks at their references afterwards. `ALTER CONSTRAINT` changes when it
//! looks, and validates nothing again. It runs once per start and stops it in no
//! case: what cannot be changed is a warning.

use super::expressions::{query, quoted};
use super::open::SCHEMA_LOCK;
use crate::store::StoreError;
use oversync_shared::TableName;
use sqlx::{PgPool, Row as _};

/// How long the change of one constraint waits for the table. Everybody else
/// who writes to it waits behind us for that long, so it is short.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '3s'";

/// A foreign key by its name.
struct Constraint {
    schema: String,
    table: String,
    name: String,
}

/// Makes the foreign keys between these tables DEFERRABLE INITIALLY DEFERRED.
pub(super) async fn defer(pool: &PgPool, tables: &[&TableName]) -> Result<(), StoreError> {
    for constraint in immediate(pool, tables).await? {
        let Constraint {
            schema,
            table,
            name,
        } = &constraint;
        match alter(pool, &constraint).await {
            Ok(()) => tracing::info!(
                table = format!("{schema}.{table}"),
                constraint = name,
                "the foreign key is now DEFERRABLE INITIALLY DEFERRED (leave_constraints_alone = true prevents this)"
            ),
            Err(error) => tracing::warn!(
                table = format!("{schema}.{table}"),
                constraint = name,
                %error,
                "the foreign key could not be made DEFERRABLE INITIALLY DEFERRED: rows that refer to each other \
                 in a ring cannot be written into their business tables, and will stand in the failure list"
            ),
        }
    }
    Ok(())
}

async fn immediate(pool: &PgPool, tables: &[&TableName]) -> Result<Vec<Constraint>, StoreError> {
    let found = sqlx::query(include_str!("constraints.sql"))
        .bind(
            tables
                .iter()
                .map(|name| name.schema.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(
            tables
                .iter()
                .map(|name| name.table.as_str())
                .collect::<Vec<_>>(),
        )
        .fetch_all(pool)
        .await?;
    let read = |row: &sqlx::postgres::PgRow| {
        Ok(Constraint {
            schema: row.try_get(0)?,
            table: row.try_get(1)?,
            name: row.try_get(2)?,
        })
    };
    found.iter().map(read).collect()
}

/// Processes that start together take turns; the second finds it done, and
/// doing it again changes nothing.
async fn alter(pool: &PgPool, constraint: &Constraint) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(SCHEMA_LOCK)
        .execute(&mut *tx)
        .await?;
    sqlx::query(LOCK_TIMEOUT).execute(&mut *tx).await?;
    let sql = format!(
        "ALTER TABLE {}.{} ALTER CONSTRAINT {} DEFERRABLE INITIALLY DEFERRED",
        quoted(&constraint.schema),
        quoted(&constraint.table),
        quoted(&constraint.name),
    );
    query(&sql).persistent(false).execute(&mut *tx).await?;
    tx.commit().await
}
