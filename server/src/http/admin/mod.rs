//! The operators' routes: a listener of their own, a token of their own.
//!
//! Only liveness and readiness are open. Everything else takes the operators'
//! token and nobody else's; a device's token opens nothing here, and this one
//! nothing there.

mod metrics;
mod operator;

pub use metrics::MetricsText;

use super::{health_routes, only};
use crate::service::SyncService;
use actix_web::web;

/// Adds the operators' routes to an application or a scope that only operators
/// should reach: `/metrics`, where application data holds a [`MetricsText`],
/// `/health` and `/ready`. They take the token of the setting `admin_token` or
/// `admin_token_file`; without either they refuse everybody.
pub fn admin_routes(service: &SyncService) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
    let service = service.clone();
    move |config| {
        config
            .app_data(web::Data::new(service))
            .service(only("/metrics").route(web::get().to(metrics::metrics)))
            .configure(health_routes);
    }
}
