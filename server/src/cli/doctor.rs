//! `oversync doctor`: prints what the examination found. It runs beside servers, and
//! without one.

use super::flags::Flags;
use super::{CANNOT_RUN, block_on, load};
use crate::doctor::{Examination, Gravity, Wanted, WantedRow, examine};
use anyhow::Context as _;
use clap::Args;
use oversync_shared::UserId;
use serde_json::json;
use std::process::ExitCode;
use url::Url;

/// Exit code where something was found.
const FOUND: u8 = 1;

#[derive(Debug, Args)]
pub(super) struct DoctorFlags {
    /// Look at this user's data too.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Say why this row of the user is not where it should be: TABLE/KEY or
    /// SCHEMA.TABLE/KEY.
    #[arg(long, value_name = "TABLE/KEY", requires = "user")]
    row: Option<WantedRow>,
    /// Where the running server is asked [default: where `listen` says].
    #[arg(long, value_name = "URL")]
    server: Option<Url>,
    /// Where its operators ask it [default: where `admin_listen` says].
    #[arg(long, value_name = "URL")]
    operators: Option<Url>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

pub(super) fn run(flags: &DoctorFlags) -> anyhow::Result<ExitCode> {
    let user = flags.user.as_deref().map(UserId::new).transpose();
    let wanted = Wanted {
        user: user.context("--user")?,
        row: flags.row.clone(),
        server: flags.server.clone(),
        operators: flags.operators.clone(),
    };
    // Logs of what it asks would be in the way.
    let found = match load(&flags.flags) {
        Ok(settings) => block_on(examine(&settings, &wanted)),
        Err(error) => Examination::of_unusable_settings(format!("{error:#}")),
    };
    if flags.json {
        let told = json!({
            "verdict": found.verdict(), "looked_at": found.looked_at,
            "findings": found.findings, "not_looked_at": found.not_looked_at,
        });
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        print(&found);
    }
    Ok(match (found.troubles(), found.not_looked_at.is_empty()) {
        (0, true) => ExitCode::SUCCESS,
        (0, false) => ExitCode::from(CANNOT_RUN),
        _ => ExitCode::from(FOUND),
    })
}

fn print(found: &Examination) {
    for (about, what) in &found.looked_at {
        println!("{about:<12} {}", plain(what));
    }
    for (about, why) in &found.not_looked_at {
        println!("{about:<12} could not look: {}", plain(why));
    }
    for finding in &found.findings {
        let word = match finding.gravity {
            Gravity::Note => "note",
            Gravity::Trouble => "trouble",
        };
        println!("\n{word:<12} {}: {}", finding.about, plain(&finding.what));
        println!("             -> {}", plain(&finding.advice));
    }
    println!("\nverdict      {}", plain(&found.verdict()));
}

/// Without control characters: columns and values that a device sent are in it, and a
/// terminal would obey them.
fn plain(text: &str) -> String {
    let spell = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(spell).collect()
}
