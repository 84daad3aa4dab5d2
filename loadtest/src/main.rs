//! The binary `loadtest`: drives fleets of devices against a sync server, says
//! what it carries, and checks that nothing got lost on the way.

mod bench;
mod check;
mod cli;
mod clock;
mod devices;
mod due;
mod facts;
mod floor;
mod http;
mod life;
mod live;
mod measure;
mod report;
mod run;
mod scenario;
mod server;
mod sources;
mod target;

use std::process::ExitCode;

fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("BUG: a TLS provider was installed before main");
    cli::run()
}
