//! The binary `oversync`: a shim around [`oversync::cli`].

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    // One cryptography provider for everything that speaks TLS.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("BUG: a TLS provider was installed before main"))?;
    oversync::cli::run()
}
