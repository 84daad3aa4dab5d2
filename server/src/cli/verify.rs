//! `oversync verify`: prints what differs, and how much was looked at.

use super::flags::VerifyFlags;
use super::{PROGRESS_PAUSE, block_on, load, start_logs};
use crate::verify::{Checked, Wanted, verify};
use anyhow::Context as _;
use oversync_shared::UserId;
use std::process::ExitCode;
use std::time::Instant;

/// Exit code of `verify` when it found a difference.
const DIFFERENT: u8 = 1;

pub(super) fn run(flags: &VerifyFlags) -> anyhow::Result<ExitCode> {
    let settings = load(&flags.flags)?;
    start_logs(&settings)?;
    let user = flags.user.as_deref().map(UserId::new).transpose();
    let user = user.context("--user")?;
    let wanted = if flags.all {
        Wanted::All
    } else {
        Wanted::First
    };
    let mut told = Instant::now();
    let mut progress = |checked: &Checked| {
        if told.elapsed() >= PROGRESS_PAUSE {
            told = Instant::now();
            eprintln!("so far: {checked}");
        }
    };
    let report = block_on(verify(&settings, user.as_ref(), wanted, &mut progress))?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for difference in &report.differences {
            println!("{difference}");
        }
        let result = match report.differences.len() {
            0 => "all is right".to_owned(),
            1 => "1 difference".to_owned(),
            several => format!("{several} differences"),
        };
        println!("{result}; checked {}", report.checked);
    }
    Ok(if report.differences.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DIFFERENT)
    })
}
