//! `oversqlite doctor`: says what is the matter, and what to do. The examination
//! is the library's; this prints it.

use super::print;
use super::progress::Bar;
use crate::settings::Settings;
use anyhow::{Context as _, bail};
use oversqlite::{Diagnosis, Gravity, RowDiagnosis, ServerFacts, Status};
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

pub(super) async fn run(
    database: &Path,
    row: Option<&str>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let row = match row {
        Some(text) => match text.split_once('/') {
            Some((table, key)) if !table.is_empty() && !key.is_empty() => Some((table, key)),
            _ => bail!(super::Usage(format!(
                "--row wants TABLE/KEY, for example users/0f8fad5b-d9cb-469f-a165-70867728950e, not \"{text}\""
            ))),
        },
        None => None,
    };
    let config = Settings::load(database)?.config(database)?;
    let bar = Bar::positions("reading the server's history", as_json);
    let found = oversqlite::diagnose(&config, row, |position, head| bar.reached(position, head))
        .await
        .with_context(|| format!("{} cannot be examined", database.display()))?;
    bar.finish();
    print(as_json, &found, text(database, &found).trim_end());
    Ok(match found.gravity {
        Gravity::Trouble => ExitCode::from(9),
        _ if found.is_offline() => ExitCode::from(3),
        Gravity::Waiting => ExitCode::from(8),
        Gravity::Note => ExitCode::SUCCESS,
    })
}

fn text(database: &Path, found: &Diagnosis) -> String {
    let mut out = String::new();
    let _ = write!(out, "file      {}", database.display());
    if let Some(status) = &found.status {
        let _ = write!(out, ": {}", file(status));
    }
    match &found.server {
        Some(server) => server_text(&mut out, server),
        None => out.push_str("\nserver    not reached"),
    }
    let _ = write!(
        out,
        "\nversions  oversqlite {}, SQLite {}\n",
        found.client_version, found.sqlite_version
    );
    for finding in &found.findings {
        let word = match finding.gravity {
            Gravity::Trouble => "trouble",
            Gravity::Waiting => "waiting",
            Gravity::Note => "note",
        };
        let _ = write!(
            out,
            "\n{word:<9} {}\n          -> {}",
            finding.what, finding.advice
        );
    }
    if !found.findings.is_empty() {
        out.push('\n');
    }
    if let Some(row) = &found.row {
        row_text(&mut out, row);
    }
    let _ = write!(out, "\nverdict   {}", found.verdict);
    out
}

fn file(status: &Status) -> String {
    format!(
        "{} on device {}; position {}, {} unsent, {} rejected, {} parked",
        status.user, status.device, status.cursor, status.unsent, status.rejected, status.parked
    )
}

fn server_text(out: &mut String, server: &ServerFacts) {
    let _ = write!(
        out,
        "\nserver    {}: answers in {} ms",
        server.url, server.answered_in_ms
    );
    if let Some(ahead) = server.clock_ahead_s {
        let _ = write!(out, ", its clock {ahead:+} s");
    }
    if let Some(name) = &server.app_name {
        let _ = write!(out, ", application {name}");
    }
    if let Some((oldest, newest)) = server.schema_versions {
        let _ = write!(out, ", schema versions {oldest} to {newest}");
    }
    if let Some(quotas) = server.quotas {
        let limits = [
            ("rows", quotas.user_rows),
            ("bytes", quotas.user_bytes),
            ("devices", quotas.user_devices.map(u64::from)),
        ];
        for (name, limit) in limits {
            if let Some(limit) = limit {
                let _ = write!(out, ", at most {limit} {name}");
            }
        }
    }
    if let Some(head) = server.head {
        let _ = write!(out, ", head {head}");
    }
    match server.hints {
        Some(true) => out.push_str(", WebSocket open"),
        Some(false) => out.push_str(", no WebSocket"),
        None => {}
    }
    if let Some(user) = &server.token_user {
        let device = server.token_device.as_deref().unwrap_or("?");
        let _ = write!(out, "\ntoken     {user} on device {device}");
        if let Some(left) = server.token_ends_in_s {
            let _ = match left {
                ..=0 => write!(out, ", ended"),
                _ => write!(out, ", good for {left} s"),
            };
        }
    }
}

fn row_text(out: &mut String, row: &RowDiagnosis) {
    let _ = write!(out, "\nrow       {}/{}", row.table, row.key);
    if let Some(here) = &row.here {
        let stands = if here.present {
            "stands in the table"
        } else {
            "is not in the table"
        };
        let _ = write!(out, "\n          here: {stands}, version {}", here.version);
        if let Some(payload) = &here.payload {
            let _ = write!(out, ", {payload}");
        }
    }
    match row.there.as_ref().map(|there| (&there.last, there)) {
        Some((Some(last), _)) => {
            let what = last.payload.as_deref().unwrap_or("deleted");
            let _ = write!(
                out,
                "\n          server: version {} at position {}, by {}, {what}",
                last.version, last.server_id, last.device
            );
        }
        Some((None, there)) if there.not_read_below > 0 => {
            let _ = write!(
                out,
                "\n          server: no change of it behind position {} of {}; older ones were not read",
                there.not_read_below, there.head
            );
        }
        Some((None, _)) => out.push_str("\n          server: has never had it"),
        None => out.push_str("\n          server: not asked"),
    }
    let _ = write!(
        out,
        "\n          {}\n          -> {}\n",
        row.what, row.advice
    );
}
