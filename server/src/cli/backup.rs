//! `oversync backup`: a copy of the whole database, beside a running server.

use super::flags::BackupFlags;
use super::{PROGRESS_PAUSE, block_on, catch_stop, load, start_logs};
use crate::clock::Clock;
use crate::recovery::{Existing, Manifest, backup};
use crate::store::recovery::Far;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Instant;

pub(super) fn run(flags: &BackupFlags) -> anyhow::Result<ExitCode> {
    let settings = load(&flags.flags)?;
    start_logs(&settings)?;
    let existing = if flags.force {
        Existing::Replace
    } else {
        Existing::Keep
    };
    let (url, to) = (&settings.database_url, &flags.to);
    let clock = Clock::system();
    let mut progress = on_terminal();
    let manifest = block_on(async {
        let stop = std::pin::pin!(catch_stop()?);
        anyhow::Ok(backup(url, to, existing, &clock, &mut progress, stop).await?)
    })?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&manifest)?);
    } else {
        println!("{}: {}", to.display(), in_words(&manifest));
    }
    Ok(ExitCode::SUCCESS)
}

/// A manifest in a line.
pub(super) fn in_words(manifest: &Manifest) -> String {
    let contents = &manifest.contents;
    format!(
        "{} users, {} changes, schema step {}, epoch {}, taken at {}",
        contents.users, contents.entries, contents.schema_step, contents.epoch, manifest.taken_at
    )
}

/// Says now and then how far it is, where somebody looks.
pub(super) fn on_terminal() -> impl FnMut(Far) + Send {
    let is_watched = std::io::stderr().is_terminal();
    let mut told = Instant::now();
    move |far: Far| {
        if is_watched && told.elapsed() >= PROGRESS_PAUSE {
            told = Instant::now();
            match far.of {
                0 => eprintln!("so far: {}", far.done),
                of => eprintln!("so far: {} of about {of}", far.done),
            }
        }
    }
}
