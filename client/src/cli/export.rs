//! `oversqlite export`: what only this device has, as JSON lines, one object a
//! line with the list it stands in.

use super::look_at;
use crate::settings::Settings;
use anyhow::Context as _;
use clap::Args;
use oversqlite::Rejected;
use serde_json::json;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(super) struct Export {
    /// Edits that were refused, with the reason.
    #[arg(long)]
    rejected: bool,
    /// What lost in conflicts.
    #[arg(long)]
    conflicts: bool,
    /// Edits that the server has not acknowledged.
    #[arg(long)]
    unsent: bool,
    /// Write to this file instead of standard output; it must not exist.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(database: &Path, export: &Export, as_json: bool) -> anyhow::Result<ExitCode> {
    let Some(path) = &export.output else {
        let mut out = BufWriter::new(std::io::stdout().lock());
        // A reader that has gone away (`| head`) ends the output, not the program.
        match write(database, export, &mut out) {
            Err(error) if is_broken_pipe(&error) => {}
            other => {
                other?;
                let _ = out.flush();
            }
        }
        return Ok(ExitCode::SUCCESS);
    };
    let file = std::fs::File::create_new(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let mut out = BufWriter::new(file);
    let lines = write(database, export, &mut out)?;
    out.into_inner()?.sync_all()?;
    super::print(
        as_json,
        &json!({"type": "exported", "lines": lines, "file": path}),
        &format!("{lines} lines in {}", path.display()),
    );
    Ok(ExitCode::SUCCESS)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Writes the lists that are asked for, all when none is; tells how many lines.
fn write(database: &Path, export: &Export, out: &mut impl Write) -> anyhow::Result<usize> {
    let file = look_at(database)?;
    let all = !(export.rejected || export.conflicts || export.unsent);
    let mut lines = 0;
    let mut line = |list: &str, text: &str| -> anyhow::Result<()> {
        // Put in as text: numbers keep all their digits.
        let rest = text.trim_end().strip_prefix('{').context("no object")?;
        lines += 1;
        Ok(writeln!(out, r#"{{"list":"{list}",{rest}"#)?)
    };
    if all || export.rejected {
        for entry in file.rejected()? {
            line("rejected", &Rejected::to_json_line(&entry))?;
        }
    }
    if all || export.conflicts {
        for entry in file.conflicts()? {
            line("conflict", &serde_json::to_string(&entry)?)?;
        }
    }
    if all || export.unsent {
        let config = Settings::load(database)?.config(database)?;
        let mut failed = Ok(());
        file.unsent(&config, |edit| {
            if failed.is_ok() {
                failed = line("unsent", &edit.to_json_line());
            }
        })?;
        failed?;
    }
    Ok(lines)
}
