//! The decision against its tables in PROTOCOL.md, and against a naive model.
//!
//! The model is written separately and without cleverness. Random histories of
//! several devices must come out the same on both.
//!
//! - `written`: changes as a test writes them down, and the tables they are of
//! - `model`: one user as a log that is walked, and what it says to an upload
//! - `naive_order`: in which order the model executes an upload
//! - `agree`: random histories on both, and uploads sent twice
//! - `examples`: the protocol's tables, case by case
//! - `columns`: references that are not to keys
//! - `rings`: rows that need each other
//! - `room`: what a user may have

mod agree;
mod columns;
mod examples;
mod model;
mod naive_order;
mod rings;
mod room;
mod written;
