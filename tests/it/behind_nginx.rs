//! Behind nginx, as `packaging/nginx.conf` sets it up: TLS there, two processes behind
//! it, WebSockets, long polls, and the server's own refusals.

use oversync_tests::app::App;
use oversync_tests::device::insert;
use oversync_tests::nginx::Nginx;
use oversync_tests::server::SECRET;
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Authority, Backend, Config, Server, Target, eventually};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_meet_through_nginx_and_two_processes() {
    let authority = Authority::default();
    let database = Backend::Postgres.database().await;
    let config = || Config::default().operators();
    let first = Server::answering(&database, config()).await;
    let second = Server::answering(&database, config()).await;
    let nginx = Nginx::start(&[first.address(), second.address()], &authority).await;
    let (target, user) = (Target::new(nginx.base(), SECRET), fresh_user());

    // Hints over wss: each polls once an hour.
    let mut apps = Vec::new();
    for device in ["ada", "bob", "eve"] {
        let app = App::open_with(&target, &user, device, |config| {
            let pem = authority.pem().as_bytes();
            config.root_certificates(pem).expect("PEM")
        });
        let app = app.await;
        app.client.start().expect("the engine starts");
        apps.push(app);
    }
    for (n, app) in apps.iter().enumerate() {
        app.add(&fresh_key(), "Ann");
        for other in &apps {
            eventually("the row arrives everywhere", || async {
                (other.people().len() == n + 1).then_some(())
            })
            .await;
        }
    }

    // A long poll through it ends with an upload.
    let client = authority.client();
    let token = target.token(&user, "poller", Duration::from_secs(600));
    let get = async |path: &str| -> Value {
        let request = client.get(format!("{}{path}", nginx.base()));
        let answer = request.bearer_auth(&token).send().await;
        let text = answer.expect("an answer").text().await.expect("a body");
        serde_json::from_str(&text).expect("JSON")
    };
    let page = get("/sync/download?after=0&limit=1000").await;
    let head = page["next_after"].as_i64().expect("a cursor");
    let path = format!("/sync/download?after={head}&limit=10&wait=60");
    let waiting = get(&path);
    let writing = async {
        eventually("it waits at one of the two", || async {
            let here = first.admin().metric("oversync_polls_waiting").await;
            let there = second.admin().metric("oversync_polls_waiting").await;
            (here + there == 1.0).then_some(())
        })
        .await;
        apps[0].add(&fresh_key(), "Ann");
    };
    let (page, ()) = tokio::join!(waiting, writing);
    assert_eq!(page["changes"].as_array().map(Vec::len), Some(1), "{page}");

    // The limit that is told is the server's, not nginx's.
    let payload = "x".repeat(9 * 1024 * 1024);
    let change = insert(1, "business.users", &fresh_key(), json!({"name": payload}));
    let request = client.post(format!("{}/sync/upload", nginx.base()));
    let request = request
        .header("content-type", "application/json")
        .body(json!({"changes": [change]}).to_string());
    let answer = request.bearer_auth(&token).send().await.expect("an answer");
    assert_eq!(answer.status(), 413);
    let text = answer.text().await.expect("a body");
    assert!(text.contains("8388608"), "{text}");
}
