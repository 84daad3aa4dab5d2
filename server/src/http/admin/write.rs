//! `POST /admin/write`: back-end code changes a user's rows.
//!
//! The body is an upload's with a `user`; `source_change_id` is ignored, the
//! server gives out its own. The answer is an upload's.

use super::operator::Operator;
use crate::http::{ApiError, body};
use crate::service::SyncService;
use crate::upload::{NotAWrite, NotAnUpload, ReadError, UploadError};
use actix_web::{HttpRequest, HttpResponse, web};

pub(super) async fn write(
    service: web::Data<SyncService>,
    _: Operator,
    request: HttpRequest,
    mut payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let limit = service.settings().limits.max_body_bytes;
    let body = body::read(
        &request,
        &mut payload,
        limit,
        service.in_flight(),
        NotAnUpload.into(),
    )
    .await?;
    let mut write = service
        .read_write(&body.text)
        .map_err(|error| match error {
            NotAWrite::Upload(ReadError::Absurd) => ApiError::TooLarge(limit),
            NotAWrite::Upload(ReadError::NotAnUpload(error)) => error.into(),
            named @ (NotAWrite::NoUser | NotAWrite::User(_) | NotAWrite::Base(_)) => {
                ApiError::Invalid(named.to_string().into())
            }
        })?;
    write.room = Some(body.room);
    let reply = service.upload(write).await.map_err(|error| match error {
        UploadError::AnswerTooLarge => ApiError::TooLarge(limit),
        other => other.into(),
    })?;
    Ok(HttpResponse::Ok().json(reply))
}
