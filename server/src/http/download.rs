//! `GET /sync/download`: a page of the stream, payloads spliced as stored.

use super::answer;
use super::caller::{Caller, check_not_revoked, check_schema_version, hear};
use super::error::ApiError;
use crate::admission::DownloadError;
use crate::service::SyncService;
use crate::settings::MAX_PAGE;
use crate::store::{Page, PageQuery, StoreError};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::{Stream, stream};
use oversync_shared::ServerId;
use oversync_shared::names::is_plain_name;
use oversync_shared::wire::{DownloadReply, ErrorBody};
use std::borrow::Cow;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use time::format_description::well_known::Rfc3339;

/// Page size when the caller does not say (PROTOCOL.md section 4).
const DEFAULT_LIMIT: i64 = 100;

/// Longest long poll, in seconds (PROTOCOL.md section 7).
const MAX_WAIT: i64 = 60;

/// The parameters that mean something here.
const NAMES: [&str; 7] = [
    "after",
    "limit",
    "until",
    "schema",
    "include_self",
    "epoch",
    "wait",
];

struct Query {
    after: ServerId,
    limit: usize,
    until: Option<ServerId>,
    schema: Option<String>,
    include_self: bool,
    epoch: Option<String>,
    wait: Duration,
}

/// Page through the change stream.
///
/// Rows with `after` < server id ≤ `until`, ascending, without gaps; the caller's own
/// changes are left out unless asked for. An empty parameter counts as absent; of one
/// that comes twice, the first counts.
#[utoipa::path(
    get,
    path = "/sync/download",
    tag = "sync",
    security(("bearer" = [])),
    params(
        ("after" = Option<i64>, Query, minimum = 0, maximum = 9223372036854775807i64, description = "The device's cursor; 0 when absent."),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 1000, description = "Changes per page; 100 when absent."),
        ("until" = Option<i64>, Query, minimum = 0, maximum = 9223372036854775807i64, description = "The window's upper end; absent or 0: the head now."),
        ("schema" = Option<String>, Query, pattern = "^[a-z0-9_]*$", description = "Only this schema, exactly."),
        ("include_self" = Option<String>, Query, description = "The caller's own changes too, for the exact text `true`."),
        ("epoch" = Option<String>, Query, description = "Refuses to answer unless the server's epoch is this one."),
        ("wait" = Option<i64>, Query, minimum = 0, maximum = 60, description = "Long poll: seconds to wait for something to answer with."),
        ("Oversync-Schema-Version" = i64, Header, description = "The application's schema version; one that the server does not take is a 409."),
    ),
    responses(
        (status = 200, description = "A page.", body = DownloadReply),
        (status = 400, description = "`invalid_request`: a parameter out of its range; the message names it.", body = ErrorBody),
        (status = 401, description = "No token, or a faulty one: one identical body for every fault.", body = ErrorBody),
        (status = 409, description = "`epoch_mismatch`, with `epoch`; or `schema_version_unsupported`, with `schema_version` and `min_schema_version`.", body = ErrorBody),
        (status = 410, description = "`history_pruned`, with `floor`: synchronise again from `after=0`.", body = ErrorBody),
        (status = 429, description = "`overloaded`: more than one user or address may ask for; try again after `Retry-After` seconds.", body = ErrorBody, headers(("Retry-After" = String, description = "Seconds."))),
        (status = 500, description = "`download_failed`", body = ErrorBody),
        (status = 503, description = "`overloaded`: try again after `Retry-After` seconds.", body = ErrorBody, headers(("Retry-After" = String, description = "Seconds."))),
    ),
)]
pub(super) async fn download(
    service: web::Data<SyncService>,
    Caller(identity): Caller,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    check_schema_version(&request, &service)?;
    let heard = hear(&service, &request);
    let query = read_query(request.query_string())?;
    let page_query = PageQuery {
        user: identity.user.clone(),
        device: identity.device.clone(),
        include_self: query.include_self,
        schema: query.schema,
        after: query.after,
        until: query.until,
        limit: query.limit.min(service.limits().max_page),
        max_bytes: PIECE_BYTES,
        epoch: query.epoch.clone(),
    };
    let page = service
        .download(page_query.clone(), query.wait)
        .await
        .map_err(ApiError::from_download)?;
    // It may have waited for a minute.
    check_not_revoked(&service, &identity)?;
    if query.epoch.is_some_and(|epoch| epoch != *page.epoch) {
        return Err(ApiError::EpochMismatch(page.epoch));
    }
    if page.is_pruned_for(query.after) {
        crate::meters::history_pruned();
        return Err(ApiError::HistoryPruned(page.floor));
    }
    if let Some(heard) = heard {
        let who = (&identity.user, &identity.device);
        service.traces().downloaded(&heard, who, &page);
    }
    let until = query.until.unwrap_or(page.head);
    if !page.is_cut {
        let mut text = Vec::with_capacity(size_of(&page));
        text.extend_from_slice(START);
        write_entries(&mut text, &page, true);
        write_end(&mut text, &page, query.after, until);
        return answer::whole(text, service.outbox());
    }
    let room = service.outbox().reserve(size_of(&page))?;
    let rest = PageQuery {
        until: Some(until),
        ..page_query
    };
    let pieces = pieces(service.into_inner(), rest, page);
    Ok(answer::in_pieces(pieces, room, PIECE_BYTES))
}

