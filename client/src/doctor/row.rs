//! One row: everything the file keeps about it, and its last change on the
//! server.

use super::network::Reader;
use crate::config::Config;
use crate::error::{Error, NetworkError};
use crate::key::{LocalKey, RowRef};
use crate::row::{exists, known, read, to_payload};
use crate::schema::{KeyKind, Table, Tables};
use crate::transport::PageRequest;
use oversync_shared::wire::DownloadChange;
use oversync_shared::{RowKey, ServerId};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
use uuid::Uuid;

const FACTS: &str = include_str!("../../../migrations/device/row_facts.sql");

/// A refusal, or an entry that cannot be written: which, why, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Obstacle {
    /// The number in the rejected list, or the version of the parked entry.
    pub number: i64,
    /// A code.
    pub reason: String,
    /// In words; may be empty.
    pub detail: String,
}

/// What the file says about a row.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RowHere {
    /// Whether it stands in the table.
    pub present: bool,
    /// As it would be sent.
    pub payload: Option<String>,
    /// The server's version of it that this file holds; 0: none.
    pub version: i64,
    /// Whether that version was a deletion.
    pub deleted: bool,
    /// An edit that the triggers have noted and nobody has looked at yet.
    pub captured: bool,
    /// An edit that waits to be sent.
    pub pending: bool,
    /// The change id of an edit that is sent until it is answered.
    pub change_id: Option<i64>,
    /// When the oldest of these was first seen, in seconds since 1970.
    pub since: Option<i64>,
    /// The row that the edit waits for.
    pub waits_for: Option<String>,
    /// Whether that one is in the rejected list.
    pub waits_for_rejected: bool,
    /// A newer version of the server's that met the edit, and waits for it.
    pub met_version: Option<i64>,
    /// The refused edit.
    pub rejected: Option<Obstacle>,
    /// The newest version of the server's that cannot be written here.
    pub parked: Option<Obstacle>,
    /// Conflicts of the past in which something was lost.
    pub conflicts: i64,
}

/// The last change of a row on the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastChange {
    /// Its position in the stream.
    pub server_id: i64,
    /// The row's version from then on.
    pub version: i64,
    /// Whether it was a deletion.
    pub deleted: bool,
    /// The row; none when it was deleted.
    pub payload: Option<String>,
    /// The device that sent it.
    pub device: String,
    /// That device's number for it.
    pub change_id: i64,
    /// When the server took it.
    pub at: String,
}

/// What the server says about a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowThere {
    /// None when the server has never had it, or not since `not_read_below`.
    pub last: Option<LastChange>,
    /// The user's head at that time.
    pub head: i64,
    /// Changes at or below this position were not looked at: the stream is long, and
    /// is read from its end. 0: all that can matter were.
    pub not_read_below: i64,
}

/// What the file could say.
pub(super) enum Look {
    /// No listed table fits, or no client has opened the file.
    NoTables,
    /// The table is not among those that are synchronised.
    UnknownTable,
    /// The key is no UUID; whether such a row stands in the table, and its
    /// refusal.
    BadKey(bool, Option<Obstacle>),
    Row(RowHere),
}

/// A row's name for people.
pub(crate) fn name(conn: &Connection, row: RowRef) -> Result<String, Error> {
    let sql = "SELECT name FROM _sync_table WHERE n = ?1";
    let table: Option<String> = conn
        .query_row(sql, [row.tbl], |found| found.get(0))
        .optional()?;
    Ok(format!("{}/{}", table.as_deref().unwrap_or("?"), row.key))
}

/// Reads everything the file keeps about a row.
pub(super) fn look(
    conn: &Connection,
    tables: &Option<Tables>,
    table: &str,
    key: &str,
) -> Result<Look, Error> {
    let Some(tables) = tables else {
        return Ok(Look::NoTables);
    };
    let Some(table) = tables.by_name(table) else {
        return Ok(Look::UnknownTable);
    };
    let Some(canonical) = RowKey::parse(key) else {
        let local = LocalKey(Value::Text(key.to_owned()));
        let sql =
            "SELECT id, reason, detail FROM _sync_rejected WHERE tbl = ?1 AND local_key IS ?2";
        let refused = conn
            .query_row(sql, params![table.n, local], why)
            .optional()?;
        return Ok(Look::BadKey(exists(conn, table, &local)?, refused));
    };
    let row = RowRef::new(table, canonical);
    let mut here = facts(conn, table, row)?;
    let local = spelling(conn, table, row, key)?;
    if let Some(cells) = read(conn, table, &local)? {
        here.present = true;
        here.payload = to_payload(conn, table, row, &cells)?.ok();
    }
    let noted = "SELECT 1 FROM _sync_touched WHERE tbl = ?1 AND key IS ?2 AND op > 0";
    here.captured = conn.prepare(noted)?.exists(params![table.n, local])?;
    Ok(Look::Row(here))
}

fn why(row: &rusqlite::Row<'_>) -> rusqlite::Result<Obstacle> {
    Ok(Obstacle {
        number: row.get(0)?,
        reason: row.get(1)?,
        detail: row.get(2)?,
    })
}

