//! The operator behind a request on the operators' listener.

use crate::auth::bearer;
use crate::http::ApiError;
use crate::service::SyncService;
use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{FromRequest, HttpRequest, web};
use oversync_shared::UserId;
use std::future::{Ready, ready};

/// Proof that the request showed the operators' token. As a handler argument
/// it refuses all others, whatever is wrong with them, in the same words.
pub(super) struct Operator {
    /// From where: operators share a token, and this is all that tells them apart.
    pub(super) peer: String,
}

impl Operator {
    /// Whose data is looked at is logged.
    pub(super) fn looks_at(&self, user: &UserId, what: &'static str) {
        tracing::info!(peer = self.peer, %user, what, "an operator looks at a user's data");
    }

    /// The same, where it is of all users.
    pub(super) fn looks_at_everybody(&self, what: &'static str) {
        tracing::info!(
            peer = self.peer,
            what,
            "an operator looks at all users' data"
        );
    }
}

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
        let peer = request.peer_addr();
        ready(if is_operator {
            Ok(Self {
                peer: peer.map_or_else(|| "-".to_owned(), |peer| peer.ip().to_string()),
            })
        } else {
            Err(ApiError::Unauthenticated)
        })
    }
}
