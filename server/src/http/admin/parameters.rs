//! What operators ask for, in the query or a small body: each refusal names its field.

use crate::http::{ApiError, body};
use crate::service::SyncService;
use actix_web::{HttpRequest, web};
use oversync_shared::{RowKey, TableName, UserId};
use serde::de::DeserializeOwned;
use std::str::FromStr;

/// The longest body that names something: more than any two names.
const MAX_BYTES: usize = 4 * 1024;

/// The first value of a parameter of the query.
pub(super) fn parameter(request: &HttpRequest, name: &str) -> Option<String> {
    url::form_urlencoded::parse(request.query_string().as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// The same, where an empty one is none.
pub(super) fn given(request: &HttpRequest, name: &str) -> Option<String> {
    parameter(request, name).filter(|value| !value.is_empty())
}

/// Checks a user's name.
pub(super) fn user(name: &str) -> Result<UserId, ApiError> {
    UserId::new(name).map_err(|error| ApiError::Invalid(format!("user {error}").into()))
}

/// The user that a request is about.
pub(super) fn whose(request: &HttpRequest) -> Result<UserId, ApiError> {
    user(&parameter(request, "user").unwrap_or_default())
}

/// How many are wanted: `limit`, from 1 to a number.
pub(super) fn limit(request: &HttpRequest, default: i64, most: i64) -> Result<i64, ApiError> {
    let Some(limit) = number::<i64>(request, "limit")? else {
        return Ok(default);
    };
    if !(1..=most).contains(&limit) {
        let problem = format!("limit must be between 1 and {most}");
        return Err(ApiError::Invalid(problem.into()));
    }
    Ok(limit)
}

/// A whole number, where one is given.
pub(super) fn number<T: FromStr>(request: &HttpRequest, name: &str) -> Result<Option<T>, ApiError> {
    let wrong = |_| ApiError::Invalid(format!("{name} must be a whole number").into());
    given(request, name)
        .map(|text| text.parse().map_err(wrong))
        .transpose()
}

/// The last row of the page before: `after=schema.table/KEY`.
pub(super) fn after_row(request: &HttpRequest) -> Result<Option<(TableName, RowKey)>, ApiError> {
    let Some(text) = given(request, "after") else {
        return Ok(None);
    };
    let row = text.split_once('/').and_then(|(table, key)| {
        let (schema, table) = table.split_once('.')?;
        Some((TableName::parse(schema, table).ok()?, RowKey::parse(key)?))
    });
    let wrong = || ApiError::invalid("after must be schema.table/key, as a page says in next");
    row.ok_or_else(wrong).map(Some)
}

/// The last user of the page before: `after=NAME`.
pub(super) fn after_user(request: &HttpRequest) -> Result<Option<UserId>, ApiError> {
    let after = given(request, "after").as_deref().map(user).transpose();
    after.map_err(|_| ApiError::invalid("after must be a user's name"))
}

/// Cuts a list that was asked for with one more than its limit: the last that is left,
/// where there are more after it.
pub(super) fn cut<T>(list: &mut Vec<T>, limit: i64) -> Option<&T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = list.len() > limit;
    list.truncate(limit);
    list.last().filter(|_| has_more)
}

/// Reads a body that names something; `shape` is how a refusal shows it.
pub(super) async fn named<T: DeserializeOwned>(
    service: &SyncService,
    request: &HttpRequest,
    payload: &mut web::Payload,
    shape: &str,
) -> Result<T, ApiError> {
    let malformed = || ApiError::Invalid(format!("the body must be {shape}").into());
    let room = service.in_flight();
    let body = body::read(request, payload, MAX_BYTES, room, malformed()).await?;
    serde_json::from_str(&body.text).map_err(|_| malformed())
}
