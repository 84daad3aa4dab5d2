//! Telling connected devices that there is something to download.
//!
//! [`hub`] decides who is told what; [`notifier`] is its actor; [`session`] is
//! one WebSocket; [`relay`] carries heads between
//! processes. A hint carries no rows: losing it costs time, never data.

mod announcer;
mod board;
mod flow;
mod hub;
mod notifier;
mod relay;
mod session;

pub use announcer::Announcer;
pub use board::Board;
pub use notifier::{LookAtRevoked, Notifier, ShutDown, Watch};
pub use relay::Relay;
pub use session::Session;
