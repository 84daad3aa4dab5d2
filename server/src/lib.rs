//! The sync server: one ordered change stream per user, over HTTP and WebSocket,
//! on PostgreSQL or an embedded SQLite file.
//!
//! Run it with the binary `oversync`, or mount it in an actix-web application of
//! your own: start a [`SyncService`] with your [`auth::Authenticator`], and
//! `configure` your `App` with [`routes`]. `examples/embed.rs` shows all of it;
//! `examples/handlers.rs` shows tables whose rows your own code writes
//! ([`store::handler`]). [`admin_routes`] are the operators' routes, for a listener
//! of their own.

mod admission;
pub mod auth;
mod certificates;
pub mod cli;
mod clock;
mod commit;
mod doctor;
mod drift;
mod epoch;
mod http;
mod live;
mod meters;
mod outbox;
pub mod projection;
mod quotas;
mod rates;
mod recent;
mod recovery;
mod references;
mod registration;
mod reload;
mod requests;
mod retention;
mod serve;
mod service;
pub mod settings;
mod storage;
pub mod store;
mod trace;
mod unknown;
mod upload;
mod user;
pub mod verify;

pub use admission::{Class, Crowded, DownloadError};
pub use clock::Clock;
pub use http::{ApiError, Caller, MetricsText, admin_routes, docs_routes, routes};
pub use live::NatsError;
pub use oversync_shared::upload::Base;
pub use registration::RegistrationError;
pub use serve::{Operators, ServeError, bound_connection, serve};
pub use service::{RowError, StartError, SyncService};
pub use settings::Settings;
pub use store::handler::Handlers;
pub use upload::{NotAnUpload, ReadError, ServerChange, Upload, UploadError};