/// Bytes of payload of one answer held in memory at a time. Far above a usual
/// page, which goes out in one piece.
const PIECE_BYTES: usize = 2 * 1024 * 1024;

const START: &[u8] = b"{\"changes\":[";

/// A page of large rows, piece by piece: the next one is read when the caller
/// has taken the last. The entries of a window never change, so the pieces fit.
fn pieces(
    service: Arc<SyncService>,
    query: PageQuery,
    first: Page,
) -> impl Stream<Item = Result<Vec<u8>, DownloadError>> {
    let (after, until) = (query.after, query.until.unwrap_or(first.head));
    let (epoch, fold) = (first.epoch.clone(), first.fold);
    let state = (query, Some(first), true);
    stream::try_unfold(state, move |(mut query, page, is_first)| {
        let (service, epoch) = (service.clone(), epoch.clone());
        async move {
            let page = match page {
                Some(page) => page,
                None if query.limit == 0 => return Ok(None),
                None => service.next_piece(query.clone(), after).await?,
            };
            let is_elsewhere = query.after < page.floor && page.fold != fold;
            if page.epoch != epoch || is_elsewhere || page.is_pruned_for(query.after) {
                let changed = "the history changed while a page was sent";
                return Err(StoreError::Failed(changed.to_owned()).into());
            }
            let mut text = Vec::with_capacity(size_of(&page));
            if is_first {
                text.extend_from_slice(START);
            }
            write_entries(&mut text, &page, is_first);
            let last = page
                .entries
                .last()
                .map_or(query.after, |entry| entry.server_id);
            if page.is_cut {
                query.limit -= page.entries.len();
                query.after = last;
            } else {
                write_end(&mut text, &page, after.max(last), until);
                query.limit = 0;
            }
            Ok(Some((text, (query, None, false))))
        }
    })
}

fn read_query(text: &str) -> Result<Query, ApiError> {
    let mut values: [Option<Cow<'_, str>>; NAMES.len()] = Default::default();
    for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
        if let Some(place) = NAMES.iter().position(|known| *known == name) {
            values[place].get_or_insert(value);
        }
    }
    // The first value of a name counts; an empty one is as good as none.
    let find = |wanted: &str| -> Option<&Cow<'_, str>> {
        let mut named = NAMES.iter().zip(&values);
        let (_, value) = named.find(|(name, _)| **name == wanted)?;
        value.as_ref().filter(|value| !value.is_empty())
    };
    let integer = |name: &str, message: &'static str| -> Result<Option<i64>, ApiError> {
        find(name)
            .map(|value| value.parse().map_err(|_| ApiError::invalid(message)))
            .transpose()
    };
    let after = integer("after", "after must be an integer")?.unwrap_or(0);
    if after < 0 {
        return Err(ApiError::invalid("after must be >= 0"));
    }
    let limit = integer("limit", "limit must be an integer")?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_PAGE as i64).contains(&limit) {
        return Err(ApiError::invalid("limit must be between 1 and 1000"));
    }
    let until = integer("until", "until must be an integer")?.unwrap_or(0);
    if until < 0 {
        return Err(ApiError::invalid("until must be >= 0"));
    }
    let schema = find("schema").map(|name| name.to_string());
    if schema
        .as_deref()
        .is_some_and(|schema| !is_plain_name(schema))
    {
        return Err(ApiError::invalid("invalid schema name"));
    }
    let bad_wait = "wait must be between 0 and 60";
    let wait = integer("wait", bad_wait)?.unwrap_or(0);
    if !(0..=MAX_WAIT).contains(&wait) {
        return Err(ApiError::invalid(bad_wait));
    }
    Ok(Query {
        after: ServerId::new(after),
        limit: limit as usize,
        until: (until > 0).then(|| ServerId::new(until)),
        schema,
        include_self: find("include_self").is_some_and(|value| value == "true"),
        epoch: find("epoch").map(|epoch| epoch.to_string()),
        wait: Duration::from_secs(wait as u64),
    })
}

