//! The device side of oversync: keeps one user's data the same on all that
//! user's devices.
//!
//! The application owns its SQLite file and writes to it as ever. This crate
//! captures every commit by triggers, uploads it, hears of other devices'
//! changes by hints, downloads and applies them. Offline edits wait in the file.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use oversqlite::{Client, Config, UserId};
//!
//! let token = || async { Ok("from your own sign-in".to_owned()) };
//! let user = UserId::new("user-ada")?;
//! let config = Config::new("notes.db", "https://sync.example.org", user, token)
//!     .schema("business")
//!     .table("users")
//!     .table("posts");
//! let client = Client::open(config).await?;
//! client.start()?;
//!
//! // Write as ever: the engine wakes by itself.
//! let db = client.connection()?;
//! db.execute("UPDATE posts SET title = 'Hello' WHERE id = ?1", ["…"])?;
//!
//! // Hear what other devices have changed.
//! let mut changes = client.changes();
//! while let Some(change) = changes.next().await {
//!     println!("{change:?}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What synchronised tables need
//!
//! A declared primary key (or a UNIQUE column named with
//! [`Config::table_with_key`]) that holds a UUID: TEXT in any spelling, or BLOB
//! of 16 bytes. [`Client::open`] says by name what does not fit.
//!
//! `ALTER TABLE … DROP COLUMN` on a synchronised table fails while the triggers
//! name the column: drop the table's `_sync_` triggers first; the next sync
//! installs them again.

mod apply;
mod backoff;
mod capture;
mod changes;
mod client;
mod clock;
mod config;
mod conflicts;
mod core;
mod db;
mod discover;
mod download;
mod engine;
mod error;
mod field_merge;
mod key;
mod learned;
mod listener;
mod lists;
mod lock;
mod long_poll;
mod outbox;
mod parked;
mod pause;
mod payload;
mod place;
mod rejected;
mod resolver;
mod resync;
mod row;
mod schema;
mod settle;
mod shadow;
mod sign_out;
mod state;
mod status;
mod sweep;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod transport;
mod triggers;
mod upgrade;
mod upload;
mod wake;

pub use changes::{Changed, Changes};
pub use client::{Client, Inspection, Synced, inspect};
pub use config::{Config, TableSpec};
pub use conflicts::ConflictRecord;
pub use download::Downloaded;
pub use error::{Error, NetworkError, SetupError, StorageError};
pub use field_merge::{DeletePolicy, FieldMerge};
pub use oversync_shared::merge::{
    ColumnChoice, ColumnConflict, ColumnPolicy, Lost, Merged, Side, Stands,
};
pub use oversync_shared::{DeviceId, RowKey, RowVersion, ServerId, UserId};
pub use pause::{Direction, Paused};
pub use rejected::Rejected;
pub use resolver::{ClientWins, Conflict, NewestBy, Resolution, Resolver, ServerWins};
pub use sign_out::SignOut;
pub use status::{ConnectionState, Status};
pub use token::{TokenError, TokenFuture, TokenProvider};
pub use transport::sign_in;
pub use upload::Uploaded;
