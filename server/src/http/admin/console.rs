//! `GET /console`: the operators' page. Files without secrets, open to whoever gets
//! as far as the operators' listener; what they show is asked for with the operators'
//! token, which is typed into the page and never leaves it but in a header.

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::{HttpResponse, web};

/// Its own files and this listener's answers, and nothing else: what devices sent is
/// shown as text, and would not be run if it were not.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// A file of the page: its path, its type, and what is in it.
struct Asset(&'static str, &'static str, &'static str);

const ASSETS: &[Asset] = &[
    Asset(
        "/console",
        "text/html; charset=utf-8",
        include_str!("console/index.html"),
    ),
    Asset(
        "/console/style.css",
        "text/css; charset=utf-8",
        include_str!("console/style.css"),
    ),
    Asset(
        "/console/console.js",
        "text/javascript; charset=utf-8",
        include_str!("console/console.js"),
    ),
    Asset(
        "/console/dom.js",
        "text/javascript; charset=utf-8",
        include_str!("console/dom.js"),
    ),
    Asset(
        "/console/server.js",
        "text/javascript; charset=utf-8",
        include_str!("console/server.js"),
    ),
    Asset(
        "/console/charts.js",
        "text/javascript; charset=utf-8",
        include_str!("console/charts.js"),
    ),
    Asset(
        "/console/metrics.js",
        "text/javascript; charset=utf-8",
        include_str!("console/metrics.js"),
    ),
    Asset(
        "/console/live.js",
        "text/javascript; charset=utf-8",
        include_str!("console/live.js"),
    ),
    Asset(
        "/console/person.js",
        "text/javascript; charset=utf-8",
        include_str!("console/person.js"),
    ),
];

/// Adds the page's files.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    for Asset(path, kind, text) in ASSETS {
        let answer = move || async move {
            HttpResponse::Ok()
                .content_type(*kind)
                .insert_header((CONTENT_SECURITY_POLICY, POLICY))
                .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
                .insert_header((REFERRER_POLICY, "no-referrer"))
                // A server of another version has another page.
                .insert_header((CACHE_CONTROL, "no-store"))
                .body(*text)
        };
        config.service(super::only(path, "GET").route(web::get().to(answer)));
    }
}
