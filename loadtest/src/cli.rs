//! The command line, and what its exit status says.

mod compare;
mod drive;
mod floor;

use crate::floor::{Serve, serve};
use crate::scenario::{NAMED, Scenario, text_of};
use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;

/// Devices differ, an acknowledged change is missing, or what had to stay flat
/// did not.
const WRONG: u8 = 1;

/// It could not run: a wrong flag, no server, a scenario with a mistake.
const CANNOT_RUN: u8 = 2;

/// All is right, but a threshold was missed.
const MISSED: u8 = 3;

/// All is right as far as it went until Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Drives fleets of devices against a sync server and says what it carries.
///
/// Exit status 0: right, and no threshold missed. 1: devices differ from the
/// server, an acknowledged change is missing, or memory did not stay flat. 2: it
/// could not run. 3: a threshold (--max-p99-ms, --min-rate, --fail-below) was
/// missed. 130: ended by Ctrl-C, after a report of what was measured.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a scenario, compare all devices with the server, write a report.
    Run(Box<drive::Run>),
    /// List the scenarios that have names, or print one to start from.
    Scenarios(Scenarios),
    /// Compare two reports: a table of ratios, and a page with both curves.
    Compare(compare::Compare),
    /// Measure a floor: the least work that does the same, written by hand.
    Floor(floor::Floor),
    /// Measure rows of the table of figures: ours and the floors in turn.
    Bench(floor::Bench),
    /// Serve a floor over HTTP, for the two above.
    #[command(hide = true)]
    FloorServe(Serve),
}

#[derive(Debug, Args)]
struct Scenarios {
    /// Print this one as TOML, with its comments.
    #[arg(long, value_name = "NAME")]
    show: Option<String>,
}

/// How a command ended, when it could do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Right,
    Wrong,
    Missed,
    Interrupted,
}

/// Runs the command line to its end.
pub fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(run) => in_runtime(run.execute()),
        Command::Scenarios(scenarios) => scenarios.print(),
        Command::Compare(compare) => compare.execute(),
        Command::Floor(floor) => in_runtime(floor.execute()),
        Command::Bench(bench) => in_runtime(bench.execute()),
        Command::FloorServe(wanted) => serve(wanted).map(|()| Ended::Right),
    };
    match done {
        Ok(Ended::Right) => ExitCode::SUCCESS,
        Ok(Ended::Wrong) => WRONG.into(),
        Ok(Ended::Missed) => MISSED.into(),
        Ok(Ended::Interrupted) => INTERRUPTED.into(),
        Err(error) => {
            eprintln!("Error: {error:#}");
            CANNOT_RUN.into()
        }
    }
}

fn in_runtime<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

impl Scenarios {
    fn print(&self) -> anyhow::Result<Ended> {
        match &self.show {
            Some(name) => {
                let text = text_of(name)
                    .with_context(|| format!("{name:?}: no scenario has this name"))?;
                print!("{text}");
            }
            None => {
                for named in NAMED {
                    let (_, scenario) = Scenario::find(named.name)?;
                    println!("{:<10} {}", named.name, scenario.about);
                }
            }
        }
        Ok(Ended::Right)
    }
}
