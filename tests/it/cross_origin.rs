//! CORS: a page of an allowed origin may use the server from a browser; a page of
//! another may not, and a server that allows none says nothing.

use oversync_tests::{Backend, Config, HttpDevice, Server};
use reqwest::Method;
use reqwest::header::{HeaderMap, ORIGIN};

const ALLOWED: &str = "https://app.example";

/// What a browser asks before a page's upload.
async fn preflight(device: &HttpDevice, origin: &str) -> HeaderMap {
    let request = device
        .request(Method::OPTIONS, "/sync/upload")
        .header(ORIGIN, origin)
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization, content-encoding, content-type, oversync-schema-version",
        );
    request.send().await.expect("an answer").headers().clone()
}

fn allowed_origin(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get("access-control-allow-origin")?;
    Some(value.to_str().expect("text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_allowed_origins_may_ask_and_read() {
    let database = Backend::Embedded.database().await;
    let config = Config::default().set("allowed_origins", vec![ALLOWED]);
    let server = Server::answering(&database, config).await;
    let device = server.target().one_device();

    let headers = preflight(&device, ALLOWED).await;
    assert_eq!(allowed_origin(&headers), Some(ALLOWED));
    let methods = headers["access-control-allow-methods"]
        .to_str()
        .expect("text");
    assert!(methods.contains("POST"), "{methods}");
    let names = headers["access-control-allow-headers"]
        .to_str()
        .expect("text");
    for name in [
        "authorization",
        "content-encoding",
        "oversync-schema-version",
    ] {
        assert!(names.to_ascii_lowercase().contains(name), "{names}");
    }

    for (path, status) in [("/sync/capabilities", 200), ("/sync/download?limit=0", 400)] {
        let request = device.request(Method::GET, path).header(ORIGIN, ALLOWED);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status);
        // A refusal can be read too, and when to come back.
        assert_eq!(allowed_origin(answer.headers()), Some(ALLOWED));
        let exposed = &answer.headers()["access-control-expose-headers"];
        let exposed = exposed.to_str().expect("text").to_ascii_lowercase();
        assert!(exposed.contains("retry-after"), "{exposed}");
    }

    for origin in [
        "https://evil.example",
        "null",
        "https://app.example.evil.example",
    ] {
        assert_eq!(allowed_origin(&preflight(&device, origin).await), None);
        let request = device.request(Method::GET, "/sync/capabilities");
        let answer = request.header(ORIGIN, origin).send().await;
        assert_eq!(allowed_origin(answer.expect("an answer").headers()), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_allowed_origins_nothing_is_said() {
    let database = Backend::Embedded.database().await;
    let server = Server::answering(&database, Config::default()).await;
    let device = server.target().one_device();
    assert_eq!(allowed_origin(&preflight(&device, ALLOWED).await), None);
    let request = device.request(Method::GET, "/sync/capabilities");
    let answer = request.header(ORIGIN, ALLOWED).send().await;
    assert_eq!(allowed_origin(answer.expect("an answer").headers()), None);
}
