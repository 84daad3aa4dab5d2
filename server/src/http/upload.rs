//! `POST /sync/upload`

use super::caller::{Caller, check_not_revoked, check_schema_version, hear};
use super::error::ApiError;
use super::openapi::UploadBody;
use super::{
    answer,
    body::{self, Body},
};
use crate::meters;
use crate::service::SyncService;
use crate::trace::Heard;
use crate::upload::{NotAnUpload, ReadError, Upload, UploadError};
use actix_web::{HttpRequest, HttpResponse, web};
use oversync_shared::wire::{ErrorBody, UploadReply};
use std::time::Instant;

/// Apply a batch of changes.
///
/// One status per change, in request order. All that are `applied` commit together;
/// a change that is not leaves no trace.
#[utoipa::path(
    post,
    path = "/sync/upload",
    tag = "sync",
    security(("bearer" = [])),
    params(("Oversync-Schema-Version" = i64, Header, description = "The application's schema version; one that the server does not take is a 409.")),
    request_body(content = Option<UploadBody>, content_type = "application/json"),
    responses(
        (status = 200, description = "Each change with what became of it.", body = UploadReply),
        (status = 400, description = "`invalid_request`: not JSON, not an object, a wrongly typed field, nested deeper than 64, a key twice.", body = ErrorBody),
        (status = 401, description = "No token, or a faulty one: one identical body for every fault.", body = ErrorBody),
        (status = 408, description = "`request_timeout`: the body came too slowly.", body = ErrorBody),
        (status = 409, description = "`epoch_mismatch`, with `epoch`; or `schema_version_unsupported`, with `schema_version` and `min_schema_version`. Nothing was applied.", body = ErrorBody),
        (status = 413, description = "`request_too_large`, with `limit_bytes`.", body = ErrorBody),
        (status = 415, description = "`unsupported_encoding`: a Content-Encoding other than identity.", body = ErrorBody),
        (status = 429, description = "`overloaded`: more than one user or address may ask for; try again after `Retry-After` seconds.", body = ErrorBody, headers(("Retry-After" = String, description = "Seconds."))),
        (status = 500, description = "`upload_failed`", body = ErrorBody),
        (status = 503, description = "`overloaded`: try again after `Retry-After` seconds.", body = ErrorBody, headers(("Retry-After" = String, description = "Seconds."))),
    ),
)]
pub(super) async fn upload(
    service: web::Data<SyncService>,
    Caller(identity): Caller,
    request: HttpRequest,
    mut payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    check_schema_version(&request, &service)?;
    let heard = hear(&service, &request);
    let body = read(&service, &request, &mut payload).await?;
    check_not_revoked(&service, &identity)?;
    let upload = service.read_upload(&body.text, &identity.user, &identity.device);
    let upload = upload.map_err(|error| refusal(&service, error))?;
    apply(&service, upload, body, heard).await
}

/// Reads the body of a request that changes rows, a device's or the server's own.
pub(in crate::http) async fn read(
    service: &SyncService,
    request: &HttpRequest,
    payload: &mut web::Payload,
) -> Result<Body, ApiError> {
    let limit = service.limits().max_body_bytes;
    let room = service.in_flight();
    let began = Instant::now();
    let body = body::read(request, payload, limit, room, NotAnUpload.into()).await?;
    meters::body(began.elapsed());
    Ok(body)
}

/// The answer to a body that is no upload.
pub(in crate::http) fn refusal(service: &SyncService, error: ReadError) -> ApiError {
    match error {
        ReadError::NotAnUpload(error) => error.into(),
        ReadError::Absurd => ApiError::TooLarge(service.limits().max_body_bytes),
    }
}

/// Applies what stood in a body, and answers.
pub(in crate::http) async fn apply(
    service: &SyncService,
    mut upload: Upload,
    body: Body,
    heard: Option<Heard>,
) -> Result<HttpResponse, ApiError> {
    upload.room = Some(body.room);
    let heard = heard.map(|heard| (heard, upload.user.clone(), upload.device.clone()));
    let reply = service.upload(upload).await.map_err(|error| match error {
        UploadError::AnswerTooLarge => ApiError::TooLarge(service.limits().max_body_bytes),
        other => other.into(),
    })?;
    if let Some((heard, user, device)) = heard {
        service.traces().uploaded(&heard, (&user, &device), &reply);
    }
    // Where there is no room for it: a retry gets the same answer.
    answer::value(&reply, service.outbox())
}
