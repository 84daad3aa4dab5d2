//! `oversync restore`: a backup put back, as a new history.

use super::backup::{in_words, on_terminal};
use super::flags::RestoreFlags;
use super::{block_on, catch_stop, load, start_logs};
use crate::clock::Clock;
use crate::recovery::{Existing, Source, restore};
use anyhow::Context as _;
use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;

pub(super) fn run(flags: &RestoreFlags) -> anyhow::Result<ExitCode> {
    let settings = load(&flags.flags)?;
    start_logs(&settings)?;
    let source = match (&flags.from, flags.replace) {
        (None, _) if flags.in_place => Source::InPlace,
        (from, replace) => {
            let from = from.clone().context("--from")?;
            let existing = match replace {
                true => Existing::Replace,
                false => Existing::Keep,
            };
            Source::Backup(from, existing)
        }
    };
    let (url, step) = (&settings.database_url, flags.step);
    let clock = Clock::system();
    let mut progress = on_terminal();
    let done = block_on(async {
        let stop: Pin<Box<dyn Future<Output = ()>>> = match source {
            // One transaction: who ends the program undoes it.
            Source::InPlace => Box::pin(std::future::pending()),
            Source::Backup(..) => Box::pin(catch_stop()?),
        };
        let mut stop = stop;
        let done = restore(url, &source, step, &clock, &mut progress, stop.as_mut()).await;
        anyhow::Ok(done?)
    })?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&done)?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(backup) = &done.backup {
        println!("restored: {}", in_words(backup));
    }
    let begun = &done.begun;
    println!(
        "a new history has begun: epoch {}, {} users, every stream {} places further up",
        begun.epoch, begun.users, begun.step
    );
    if let Some(kept) = &done.kept {
        println!("what was there before: {}", kept.display());
    }
    if !done.kept_revocations {
        println!("devices that were revoked after the backup was made must be revoked again");
    }
    Ok(ExitCode::SUCCESS)
}
