//! The operators' routes: a listener of their own, a token of their own.
//!
//! Only liveness and readiness are open. Everything else takes the operators'
//! token and nobody else's; a device's token opens nothing here, and this one
//! nothing there.

mod devices;
mod metrics;
mod operator;
mod row;
mod write;

pub use metrics::MetricsText;

use super::{ApiError, health_routes, only};
use crate::service::SyncService;
use actix_web::{HttpRequest, web};
use oversync_shared::UserId;

/// Adds the operators' routes to an application or a scope that only operators
/// should reach: `POST /admin/write` and `GET /admin/row`, which change and read
/// any user's rows; `GET /admin/devices`, `POST /admin/revoke` and
/// `POST /admin/reinstate`; `/metrics`, where application data holds a [`MetricsText`],
/// `/health` and `/ready`. They take the token of the setting `admin_token` or
/// `admin_token_file`; without either they refuse everybody.
pub fn admin_routes(service: &SyncService) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
    let service = service.clone();
    move |config| {
        config
            .app_data(web::Data::new(service))
            .service(only("/admin/write", "POST").route(web::post().to(write::write)))
            .service(only("/admin/row", "GET").route(web::get().to(row::row)))
            .service(only("/admin/devices", "GET").route(web::get().to(devices::list)))
            .service(only("/admin/revoke", "POST").route(web::post().to(devices::revoke)))
            .service(only("/admin/reinstate", "POST").route(web::post().to(devices::reinstate)))
            .service(only("/metrics", "GET").route(web::get().to(metrics::metrics)))
            .configure(health_routes);
    }
}

/// The first value of a parameter of the query.
fn parameter(request: &HttpRequest, name: &str) -> Option<String> {
    url::form_urlencoded::parse(request.query_string().as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// Checks a user's name; the refusal names the field.
fn user(name: &str) -> Result<UserId, ApiError> {
    UserId::new(name).map_err(|error| ApiError::Invalid(format!("user {error}").into()))
}
