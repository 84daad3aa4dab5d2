//! `GET /admin/devices?user=…`, `POST /admin/revoke` and `/admin/reinstate` with
//! `{"user": …, "device": …}`: a user's devices, and which may not come in.

use super::operator::Operator;
use crate::http::{ApiError, body};
use crate::service::SyncService;
use crate::store::Access;
use actix_web::{HttpRequest, HttpResponse, web};
use oversync_shared::{DeviceId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// More than any two names.
const MAX_BYTES: usize = 4 * 1024;

pub(super) async fn list(
    service: web::Data<SyncService>,
    _: Operator,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let user = super::user(&super::parameter(&request, "user").unwrap_or_default())?;
    let devices = service.devices(&user).await.map_err(ApiError::from_store)?;
    let devices: Vec<Value> = devices
        .iter()
        .map(|record| {
            json!({
                "device": record.device,
                "highest_source_change_id": record.highest_change_id,
                "last_change_at": record.last_change_at.map(text),
                "revoked_at": record.revoked_at.map(text),
            })
        })
        .collect();
    Ok(HttpResponse::Ok().json(json!({ "user": user, "devices": devices })))
}

fn text(time: OffsetDateTime) -> String {
    time.format(&Rfc3339)
        .expect("BUG: stored times have years of four digits")
}

/// A device of a user, as named in a body.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    user: String,
    #[serde(default)]
    device: String,
}

async fn named(
    service: &SyncService,
    request: &HttpRequest,
    payload: &mut web::Payload,
) -> Result<(UserId, DeviceId), ApiError> {
    let malformed = || ApiError::invalid("the body must be {\"user\": …, \"device\": …}");
    let body = body::read(
        request,
        payload,
        MAX_BYTES,
        service.in_flight(),
        malformed(),
    )
    .await?;
    let named: Named = serde_json::from_str(&body.text).map_err(|_| malformed())?;
    let user = super::user(&named.user)?;
    let device = DeviceId::new(named.device)
        .map_err(|error| ApiError::Invalid(format!("device {error}").into()))?;
    Ok((user, device))
}

pub(super) async fn revoke(
    service: web::Data<SyncService>,
    _: Operator,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    set_access(&service, &request, payload, Access::Revoked).await
}

pub(super) async fn reinstate(
    service: web::Data<SyncService>,
    _: Operator,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    set_access(&service, &request, payload, Access::Admitted).await
}

async fn set_access(
    service: &SyncService,
    request: &HttpRequest,
    mut payload: web::Payload,
    access: Access,
) -> Result<HttpResponse, ApiError> {
    let (user, device) = named(service, request, &mut payload).await?;
    let done = service.set_access(&user, &device, access).await;
    done.map_err(ApiError::from_store)?;
    tracing::info!(%user, %device, ?access, "access set");
    let revoked = access == Access::Revoked;
    Ok(HttpResponse::Ok().json(json!({ "user": user, "device": device, "revoked": revoked })))
}
