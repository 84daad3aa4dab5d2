//! Telling connected devices that there is something to download.
//!
//! [`hub`] decides who is told what; [`notifier`] is its actor; [`session`] is
//! one WebSocket; [`relay`] carries heads between
//! processes; [`heads`] asks for them and remembers them, [`quiet`] answers devices
//! that have everything. A hint carries no rows: losing it costs time, never data.

mod announcer;
mod board;
mod flow;
mod heads;
mod hub;
mod nats;
mod notifier;
mod quiet;
mod relay;
mod session;

pub use announcer::{Announcer, Head};
pub use board::Board;
pub use heads::Heads;
pub use nats::{NatsBus, NatsError};
pub use notifier::{LookAtRevoked, Notifier, ShutDown, Watch};
pub use quiet::Quiet;
pub use relay::Relay;
pub use session::Session;
