//! The words and the rules of oversync.
//!
//! Server and device both depend on this crate and never on each other. It
//! holds the identifiers, the wire types of `docs/PROTOCOL.md`, the byte-level
//! JSON scan, and the pure decisions of both sides. Nothing here does I/O,
//! reads a clock, draws a random number or awaits: every function can be
//! replayed from its arguments.

pub mod catalog;
mod graph;
pub mod ids;
pub mod json;
pub mod key;
pub mod merge;
pub mod names;
#[cfg(test)]
mod properties;
pub mod reconcile;
pub mod trace;
pub mod upload;
pub mod wire;

pub use catalog::{Catalog, TableIx};
pub use ids::{ChangeId, DeviceId, RowVersion, ServerId, UserId};
pub use key::RowKey;
pub use names::TableName;
