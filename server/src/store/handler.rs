//! A host application's own way of writing a table's rows, in place of the
//! generic projection.
//!
//! A handler is called in the upload's own transaction, row by row, parents
//! first and deletes children first, each row under a savepoint. What it returns
//! as an error, or its panic, takes back that row's writes alone and is recorded
//! as a failure; the upload stays applied. A handler may be called more than once
//! for one version of a row; what an earlier call wrote has been taken back then.
//!
//! Whatever a handler says went wrong is its row's failure, also where another
//! connection of the host's broke, or a transaction there was refused again and
//! again: other users' uploads do not suffer. Only where the upload's own connection
//! is lost is the upload not answered. A deadlock of the upload's own transaction is
//! tried again, a few times, and then the row's failure too.
//!
//! Nothing here keeps one user's rows from another: a key is unique for a user,
//! not among users, so a handler writes, finds and deletes by user *and* key. The
//! server promises of a handled table what it can know: what a payload refers to is a
//! row that its user may see (unless `foreign_keys` is `"disabled"`), one of a handled
//! table by the user's own synchronised rows; and a handler is called with a user's
//! rows under that user's name alone. It does not know which rows a handler writes. So it does not
//! look whether those stand on another user's business rows, nor whether a projected
//! row stands, by a foreign key of the database, on a row that a handler wrote: a
//! foreign key from or to a table that a handler writes has to carry the user beside
//! the key, as the handler's own statements do.

use super::TableName;
use async_trait::async_trait;
use oversync_shared::catalog::ConvertReference;
use oversync_shared::{RowKey, RowVersion, UserId};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// For handlers: the very versions that their connections come from.
pub use {rusqlite, sqlx};

/// Longest text of a failure that is recorded, in characters.
const MAX_TEXT: usize = 500;

/// What is known of a row before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// The server has never had it.
    NeverSeen,
    /// The server has had it; it may have been deleted since, or may never have
    /// got as far as the business tables.
    Seen,
    /// Nothing: a failed row is tried again.
    Unknown,
}

/// A row to be written.
#[derive(Debug, Clone, Copy)]
pub struct Upserted<'a> {
    /// Whose.
    pub user: &'a UserId,
    /// Its key.
    pub key: RowKey,
    /// The row as the device sent it: a JSON object, its numbers digit for digit.
    pub payload: &'a str,
    /// Its version, from 1.
    pub version: RowVersion,
    /// Whether it was there before.
    pub before: Before,
}

/// A row to be removed. It may not be there.
#[derive(Debug, Clone, Copy)]
pub struct Deleted<'a> {
    /// Whose.
    pub user: &'a UserId,
    /// Its key.
    pub key: RowKey,
    /// The version of its tombstone.
    pub version: RowVersion,
}

/// A row for a handler, to be written or removed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) user: &'a UserId,
    pub(super) key: RowKey,
    pub(super) version: RowVersion,
    /// `None` removes it.
    pub(super) payload: Option<&'a str>,
    pub(super) before: Before,
}

/// What a handler is called with.
pub(super) enum Call<'a> {
    Upsert(Upserted<'a>),
    Delete(Deleted<'a>),
}

impl<'a> Row<'a> {
    pub(super) fn call(self) -> Call<'a> {
        let Row {
            user,
            key,
            version,
            payload,
            before,
        } = self;
        match payload {
            Some(payload) => Call::Upsert(Upserted {
                user,
                key,
                payload,
                version,
                before,
            }),
            None => Call::Delete(Deleted { user, key, version }),
        }
    }
}

/// Why a row cannot be written. The text is recorded and shown to the user.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The host's own reason.
    #[error("{0}")]
    Refused(String),
    /// PostgreSQL.
    #[error("{0}")]
    Postgres(#[from] sqlx::Error),
    /// SQLite.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl HandlerError {
    /// The host's own reason.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self::Refused(reason.to_string())
    }
}

/// Cuts a text to what is recorded; one line without control characters.
pub(super) fn recorded(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut text: String = text.chars().map(plain).take(MAX_TEXT + 1).collect();
    if text.chars().count() > MAX_TEXT {
        text.pop();
        text.push('…');
    }
    text
}

/// The text of a failure when a handler panicked.
pub(super) const PANICKED: &str = "the handler panicked";

