//! `loadtest compare A B`.

use super::Ended;
use crate::report::{Report, compare};
use anyhow::Context as _;
use clap::Args;
use std::path::PathBuf;

/// Two reports.
#[derive(Debug, Args)]
pub struct Compare {
    /// The earlier report: report.json, or the folder it is in.
    a: PathBuf,
    /// The later one.
    b: PathBuf,
    /// Exit status 3 when any ratio is below this; above 1 the second run did
    /// better, 0.8 allows it to be a fifth worse.
    #[arg(long, value_name = "RATIO")]
    fail_below: Option<f64>,
    /// Where the page goes [default: comparison.html beside the later report].
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

impl Compare {
    pub(super) fn execute(&self) -> anyhow::Result<Ended> {
        let (a, b) = (Report::read(&self.a)?, Report::read(&self.b)?);
        let comparison = compare(&a, &b);
        print!("{}", comparison.to_text());
        let page = self.page.clone().unwrap_or_else(|| self.beside_b());
        std::fs::write(&page, comparison.page()).with_context(|| page.display().to_string())?;
        eprintln!("page: {}", page.display());
        if let Some(least) = self.fail_below
            && comparison.worst() < least
        {
            eprintln!(
                "missed: the worst ratio is {:.2}, below {least}",
                comparison.worst()
            );
            return Ok(Ended::Missed);
        }
        Ok(Ended::Right)
    }

    fn beside_b(&self) -> PathBuf {
        if self.b.is_dir() {
            self.b.join("comparison.html")
        } else {
            self.b.with_file_name("comparison.html")
        }
    }
}
