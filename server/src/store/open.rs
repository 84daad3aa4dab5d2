//! What a database URL names, and opening it.
//!
//! The one place that reads the scheme: servers, `verify`, the doctor, backup and move
//! all go by [`Place`].

use super::{EmbeddedStore, PostgresStore, Store, StoreError};
use crate::clock::Clock;
use std::path::PathBuf;
use std::sync::Arc;

/// What a database URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A SQLite file.
    Embedded(PathBuf),
    /// A PostgreSQL database, by its URL.
    Postgres(String),
}

impl Place {
    /// Of a URL.
    pub(crate) fn of(url: &str) -> Result<Self, OpenError> {
        if let Some(path) = url.strip_prefix("sqlite://") {
            return Ok(Self::Embedded(path.into()));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(url.to_owned()));
        }
        let scheme = url.split("://").next().unwrap_or_default();
        Err(OpenError::UnknownScheme(scheme.to_owned()))
    }
}

/// Why a database URL cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither `sqlite://…` nor `postgres://…`.
    #[error("database_url must start with sqlite:// or postgres://, not \"{0}\"")]
    UnknownScheme(String),
    /// A server has the embedded store's file, or another program like this.
    #[error(
        "{0} is in use by another server process; the embedded store serves one process, use PostgreSQL for several"
    )]
    InUse(String),
    /// Another version's schema.
    #[error(
        "the database has {done} schema steps, this program knows {known}: start a server of this version first, \
         or wait until the one that is starting has finished"
    )]
    Steps {
        /// Steps that the database has run.
        done: usize,
        /// Steps that this program knows.
        known: usize,
    },
    /// The database refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Opens the database behind a URL and brings its schema up to date.
/// `schema_sql` is run first, once per start (an example's business tables).
pub async fn open(
    url: &str,
    schema_sql: Option<&str>,
    clock: Clock,
) -> Result<Arc<dyn Store>, OpenError> {
    Ok(match Place::of(url)? {
        Place::Embedded(path) => Arc::new(EmbeddedStore::open(&path, schema_sql, clock)?),
        Place::Postgres(url) => Arc::new(PostgresStore::open(&url, schema_sql).await?),
    })
}
