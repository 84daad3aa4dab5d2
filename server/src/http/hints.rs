//! `GET /sync/ws`: the upgrade to a session of hints.

use super::caller::{Caller, address_of};
use super::error::ApiError;
use crate::live::Session;
use crate::service::SyncService;
use actix_web::http::header::{HOST, ORIGIN};
use actix_web::{HttpRequest, HttpResponse, web};
use oversync_shared::wire::ErrorBody;

/// Hints over WebSocket, subprotocol `oversync.v1`.
///
/// Text frames with JSON. The server sends a `ServerMessage`: `hello` first, then
/// `changes` when there is something to download, `bye` before it closes. A client may
/// send a `ClientMessage` with a fresh token; its frames are at most 4 KiB. A browser,
/// which cannot set headers, brings its token as a second subprotocol
/// `bearer.<token>`. A hint carries no rows.
#[utoipa::path(
    get,
    path = "/sync/ws",
    tag = "sync",
    security(("bearer" = [])),
    params(
        ("Sec-WebSocket-Protocol" = String, Header, description = "`oversync.v1`, from browsers followed by `bearer.<token>`."),
        ("Origin" = String, Header, description = "Sent by browsers; this server's own, or an allowed one."),
    ),
    responses(
        (status = 101, description = "The connection is a WebSocket."),
        (status = 400, description = "`invalid_request`: no WebSocket upgrade.", body = ErrorBody),
        (status = 401, description = "No token, or a faulty one: one identical body for every fault.", body = ErrorBody),
        (status = 403, description = "`origin_not_allowed`", body = ErrorBody),
        (status = 503, description = "`overloaded`: the server has as many sockets as it may; try again after `Retry-After` seconds.", body = ErrorBody, headers(("Retry-After" = String, description = "Seconds."))),
        (status = 429, description = "`overloaded`: more requests or sockets than one user or address may have; try again after `Retry-After` seconds.", body = ErrorBody, headers(("Retry-After" = String, description = "Seconds."))),
    ),
)]
pub(super) async fn connect(
    service: web::Data<SyncService>,
    Caller(identity): Caller,
    request: HttpRequest,
    stream: web::Payload,
) -> Result<HttpResponse, ApiError> {
    check_origin(&request, &service.settings().allowed_origins)?;
    let address = address_of(&request, &service);
    let places = service.rates().socket(&identity.user, address)?;
    Session::new(identity, places, &service)
        .start_on(&request, stream)
        .map_err(|_| ApiError::invalid("a WebSocket upgrade is required"))
}

/// Browsers name the page that connects; everything else names none. A page of
/// this very server, or of an allowed origin, may connect.
fn check_origin(request: &HttpRequest, allowed: &[String]) -> Result<(), ApiError> {
    let mut origins = request.headers().get_all(ORIGIN);
    let Some(origin) = origins.next() else {
        return Ok(());
    };
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let is_allowed = origins.next().is_none()
        && origin.to_str().is_ok_and(|origin| {
            let authority = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            let is_own = authority
                .zip(host)
                .is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host));
            is_own
                || allowed
                    .iter()
                    .any(|allowed| allowed.eq_ignore_ascii_case(origin))
        });
    if is_allowed {
        Ok(())
    } else {
        Err(ApiError::OriginNotAllowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn foreign_pages_are_refused() {
        let allowed = ["https://app.example".to_owned()];
        let check = |origin: &str| {
            let request = TestRequest::get().insert_header((HOST, "sync.example:8080"));
            check_origin(
                &request.insert_header((ORIGIN, origin)).to_http_request(),
                &allowed,
            )
            .is_ok()
        };
        for good in [
            "http://sync.example:8080",
            "https://SYNC.example:8080",
            "https://app.example",
        ] {
            assert!(check(good), "{good}");
        }
        for bad in [
            "null",
            "",
            "https://evil.example",
            "https://sync.example",
            "https://sync.example:8080.evil.example",
            "https://app.example.evil.example",
            "https://app.example:444",
            "http://app.example",
            "file://",
            "sync.example:8080",
            "https://sync.example:8080/",
            "chrome-extension://abc",
        ] {
            assert!(!check(bad), "{bad}");
        }
        assert!(check_origin(&TestRequest::get().to_http_request(), &allowed).is_ok());
    }
}
