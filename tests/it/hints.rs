//! WebSocket hints, frame by frame.

use oversync_tests::device::insert;
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{
    Backend, Config, Event, HttpDevice, Port, Server, Socket, on_both_stores, within,
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

on_both_stores!(
    hello_comes_first_then_changes,
    no_commit_falls_between_connecting_and_hello,
    a_restart_is_survived_by_reconnecting,
);

/// Enough for a hint that must not come to show itself.
const QUIET: Duration = Duration::from_millis(300);

async fn server() -> (oversync_tests::Database, Server) {
    let database = Backend::Embedded.database().await;
    // Its schema steps are no part of any time that is taken here.
    // Who reads nothing is let go for that, not for its silence, however slow the disk is.
    let config = Config::default().set("limits.ping_seconds", 60);
    let server = Server::answering(&database, config).await;
    (database, server)
}

async fn write(device: &HttpDevice, id: i64) -> i64 {
    let reply = device
        .upload(&[insert(id, "business.users", &fresh_key(), json!({}))])
        .await;
    reply["head"].as_i64().expect("a head")
}

/// Proves that the session still works: a commit reaches it.
async fn still_hears(socket: &mut Socket, device: &HttpDevice, id: i64, told: &mut i64) {
    let head = write(device, id).await;
    socket.told_of(head, told).await;
}

async fn hello_comes_first_then_changes(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let (ada, bob) = server.target().two_devices();
    let mut socket = bob.connect().await;
    let hello = socket.message().await;
    let epoch = &bob.download("").await["epoch"];
    assert_eq!(hello, json!({"type": "hello", "epoch": epoch, "head": 0}));
    let mut told = 0;
    let mut took = Vec::new();
    for id in 1..=5 {
        let head = write(&ada, id).await;
        let start = Instant::now();
        socket.told_of(head, &mut told).await;
        assert_eq!(told, id);
        took.push(start.elapsed());
    }
    // The heads are read anew every two seconds: they did not wait for that.
    let soonest = took.iter().min().expect("five");
    assert!(*soonest < Duration::from_secs(1), "promptly: {took:?}");
    // A later connection starts where the stream is.
    drop(socket);
    assert_eq!(bob.connect().await.hello().await, 5);
    // An upload that writes nothing says nothing.
    let mut socket = bob.connect().await;
    socket.hello().await;
    ada.upload(&[insert(9, "business.nothing", &fresh_key(), json!({}))])
        .await;
    ada.upload(&[]).await;
    assert_eq!(socket.next_within(QUIET).await, None);
}

async fn no_commit_falls_between_connecting_and_hello(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let (ada, bob) = server.target().two_devices();
    let writer = tokio::spawn(async move {
        for id in 1..=60 {
            write(&ada, id).await;
        }
    });
    let mut sockets = Vec::new();
    while !writer.is_finished() {
        let mut socket = bob.connect().await;
        let told = socket.hello().await;
        sockets.push((socket, told));
    }
    writer.await.expect("every upload is answered");
    for (mut socket, mut told) in sockets {
        socket.told_of(60, &mut told).await;
        assert_eq!(told, 60);
    }
}

async fn a_restart_is_survived_by_reconnecting(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let (ada, bob) = server.target().two_devices();
    let mut socket = bob.connect().await;
    socket.hello().await;
    write(&ada, 1).await;
    server.kill();
    socket.closed().await;
    server.restart(Port::Same).await;
    let (ada, bob) = (ada.at(&server.target()), bob.at(&server.target()));
    let mut socket = bob.connect().await;
    let mut told = socket.hello().await;
    assert_eq!(told, 1);
    still_hears(&mut socket, &ada, 2, &mut told).await;
}

#[tokio::test]
async fn the_uploader_is_told_too() {
    let (_database, server) = server().await;
    let device = server.target().one_device();
    let mut socket = device.connect().await;
    let mut told = socket.hello().await;
    still_hears(&mut socket, &device, 1, &mut told).await;
}

#[tokio::test]
async fn another_user_hears_nothing() {
    let (_database, server) = server().await;
    let (ada, bob) = server.target().two_devices();
    let (mut hears, mut eve) = (
        bob.connect().await,
        server.target().one_device().connect().await,
    );
    let mut told = hears.hello().await;
    assert_eq!(eve.hello().await, 0);
    still_hears(&mut hears, &ada, 1, &mut told).await;
    assert_eq!(eve.next_within(QUIET).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_coalesce_and_follow_on_each_other() {
    let (_database, server) = server().await;
    let (ada, bob) = server.target().two_devices();
    let mut socket = bob.connect().await;
    let mut told = socket.hello().await;
    for id in 1..=200 {
        write(&ada, id).await;
    }
    socket.told_of(200, &mut told).await;
    assert_eq!(
        socket.next_within(QUIET).await,
        None,
        "nothing is said twice"
    );
}

#[tokio::test]
async fn a_frame_of_4_kib_passes_and_a_longer_one_closes_with_1009() {
    let (_database, server) = server().await;
    let device = server.target().one_device();
    for message in [
        Message::text("x".repeat(4_096)),
        Message::binary(vec![0; 4_096]),
    ] {
        let mut socket = device.connect().await;
        let mut told = socket.hello().await;
        socket.send(message).await.expect("sent");
        let id = told + 1;
        still_hears(&mut socket, &device, id, &mut told).await;
    }
    for message in [
        Message::text("x".repeat(4_097)),
        Message::binary(vec![0; 1_000_000]),
    ] {
        let mut socket = device.connect().await;
        socket.hello().await;
        // The server may close before it has read all of it.
        let _ = socket.send(message).await;
        assert_eq!(socket.closed().await, Some(1009));
    }
}

#[tokio::test]
async fn what_is_not_understood_is_ignored() {
    let (_database, server) = server().await;
    let device = server.target().one_device();
    let mut socket = device.connect().await;
    let mut told = socket.hello().await;
    for text in [
        "",
        "x",
        "null",
        "[]",
        "{}",
        r#"{"type":"later"}"#,
        r#"{"type":"token"}"#,
        r#"{"type":"hello","head":99,"epoch":"x"}"#,
    ] {
        socket.send_text(text).await;
    }
    socket
        .send(Message::binary(vec![1, 2, 3]))
        .await
        .expect("sent");
    socket
        .send(Message::Ping(vec![7].into()))
        .await
        .expect("sent");
    still_hears(&mut socket, &device, 1, &mut told).await;
}

/// More hints than a session sends unread: each is about 45 bytes of 16 KiB. And not many
/// more: whoever reads late must have begun 20 s after that.
const MANY: i64 = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_reads_nothing_is_let_go_and_costs_little() {
    let (_database, server) = server().await;
    let (ada, bob) = server.target().two_devices();
    let mut stalled = bob.connect().await;
    assert_eq!(stalled.hello().await, 0);
    let mut other = bob.sibling("cid").connect().await;
    let mut told = other.hello().await;
    for id in 1..=MANY {
        still_hears(&mut other, &ada, id, &mut told).await;
    }
    within(
        Duration::from_secs(60),
        "the stalled device is let go",
        || async { server.log().contains("slow consumer").then_some(()) },
    )
    .await;
    still_hears(&mut other, &ada, MANY + 1, &mut told).await;
    // What it finds when it wakes up: a bounded amount, and the reason.
    let mut messages = stalled.rest_unanswered().await;
    let bytes: usize = messages
        .iter()
        .map(|message| message.to_string().len())
        .sum();
    assert!((8 * 1024..=17 * 1024).contains(&bytes), "{bytes} bytes");
    let bye = messages.pop().expect("a bye");
    assert_eq!(
        (&bye["type"], &bye["reason"]),
        (&json!("bye"), &json!("slow_consumer"))
    );
    assert!(bye["retry_after_ms"].is_u64(), "{bye}");
    assert_eq!(bob.connect().await.hello().await, MANY + 1);
}

/// A socket that answers no ping, as one whose device has gone without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_answers_no_ping_is_let_go_after_two() {
    const SECONDS: i64 = 5;
    const PING: Duration = Duration::from_secs(SECONDS as u64);
    let database = Backend::Embedded.database().await;
    let config = Config::default()
        .operators()
        .set("limits.ping_seconds", SECONDS)
        .set("rates.user_sockets", 2);
    let server = Server::start(&database, config).await;
    let (admin, ada) = (server.admin(), server.target().one_device());
    let bob = ada.sibling("bob");
    let start = Instant::now();
    let mut silent = bob.connect().await;
    silent.hello().await;
    let mut living = ada.connect().await;
    let mut told = living.hello().await;
    assert!(
        bob.try_connect(&[]).await.is_err(),
        "there is no third place"
    );
    let sessions = || admin.metric("oversync_sessions");
    // Reading answers pings; nothing else is ever said.
    let reads = tokio::spawn(async move {
        assert_eq!(living.next_within(5 * PING).await, None, "it is left alone");
        living
    });
    within(6 * PING, "the silent one is let go", || async {
        (sessions().await == 1.0).then_some(())
    })
    .await;
    // Two pings have passed, and no less.
    let took = start.elapsed();
    assert!(took > 3 * PING - Duration::from_secs(1), "{took:?}");
    assert!(server.log().contains("a silent device is let go"));
    let mut living = reads.await.expect("it lives on");
    assert_eq!(sessions().await, 1.0);
    // Nothing of the other one is left: neither its place nor its registration.
    let before = admin.metric("oversync_hints_total").await;
    still_hears(&mut living, &ada, 1, &mut told).await;
    assert_eq!(admin.metric("oversync_hints_total").await, before + 1.0);
    assert_eq!(admin.metric("oversync_hints_dropped_total").await, 0.0);
    bob.connect().await.hello().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_reads_late_misses_nothing() {
    let (_database, server) = server().await;
    let (ada, bob) = server.target().two_devices();
    let mut socket = bob.connect().await;
    let mut told = socket.hello().await;
    for id in 1..=MANY {
        write(&ada, id).await;
    }
    socket.told_of(MANY, &mut told).await;
    still_hears(&mut socket, &ada, MANY + 1, &mut told).await;
}

#[tokio::test]
async fn more_frames_than_a_device_needs_close_with_1008() {
    let (_database, server) = server().await;
    let device = server.target().one_device();
    let mut socket = device.connect().await;
    let mut told = socket.hello().await;
    for _ in 0..80 {
        socket
            .send(Message::Ping(vec![].into()))
            .await
            .expect("sent");
    }
    still_hears(&mut socket, &device, 1, &mut told).await;
    for _ in 0..200 {
        // The server may close before it has read all of them.
        let _ = socket.send(Message::Ping(vec![].into())).await;
    }
    assert_eq!(socket.closed().await, Some(1008));
}

#[tokio::test]
async fn a_foreign_origin_is_refused_before_the_upgrade() {
    let database = Backend::Embedded.database().await;
    let allowed = vec!["https://app.example".to_owned()];
    let config = Config::default().set("allowed_origins", allowed);
    let server = Server::start(&database, config).await;
    let device = server.target().one_device();
    let port = server.address().port();
    let (other_port, userinfo) = (
        format!("http://127.0.0.1:{}", port.wrapping_add(1)),
        format!("http://evil@{}", server.address()),
    );
    let (suffix, other_scheme) = (
        format!("http://{}.evil.example", server.address()),
        format!("ftp://{}", server.address()),
    );
    for origin in [
        "https://evil.example",
        "null",
        "",
        "http://127.0.0.1",
        other_port.as_str(),
        userinfo.as_str(),
        suffix.as_str(),
        other_scheme.as_str(),
        "https://app.example.evil.example",
        "https://evil-app.example",
        "http://app.example",
        "https://app.example:444",
        "https://app.example/",
        "https://app.example, https://evil.example",
        "file://",
        "chrome-extension://abcdefgh",
    ] {
        let refused = device
            .try_connect(&[("origin", origin)])
            .await
            .expect_err("a foreign page may not connect");
        assert_eq!(
            (refused.status, &refused.body["error"]),
            (403, &json!("origin_not_allowed")),
            "{origin}"
        );
    }
    // Two of them are none, even when one is allowed.
    let two = [
        ("origin", "https://app.example"),
        ("origin", "https://evil.example"),
    ];
    let refused = device.try_connect(&two).await.expect_err("two origins");
    assert_eq!(refused.status, 403);
    let own = format!("http://{}", server.address());
    for origin in [own.as_str(), "https://app.example"] {
        let mut socket = device
            .try_connect(&[("origin", origin)])
            .await
            .expect("an allowed page may connect");
        socket.hello().await;
    }
}

#[tokio::test]
async fn a_browser_brings_its_token_as_a_subprotocol() {
    let (_database, server) = server().await;
    let device = server.target().one_device();
    let protocols = format!("oversync.v1, bearer.{}", device.token());
    let headers = [("sec-websocket-protocol", protocols.as_str())];
    let mut socket = Socket::connect(server.target().authority(), &headers)
        .await
        .expect("the upgrade is taken");
    // The token is not sent back.
    assert_eq!(socket.header("sec-websocket-protocol"), Some("oversync.v1"));
    socket.hello().await;
}

#[tokio::test]
async fn an_upgrade_without_a_good_token_is_401() {
    let (_database, server) = server().await;
    let target = server.target();
    let token = target.one_device().token().to_owned();
    let authority = target.authority();
    let body = HttpDevice::new(target.clone(), "-", "-", "x".into())
        .download_raw("")
        .await
        .json();
    for (name, value) in [
        ("x-nothing", "x".to_owned()),
        ("authorization", "Bearer x".to_owned()),
        ("authorization", format!("Basic {token}")),
        ("sec-websocket-protocol", "oversync.v1, bearer.x".to_owned()),
        ("sec-websocket-protocol", format!("oversync.v1, {token}")),
    ] {
        let refused = Socket::connect(authority, &[(name, &value)])
            .await
            .expect_err("no token, no socket");
        assert_eq!((refused.status, &refused.body), (401, &body), "{value}");
    }
    // Never in the URL, where logs would keep it.
    server.expect_tokens_in_addresses();
    let url = format!(
        "{}/sync/ws?token={token}&access_token={token}",
        target.base()
    );
    let reply = HttpDevice::send(target.client().get(url)).await;
    assert_eq!(reply.status, 401);
}

#[tokio::test]
async fn what_is_no_upgrade_is_400() {
    let (_database, server) = server().await;
    let reply = server.target().one_device().get("/sync/ws").await;
    reply.refused(400, "invalid_request");
}

fn token_message(token: &str) -> String {
    json!({"type": "token", "token": token}).to_string()
}

/// How long a token is good that ends in a test, and the time there is to connect with it.
const SHORT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn the_end_of_the_token_is_the_end_of_the_session() {
    let (_database, server) = server().await;
    let target = server.target();
    let user = fresh_user();
    let token = target.token(&user, "ada", SHORT);
    let mut socket = HttpDevice::new(target.clone(), &user, "ada", token)
        .connect()
        .await;
    socket.hello().await;
    // Fresh tokens of somebody else, and what is none, do not prolong it.
    let long = Duration::from_secs(600);
    for foreign in [
        target.token(&user, "bob", long),
        target.token(&fresh_user(), "ada", long),
        "x".to_owned(),
    ] {
        socket.send_text(&token_message(&foreign)).await;
    }
    let bye = socket.message().await;
    assert_eq!(
        bye,
        json!({"type": "bye", "reason": "token_expired", "retry_after_ms": 0})
    );
    assert!(matches!(socket.next().await, Event::Closed(_)));
}

#[tokio::test]
async fn a_fresh_token_keeps_the_session() {
    let (_database, server) = server().await;
    let target = server.target();
    let user = fresh_user();
    let token = target.token(&user, "ada", SHORT);
    let mut socket = HttpDevice::new(target.clone(), &user, "ada", token)
        .connect()
        .await;
    let mut told = socket.hello().await;
    let fresh = target.token(&user, "ada", Duration::from_secs(600));
    socket.send_text(&token_message(&fresh)).await;
    // Well past the first token's end, which is rounded down to a second.
    let past = SHORT + Duration::from_millis(500);
    assert_eq!(socket.next_within(past).await, None);
    still_hears(&mut socket, &target.device(&user, "bob"), 1, &mut told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_devices_of_another_process_hear_within_seconds() {
    let database = Backend::Postgres.database().await;
    let here = Server::start(&database, Config::default()).await;
    let there = Server::start(&database, Config::default()).await;
    let (ada, bob) = here.target().two_devices();
    let mut socket = bob.at(&there.target()).connect().await;
    let mut told = socket.hello().await;
    for id in 1..=2 {
        let head = write(&ada, id).await;
        let start = Instant::now();
        socket.told_of(head, &mut told).await;
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_of_many_users_are_told_their_own() {
    let (_database, server) = server().await;
    let mut sessions: Vec<(HttpDevice, Socket, i64)> = Vec::new();
    for _ in 0..25 {
        let (ada, bob) = server.target().two_devices();
        for device in [ada.clone(), bob] {
            let mut socket = device.connect().await;
            let told = socket.hello().await;
            sessions.push((ada.clone(), socket, told));
        }
    }
    let uploads = sessions
        .iter()
        .step_by(2)
        .enumerate()
        .map(|(n, (device, _, _))| async move {
            let changes: Vec<Value> = (0..=n as i64)
                .map(|id| insert(id, "business.users", &fresh_key(), json!({})))
                .collect();
            device.upload(&changes).await;
        });
    futures_util::future::join_all(uploads).await;
    for (n, (_, socket, told)) in sessions.iter_mut().enumerate() {
        socket.told_of(n as i64 / 2 + 1, told).await;
        assert_eq!(*told, n as i64 / 2 + 1);
    }
}