/// What every handler can say of its table, whatever the store.
pub trait TableHandler: Send + Sync + 'static {
    /// The row that a referencing column names, for hosts whose payloads name
    /// parents in their own way; see [`ConvertReference`]. `None`, unless
    /// implemented: the usual spellings of a UUID apply.
    fn convert_reference(&self, column: &str, sent: &str) -> Option<RowKey> {
        let _ = (column, sent);
        None
    }
}

/// Writes the rows of one table on PostgreSQL.
///
/// The connection is in the upload's transaction: neither commit nor roll it
/// back, and keep no lock longer than needed; other users' uploads wait. Deferred
/// constraints are checked after the call. A call may take ten seconds.
#[async_trait]
pub trait PostgresHandler: TableHandler {
    /// Writes a row, new or not.
    async fn upsert(
        &self,
        connection: &mut sqlx::PgConnection,
        row: &Upserted<'_>,
    ) -> Result<(), HandlerError>;

    /// Removes a row.
    async fn delete(
        &self,
        connection: &mut sqlx::PgConnection,
        row: &Deleted<'_>,
    ) -> Result<(), HandlerError>;
}

/// Writes the rows of one table in the embedded store.
///
/// It runs on the one thread that writes: every upload waits for it. The
/// connection is in the upload's transaction: neither commit nor roll it back.
/// It does not enforce foreign keys.
pub trait EmbeddedHandler: TableHandler {
    /// Writes a row, new or not.
    fn upsert(
        &self,
        connection: &rusqlite::Connection,
        row: &Upserted<'_>,
    ) -> Result<(), HandlerError>;

    /// Removes a row.
    fn delete(
        &self,
        connection: &rusqlite::Connection,
        row: &Deleted<'_>,
    ) -> Result<(), HandlerError>;
}

/// The handlers of one table.
#[derive(Clone, Default)]
pub struct HandlersOfTable {
    pub(crate) postgres: Option<Arc<dyn PostgresHandler>>,
    pub(crate) embedded: Option<Arc<dyn EmbeddedHandler>>,
}

impl fmt::Debug for HandlersOfTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlersOfTable")
            .field("postgres", &self.postgres.is_some())
            .field("embedded", &self.embedded.is_some())
            .finish()
    }
}

/// The host application's handlers. Every table named here must be registered
/// with `handled = true`, and every such table must have a handler for the store
/// that the server runs on.
#[derive(Debug, Clone, Default)]
pub struct Handlers {
    tables: HashMap<TableName, HandlersOfTable>,
}

impl Handlers {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the rows of a table with this handler on PostgreSQL.
    #[must_use]
    pub fn postgres(mut self, table: TableName, handler: impl PostgresHandler) -> Self {
        self.tables.entry(table).or_default().postgres = Some(Arc::new(handler));
        self
    }

    /// Writes the rows of a table with this handler in the embedded store.
    #[must_use]
    pub fn embedded(mut self, table: TableName, handler: impl EmbeddedHandler) -> Self {
        self.tables.entry(table).or_default().embedded = Some(Arc::new(handler));
        self
    }

    pub(crate) fn of(&self, table: &TableName) -> Option<&HandlersOfTable> {
        self.tables.get(table)
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = &TableName> {
        self.tables.keys()
    }
}

/// The conversion of a handler's table; a panic in it means the usual spellings.
pub(crate) struct Converting<H: ?Sized>(pub(crate) Arc<H>);

impl<H: TableHandler + ?Sized> ConvertReference for Converting<H> {
    fn convert_reference(&self, column: &str, sent: &str) -> Option<RowKey> {
        let asked = std::panic::AssertUnwindSafe(|| self.0.convert_reference(column, sent));
        std::panic::catch_unwind(asked).unwrap_or_else(|_| {
            tracing::error!(column, "a handler panicked while converting a reference");
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_one_short_line() {
        assert_eq!(recorded("no\nsuch\u{0}thing"), "no such thing");
        let long = "é".repeat(MAX_TEXT);
        assert_eq!(recorded(&long), long);
        let cut = recorded(&format!("{long}x"));
        assert!(cut.ends_with("é…") && cut.chars().count() == MAX_TEXT + 1);
    }
}
