//! `/admin/materialize-failures`: the caller's own rows that could not be
//! projected into their business tables, and trying them again.

use super::caller::Caller;
use super::error::ApiError;
use super::{answer, body};
use crate::projection::{Failure, Retried};
use crate::service::SyncService;
use crate::store::{FAILURE_PIECE_BYTES, FailureFilter, StoreError};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::{Stream, stream};
use oversync_shared::names::is_plain_name;
use oversync_shared::wire::ErrorBody;
use oversync_shared::{RowVersion, UserId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// Failures listed when the caller does not say, or says what cannot be.
const DEFAULT_LIMIT: i64 = 100;

/// Most failures listed at a time.
const MAX_LIMIT: i64 = 1_000;

/// Room for one piece of a list.
const PIECE_BYTES: usize = FAILURE_PIECE_BYTES as usize;

/// More than any `{"id": n}`.
const MAX_BYTES: usize = 1_024;

/// List the caller's own rows that could not be projected, newest first.
#[utoipa::path(
    get,
    path = "/admin/materialize-failures",
    tag = "projection",
    security(("bearer" = [])),
    params(
        ("schema" = Option<String>, Query, description = "Only this schema."),
        ("table" = Option<String>, Query, description = "Only this table."),
        ("limit" = Option<String>, Query, description = "At most so many, 1 to 1000; anything else counts as 100."),
    ),
    responses(
        (status = 200, description = "The failures.", body = Vec<Failure>),
        (status = 401, description = "No token, or a faulty one: one identical body for every fault.", body = ErrorBody),
        (status = 429, description = "`overloaded`: more than one user or address may ask for; try again after `Retry-After` seconds.", body = ErrorBody, headers(("Retry-After" = String, description = "Seconds."))),
        (status = 500, description = "`internal_error`", body = ErrorBody),
        (status = 503, description = "`overloaded`: try again after `Retry-After` seconds.", body = ErrorBody, headers(("Retry-After" = String, description = "Seconds."))),
    ),
)]
pub(super) async fn list(
    service: web::Data<SyncService>,
    Caller(identity): Caller,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let find = |name: &str| {
        url::form_urlencoded::parse(request.query_string().as_bytes())
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.into_owned())
    };
    let limit = find("limit")
        .and_then(|text| text.parse().ok())
        .filter(|limit| (1..=MAX_LIMIT).contains(limit))
        .unwrap_or(DEFAULT_LIMIT);
    let only = FailureFilter {
        schema: find("schema"),
        table: find("table"),
        before: None,
    };
    // No table is called that; the database need not be asked.
    let names = [&only.schema, &only.table];
    if !names.into_iter().flatten().all(|name| is_plain_name(name)) {
        return Ok(HttpResponse::Ok().json([(); 0]));
    }
    let first = service
        .failures(&identity.user, only.clone(), limit)
        .await
        .map_err(ApiError::from_store)?;
    if is_whole(&first, limit) {
        return answer::value(&first, service.outbox());
    }
    let room = service.outbox().reserve(PIECE_BYTES)?;
    let rest = Rest {
        service: service.into_inner(),
        user: identity.user,
        only,
        limit,
    };
    Ok(answer::in_pieces(pieces(rest, first), room, PIECE_BYTES))
}

/// Whether nothing was left for another piece.
fn is_whole(piece: &[Failure], limit: i64) -> bool {
    let payloads = piece.iter().filter_map(|failure| failure.payload.as_ref());
    let bytes: usize = payloads.map(|payload| payload.get().len()).sum();
    piece.len() as i64 >= limit || (bytes as i64) < FAILURE_PIECE_BYTES
}

/// What is to be read on for a list that does not come in one piece.
struct Rest {
    service: Arc<SyncService>,
    user: UserId,
    only: FailureFilter,
    limit: i64,
}

/// A list of large rows, piece by piece: the next one is read when the caller has
/// taken the last.
fn pieces(rest: Rest, first: Vec<Failure>) -> impl Stream<Item = Result<Vec<u8>, StoreError>> {
    let state = (rest, Some(first), true);
    stream::try_unfold(state, |(mut rest, piece, is_first)| async move {
        let piece = match piece {
            Some(piece) => piece,
            None if rest.limit == 0 => return Ok(None),
            None => {
                let only = rest.only.clone();
                rest.service.failures(&rest.user, only, rest.limit).await?
            }
        };
        let mut text = String::new();
        for (index, failure) in piece.iter().enumerate() {
            text.push(if is_first && index == 0 { '[' } else { ',' });
            text.push_str(&serde_json::to_string(failure).expect("BUG: a failure serialises"));
        }
        rest.only.before = piece.last().map(|failure| failure.id);
        if is_whole(&piece, rest.limit) {
            rest.limit = 0;
            text.push(']');
        } else {
            rest.limit -= piece.len() as i64;
        }
        Ok(Some((text.into_bytes(), (rest, None, false))))
    })
}

