//! The routes, mountable in anybody's actix-web application.
//!
//! ```no_run
//! # async fn example(service: oversync::SyncService) {
//! use actix_web::App;
//! let app = App::new().configure(oversync::routes(&service));
//! # }
//! ```

mod admin;
mod answer;
mod body;
mod caller;
mod demo;
mod download;
mod error;
mod failures;
mod hints;
mod info;
mod openapi;
mod signin;
mod upload;

pub use admin::{MetricsText, admin_routes};
pub use caller::Caller;
pub use error::ApiError;
pub use openapi::docs_routes;

use crate::auth::TokenMint;
use crate::service::SyncService;
use actix_web::http::header::{ALLOW, HeaderValue};
use actix_web::{Resource, web};

/// Adds the protocol's routes to an application or a scope. `POST /signin` and
/// the page `/demo` are among them only when the service's settings say `dev` and
/// hold the secret that signs tokens.
pub fn routes(service: &SyncService) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
    let service = service.clone();
    move |config| {
        let settings = service.settings();
        let mint = settings.dev.then(|| TokenMint::from_settings(settings));
        let mint = mint.flatten();
        config
            .app_data(web::Data::new(service))
            .service(only("/sync/upload", "POST").route(web::post().to(upload::upload)))
            .service(only("/sync/download", "GET").route(web::get().to(download::download)))
            .service(only("/sync/schema-version", "GET").route(web::get().to(info::schema_version)))
            .service(only("/sync/capabilities", "GET").route(web::get().to(info::capabilities)))
            .service(only("/sync/ws", "GET").route(web::get().to(hints::connect)))
            .service(
                only("/admin/materialize-failures", "GET").route(web::get().to(failures::list)),
            )
            .service(
                only("/admin/materialize-failures/retry", "POST")
                    .route(web::post().to(failures::retry)),
            )
            .configure(health_routes);
        if let Some(mint) = mint {
            config
                .app_data(web::Data::new(mint))
                .service(only("/signin", "POST").route(web::post().to(signin::sign_in)))
                .service(only("/demo", "GET").route(web::get().to(demo::page)));
        }
    }
}

/// Liveness and readiness, which need a [`SyncService`] as application data.
pub(crate) fn health_routes(config: &mut web::ServiceConfig) {
    config
        .service(only("/health", "GET").route(web::get().to(info::health)))
        .service(only("/ready", "GET").route(web::get().to(info::ready)));
}

/// A resource that answers other methods with 405, the protocol's body, and the
/// method that it has.
fn only(path: &str, method: &'static str) -> Resource {
    web::resource(path.to_owned()).default_service(web::to(move || async move {
        let mut response = error::refuse(ApiError::MethodNotAllowed);
        let headers = response.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static(method));
        response
    }))
}

/// For paths that do not exist.
pub(crate) async fn not_found() -> actix_web::HttpResponse {
    error::refuse(ApiError::NotFound)
}
