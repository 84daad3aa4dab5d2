//! `POST /sync/upload`

use super::body;
use super::caller::{Caller, check_not_revoked, check_schema_version};
use super::error::ApiError;
use crate::service::SyncService;
use crate::upload::{NotAnUpload, ReadError, UploadError};
use actix_web::{HttpRequest, HttpResponse, web};

pub(super) async fn upload(
    service: web::Data<SyncService>,
    Caller(identity): Caller,
    request: HttpRequest,
    mut payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    check_schema_version(&request, &service)?;
    let limit = service.settings().limits.max_body_bytes;
    let body = body::read(
        &request,
        &mut payload,
        limit,
        service.in_flight(),
        NotAnUpload.into(),
    )
    .await?;
    check_not_revoked(&service, &identity)?;
    let mut upload = service
        .read_upload(&body.text, &identity.user, &identity.device)
        .map_err(|error| match error {
            ReadError::NotAnUpload(error) => error.into(),
            ReadError::Absurd => ApiError::TooLarge(limit),
        })?;
    upload.room = Some(body.room);
    let reply = service.upload(upload).await.map_err(|error| match error {
        UploadError::AnswerTooLarge => ApiError::TooLarge(limit),
        other => other.into(),
    })?;
    Ok(HttpResponse::Ok().json(reply))
}