#[derive(Deserialize, ToSchema)]
pub(super) struct RetryBody {
    /// Of the failure.
    #[schema(minimum = -9223372036854775808i64, maximum = 9223372036854775807i64)]
    id: i64,
}

/// What became of a retry.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RetryStatus {
    /// The row is written, or there was nothing left to write.
    Applied,
    /// It still cannot be written; the message says why.
    MaterializeError,
}

#[derive(Serialize, ToSchema)]
pub(super) struct RetryReply {
    /// Always 0.
    source_change_id: i64,
    status: RetryStatus,
    /// Of the row that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    new_server_version: Option<RowVersion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    message: Option<String>,
}

impl RetryReply {
    fn said(status: RetryStatus, message: String) -> Self {
        Self {
            source_change_id: 0,
            status,
            new_server_version: None,
            message: Some(message),
        }
    }
}

/// Project the current state of a failed row again.
///
/// `id` comes in the query, or in the body.
#[utoipa::path(
    post,
    path = "/admin/materialize-failures/retry",
    tag = "projection",
    security(("bearer" = [])),
    params(("id" = Option<i64>, Query, minimum = -9223372036854775808i64, maximum = 9223372036854775807i64, description = "The failure; where it is absent, the body names it.")),
    request_body(content = RetryBody, content_type = "application/json"),
    responses(
        (status = 200, description = "What became of it.", body = RetryReply),
        (status = 400, description = "`invalid_request`: missing or invalid id.", body = ErrorBody),
        (status = 401, description = "No token, or a faulty one: one identical body for every fault.", body = ErrorBody),
        (status = 404, description = "`not_found`: no failure of the caller has this id.", body = ErrorBody),
        (status = 408, description = "`request_timeout`: the body came too slowly.", body = ErrorBody),
        (status = 409, description = "`retry_in_progress`", body = ErrorBody),
        (status = 413, description = "`request_too_large`, with `limit_bytes`.", body = ErrorBody),
        (status = 415, description = "`unsupported_encoding`: a Content-Encoding other than identity.", body = ErrorBody),
        (status = 429, description = "`overloaded`: more than one user or address may ask for; try again after `Retry-After` seconds.", body = ErrorBody, headers(("Retry-After" = String, description = "Seconds."))),
        (status = 500, description = "`internal_error`", body = ErrorBody),
        (status = 503, description = "`overloaded`: try again after `Retry-After` seconds.", body = ErrorBody, headers(("Retry-After" = String, description = "Seconds."))),
    ),
)]
pub(super) async fn retry(
    service: web::Data<SyncService>,
    Caller(identity): Caller,
    request: HttpRequest,
    mut payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let bad_id = || ApiError::invalid("missing or invalid id");
    let in_query = url::form_urlencoded::parse(request.query_string().as_bytes())
        .find(|(key, _)| key == "id")
        .map(|(_, value)| value.parse::<i64>().map_err(|_| bad_id()))
        .transpose()?;
    let id = match in_query {
        Some(id) => id,
        None => {
            let body = body::read(
                &request,
                &mut payload,
                MAX_BYTES,
                service.in_flight(),
                bad_id(),
            )
            .await?;
            serde_json::from_str::<RetryBody>(&body.text)
                .map_err(|_| bad_id())?
                .id
        }
    };
    let status = match service
        .retry(&identity.user, id)
        .await
        .map_err(ApiError::from_store)?
    {
        Retried::NotFound => return Err(ApiError::NotFound),
        Retried::InProgress => return Err(ApiError::RetryInProgress),
        Retried::Projected(version) => RetryReply {
            source_change_id: 0,
            status: RetryStatus::Applied,
            new_server_version: Some(version),
            message: None,
        },
        Retried::Stale => RetryReply::said(
            RetryStatus::Applied,
            "failure was stale; removed".to_owned(),
        ),
        Retried::Failed(error) => RetryReply::said(RetryStatus::MaterializeError, error),
    };
    Ok(HttpResponse::Ok().json(status))
}

impl ApiError {
    /// For a storage error on the way to an operator's answer.
    pub(super) fn from_store(error: StoreError) -> Self {
        match error {
            StoreError::Overloaded => Self::Overloaded,
            StoreError::Failed(_) => {
                tracing::error!(%error, "an operator's request failed");
                Self::Internal
            }
        }
    }
}
