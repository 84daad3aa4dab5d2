//! `POST /signin`: tokens for the asking, in development only.

use super::body;
use super::error::ApiError;
use crate::auth::TokenMint;
use crate::service::SyncService;
use actix_web::{HttpRequest, HttpResponse, web};
use oversync_shared::wire::{ErrorBody, SignInReply, SignInRequest};
use oversync_shared::{DeviceId, UserId};
use std::time::Duration;

/// How long such a token lasts (PROTOCOL.md section 1).
const LIFETIME: Duration = Duration::from_secs(3_600);

/// More than any user name, password and device name.
const MAX_BYTES: usize = 4 * 1024;

/// A token for the asking, good for an hour.
#[utoipa::path(
    post,
    path = "/signin",
    tag = "development",
    request_body = SignInRequest,
    responses(
        (status = 200, description = "The token.", body = SignInReply),
        (status = 400, description = "`invalid_request`", body = ErrorBody),
        (status = 408, description = "`request_timeout`: the body came too slowly.", body = ErrorBody),
        (status = 413, description = "`request_too_large`, with `limit_bytes`.", body = ErrorBody),
        (status = 415, description = "`unsupported_encoding`: a Content-Encoding other than identity.", body = ErrorBody),
        (status = 503, description = "`overloaded`: try again after `Retry-After` seconds.", body = ErrorBody, headers(("Retry-After" = String, description = "Seconds."))),
    ),
)]
pub(super) async fn sign_in(
    service: web::Data<SyncService>,
    mint: web::Data<TokenMint>,
    request: HttpRequest,
    mut payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let malformed = || ApiError::invalid("Failed to parse sign-in request");
    let body = body::read(
        &request,
        &mut payload,
        MAX_BYTES,
        service.in_flight(),
        malformed(),
    )
    .await?;
    let asked: SignInRequest = serde_json::from_str(&body.text).map_err(|_| malformed())?;
    if asked.username.is_empty() {
        return Err(ApiError::invalid("username is empty"));
    }
    let user = UserId::new(format!("user-{}", asked.username))
        .map_err(|error| ApiError::Invalid(format!("username {error}").into()))?;
    let device = DeviceId::new(asked.device_id)
        .map_err(|error| ApiError::Invalid(format!("device_id {error}").into()))?;
    let token = mint.mint(&user, &device, service.clock().now(), LIFETIME);
    Ok(HttpResponse::Ok().json(SignInReply {
        token,
        user_id: user.to_string(),
        device_id: device.to_string(),
    }))
}
