//! `/admin/materialize-failures`: the caller's own rows that could not be
//! projected into their business tables, and trying them again.

use super::body;
use super::caller::Caller;
use super::error::ApiError;
use crate::projection::Retried;
use crate::service::SyncService;
use crate::store::{FailureFilter, StoreError};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

/// Failures listed when the caller does not say, or says what cannot be.
const DEFAULT_LIMIT: i64 = 100;

/// Most failures listed at a time.
const MAX_LIMIT: i64 = 1_000;

/// More than any `{"id": n}`.
const MAX_BYTES: usize = 1_024;

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
    };
    let failures = service
        .failures(&identity.user, only, limit)
        .await
        .map_err(ApiError::from_store)?;
    Ok(HttpResponse::Ok().json(failures))
}

#[derive(Deserialize)]
struct RetryBody {
    id: i64,
}

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
        Retried::Projected(version) => {
            json!({ "source_change_id": 0, "status": "applied", "new_server_version": version })
        }
        Retried::Stale => {
            json!({ "source_change_id": 0, "status": "applied", "message": "failure was stale; removed" })
        }
        Retried::Failed(error) => {
            json!({ "source_change_id": 0, "status": "materialize_error", "message": error })
        }
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
