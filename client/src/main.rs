//! The binary `oversqlite`: a shim around [`cli::run`].

mod cli;
#[cfg(feature = "otlp")]
mod otlp;
mod settings;
mod sql;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("OVERSQLITE_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error")),
        )
        .with_writer(std::io::stderr)
        .init();
    #[cfg(feature = "otlp")]
    let _spans = match otlp::Export::begin() {
        Ok(spans) => spans,
        Err(error) => {
            eprintln!("oversqlite: {error:#}");
            return ExitCode::from(2);
        }
    };
    cli::run().await
}
