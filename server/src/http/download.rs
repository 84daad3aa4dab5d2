//! `GET /sync/download`: a page of the stream, payloads spliced as stored.

use super::caller::{Caller, check_schema_version};
use super::error::ApiError;
use crate::service::SyncService;
use crate::settings::MAX_PAGE;
use crate::store::{Page, PageQuery};
use actix_web::http::header::ContentType;
use actix_web::{HttpRequest, HttpResponse, web};
use oversync_shared::ServerId;
use oversync_shared::names::is_plain_name;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;
use time::format_description::well_known::Rfc3339;

/// Page size when the caller does not say (PROTOCOL.md section 4).
const DEFAULT_LIMIT: i64 = 100;

/// Longest long poll, in seconds (PROTOCOL.md section 7).
const MAX_WAIT: i64 = 60;

struct Query {
    after: ServerId,
    limit: usize,
    until: Option<ServerId>,
    schema: Option<String>,
    include_self: bool,
    epoch: Option<String>,
    wait: Duration,
}

pub(super) async fn download(
    service: web::Data<SyncService>,
    Caller(identity): Caller,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    check_schema_version(&request, &service)?;
    let query = read_query(request.query_string())?;
    let page_query = PageQuery {
        user: identity.user,
        device: identity.device,
        include_self: query.include_self,
        schema: query.schema,
        after: query.after,
        until: query.until,
        limit: query.limit.min(service.settings().limits.max_page),
        epoch: query.epoch.clone(),
    };
    let page = service
        .download(page_query, query.wait)
        .await
        .map_err(ApiError::from_download)?;
    if query.epoch.is_some_and(|epoch| epoch != *page.epoch) {
        return Err(ApiError::EpochMismatch(page.epoch));
    }
    if query.after > ServerId::ZERO && query.after < page.floor {
        return Err(ApiError::HistoryPruned(page.floor));
    }
    let until = query.until.unwrap_or(page.head);
    Ok(HttpResponse::Ok()
        .content_type(ContentType::json())
        .body(write_page(&page, query.after, until)))
}

fn read_query(text: &str) -> Result<Query, ApiError> {
    // The first value of a name counts; an empty one is as good as none.
    let find = |name: &str| -> Option<Cow<'_, str>> {
        url::form_urlencoded::parse(text.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
            .filter(|value| !value.is_empty())
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
    let schema = find("schema").map(Cow::into_owned);
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
        epoch: find("epoch").map(Cow::into_owned),
        wait: Duration::from_secs(wait as u64),
    })
}

/// Writes the reply around the payloads' own text, which is never parsed again.
fn write_page(page: &Page, after: ServerId, until: ServerId) -> String {
    let payloads: usize = page
        .entries
        .iter()
        .map(|entry| entry.payload.as_ref().map_or(0, String::len))
        .sum();
    let mut out = String::with_capacity(payloads + 384 * (page.entries.len() + 1));
    let mut put = |arguments: std::fmt::Arguments<'_>| {
        out.write_fmt(arguments)
            .expect("BUG: a String takes any text")
    };
    put(format_args!("{{\"changes\":["));
    for (index, entry) in page.entries.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let (schema, table) = (&entry.table.schema, &entry.table.table);
        put(format_args!(
            "{comma}{{\"server_id\":{},\"schema\":\"{schema}\",\"table\":\"{table}\",\"op\":\"{}\",\"pk\":\"{}\",",
            entry.server_id,
            entry.op.as_str(),
            entry.key,
        ));
        if let Some(payload) = &entry.payload {
            put(format_args!("\"payload\":{payload},"));
        }
        let source = serde_json::to_string(&*entry.source).expect("BUG: a string serialises");
        let ts = entry
            .ts
            .format(&Rfc3339)
            .expect("BUG: stored times have years of four digits");
        put(format_args!(
            "\"server_version\":{},\"deleted\":{},\"source_id\":{source},\"source_change_id\":{},\"ts\":\"{ts}\"}}",
            entry.version,
            !entry.op.is_upsert(),
            entry.change_id,
        ));
    }
    let epoch = serde_json::to_string(&*page.epoch).expect("BUG: a string serialises");
    let next_after = page.entries.last().map_or(after, |entry| entry.server_id);
    put(format_args!(
        "],\"has_more\":{},\"next_after\":{next_after},\"window_until\":{until},\"epoch\":{epoch},\"head\":{}",
        page.has_more, page.head,
    ));
    if let Some(highest) = page.highest_change_id {
        put(format_args!(",\"highest_source_change_id\":{highest}"));
    }
    put(format_args!("}}"));
    out
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
    }
}
