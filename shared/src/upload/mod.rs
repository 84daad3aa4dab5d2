//! One upload, decided purely.
//!
//! The path: [`check`] turns what was sent into changes or a fault each;
//! `order.rs` says in which order they are executed; [`decide`] gives every
//! change its verdict and the shell its [`Plan`]. The server's shell loads what
//! [`needs`] names, decides, and writes the plan under a guard that proves the
//! view still true.

mod change;
mod decide;
mod fault;
mod order;
#[cfg(test)]
mod tests;

pub use change::{Base, Change, ColumnValue, Fingerprint, Link, Offer, RawChange, check};
pub use decide::{
    CurrentRow, Decision, Holder, LogEntry, Needs, Plan, Recorded, RowAt, RowState, RowWrite,
    Verdict, View, decide, needs,
};
pub use fault::Fault;
