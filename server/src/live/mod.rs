//! Telling connected devices that there is something to download.
//!
//! [`hub`] decides who is told what; [`notifier`] is its actor, [`members`] are
//! whom it tells; [`session`] is
//! one WebSocket; [`relay`] carries heads between
//! processes; [`heads`] asks for them and remembers them, [`quiet`] answers devices
//! that have everything, [`newest`] those that are a few changes behind; [`feed`] and
//! [`connected`] are for operators who watch. A hint carries no rows: losing it costs time, never data.

mod announcer;
mod board;
mod bucket;
mod connected;
mod feed;
mod flow;
mod heads;
mod hub;
mod members;
mod nats;
mod newest;
mod notifier;
mod quiet;
mod relay;
mod session;
mod slot;

pub use announcer::{Announcer, Head};
pub use board::Board;
pub use connected::{Connected, WhichDevices, WhoIsConnected};
pub use feed::{Event, Feed, Happened};
pub use heads::Heads;
pub use nats::{NatsBus, NatsError};
pub use newest::Newest;
pub use notifier::{LookAtRevoked, Notifier, ShutDown, Watch};
pub use quiet::Quiet;
pub use relay::Relay;
pub use session::Session;
