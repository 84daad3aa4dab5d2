//! The binary `oversync`: a shim around [`oversync::cli`].

use cap::Cap;
use std::alloc::System;
use std::process::ExitCode;

/// Counts the bytes that are allocated, for `oversync_live_bytes`; limits nothing.
#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

fn main() -> anyhow::Result<ExitCode> {
    // One cryptography provider for everything that speaks TLS.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("BUG: a TLS provider was installed before main"))?;
    oversync::cli::run(|| MEMORY.allocated())
}
