//! `oversync migrate`: from the embedded store to PostgreSQL.

use super::backup::on_terminal;
use super::flags::MigrateFlags;
use super::{block_on, load, start_logs};
use crate::clock::Clock;
use crate::recovery::{migrate, undo};
use std::process::ExitCode;

pub(super) fn run(flags: &MigrateFlags) -> anyhow::Result<ExitCode> {
    let mut settings = load(&flags.flags)?;
    start_logs(&settings)?;
    if let Some(to) = &flags.to {
        settings.database_url.clone_from(to);
    }
    if flags.undo {
        let back = block_on(undo(&flags.from, &settings))?;
        if flags.json {
            println!("{}", serde_json::to_string_pretty(&back)?);
        } else {
            println!(
                "taken back: start servers on {} again; no server starts on {}, which may be dropped",
                back.file.display(),
                back.moved_to
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (clock, mut progress) = (Clock::system(), on_terminal());
    let moved = block_on(migrate(&flags.from, &settings, &clock, &mut progress))?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&moved)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "moved: {} users, {} changes, epoch {}; {} live rows for business tables; verified",
        moved.contents.users, moved.contents.entries, moved.contents.epoch, moved.business_rows
    );
    println!(
        "start servers on the new database only: {} is marked as moved",
        flags.from
    );
    Ok(ExitCode::SUCCESS)
}
