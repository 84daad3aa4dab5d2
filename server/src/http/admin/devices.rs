//! `GET /admin/devices?user=…`, `POST /admin/revoke` and `/admin/reinstate` with
//! `{"user": …, "device": …}`: a user's devices, and which may not come in.

use super::operator::Operator;
use super::parameters::{named, user, whose};
use super::times;
use crate::http::ApiError;
use crate::service::SyncService;
use crate::store::Access;
use actix_web::{HttpRequest, HttpResponse, web};
use oversync_shared::DeviceId;
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) async fn list(
    service: web::Data<SyncService>,
    operator: Operator,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let user = whose(&request)?;
    operator.looks_at(&user, "devices");
    let devices = service.devices(&user).await.map_err(ApiError::from_store)?;
    let devices: Vec<Value> = devices
        .iter()
        .map(|record| {
            json!({
                "device": record.device,
                "highest_source_change_id": record.highest_change_id,
                "last_change_at": record.last_change_at.map(times::text),
                "revoked_at": record.revoked_at.map(times::text),
            })
        })
        .collect();
    Ok(HttpResponse::Ok().json(json!({ "user": user, "devices": devices })))
}

/// A device of a user, as named in a body.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    user: String,
    #[serde(default)]
    device: String,
}

pub(super) async fn revoke(
    service: web::Data<SyncService>,
    operator: Operator,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    set_access(&service, &operator, &request, payload, Access::Revoked).await
}

pub(super) async fn reinstate(
    service: web::Data<SyncService>,
    operator: Operator,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    set_access(&service, &operator, &request, payload, Access::Admitted).await
}

async fn set_access(
    service: &SyncService,
    operator: &Operator,
    request: &HttpRequest,
    mut payload: web::Payload,
    access: Access,
) -> Result<HttpResponse, ApiError> {
    let shape = "{\"user\": …, \"device\": …}";
    let named: Named = named(service, request, &mut payload, shape).await?;
    let user = user(&named.user)?;
    let device = DeviceId::new(named.device)
        .map_err(|error| ApiError::Invalid(format!("device {error}").into()))?;
    let done = service.set_access(&user, &device, access).await;
    done.map_err(ApiError::from_store)?;
    tracing::info!(peer = operator.peer, %user, %device, ?access, "access set");
    let revoked = access == Access::Revoked;
    Ok(HttpResponse::Ok().json(json!({ "user": user, "device": device, "revoked": revoked })))
}
