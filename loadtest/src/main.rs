//! The binary `loadtest`: drives fleets of devices against a sync server, says
//! what it carries, and checks that nothing got lost on the way.

mod check;
mod cli;
mod edits;
mod fleet;
mod lean;
mod report;
mod scenario;
mod server;

fn main() -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("BUG: a TLS provider was installed before main"))?;
    cli::run()
}
