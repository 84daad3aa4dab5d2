//! Limits per user and per address: off unless configured, 429 with Retry-After,
//! counted; a forwarded address counts only from a trusted proxy.

use oversync_tests::target::fresh_user;
use oversync_tests::{
    Backend, Config, Database, HttpDevice, Refused, Reply, Server, Socket, eventually,
};
use reqwest::Method;
use serde_json::json;
use std::time::Duration;
use toml::Value;

fn rate(per_second: i64, burst: i64) -> Value {
    let mut rate = toml::Table::new();
    rate.insert("per_second".into(), per_second.into());
    rate.insert("burst".into(), burst.into());
    rate.into()
}

async fn server(config: Config) -> (Database, Server) {
    let database = Backend::Embedded.database().await;
    let server = Server::start(&database, config.operators()).await;
    (database, server)
}

/// Checks a 429, and returns when to come back.
#[track_caller]
fn too_many(reply: &Reply) -> u64 {
    let body = json!({"error": "overloaded", "message": "too many requests, try again later"});
    assert_eq!((reply.status, reply.json()), (429, body));
    let header = reply.headers.get("retry-after").expect("Retry-After");
    header.to_str().expect("text").parse().expect("seconds")
}

async fn limited(server: &Server, limit: &str) -> f64 {
    let name = format!(r#"oversync_limited_total{{limit="{limit}"}}"#);
    server.admin().metric(&name).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_asks_for_too_much() {
    // One in ten minutes would be below what a rate can say; one a second refills
    // while this runs, so more are asked for than it could give.
    let (_database, server) =
        server(Config::default().set("rates.user_requests", rate(1, 10))).await;
    let (ada, bob) = server.target().two_devices();
    let mut refused = Vec::new();
    for n in 0..200 {
        let device = if n % 2 == 0 { &ada } else { &bob };
        let reply = device.download_raw("").await;
        if reply.status == 200 {
            continue;
        }
        refused.push(too_many(&reply));
    }
    assert!(refused.len() > 50, "{} of 200", refused.len());
    assert!(
        refused.iter().all(|seconds| (1..=2).contains(seconds)),
        "{refused:?}"
    );
    assert_eq!(
        limited(&server, "user_requests").await,
        refused.len() as f64
    );
    // Uploads and upgrades are requests like any other; nobody else suffers.
    let everything = async {
        loop {
            if ada.download_raw("").await.status == 429 {
                break;
            }
        }
        // There may be room for one again in between.
        loop {
            let reply = ada.upload_raw("{}").await;
            if reply.status == 429 {
                too_many(&reply);
                break;
            }
        }
        loop {
            let reply = ada.get("/sync/capabilities").await;
            if reply.status == 429 {
                too_many(&reply);
                break;
            }
        }
    };
    everything.await;
    assert_eq!(
        server.target().one_device().download_raw("").await.status,
        200
    );
    eventually("it may come back", || async {
        (ada.download_raw("").await.status == 200).then_some(())
    })
    .await;
}

fn from(device: &HttpDevice, address: &str) -> reqwest::RequestBuilder {
    let request = device.request(Method::GET, "/sync/download");
    request.header("x-forwarded-for", address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_asks_for_too_much() {
    let config = Config::default().set("rates.address_requests", rate(1, 10));
    let proxied = config
        .clone()
        .set("rates.trusted_proxies", vec!["127.0.0.0/8"]);
    let (_database, server) = server(proxied).await;
    let target = server.target();
    // Each from an address of its own, as the proxy says.
    for n in 0..60 {
        let request = from(&target.one_device(), &format!("1.2.3.4, 203.0.113.{n}"));
        assert_eq!(HttpDevice::send(request).await.status, 200);
    }
    // One address as many users, also with no good token: all the same.
    let mut statuses = Vec::new();
    for n in 0..60 {
        let device = match n % 2 {
            0 => target.one_device(),
            _ => HttpDevice::new(target.clone(), "-", "-", "no token".into()),
        };
        let request = from(&device, &format!("203.0.113.{n}, 198.51.100.1"));
        statuses.push(HttpDevice::send(request).await.status);
    }
    assert_eq!(statuses[..10], [200, 401].repeat(5));
    let refused = statuses.iter().filter(|&&status| status == 429).count();
    assert!(refused > 20, "{statuses:?}");
    assert_eq!(limited(&server, "address_requests").await, refused as f64);

    // Where no proxy is trusted, nobody is what they say.
    let (_database, server) = self::server(config).await;
    let mut refused = 0;
    for n in 0..60 {
        let request = from(&server.target().one_device(), &format!("203.0.113.{n}"));
        let reply = HttpDevice::send(request).await;
        if reply.status != 200 {
            too_many(&reply);
            refused += 1;
        }
    }
    assert!(refused > 20, "{refused}");
}

async fn connect(server: &Server, user: &str) -> Result<Socket, Refused> {
    server.target().device(user, "ada").try_connect(&[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_are_limited_and_given_back() {
    let config = Config::default()
        .set("rates.user_sockets", 2)
        .set("rates.address_sockets", 3);
    let (_database, server) = server(config).await;
    let (ann, bob) = (fresh_user(), fresh_user());
    let first = connect(&server, &ann).await.expect("one");
    let _second = connect(&server, &ann).await.expect("two");
    let refused = connect(&server, &ann).await.expect_err("three");
    assert_eq!(
        (refused.status, &refused.body["error"]),
        (429, &json!("overloaded"))
    );
    assert_eq!(limited(&server, "user_sockets").await, 1.0);
    let mut third = connect(&server, &bob).await.expect("three there");
    third.hello().await;
    let refused = connect(&server, &bob).await.expect_err("four");
    assert_eq!(refused.status, 429);
    assert_eq!(limited(&server, "address_sockets").await, 1.0);
    // Requests are not sockets.
    assert_eq!(
        server.target().device(&ann, "ada").download("").await["head"],
        0
    );
    drop(first);
    let again = eventually("its place is free again", || async {
        connect(&server, &ann).await.ok()
    })
    .await;
    drop((again, third));
    // What is refused after the place was given takes none.
    for _ in 0..5 {
        let reply = eventually("those dropped above have gone", || async {
            let reply = server.target().device(&bob, "ada").get("/sync/ws").await;
            (reply.status != 429).then_some(reply)
        })
        .await;
        reply.refused(400, "invalid_request");
    }
    eventually("all places are free again", || async {
        let two = (
            connect(&server, &bob).await.ok(),
            connect(&server, &bob).await.ok(),
        );
        (two.0.is_some() && two.1.is_some()).then_some(())
    })
    .await;
}

/// The process has only so many, whoever asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_all_sockets_of_the_process_is_503() {
    let (_database, server) = server(Config::default().set("limits.max_sockets", 2)).await;
    let first = connect(&server, &fresh_user()).await.expect("one");
    let mut second = connect(&server, &fresh_user()).await.expect("two");
    second.hello().await;
    let device = server.target().device(&fresh_user(), "ada");
    let upgrade = device
        .request(Method::GET, "/sync/ws")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let refused = HttpDevice::send(upgrade).await;
    refused.refused(503, "overloaded");
    let wait = refused.headers.get("retry-after").expect("Retry-After");
    let wait: u64 = wait.to_str().expect("text").parse().expect("seconds");
    assert!((10..=30).contains(&wait), "{wait}");
    assert_eq!(limited(&server, "sockets").await, 1.0);
    // Only sockets are full.
    assert_eq!(device.download("").await["head"], 0);
    drop(first);
    eventually("its place is free again", || async {
        connect(&server, &fresh_user()).await.ok()
    })
    .await;
}

/// Who waits as long as it was told is let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_device_comes_back() {
    let (_database, server) =
        server(Config::default().set("rates.user_requests", rate(2, 4))).await;
    let device = server.target().one_device();
    for _ in 0..6 {
        let reply = device.download_raw("").await;
        if reply.status == 429 {
            tokio::time::sleep(Duration::from_secs(too_many(&reply))).await;
            assert_eq!(device.download_raw("").await.status, 200, "as it was told");
        }
    }
}
