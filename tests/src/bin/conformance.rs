//! Runs the conformance suite against any server that speaks the protocol.
//!
//! The server must have the tables of `tests/src/conformance/tables.toml`
//! registered, and take HS256 tokens signed with the given secret. Section 5
//! needs two of them as business tables; `--list` says which case needs what.

use anyhow::Context as _;
use clap::Parser;
use oversync_tests::Target;
use oversync_tests::conformance::{Part, cases, run};
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(about)]
struct Arguments {
    /// The server, as in http://127.0.0.1:8080; several are taken in turn.
    #[arg(long, required_unless_present = "list")]
    url: Vec<String>,
    /// The file with the secret that signs its tokens.
    #[arg(long, required_unless_present = "list")]
    secret_file: Option<PathBuf>,
    /// Leave out our extensions (section 7).
    #[arg(long)]
    v1_only: bool,
    /// Leave out what needs business tables (section 5).
    #[arg(long)]
    no_business_tables: bool,
    /// Only print the cases and what each needs of the server.
    #[arg(long)]
    list: bool,
    /// Only cases with this in their name.
    #[arg(long, default_value = "")]
    only: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (cases, left_out): (Vec<_>, Vec<_>) = cases()
        .filter(|case| case.name.contains(&arguments.only))
        .partition(|case| match case.part {
            Part::V1 => true,
            Part::Extension => !arguments.v1_only,
            Part::Projection => !arguments.no_business_tables,
        });
    if arguments.list {
        for case in cases {
            println!("{}: needs {}", case.name, case.part.needs());
        }
        return Ok(());
    }
    let secret_file = arguments.secret_file.context("--secret-file is missing")?;
    let secret =
        std::fs::read_to_string(&secret_file).with_context(|| secret_file.display().to_string())?;
    let targets: Vec<Target> = arguments
        .url
        .iter()
        .map(|url| Target::new(url, secret.trim()))
        .collect();
    let count = cases.len();
    let failures = run(&Target::in_turn(&targets), cases).await;
    for failure in &failures {
        println!("FAILED {failure}");
    }
    println!("{} of {count} cases passed", count - failures.len());
    if !left_out.is_empty() {
        println!("{} cases left out, as asked", left_out.len());
    }
    anyhow::ensure!(failures.is_empty(), "{} cases failed", failures.len());
    Ok(())
}
