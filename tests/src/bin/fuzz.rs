//! Fuzzes a part of the product for some seconds.
//!
//! ```text
//! cargo run -p oversync-tests --bin fuzz -- --seconds 30
//! ```

use clap::{Parser, ValueEnum as _};
use oversync_tests::fuzz::{Campaign, Name, run};
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Debug, Parser)]
#[command(about)]
struct Arguments {
    /// What to fuzz; several may be named, none means all.
    targets: Vec<Name>,
    /// How long, for each.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Where the cases come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this case.
    #[arg(long)]
    case: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let targets = match &*arguments.targets {
        [] => Name::value_variants(),
        some => some,
    };
    let campaign = Campaign {
        seed: arguments.seed,
        case: arguments.case,
        budget: Duration::from_secs(arguments.seconds),
    };
    for target in targets {
        let started = Instant::now();
        match run(*target, campaign) {
            Ok(cases) => println!(
                "{}: {cases} cases of seed {} in {:.1} s, all as they must be",
                target.text(),
                campaign.seed,
                started.elapsed().as_secs_f64()
            ),
            Err(failure) => {
                println!("FAILED {failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
