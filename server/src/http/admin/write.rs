//! `POST /admin/write`: back-end code changes a user's rows.
//!
//! The body is an upload's with a `user`; `source_change_id` is ignored, the
//! server gives out its own. The answer is an upload's.

use super::operator::Operator;
use crate::http::caller::hear;
use crate::http::{ApiError, upload};
use crate::service::SyncService;
use crate::upload::NotAWrite;
use actix_web::{HttpRequest, HttpResponse, web};

pub(super) async fn write(
    service: web::Data<SyncService>,
    operator: Operator,
    request: HttpRequest,
    mut payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let heard = hear(&service, &request);
    let body = upload::read(&service, &request, &mut payload).await?;
    let write = service
        .read_write(&body.text)
        .map_err(|error| match error {
            NotAWrite::Upload(error) => upload::refusal(&service, error),
            named @ (NotAWrite::NoUser | NotAWrite::User(_) | NotAWrite::Base(_)) => {
                ApiError::Invalid(named.to_string().into())
            }
        })?;
    let (peer, user) = (operator.peer, write.user.clone());
    tracing::info!(peer, %user, "an operator writes a user's rows");
    upload::apply(&service, write, body, heard).await
}
