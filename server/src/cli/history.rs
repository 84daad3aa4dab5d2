//! `oversync history`: all that was ever written to a user's rows, as JSON lines in the
//! order of the stream. Reads beside running servers, as `verify` does.

use super::flags::HistoryFlags;
use super::{block_on, load, start_logs};
use crate::store::audit;
use crate::store::history::{Only, Written};
use anyhow::{Context as _, anyhow, bail};
use oversync_shared::wire::Op;
use oversync_shared::{RowKey, ServerId, TableName, UserId};
use serde::Serialize;
use serde_json::value::RawValue;
use std::io::{BufWriter, ErrorKind, Write};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An entry as it is printed: what a download says of it, and whether it was folded.
#[derive(Serialize)]
struct Line<'a> {
    server_id: ServerId,
    ts: Option<String>,
    source_id: &'a str,
    source_change_id: i64,
    schema: &'a str,
    table: &'a str,
    op: Op,
    pk: String,
    server_version: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    folded: bool,
}

pub(super) fn run(wanted: &HistoryFlags) -> anyhow::Result<()> {
    let user = UserId::new(&*wanted.user.user).context("--user")?;
    let only = only(wanted)?;
    let settings = load(&wanted.user.flags)?;
    start_logs(&settings)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let printed = block_on(print(&settings.database_url, &user, &only, &mut out));
    let printed = printed.and_then(|()| Ok(out.flush()?));
    match printed {
        // Who reads has had enough.
        Err(error) if is_closed(&error) => Ok(()),
        other => other,
    }
}

fn is_closed(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == ErrorKind::BrokenPipe)
}

fn only(wanted: &HistoryFlags) -> anyhow::Result<Only> {
    let table = wanted.table.as_deref().map(|name| {
        let (schema, table) = name.split_once('.').unwrap_or(("", name));
        TableName::parse(schema, table).context("--table")
    });
    let key = wanted
        .pk
        .as_deref()
        .map(|text| RowKey::parse(text).ok_or_else(|| anyhow!("--pk: {text:?} is no UUID")));
    let since = wanted.since.as_deref().map(|text| {
        OffsetDateTime::parse(text, &Rfc3339)
            .with_context(|| format!("--since: {text:?} is no time as in 2026-01-31T00:00:00Z"))
    });
    Ok(Only {
        table: table.transpose()?,
        key: key.transpose()?,
        since: since.transpose()?,
    })
}

async fn print(url: &str, user: &UserId, only: &Only, out: &mut impl Write) -> anyhow::Result<()> {
    let mut audit = audit::open(url).await?;
    let mut after = ServerId::ZERO;
    loop {
        let Some(entries) = audit.history(user, after, only).await? else {
            bail!("there is no user {user}");
        };
        let Some(last) = entries.last() else {
            return Ok(());
        };
        after = last.server_id;
        for entry in &entries {
            write_line(entry, out)?;
        }
    }
}

fn write_line(entry: &Written, out: &mut impl Write) -> anyhow::Result<()> {
    // White space between its parts; inside of texts it is escaped.
    let payload = entry.payload.as_deref();
    let payload = payload.map(|text| text.replace(['\n', '\r'], " "));
    let payload = payload
        .map(|text| {
            let at = entry.server_id;
            RawValue::from_string(text).with_context(|| format!("entry {at} is damaged"))
        })
        .transpose()?;
    let line = Line {
        server_id: entry.server_id,
        ts: entry.ts.map(|ts| ts.format(&Rfc3339)).transpose()?,
        source_id: &entry.device,
        source_change_id: entry.change_id.get(),
        schema: &entry.table.schema,
        table: &entry.table.table,
        op: entry.op,
        pk: entry.key.to_string(),
        server_version: entry.version.get(),
        payload: payload.as_deref(),
        folded: entry.is_folded,
    };
    serde_json::to_writer(&mut *out, &line).map_err(std::io::Error::from)?;
    Ok(out.write_all(b"\n")?)
}
