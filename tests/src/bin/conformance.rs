//! Runs the conformance suite against any server that speaks the protocol.
//!
//! The server must have the tables of `tests/src/conformance/tables.toml`
//! registered, and take HS256 tokens signed with the given secret.

use anyhow::Context as _;
use clap::Parser;
use oversync_tests::Target;
use oversync_tests::conformance::{Part, cases, run};
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(about)]
struct Arguments {
    /// The server, as in http://127.0.0.1:8080; several are taken in turn.
    #[arg(long, required = true)]
    url: Vec<String>,
    /// The file with the secret that signs its tokens.
    #[arg(long)]
    secret_file: PathBuf,
    /// Leave out our extensions (section 7).
    #[arg(long)]
    v1_only: bool,
    /// Only cases with this in their name.
    #[arg(long, default_value = "")]
    only: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let secret = std::fs::read_to_string(&arguments.secret_file)
        .with_context(|| arguments.secret_file.display().to_string())?;
    let targets: Vec<Target> = arguments
        .url
        .iter()
        .map(|url| Target::new(url, secret.trim()))
        .collect();
    let cases: Vec<_> = cases()
        .filter(|case| !arguments.v1_only || case.part == Part::V1)
        .filter(|case| case.name.contains(&arguments.only))
        .collect();
    let count = cases.len();
    let failures = run(&Target::in_turn(&targets), cases).await;
    for failure in &failures {
        println!("FAILED {failure}");
    }
    println!("{} of {count} cases passed", count - failures.len());
    anyhow::ensure!(failures.is_empty(), "{} cases failed", failures.len());
    Ok(())
}
