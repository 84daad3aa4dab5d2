//! The operator behind a request on the operators' listener.

use crate::auth::bearer;
use crate::http::ApiError;
use crate::service::SyncService;
use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{FromRequest, HttpRequest, web};
use std::future::{Ready, ready};

/// Proof that the request showed the operators' token. As a handler argument
/// it refuses all others, whatever is wrong with them, in the same words.
pub(super) struct Operator;

impl FromRequest for Operator {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let service = request
            .app_data::<web::Data<SyncService>>()
            .expect("BUG: the routes are mounted with their service");
        let is_operator = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|header| bearer(header.to_str().ok()?))
            .is_some_and(|token| service.admin_token().is(token));
        ready(if is_operator {
            Ok(Self)
        } else {
            Err(ApiError::Unauthenticated)
        })
    }
}
