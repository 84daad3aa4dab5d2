//! The OpenAPI document of the protocol's routes, made from the handlers and the
//! wire types, and a page to browse it that needs no other host.
//!
//! What a request may look like is written down here as the server takes it: far
//! more than a well-behaved device sends, since a bad change is answered and not
//! refused. Operators' routes are on their own listener and not in here.

use super::{download, failures, hints, info, only, signin, upload};
use crate::auth::TokenMint;
use crate::service::SyncService;
use actix_web::http::header::LOCATION;
use actix_web::{HttpResponse, web};
use oversync_shared::wire::{ClientMessage, ErrorBody, ServerMessage};
use serde_json::Value;
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi as Document, RefOr, Required};
use utoipa::{Modify, OpenApi, ToSchema};
use utoipa_swagger_ui::{Config, SwaggerUi};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "oversync",
        description = "Keeps one user's data the same on all that user's devices: an upload of changes, a download of the user's change stream, hints over WebSocket.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    paths(
        upload::upload,
        download::download,
        info::schema_version,
        info::capabilities,
        hints::connect,
        failures::list,
        failures::retry,
        info::health,
        info::ready,
        signin::sign_in,
    ),
    components(schemas(ErrorBody, ServerMessage, ClientMessage)),
    tags(
        (name = "sync", description = "What devices use."),
        (name = "projection", description = "The caller's own rows that could not be written into their business table."),
        (name = "health", description = "For load balancers; no token."),
        (name = "development", description = "Only where the server runs with --dev."),
    ),
    modifiers(&Bearer, &Presence),
)]
struct Described;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut Document) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some(
                "A signed token with `sub` (the user), `did` (the device) and `exp`.",
            ))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// No header but the token is required; one that is there is not null. A body that
/// is described must be there, though it may be null.
struct Presence;

impl Modify for Presence {
    fn modify(&self, document: &mut Document) {
        let items = document.paths.paths.values_mut();
        for operation in items
            .flat_map(|item| [&mut item.get, &mut item.post])
            .flatten()
        {
            if let Some(RefOr::T(body)) = &mut operation.request_body {
                body.required = Some(Required::True);
            }
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter
                    && parameter.parameter_in == ParameterIn::Header
                {
                    parameter.required = Required::False;
                }
            }
        }
    }
}

/// The body of an upload as the server takes it; `null` counts as `{}`. Unknown
/// fields are ignored.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes what the scanner reads")]
pub(super) struct UploadBody {
    /// Informative; ignored.
    #[schema(minimum = -9223372036854775808i64, maximum = 9223372036854775807i64)]
    last_server_seq_seen: Option<i64>,
    /// At most `max_changes` of them; more are all answered `batch_too_large`.
    changes: Option<Vec<SentChange>>,
    /// Refuses the upload unless the server's epoch is this one.
    epoch: Option<String>,
    /// The device will never again send a change id below this one.
    #[schema(minimum = -9223372036854775808i64, maximum = 9223372036854775807i64)]
    settled_below: Option<i64>,
}

/// One change as it may be sent. Only the JSON types are fixed: what else is wrong
/// with it is said in its own status.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes what the scanner reads")]
pub(super) struct SentChange {
    /// The device's own number for this change, 0 when absent.
    #[schema(minimum = -9223372036854775808i64, maximum = 9223372036854775807i64)]
    source_change_id: Option<i64>,
    /// Trimmed and lower-cased; `public` when empty.
    #[schema(example = "business")]
    schema: Option<String>,
    /// Trimmed and lower-cased.
    #[schema(example = "users")]
    table: Option<String>,
    /// INSERT, UPDATE or DELETE.
    #[schema(example = "INSERT")]
    op: Option<String>,
    /// The row's key: a UUID in any usual spelling.
    #[schema(example = "0f8fad5b-d9cb-469f-a165-70867728950e")]
    pk: Option<String>,
    /// The version the device believes the row has, 0 when absent.
    #[schema(minimum = -9223372036854775808i64, maximum = 9223372036854775807i64)]
    server_version: Option<i64>,
    /// The whole row, an object; absent or null for a DELETE.
    #[schema(example = json!({"name": "Ann"}))]
    payload: Option<Value>,
}

/// The document of a service: what its routes are, and no others.
fn document(service: &SyncService) -> Document {
    let mut document = Described::openapi();
    let dev = service.settings().dev;
    if !dev || TokenMint::from_settings(service.settings()).is_none() {
        document.paths.paths.remove("/signin");
    }
    document
}

/// Adds `/openapi.json` and a page at `/docs/` to an application that has the
/// protocol's routes. Both need no token: they say what PROTOCOL.md says.
pub fn docs_routes(service: &SyncService) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
    let text = document(service)
        .to_json()
        .expect("BUG: a document serialises");
    move |config| {
        let page = Config::from("/openapi.json")
            // Its default asks a public host.
            .validator_url("none")
            .default_models_expand_depth(0);
        config
            .service(only("/openapi.json", "GET").route(web::get().to(move || {
                let text = text.clone();
                async move {
                    HttpResponse::Ok()
                        .content_type("application/json")
                        .body(text)
                }
            })))
            .service(only("/docs", "GET").route(web::get().to(|| async {
                HttpResponse::PermanentRedirect()
                    .insert_header((LOCATION, "/docs/"))
                    .finish()
            })))
            .service(SwaggerUi::new("/docs/{_:.*}").config(page));
    }
}
