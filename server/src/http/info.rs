//! What this server is, and whether it works.

use super::caller::Caller;
use crate::service::SyncService;
use actix_web::{HttpResponse, web};
use oversync_shared::wire::SchemaVersion;
use serde_json::json;

pub(super) async fn schema_version(service: web::Data<SyncService>, _: Caller) -> HttpResponse {
    HttpResponse::Ok().json(SchemaVersion {
        schema_version: service.settings().schema_version,
    })
}

pub(super) async fn capabilities(service: web::Data<SyncService>, _: Caller) -> HttpResponse {
    HttpResponse::Ok().json(service.capabilities())
}

/// The process answers.
pub(super) async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// The database answers too.
pub(super) async fn ready(service: web::Data<SyncService>) -> HttpResponse {
    match service.ping().await {
        Ok(()) => HttpResponse::Ok().json(json!({ "status": "ready" })),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            HttpResponse::ServiceUnavailable().json(json!({ "status": "database unreachable" }))
        }
    }
}
