//! One upload, decided purely.
//!
//! The path: [`check`] turns what was sent into changes or a fault each;
//! `order.rs` says in which order they are executed; [`decide`] gives every
//! change its verdict and the shell its [`Plan`]. The server's shell loads what
//! [`needs`] names, decides, and writes the plan under a guard that proves the
//! view still true.

mod change;
mod decide;
mod done;
mod fault;
mod fold;
mod order;
mod plan;
mod ring;
mod room;
#[cfg(test)]
mod tests;
mod value;
mod view;

pub use change::{Base, Change, Fingerprint, Link, Offer, RawChange, check};
pub use decide::decide;
pub use fault::Fault;
pub use fold::{Fold, Folded, Leaves, parents};
pub use plan::{CurrentRow, Decision, LogEntry, Plan, RowWrite, Verdict};
pub use room::{Allowed, Amount, Exceeded, Limited, Quota, Room};
pub use value::{ColumnValue, MAX_VALUE_BYTES};
pub use view::{Holder, Needs, Recorded, RowAt, RowState, View, needs};
