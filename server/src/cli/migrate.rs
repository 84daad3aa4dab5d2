//! `oversync migrate`: from the embedded store to PostgreSQL.

use super::backup::on_terminal;
use super::flags::MigrateFlags;
use super::{block_on, load, start_logs};
use crate::recovery::migrate;
use std::process::ExitCode;

pub(super) fn run(flags: &MigrateFlags) -> anyhow::Result<ExitCode> {
    let mut settings = load(&flags.flags)?;
    start_logs(&settings)?;
    if let Some(to) = &flags.to {
        settings.database_url.clone_from(to);
    }
    let mut progress = on_terminal();
    let moved = block_on(migrate(&flags.from, &settings, &mut progress))?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&moved)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "moved: {} users, {} changes, epoch {}; {} live rows for business tables; verified",
        moved.contents.users, moved.contents.entries, moved.contents.epoch, moved.business_rows
    );
    println!(
        "start servers on the new database only: never again one on {}",
        flags.from
    );
    Ok(ExitCode::SUCCESS)
}
