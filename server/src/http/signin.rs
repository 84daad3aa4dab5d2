//! `POST /signin`: tokens for the asking, in development only.

use super::body;
use super::error::ApiError;
use crate::auth::TokenMint;
use crate::service::SyncService;
use actix_web::{HttpRequest, HttpResponse, web};
use oversync_shared::wire::{SignInReply, SignInRequest};
use oversync_shared::{DeviceId, UserId};
use std::time::Duration;

/// How long such a token lasts (PROTOCOL.md section 1).
const LIFETIME: Duration = Duration::from_secs(3_600);

/// More than any user name, password and device name.
const MAX_BYTES: usize = 4 * 1024;

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
