//! `GET /admin/failures` and `POST /admin/failures/retry`: what could not be
//! projected, of one user or of all, and trying it again.

use super::operator::Operator;
use super::parameters::{cut, given, limit, named, user};
use super::times;
use crate::http::ApiError;
use crate::projection::Retried;
use crate::service::SyncService;
use crate::store::view::{FailureAt, FailureView};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

/// Told at a time, unless asked otherwise …
const PAGE: i64 = 50;

/// … and at most.
const MAX_PAGE: i64 = 100;

pub(super) async fn list(
    service: web::Data<SyncService>,
    operator: Operator,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let limit = limit(&request, PAGE, MAX_PAGE)?;
    let whose = given(&request, "user").as_deref().map(user).transpose()?;
    let after = given(&request, "after").map(|text| at(&text)).transpose()?;
    match &whose {
        Some(user) => operator.looks_at(user, "failures"),
        None => operator.looks_at_everybody("failures"),
    }
    let found = service
        .view()
        .failures(whose.as_ref(), after, limit + 1)
        .await;
    let mut found = found.map_err(ApiError::from_store)?;
    let next = cut(&mut found, limit).map(|last| format!("{}.{}", last.at.user, last.at.id));
    let failures = found.iter().map(failure).collect::<Vec<Value>>();
    Ok(HttpResponse::Ok().json(json!({ "failures": failures, "next": next })))
}

fn at(text: &str) -> Result<FailureAt, ApiError> {
    let parts = text.split_once('.');
    let at = parts.and_then(|(user, id)| {
        Some(FailureAt {
            user: user.parse().ok()?,
            id: id.parse().ok()?,
        })
    });
    at.ok_or_else(|| ApiError::invalid("after must be as a page says in next"))
}

fn failure(found: &FailureView) -> Value {
    json!({
        "user": found.user,
        "id": found.at.id,
        "schema": found.table.schema,
        "table": found.table.table,
        "pk": found.key,
        "attempted_version": found.version,
        "op": found.op.as_str(),
        "payload": found.payload.as_ref().map(|payload| &payload.text),
        "payload_bytes": found.payload.as_ref().map(|payload| payload.bytes),
        "error": found.error,
        "first_seen": times::text(found.first_seen),
        "retry_count": found.retries,
    })
}

/// A failure, as named in a body.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    user: String,
    id: i64,
}

pub(super) async fn retry(
    service: web::Data<SyncService>,
    operator: Operator,
    request: HttpRequest,
    mut payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let shape = "{\"user\": …, \"id\": …}";
    let named: Named = named(&service, &request, &mut payload, shape).await?;
    let user = user(&named.user)?;
    let retried = service.retry(&user, named.id).await;
    let retried = retried.map_err(ApiError::from_store)?;
    let Operator { peer } = operator;
    tracing::info!(%peer, %user, id = named.id, ?retried, "an operator tried a failed row again");
    Ok(HttpResponse::Ok().json(match retried {
        Retried::NotFound => return Err(ApiError::NotFound),
        Retried::InProgress => return Err(ApiError::RetryInProgress),
        Retried::Projected(version) => {
            json!({ "status": "applied", "new_server_version": version })
        }
        Retried::Stale => json!({ "status": "stale" }),
        Retried::Failed(error) => json!({ "status": "materialize_error", "message": error }),
    }))
}
