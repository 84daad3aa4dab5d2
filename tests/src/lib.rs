//! The harness of the integration tests: real server processes, real databases,
//! plain HTTP devices, and the conformance suite.
//!
//! Every test has its own database and its own port, so that all of them run at
//! once. Nothing here sleeps until something is ready: a server says on its
//! standard output where it listens, and everything else goes through
//! [`eventually`].

pub mod admin;
pub mod app;
pub mod authority;
pub mod backend;
pub mod browser;
pub mod canary;
pub mod collector;
mod config;
pub mod conformance;
pub mod device;
mod eventually;
pub mod folding;
pub mod fuzz;
pub mod meddler;
pub mod nats;
pub mod nginx;
pub mod old_sqlite;
pub mod port;
pub mod proxy;
pub mod seed;
pub mod server;
pub mod socket;
pub mod story;
pub mod target;

pub use admin::{ADMIN_TOKEN, Admin};
pub use app::App;
pub use authority::Authority;
pub use backend::{Backend, Database};
pub use config::Config;
pub use device::{HttpDevice, Reply};
pub use eventually::{eventually, within};
pub use nats::Nats;
pub use seed::Seed;
pub use server::{Port, Server};
pub use socket::{Event, Refused, Socket};
pub use target::Target;

/// Runs stories on every store: for each `async fn story(backend: Backend)` a
/// module of the same name with the tests `embedded` and `postgres`.
#[macro_export]
macro_rules! on_both_stores {
    ($($story:ident),+ $(,)?) => {$(
        mod $story {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn embedded() {
                super::$story($crate::Backend::Embedded).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                super::$story($crate::Backend::Postgres).await;
            }
        }
    )+};
}
