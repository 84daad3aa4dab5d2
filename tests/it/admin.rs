//! The operators' listener: who may use it, and what it counts.

use oversync_tests::device::{insert, update};
use oversync_tests::target::fresh_key;
use oversync_tests::{
    ADMIN_TOKEN, Backend, Config, Database, HttpDevice, Reply, Server, eventually, on_both_stores,
};
use reqwest::Method;
use serde_json::json;
use std::time::Duration;
use tempfile::TempDir;

const USERS: &str = "business.users";

on_both_stores!(what_happened_is_counted);

async fn server() -> (Database, Server) {
    let database = Backend::Embedded.database().await;
    let server = Server::start(&database, Config::default().operators()).await;
    (database, server)
}

#[track_caller]
fn is_the_one_refusal(reply: &Reply) {
    let body = json!({"error": "authentication_failed", "message": "authentication failed"});
    assert_eq!((reply.status, reply.json()), (401, body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_listener_has_its_own_token() {
    let (_database, server) = server().await;
    let (admin, device) = (server.admin(), server.target().one_device());
    for open in ["/health", "/ready"] {
        let reply = HttpDevice::send(admin.request(Method::GET, open)).await;
        assert_eq!(reply.status, 200, "{open}");
    }
    assert_eq!(admin.get("/metrics").await.status, 200);

    let almost = &ADMIN_TOKEN[..ADMIN_TOKEN.len() - 1];
    let longer = format!("{ADMIN_TOKEN}x");
    for wrong in ["", "x", almost, &longer, device.token()] {
        is_the_one_refusal(&admin.showing(wrong).get("/metrics").await);
    }
    for header in [
        None,
        Some(ADMIN_TOKEN),
        Some("Basic b3A6b3A="),
        Some("Bearer"),
    ] {
        let mut request = admin.request(Method::GET, "/metrics");
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        is_the_one_refusal(&HttpDevice::send(request).await);
    }

    // And the other way round.
    let intruder = HttpDevice::new(server.target(), "u", "d", ADMIN_TOKEN.to_owned());
    for path in [
        "/sync/download",
        "/sync/capabilities",
        "/admin/materialize-failures",
    ] {
        is_the_one_refusal(&intruder.get(path).await);
        assert_eq!(device.get(path).await.status, 200, "{path}");
        admin.get(path).await.refused(404, "not_found");
    }
    device.get("/metrics").await.refused(404, "not_found");
    let refused = HttpDevice::send(admin.request(Method::POST, "/metrics")).await;
    refused.refused(405, "method_not_allowed");
    assert!(!server.log().contains(ADMIN_TOKEN), "a token in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_rotates_without_a_restart() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("token");
    let (old, new) = ("o".repeat(40), "n".repeat(41));
    std::fs::write(&path, format!("  {old}\n")).expect("written");
    let database = Backend::Embedded.database().await;
    let config = Config::default()
        .set("admin_listen", "127.0.0.1:0")
        .set("admin_token_file", path.display().to_string());
    let server = Server::start(&database, config).await;
    let status = async |token: &str| server.admin().showing(token).get("/metrics").await.status;
    assert_eq!((status(&old).await, status(&new).await), (200, 401));
    std::fs::write(&path, &new).expect("written");
    eventually("the new token is taken", || async {
        (status(&new).await == 200).then_some(())
    })
    .await;
    assert_eq!(status(&old).await, 401);
    // What would be no token changes nothing.
    std::fs::write(&path, "short").expect("written");
    eventually("the fault is logged", || async {
        assert_eq!((status(&new).await, status("short").await), (200, 401));
        let log = server.log();
        assert!(!log.contains(&new) && !log.contains(&old));
        log.contains("admin_token_file").then_some(())
    })
    .await;
}

async fn what_happened_is_counted(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default().operators()).await;
    let (admin, (ada, bob)) = (server.admin(), server.target().two_devices());
    let mut socket = bob.connect().await;
    let mut told = socket.hello().await;
    let key = fresh_key();
    ada.upload(&[
        insert(1, USERS, &key, json!({})),
        insert(2, USERS, &fresh_key(), json!({})),
        insert(3, USERS, "no key", json!({})),
    ])
    .await;
    ada.upload(&[update(4, USERS, &key, 7, json!({}))]).await;
    socket.told_of(2, &mut told).await;
    // One that is not known reads a page; the others' are in memory.
    bob.sibling("cid").download("").await;
    bob.download_raw("after=x").await;
    for (metric, expected) in [
        (r#"oversync_uploads_total{status="answered"}"#, 2.0),
        (r#"oversync_changes_total{status="applied"}"#, 2.0),
        (r#"oversync_changes_total{status="conflict"}"#, 1.0),
        (r#"oversync_changes_total{status="invalid"}"#, 1.0),
        ("oversync_upload_seconds_count", 2.0),
        ("oversync_downloads_total{status=\"answered\"}", 1.0),
        ("oversync_download_seconds_count", 1.0),
        (r#"oversync_refusals_total{code="invalid_request"}"#, 1.0),
        ("oversync_sessions", 1.0),
        ("oversync_hints_total", 1.0),
        (r#"oversync_commit_uploads_bucket{le="1"}"#, 2.0),
        ("oversync_upload_bytes_in_flight", 0.0),
    ] {
        assert_eq!(admin.metric(metric).await, expected, "{metric}");
    }
    assert!(
        admin.metric("oversync_live_bytes").await > 100_000.0,
        "the program's own count of its memory"
    );
    drop(socket);
    eventually("the session is gone", || async {
        (admin.metric("oversync_sessions").await == 0.0).then_some(())
    })
    .await;
    let text = admin.get("/metrics").await.text;
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        assert!(name.starts_with("oversync_"), "{name}");
        let name = name.split(' ').next().expect("a name");
        assert!(
            text.contains(&format!("# HELP {name} ")),
            "{name} has no description"
        );
    }
    assert!(!text.contains(ada.user()), "no user is named");
}

/// As many as may be there at once, with nothing to say, keep neither the devices out
/// nor the operators for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_do_not_keep_operators_out() {
    let (_database, server) = server().await;
    let admin = server.admin();
    let address = admin.base().strip_prefix("http://").expect("plain HTTP");
    let mut silent = Vec::new();
    for _ in 0..64 {
        let connection = tokio::net::TcpStream::connect(address).await;
        silent.push(connection.expect("taken in, or waiting to be"));
    }
    let device = server.target().one_device();
    device
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    // Their time to say something is ten seconds.
    let asked = tokio::time::timeout(Duration::from_secs(60), admin.get("/health")).await;
    assert_eq!(asked.expect("in the end").status, 200);
    drop(silent);
}
