//! The authenticated caller of a request.

use super::error::ApiError;
use crate::auth::Identity;
use crate::rates::Address;
use crate::service::SyncService;
use crate::trace::Heard;
use actix_web::dev::Payload;
use actix_web::http::header::X_FORWARDED_FOR;
use actix_web::{FromRequest, HttpRequest, web};
use oversync_shared::ServerId;
use oversync_shared::wire::{APPLIED_HEADER, SCHEMA_VERSION_HEADER};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// Who is calling, as the service's authenticator says. As a handler argument
/// it refuses requests that it does not know, and more of them than the settings
/// allow one address and one user.
#[derive(Debug, Clone)]
pub struct Caller(pub Identity);

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let service = request
                .app_data::<web::Data<SyncService>>()
                .expect("BUG: the routes are mounted with their service");
            if let Some(address) = address_of(&request, service) {
                service.rates().address_request(address)?;
            }
            let token = service
                .auth()
                .token_of(&request)
                .ok_or(ApiError::Unauthenticated)?;
            let identity = service
                .auth()
                .authenticate(token)
                .await
                .map_err(|_| ApiError::Unauthenticated)?;
            service.rates().user_request(&identity.user)?;
            if let Some((place, age)) = applied(&request) {
                service.applied(&identity.user, &identity.device, place, age);
            }
            Ok(Self(identity))
        })
    }
}

/// What a device has applied last, and how long ago: `Oversync-Applied: 17; age=250`.
/// What is not understood is not there.
fn applied(request: &HttpRequest) -> Option<(ServerId, Duration)> {
    let text = request.headers().get(APPLIED_HEADER)?.to_str().ok()?;
    let (place, age) = text.split_once(';')?;
    let place: i64 = place.trim().parse().ok()?;
    let age: u32 = age.trim().strip_prefix("age=")?.parse().ok()?;
    Some((ServerId::new(place), Duration::from_millis(age.into())))
}

/// Where a request comes from; unknown of a listener that is no network's.
pub(super) fn address_of(request: &HttpRequest, service: &SyncService) -> Option<Address> {
    let peer = request.peer_addr()?.ip();
    let forwarded: Vec<&str> = request
        .headers()
        .get_all(X_FORWARDED_FOR)
        .filter_map(|value| value.to_str().ok())
        .collect();
    Some(service.rates().address(peer, forwarded.into_iter()))
}

/// Refuses a device that was revoked since its request began.
pub(super) fn check_not_revoked(
    service: &SyncService,
    identity: &Identity,
) -> Result<(), ApiError> {
    if service.revoked().contains(&identity.user, &identity.device) {
        return Err(ApiError::Unauthenticated);
    }
    Ok(())
}

/// Notes when the request came and of which trace it is part, where spans are written.
pub(in crate::http) fn hear(service: &SyncService, request: &HttpRequest) -> Option<Heard> {
    let traceparent = request.headers().get("traceparent");
    service
        .traces()
        .hear(traceparent.and_then(|value| value.to_str().ok()))
}

/// Refuses applications that are too old or too new for this server. A device
/// that does not say is taken as it is.
pub(super) fn check_schema_version(
    request: &HttpRequest,
    service: &SyncService,
) -> Result<(), ApiError> {
    let Some(header) = request.headers().get(SCHEMA_VERSION_HEADER) else {
        return Ok(());
    };
    let version: i64 = header
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or(ApiError::invalid(
            "Oversync-Schema-Version must be an integer",
        ))?;
    if service.takes_schema_version(version) {
        return Ok(());
    }
    let settings = service.settings();
    Err(ApiError::SchemaVersion {
        newest: settings.schema_version,
        oldest: settings.min_schema_version,
    })
}
