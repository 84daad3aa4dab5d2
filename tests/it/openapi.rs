//! The OpenAPI document: it names the routes there are and no others, and its page
//! needs no other host. `tests/openapi-check` holds every answer against it.

use oversync_tests::{Backend, Config, HttpDevice, Server};
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeSet;

async fn server(config: Config) -> (oversync_tests::Database, Server) {
    let database = Backend::Embedded.database().await;
    let server = Server::start(&database, config).await;
    (database, server)
}

async fn document(device: &HttpDevice) -> Value {
    device.get("/openapi.json").await.ok()
}

/// Every operation as `GET /path`.
fn operations(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().expect("paths");
    let all = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().expect("operations").keys();
        methods.map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    all.collect()
}

/// PROTOCOL.md, section 1.
const ROUTES: [&str; 9] = [
    "GET /admin/materialize-failures",
    "GET /health",
    "GET /ready",
    "GET /sync/capabilities",
    "GET /sync/download",
    "GET /sync/schema-version",
    "GET /sync/ws",
    "POST /admin/materialize-failures/retry",
    "POST /sync/upload",
];

#[tokio::test]
async fn every_path_of_the_document_answers_and_every_route_is_in_it() {
    let (_database, server) = server(Config::default()).await;
    let device = server.target().one_device();
    let document = document(&device).await;
    assert_eq!(
        operations(&document),
        ROUTES.map(str::to_owned).into(),
        "as in PROTOCOL.md"
    );
    for operation in operations(&document) {
        let (method, path) = operation.split_once(' ').expect("method and path");
        let method: Method = method.parse().expect("a method");
        let reply = HttpDevice::send(device.request(method.clone(), path).body("{}")).await;
        let described = &document["paths"][path][method.as_str().to_lowercase()]["responses"];
        assert!(
            described.get(reply.status.to_string()).is_some(),
            "{operation} answers {}",
            reply.status
        );
        // Its other methods are 405, with the one that it has.
        let reply = HttpDevice::send(device.request(Method::PATCH, path)).await;
        reply.refused(405, "method_not_allowed");
        assert_eq!(reply.headers["allow"], method.as_str());
    }
    // The server's own list of routes: a resource that is not described would
    // answer 405 here, and one that does not exist 404.
    for path in ["/signin", "/metrics", "/admin", "/sync", "/sync/hints"] {
        device.get(path).await.refused(404, "not_found");
    }
}

/// The source has every route in one place.
#[test]
fn no_route_is_left_out_of_the_document() {
    let source = include_str!("../../server/src/http/mod.rs");
    let routes: BTreeSet<String> = source
        .split("only(\"")
        .skip(1)
        .map(|rest| {
            let mut parts = rest.split('"');
            let (path, method) = (parts.next().expect("a path"), parts.nth(1));
            format!("{} {path}", method.expect("a method"))
        })
        .collect();
    let mut described: BTreeSet<String> = ROUTES.map(str::to_owned).into();
    described.insert("POST /signin".to_owned());
    // A page for people, while developing.
    described.insert("GET /demo".to_owned());
    assert_eq!(routes, described);
}

#[tokio::test]
async fn sign_in_is_described_where_it_is_served() {
    let (_database, server) = server(Config::default().set("dev", true)).await;
    let device = server.target().one_device();
    let described = operations(&document(&device).await);
    assert!(described.contains("POST /signin"), "{described:?}");
}

#[tokio::test]
async fn tokens_are_asked_for_where_the_document_says_so() {
    let (_database, server) = server(Config::default()).await;
    let device = server.target().one_device();
    let document = document(&device).await;
    let nobody = HttpDevice::new(server.target(), "-", "-", "nonsense".into());
    for operation in operations(&document) {
        let (method, path) = operation.split_once(' ').expect("method and path");
        let described = &document["paths"][path][method.to_lowercase()];
        let request = nobody.request(method.parse().expect("a method"), path);
        let is_refused = HttpDevice::send(request).await.status == 401;
        assert_eq!(is_refused, described["security"].is_array(), "{operation}");
        assert_eq!(is_refused, described["responses"]["401"].is_object());
    }
}

#[tokio::test]
async fn the_page_needs_no_other_host() {
    let (_database, server) = server(Config::default()).await;
    let target = server.target();
    let get = |path: &'static str| {
        let url = format!("{}{path}", target.base());
        HttpDevice::send(target.client().get(url))
    };
    let page = get("/docs").await;
    assert_eq!(page.status, 200, "redirected to the page");
    let mut files = vec!["swagger-initializer.js".to_owned()];
    for part in page.text.split(['"', '\'']) {
        assert!(
            !part.starts_with("http") && !part.starts_with("//"),
            "{part}"
        );
        if part.ends_with(".js") || part.ends_with(".css") {
            files.push(part.trim_start_matches("./").to_owned());
        }
    }
    assert!(files.len() > 4, "{files:?}");
    for file in files {
        let url = format!("{}/docs/{file}", target.base());
        let reply = HttpDevice::send(target.client().get(url)).await;
        assert_eq!(reply.status, 200, "{file}");
        if file == "swagger-initializer.js" {
            assert!(reply.text.contains("\"/openapi.json\""), "{}", reply.text);
            assert!(reply.text.contains("\"validatorUrl\": \"none\""));
        }
    }
}
