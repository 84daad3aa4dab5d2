//! No token in any log, whatever is done with it. Every test's server is looked at
//! (`tests/src/canary.rs`); this one logs all there is, and tokens come every way they
//! can.

use oversync_tests::target::fresh_user;
use oversync_tests::{Backend, Config, HttpDevice, Server, Socket, eventually};
use reqwest::Method;
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_come_every_way_and_are_in_no_log() {
    for format in ["text", "json"] {
        let database = Backend::Embedded.database().await;
        let config = Config::default()
            .set("log", "debug")
            .set("log_format", format)
            .set("dev", true)
            .operators();
        let server = Server::start(&database, config).await;
        server.expect_tokens_in_addresses();
        every_way(&server).await;
        let log = server.log();
        assert!(log.contains("carries a token in its address"), "{log}");
    }
}

async fn every_way(server: &Server) {
    let (target, user) = (server.target(), fresh_user());
    let device = target.device(&user, "ada");
    let good = device.token().to_owned();
    let past = target.token(&user, "ada", Duration::ZERO);
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    let spoilt = format!("{signed}.{other}{}", &signature[1..]);
    device.upload(&[]).await;
    device.download("").await;

    // What is no good token, in every place.
    for token in [
        &spoilt,
        &good.replace('.', "%2E"),
        &format!("{good}.{good}"),
        signature,
    ] {
        let wrong = HttpDevice::new(target.clone(), &user, "ada", token.to_owned());
        for path in ["/sync/download", "/sync/ws", "/admin/materialize-failures"] {
            let refused = wrong.get(path).await;
            refused.refused(401, "authentication_failed");
        }
        wrong
            .upload_raw("{}")
            .await
            .refused(401, "authentication_failed");
        server.admin().showing(token).get("/metrics").await;
    }
    // One that has just ended; clocks may differ a little.
    HttpDevice::new(target.clone(), &user, "ada", past)
        .download_raw("")
        .await;
    // Good ones in the wrong place.
    for path in [
        format!("/sync/download?token={good}"),
        format!("/sync/download?after={good}"),
        format!("/sync/download?schema={good}"),
        format!("/sync/ws?access_token={good}"),
        format!("/sync/{good}"),
        format!("/{good}?{good}={good}"),
    ] {
        device.get(&path).await;
        let bare = target.client().get(format!("{}{path}", target.base()));
        HttpDevice::send(bare).await;
    }
    for header in [
        "cookie",
        "user-agent",
        "referer",
        "x-forwarded-for",
        "origin",
        "x-request-id",
    ] {
        let request = device.request(Method::GET, "/sync/download");
        HttpDevice::send(request.header(header, &good)).await;
    }
    let body = json!({"changes": [{"schema": good, "table": good, "op": good, "pk": good}]});
    device.upload_raw(body.to_string()).await;
    device.upload_raw(good.clone()).await;

    // Over the socket: as a subprotocol, refreshed with good and bad ones, expired.
    let protocols = format!("oversync.v1, bearer.{good}");
    let headers = [("sec-websocket-protocol", protocols.as_str())];
    let mut socket = Socket::connect(target.authority(), &headers)
        .await
        .expect("the upgrade is taken");
    socket.hello().await;
    let soon = target.token(&user, "ada", Duration::from_secs(2));
    for token in [
        &spoilt,
        &target.token(&user, "bob", Duration::from_secs(60)),
        &soon,
    ] {
        socket
            .send_text(&json!({"type": "token", "token": token}).to_string())
            .await;
    }
    socket.send_text(&good).await;
    assert_eq!(socket.message().await["reason"], "token_expired");

    // Signed in by the server itself, and revoked.
    let who = json!({"username": "ann", "password": "x", "device_id": "phone"});
    let request = target.client().post(format!("{}/signin", target.base()));
    let signed_in = HttpDevice::send(request.json(&who)).await.ok();
    let token = signed_in["token"].as_str().expect("a token");
    let ann = HttpDevice::new(target.clone(), "user-ann", "phone", token.to_owned());
    let mut socket = ann.connect().await;
    socket.hello().await;
    server.admin().revoke(&ann).await;
    eventually("it is refused", || async {
        (ann.download_raw("").await.status == 401).then_some(())
    })
    .await;
    assert_eq!(socket.message().await["reason"], "revoked");
}
