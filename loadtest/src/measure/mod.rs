//! What is measured while a run goes on: latencies by stage, work done and
//! errors per second ([`Recorder`]), what processes use ([`process`]), what the
//! server tells of itself ([`told`]), how fast
//! the disk makes things durable ([`probe`]), and on what machine ([`machine`]).

pub mod machine;
pub mod others;
pub mod probe;
pub mod process;
mod recorder;
mod sampler;
pub mod told;

pub use recorder::{Glance, Recorder, Stage};
pub use sampler::{Sampler, Watched};
