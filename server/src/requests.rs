//! How requests show in the logs: never by anything that a client may have put a
//! token into.
//!
//! A span names the route and not the address it was asked for by, whose query and
//! unknown paths are the client's own text. Who does send a token in an address is
//! told of, without it.

use actix_web::Error;
use actix_web::HttpMessage as _;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Uri;
use tracing::field::Empty;
use tracing::{Span, info_span};
use tracing_actix_web::{DefaultRootSpanBuilder, RequestId, RootSpanBuilder};

/// Makes the span of each request.
pub(crate) struct Requests;

impl RootSpanBuilder for Requests {
    fn on_request_start(request: &ServiceRequest) -> Span {
        if carries_token(request.uri()) {
            tracing::warn!(
                "a request carries a token in its address, where others may log it; \
                 it belongs into the Authorization header"
            );
        }
        // All at once: text is made of the fields again each time that one is added.
        info_span!(
            "HTTP request",
            http.method = %request.method(),
            http.route = request.match_pattern().unwrap_or_default(),
            http.peer = request
                .peer_addr()
                .map(|peer| tracing::field::display(peer.ip())),
            request_id = request
                .extensions()
                .get::<RequestId>()
                .map(tracing::field::display),
            http.status_code = Empty,
            exception.message = Empty,
        )
    }

    fn on_request_end<B: MessageBody>(span: Span, outcome: &Result<ServiceResponse<B>, Error>) {
        // What went well is told by no line, and its span is gone now.
        let went_well = matches!(outcome, Ok(reply) if reply.response().error().is_none());
        if !went_well {
            DefaultRootSpanBuilder::on_request_end(span, outcome);
        }
    }
}

/// Whether there is something like a JWT in an address: three parts, the first of
/// which begins as every JSON object in base64url does.
fn carries_token(uri: &Uri) -> bool {
    let text = uri.path_and_query().map_or("", |text| text.as_str());
    let of_a_token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
    text.split(|c: char| !of_a_token(c))
        .any(|word| word.contains("eyJ") && word.matches('.').count() >= 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_in_addresses_are_seen() {
        let seen = |text: &str| carries_token(&text.parse().expect("an address"));
        for with in [
            "/sync/ws?token=eyJhbGciOi.eyJzdWIiOi.c2ln",
            "/sync/ws?a=1&access_token=Bearer%20eyJhbGciOi.eyJzdWIiOi.c2ln&b",
            "/sync/ws/eyJhbGciOi.eyJzdWIiOi.c2ln",
            "/sync/ws?x=bearer.eyJhbGciOi.eyJzdWIiOi.c2ln",
        ] {
            assert!(seen(with), "{with}");
        }
        for without in [
            "/",
            "/sync/download?after=5&limit=10",
            "/a?b=eyJ",
            "/a?b=1.2.3",
        ] {
            assert!(!seen(without), "{without}");
        }
    }
}
