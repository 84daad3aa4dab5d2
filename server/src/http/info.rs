//! What this server is, and whether it works.

use super::caller::Caller;
use crate::service::SyncService;
use actix_web::{HttpResponse, web};
use oversync_shared::wire::{Capabilities, ErrorBody, SchemaVersion};
use serde::Serialize;
use utoipa::ToSchema;

/// The application's schema version this server runs.
#[utoipa::path(
    get,
    path = "/sync/schema-version",
    tag = "sync",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "The version.", body = SchemaVersion),
        (status = 401, description = "No token, or a faulty one: one identical body for every fault.", body = ErrorBody),
        (status = 429, description = "`overloaded`: more than one user or address may ask for; try again after `Retry-After` seconds.", body = ErrorBody, headers(("Retry-After" = String, description = "Seconds."))),
    ),
)]
pub(super) async fn schema_version(service: web::Data<SyncService>, _: Caller) -> HttpResponse {
    HttpResponse::Ok().json(SchemaVersion {
        schema_version: service.settings().schema_version,
    })
}

/// Limits and features.
#[utoipa::path(
    get,
    path = "/sync/capabilities",
    tag = "sync",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "What this server can do.", body = Capabilities),
        (status = 401, description = "No token, or a faulty one: one identical body for every fault.", body = ErrorBody),
        (status = 429, description = "`overloaded`: more than one user or address may ask for; try again after `Retry-After` seconds.", body = ErrorBody, headers(("Retry-After" = String, description = "Seconds."))),
    ),
)]
pub(super) async fn capabilities(service: web::Data<SyncService>, _: Caller) -> HttpResponse {
    HttpResponse::Ok().json(service.capabilities())
}

/// Whether it works, in a word.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    status: &'static str,
}

/// The process answers.
#[utoipa::path(
    get,
    path = "/health",
    tag = "health",
    responses((status = 200, description = "It does.", body = Health)),
)]
pub(super) async fn health() -> HttpResponse {
    HttpResponse::Ok().json(Health { status: "ok" })
}

/// The database answers too.
#[utoipa::path(
    get,
    path = "/ready",
    tag = "health",
    responses(
        (status = 200, description = "It does.", body = Health),
        (status = 503, description = "It does not.", body = Health),
    ),
)]
pub(super) async fn ready(service: web::Data<SyncService>) -> HttpResponse {
    match service.ping().await {
        Ok(()) => HttpResponse::Ok().json(Health { status: "ready" }),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            HttpResponse::ServiceUnavailable().json(Health {
                status: "database unreachable",
            })
        }
    }
}
