//! The device side of oversync: keeps one user's data the same on all that
//! user's devices.
//!
//! The application owns its SQLite file and writes to it as ever. This crate
//! captures every commit by triggers, uploads it, hears of other devices'
//! changes by hints, downloads and applies them. Offline edits wait in the file.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("notes.db");
//! # let server = "http://127.0.0.1:1";
//! # rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, text)")?;
//! use oversqlite::{Client, Config, UserId};
//!
//! let user = UserId::new("user-ada")?;
//! let token = || async { Ok("from your own sign-in".to_owned()) };
//! let config = Config::new(&path, server, user, token).table("notes");
//! let client = Client::open(config).await?;
//! client.start()?;
//!
//! // Hear what other devices change, as it happens.
//! let mut changes = client.changes();
//! tokio::spawn(async move {
//!     while let Some(change) = changes.next().await {
//!         println!("{change:?}");
//!     }
//! });
//!
//! // Write as ever, online or not: the engine wakes by itself.
//! let db = client.connection()?;
//! db.execute("INSERT INTO notes VALUES ('0f8fad5b-d9cb-469f-a165-70867728950e', 'hello')", [])?;
//!
//! // Is everything on the server? Nobody listens at this one.
//! let status = client.status().await?;
//! assert_eq!(status.unsent, 1);
//! client.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | a program without an async runtime | [`blocking`] |
//! | one exchange when asked, instead of the engine | [`Client::sync`], [`Client::upload_once`], [`Client::download_once`] |
//! | whether all is sent, how far behind, why not | [`Client::status`], [`Client::status_stream`] |
//! | screens that follow the data | [`Client::changes`] |
//! | what two devices changed differently | [`Config::merge_column`], [`Config::resolver`], [`Client::conflicts`] |
//! | what the server refused | [`Client::rejected`] |
//! | tokens that end | [`TokenProvider`] |
//! | holding back, handing the device on | [`Client::pause`], [`Client::sign_out`] |
//! | why a row is not where it should be | [`diagnose`] |
//! | one change, from device to device, as a trace | [`Config::traces`] |
//!
//! The examples `quickstart`, `blocking` and `two_devices` run against a server.
//!
//! Every future of this crate may be dropped at any time: what was frozen is sent
//! again, and what was begun in the file is finished there.
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
//!
//! # Which SQLite may write
//!
//! The file may be written by any program, in whatever SQLite that has: everything
//! this crate puts there is understood since 3.8.2 (2013), and held against 3.17.0
//! (2017) by a test; what the application itself puts there may ask for more (generated
//! columns for 3.31, STRICT for 3.37). Before 3.25, `ALTER TABLE … RENAME TO` leaves
//! the old name inside the triggers: the table cannot be written until a client has
//! opened the file with the new one.

mod ahead;
mod apply;
mod backoff;
pub mod blocking;
mod capture;
mod changes;
mod claims;
mod client;
mod clock;
mod config;
mod conflicts;
mod core;
mod db;
mod declared;
mod discover;
mod doctor;
mod download;
mod engine;
mod error;
mod field_merge;
mod hand;
mod key;
mod learned;
mod listener;
mod lists;
mod lock;
mod log;
mod long_poll;
mod outbox;
mod parked;
mod pause;
mod payload;
mod place;
mod progress;
mod reach;
mod rejected;
mod resolver;
mod resync;
mod round;
mod row;
mod schema;
mod settle;
mod shadow;
mod sign_out;
mod state;
mod status;
mod step;
mod store;
mod sweep;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod trace;
mod transport;
mod triggers;
mod unsent;
mod upgrade;
mod upload;
mod wake;

pub use changes::{Changed, Changes};
pub use claims::Claims;
pub use client::{Client, Inspection, Synced, inspect};
pub use config::{Config, TableSpec};
pub use conflicts::ConflictRecord;
pub use doctor::{
    Diagnosis, Finding, Gravity, LastChange, Obstacle, RowDiagnosis, RowHere, RowThere, RowVerdict,
    ServerFacts, Symptom, diagnose,
};
pub use download::Downloaded;
pub use error::{Error, NetworkError, SetupError, StorageError};
pub use field_merge::{DeletePolicy, FieldMerge};
pub use oversync_shared::merge::{
    ColumnChoice, ColumnConflict, ColumnPolicy, Lost, Merged, Side, Stands,
};
pub use oversync_shared::wire::{SignInReply, UserQuotas};
pub use oversync_shared::{DeviceId, RowKey, RowVersion, ServerId, UserId};
pub use parked::Parked;
pub use pause::{Direction, Paused};
pub use progress::Progress;
pub use rejected::Rejected;
pub use resolver::{ClientWins, Conflict, NewestBy, Resolution, Resolver, ServerWins};
pub use sign_out::SignOut;
pub use status::{ConnectionState, Status};
pub use step::Step;
pub use token::{TokenError, TokenFuture, TokenProvider};
pub use transport::sign_in;
pub use unsent::{Stage, Unsent};
pub use upload::Uploaded;