fn size_of(page: &Page) -> usize {
    let payloads = page
        .entries
        .iter()
        .map(|entry| entry.payload.as_ref().map_or(0, String::len));
    payloads.sum::<usize>() + 384 * (page.entries.len() + 1)
}

/// Writes entries around the payloads' own text, which is never parsed again.
fn write_entries(out: &mut Vec<u8>, page: &Page, mut is_first: bool) {
    // Entries of one device stand together more often than not.
    let mut source: (&str, String) = ("", String::new());
    for entry in &page.entries {
        let comma = if is_first { "" } else { "," };
        is_first = false;
        let (schema, table) = (&entry.table.schema, &entry.table.table);
        put(
            out,
            format_args!(
                "{comma}{{\"server_id\":{},\"schema\":\"{schema}\",\"table\":\"{table}\",\"op\":\"{}\",\"pk\":\"{}\",",
                entry.server_id,
                entry.op.as_str(),
                entry.key,
            ),
        );
        if let Some(payload) = &entry.payload {
            out.extend_from_slice(b"\"payload\":");
            out.extend_from_slice(payload.as_bytes());
            out.push(b',');
        }
        if source.0 != &*entry.source || source.1.is_empty() {
            source = (&entry.source, json_string(&entry.source));
        }
        put(
            out,
            format_args!(
                "\"server_version\":{},\"deleted\":{},\"source_id\":{},\"source_change_id\":{},\"ts\":\"",
                entry.version,
                !entry.op.is_upsert(),
                source.1,
                entry.change_id,
            ),
        );
        entry
            .ts
            .format_into(out, &Rfc3339)
            .expect("BUG: stored times have years of four digits");
        out.extend_from_slice(b"\"}");
    }
}

fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("BUG: a string serialises")
}

fn put(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments)
        .expect("BUG: a vector takes any bytes");
}

/// Writes what follows the entries; `after` is where an empty page stays.
fn write_end(out: &mut Vec<u8>, page: &Page, after: ServerId, until: ServerId) {
    let epoch = json_string(&page.epoch);
    let next_after = page.entries.last().map_or(after, |entry| entry.server_id);
    put(
        out,
        format_args!(
            "],\"has_more\":{},\"next_after\":{next_after},\"window_until\":{until},\"epoch\":{epoch},\"head\":{}",
            page.has_more, page.head,
        ),
    );
    if let Some(highest) = page.highest_change_id {
        put(out, format_args!(",\"highest_source_change_id\":{highest}"));
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let message = |text: &str| read_query(text).err().map(|error| error.to_string());
        for (text, expected) in [
            ("after=x", "after must be an integer"),
            ("after=1.5", "after must be an integer"),
            ("after=9223372036854775808", "after must be an integer"),
            ("after=-1", "after must be >= 0"),
            ("limit=", ""),
            ("limit=x", "limit must be an integer"),
            ("limit=0", "limit must be between 1 and 1000"),
            ("limit=1001", "limit must be between 1 and 1000"),
            ("until=x", "until must be an integer"),
            ("until=-1", "until must be >= 0"),
            ("schema=Business", "invalid schema name"),
            ("schema=a%20b", "invalid schema name"),
            ("wait=61", "wait must be between 0 and 60"),
            ("wait=x", "wait must be between 0 and 60"),
            ("", ""),
        ] {
            assert_eq!(message(text).unwrap_or_default(), expected, "{text}");
        }
        let query = read_query("after=7&include_self=TRUE&until=0&limit=1000").expect("valid");
        assert!(!query.include_self && query.until.is_none() && query.after == ServerId::new(7));
        assert!(read_query("include_self=true").expect("valid").include_self);
        // The first of a name counts, also an empty one; names and values may be
        // written in any way that forms write them.
        let query = read_query("after=5&after=x&limit=&limit=7&other=1&%65poch=a%20b+c");
        let query = query.expect("valid");
        assert_eq!((query.after, query.limit), (ServerId::new(5), 100));
        assert_eq!(query.epoch.as_deref(), Some("a b c"));
    }
}