fn facts(conn: &Connection, table: &Table, row: RowRef) -> Result<RowHere, Error> {
    type Parent = (Option<i64>, Option<Uuid>);
    let parameters = params![row.tbl, row.pk(), table.wire, row.key.to_string()];
    let (mut here, parent): (RowHere, Parent) = conn.query_row(FACTS, parameters, |found| {
        let one = |number: usize| -> rusqlite::Result<Option<Obstacle>> {
            let Some(reason) = found.get(number + 1)? else {
                return Ok(None);
            };
            Ok(Some(Obstacle {
                number: found.get(number)?,
                reason,
                detail: found.get(number + 2)?,
            }))
        };
        let (sent, seen): (Option<i64>, Option<i64>) = (found.get(3)?, found.get(5)?);
        let here = RowHere {
            version: found.get::<_, Option<i64>>(0)?.unwrap_or(0),
            deleted: found.get(1)?,
            change_id: found.get(2)?,
            pending: found.get(4)?,
            since: sent.into_iter().chain(seen).min(),
            met_version: found.get(8)?,
            rejected: one(9)?,
            parked: one(12)?,
            conflicts: found.get(15)?,
            ..RowHere::default()
        };
        Ok((here, (found.get(6)?, found.get(7)?)))
    })?;
    if let (Some(tbl), Some(pk)) = parent {
        let parent = RowRef {
            tbl,
            key: RowKey::new(pk),
        };
        here.waits_for = Some(name(conn, parent)?);
        let refused = "SELECT 1 FROM _sync_rejected WHERE tbl = ?1 AND pk = ?2";
        here.waits_for_rejected = conn.prepare(refused)?.exists(params![tbl, pk])?;
    }
    Ok(here)
}

/// The key as the table has it: as it is known, as it was asked for, or in one
/// of the usual spellings.
fn spelling(conn: &Connection, table: &Table, row: RowRef, asked: &str) -> Result<LocalKey, Error> {
    let as_known = known(conn, table, row)?.key;
    if table.key_kind == KeyKind::Blob {
        return Ok(as_known);
    }
    let (dashed, simple) = (row.pk().to_string(), row.pk().simple().to_string());
    let texts = [
        asked.to_owned(),
        dashed.to_uppercase(),
        simple.to_uppercase(),
        dashed,
        simple,
    ];
    let others = texts.into_iter().map(|text| LocalKey(Value::Text(text)));
    for key in std::iter::once(as_known.clone()).chain(others) {
        if exists(conn, table, &key)? {
            return Ok(key);
        }
    }
    Ok(as_known)
}

/// Requests that looking for a row's last change may cost.
const MOST_REQUESTS: usize = 100;

/// Reads the stream for the row's last change, from its end: what was changed of late
/// is found soon, and what is never found costs [`MOST_REQUESTS`]. None when the
/// server stops answering.
///
/// Any server can be asked so: positions ascend, and a page's end can be named.
pub(super) async fn ask(
    reader: &Reader,
    config: &Config,
    table: &str,
    key: &str,
    progress: &mut impl FnMut(i64, i64),
) -> Option<RowThere> {
    let mut search = Search {
        reader,
        schema: &config.schema,
        table: table.to_lowercase(),
        key: RowKey::parse(key)?,
        requests: 0,
    };
    // A short stream is read in one request; of a long one this tells the end.
    let first = search.part(0, None).await.ok()?;
    let head = first.head;
    let there = |last, not_read_below| {
        let found = RowThere {
            last,
            head,
            not_read_below,
        };
        Some(found)
    };
    let (mut until, mut width) = (first.until, reader.page);
    while until > first.reached {
        if search.requests >= MOST_REQUESTS {
            return there(None, until);
        }
        let step = i64::try_from(width).unwrap_or(i64::MAX);
        let mut after = until.saturating_sub(step).max(first.reached);
        let (from, mut last, mut seen) = (after, None, 0);
        while after < until {
            if search.requests >= MOST_REQUESTS {
                return there(None, until);
            }
            let part = match search.part(after, Some(until)).await {
                Ok(part) => part,
                // What is older has been forgotten.
                Err(NetworkError::HistoryPruned { .. }) => return there(None, until),
                Err(_) => return None,
            };
            last = part.last.or(last);
            seen += part.count;
            after = part.reached;
        }
        if last.is_some() {
            return there(last, 0);
        }
        // Positions that are far apart: a server that counts all users' changes.
        if seen < reader.page / 2 {
            width = width.saturating_mul(2);
        }
        until = from;
        progress(head.saturating_sub(until), head);
    }
    there(first.last, 0)
}

/// Who looks for which row.
struct Search<'a> {
    reader: &'a Reader,
    schema: &'a str,
    table: String,
    key: RowKey,
    requests: usize,
}

/// One page of the stream.
struct Part {
    /// The row's last change in it.
    last: Option<LastChange>,
    count: usize,
    /// Everything up to here has been looked at.
    reached: i64,
    /// The end of the window.
    until: i64,
    head: i64,
}

impl Search<'_> {
    async fn part(&mut self, after: i64, until: Option<i64>) -> Result<Part, NetworkError> {
        self.requests += 1;
        let request = PageRequest {
            after: ServerId::new(after),
            limit: self.reader.page,
            schema: self.schema.to_owned(),
            until: until.map(ServerId::new),
            include_self: true,
            epoch: None,
        };
        let page = self.reader.transport.download(&request).await?;
        let (next, until) = (page.next_after.get(), page.window_until.get());
        let newest = page.changes.iter().rev();
        let mut of_row = newest.filter(|change| {
            change.table == self.table && RowKey::parse(&change.pk) == Some(self.key)
        });
        Ok(Part {
            last: of_row.next().map(LastChange::of),
            count: page.changes.len(),
            // A page that does not move on would be asked for for ever.
            reached: match page.has_more && next > after {
                true => next,
                false => until,
            },
            until,
            head: page.head.unwrap_or(page.window_until).get(),
        })
    }
}

impl LastChange {
    fn of(change: &DownloadChange) -> Self {
        Self {
            server_id: change.server_id.get(),
            version: change.server_version.get(),
            deleted: change.deleted,
            payload: change.payload.as_deref().map(|raw| raw.get().to_owned()),
            device: change.source_id.clone(),
            change_id: change.source_change_id.get(),
            at: change.ts.clone(),
        }
    }
}
