//! The sync server: one ordered change stream per user, over HTTP and WebSocket,
//! on PostgreSQL or an embedded SQLite file.
//!
//! Run it with the binary `oversync`, or mount it in an actix-web application of
//! your own: start a [`SyncService`] with your [`auth::Authenticator`], and
//! `configure` your `App` with [`routes`]. `examples/embed.rs` shows all of it.

pub mod auth;
pub mod cli;
mod clock;
mod commit;
mod http;
mod live;
pub mod projection;
mod registration;
mod serve;
mod service;
pub mod settings;
pub mod store;
mod upload;
mod user;
pub mod verify;

pub use clock::Clock;
pub use http::{ApiError, Caller, docs_routes, routes};
pub use registration::RegistrationError;
pub use serve::{ServeError, serve};
pub use service::{StartError, SyncService};
pub use settings::Settings;
pub use upload::{NotAnUpload, ReadError, Upload, UploadError};
