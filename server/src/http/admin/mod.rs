//! The operators' routes: a listener of their own, a token of their own.
//!
//! Only liveness and readiness are open. Everything else takes the operators'
//! token and nobody else's; a device's token opens nothing here, and this one
//! nothing there.

mod console;
mod devices;
mod failures;
mod metrics;
mod operator;
mod overview;
mod parameters;
mod people;
mod row;
mod times;
mod write;

pub use metrics::MetricsText;

use super::{health_routes, only};
use crate::service::SyncService;
use actix_web::web;
use parameters::{parameter, user};

/// Adds the operators' routes to an application or a scope that only operators
/// should reach: the page `/console`; `POST /admin/write` and `GET /admin/row`, which
/// change and read any user's rows; `GET /admin/devices`, `POST /admin/revoke` and
/// `POST /admin/reinstate`; what the page shows, `GET /admin/overview`, `feed`,
/// `storage`, `tables`, `users`, `user`, `user/devices`, `user/rows`, `user/entries`
/// and `failures`, and `POST /admin/failures/retry`; `/metrics`, where application data
/// holds a [`MetricsText`], `/health` and `/ready`. They take the token of the setting
/// `admin_token` or `admin_token_file`; without either they refuse everybody. The
/// page's files are open, and show nothing by themselves; it must be mounted at the
/// root of a listener.
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
            .service(only("/admin/overview", "GET").route(web::get().to(overview::overview)))
            .service(only("/admin/feed", "GET").route(web::get().to(overview::feed)))
            .service(only("/admin/storage", "GET").route(web::get().to(overview::storage)))
            .service(only("/admin/tables", "GET").route(web::get().to(overview::tables)))
            .service(only("/admin/users", "GET").route(web::get().to(people::users)))
            .service(only("/admin/user", "GET").route(web::get().to(people::one)))
            .service(only("/admin/user/devices", "GET").route(web::get().to(people::devices)))
            .service(only("/admin/user/rows", "GET").route(web::get().to(people::rows)))
            .service(only("/admin/user/entries", "GET").route(web::get().to(people::entries)))
            .service(only("/admin/failures", "GET").route(web::get().to(failures::list)))
            .service(only("/admin/failures/retry", "POST").route(web::post().to(failures::retry)))
            .service(only("/metrics", "GET").route(web::get().to(metrics::metrics)))
            .configure(console::routes)
            .configure(health_routes);
    }
}
