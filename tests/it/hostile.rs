//! Hostile input, made from good input by seeded mutation. Whatever arrives, the
//! answer is no 5xx, it is JSON, and the server goes on serving.
//!
//! `OVERSYNC_TEST_EFFORT=100` makes it a hundred times longer.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use oversync_tests::device::{delete, insert};
use oversync_tests::fuzz::bytes::{NASTY, mutate};
use oversync_tests::seed::cases;
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, HttpDevice, Seed, Server, Socket, Target, on_both_stores};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

on_both_stores!(
    upload_bodies,
    upload_values,
    download_queries,
    operators_bodies
);

async fn server(backend: Backend, config: Config) -> (oversync_tests::Database, Server) {
    let database = backend.database().await;
    let server = Server::start(&database, config).await;
    (database, server)
}

/// The log is read back place by place ([`check_stream`]): what was deleted since is
/// there, too.
fn as_written() -> Config {
    Config::default().unfolded()
}

/// What the server must still do after anything.
async fn still_serves(target: &Target) {
    let device = target.one_device();
    let reply = device
        .upload(&[insert(1, "business.users", &fresh_key(), json!({}))])
        .await;
    assert_eq!(reply["statuses"][0]["new_server_version"], 1);
}

/// A batch with something of everything.
fn good_batch(rng: &mut StdRng) -> Value {
    let (user, post) = (fresh_key(), fresh_key());
    let id = rng.random_range(1..1_000_000);
    json!({
        "last_server_seq_seen": 7,
        "changes": [
            insert(id, "business.users", &user, json!({"name": "Ann \u{1F600}", "n": [1, 2.5, {"x": null}]})),
            insert(id + 1, "business.posts", &post, json!({"author_id": user, "title": "a\"b\\c"})),
            insert(id + 2, "tree.nodes", &user, json!({"parent_id": post})),
            delete(id + 3, "business.posts", &post, 1),
        ],
        "settled_below": 1,
    })
}

async fn upload_bodies(backend: Backend) {
    let seed = Seed::from_env();
    let (_database, server) = server(backend, as_written()).await;
    let device = server.target().one_device();
    for case in 0..cases(250) {
        let mut rng = seed.rng(case as u64);
        let mut body = good_batch(&mut rng).to_string().into_bytes();
        mutate(&mut body, &mut rng);
        let reply = device.upload_raw(body.clone()).await;
        let shown = String::from_utf8_lossy(&body);
        match reply.status {
            200 => check_upload_reply(&reply.json(), &shown),
            400 => reply.bad_request("Failed to parse upload request"),
            other => panic!("{other} for {shown}: {}", reply.text),
        }
    }
    check_stream(&device).await;
    still_serves(&server.target()).await;
}

/// Operators are trusted with much, but not with a 5xx or a broken history.
async fn operators_bodies(backend: Backend) {
    let seed = Seed::from_env();
    let database = backend.database().await;
    let server = Server::start(&database, Config::default().operators()).await;
    let (admin, device) = (server.admin(), server.target().one_device());
    let (mut written, mut refused) = (0, 0);
    for case in 0..cases(250) {
        let mut rng = seed.rng(case as u64);
        let (path, mut body) = if case % 4 == 0 {
            let path = *["/admin/revoke", "/admin/reinstate"]
                .choose(&mut rng)
                .expect("two");
            (
                path,
                json!({"user": device.user(), "device": "other"}).to_string(),
            )
        } else {
            let mut batch = good_batch(&mut rng);
            batch["user"] = json!(device.user());
            batch["changes"][1]["server_version"] = json!("current");
            ("/admin/write", batch.to_string())
        };
        let mut bytes = std::mem::take(&mut body).into_bytes();
        mutate(&mut bytes, &mut rng);
        let reply = admin.post_raw(path, bytes.clone()).await;
        let shown = String::from_utf8_lossy(&bytes);
        match (reply.status, path) {
            (200, "/admin/write") => {
                check_upload_reply(&reply.json(), &shown);
                written += 1;
            }
            (200, _) => assert!(reply.json()["revoked"].is_boolean()),
            (400, _) => {
                reply.refused(400, "invalid_request");
                refused += 1;
            }
            (other, _) => panic!("{other} for {shown}: {}", reply.text),
        }
    }
    assert!(written > 0 && refused > 0, "{written} {refused}");
    still_serves(&server.target()).await;
    server.verified().await;
}

/// Every status of an answer is one of the three, and says why.
fn check_upload_reply(reply: &Value, sent: &str) {
    for status in reply["statuses"].as_array().expect("statuses") {
        let explained = match status["status"].as_str() {
            Some("applied") => {
                status.get("server_row").is_none() && status.get("invalid").is_none()
            }
            Some("conflict") => status["server_row"]["server_version"].is_i64(),
            Some("invalid") => status["invalid"]["reason"].is_string(),
            _ => false,
        };
        assert!(explained, "{status} for {sent}");
    }
}

/// Whatever was taken can be read back: dense, once, and JSON.
async fn check_stream(device: &HttpDevice) {
    let (changes, head) = device.download_all(0, 100, "&include_self=true").await;
    assert_eq!(changes.len() as i64, head);
    for (index, change) in changes.iter().enumerate() {
        assert_eq!(change["server_id"], index + 1);
        assert_eq!(
            change["payload"].is_object(),
            change["op"] != "DELETE",
            "{change}"
        );
    }
}

fn any_value(rng: &mut StdRng) -> Value {
    match rng.random_range(0..10) {
        0 => Value::Null,
        1 => rng.random_bool(0.5).into(),
        2 => rng.random::<i64>().into(),
        3 => [0, 1, -1, i64::MAX, i64::MIN]
            .choose(rng)
            .copied()
            .expect("not empty")
            .into(),
        4 => rng.random::<f64>().into(),
        5 => json!([]),
        6 => json!({}),
        7 => json!({"a": [rng.random::<u8>()]}),
        8 => fresh_key().into(),
        _ => (*NASTY.choose(rng).expect("not empty")).into(),
    }
}

/// Puts something else in the place of some value, or moves a member.
fn mutate_value(value: &mut Value, rng: &mut StdRng) {
    let deeper = rng.random_bool(0.8);
    match value {
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = rng.random_range(0..items.len());
            if rng.random_bool(0.1) {
                let twice = items[at].clone();
                items.push(twice);
            } else {
                mutate_value(&mut items[at], rng);
            }
        }
        Value::Object(members) if deeper && !members.is_empty() => {
            let at = rng.random_range(0..members.len());
            let key = members.keys().nth(at).expect("counted").clone();
            if rng.random_bool(0.1) {
                members.remove(&key);
            } else if rng.random_bool(0.1) {
                members.insert(
                    (*NASTY.choose(rng).expect("not empty")).to_owned(),
                    any_value(rng),
                );
            } else {
                mutate_value(members.get_mut(&key).expect("present"), rng);
            }
        }
        other => *other = any_value(rng),
    }
}

/// Well-formed JSON with the wrong things in the right places reaches deeper.
async fn upload_values(backend: Backend) {
    let seed = Seed::from_env();
    let (_database, server) = server(backend, as_written()).await;
    let device = server.target().one_device();
    let mut batches = Vec::new();
    for case in 0..cases(250) {
        let mut rng = seed.rng(case as u64);
        let mut body = if batches.is_empty() || rng.random_bool(0.3) {
            good_batch(&mut rng)
        } else {
            batches.choose(&mut rng).cloned().expect("not empty")
        };
        for _ in 0..rng.random_range(0..4) {
            mutate_value(&mut body, &mut rng);
        }
        let reply = device.upload_raw(body.to_string()).await;
        match reply.status {
            200 => {
                check_upload_reply(&reply.json(), &body.to_string());
                batches.push(body);
            }
            400 => reply.bad_request("Failed to parse upload request"),
            // An epoch by chance.
            409 => drop(reply.refused(409, "epoch_mismatch")),
            other => panic!("{other} for {body}: {}", reply.text),
        }
    }
    check_stream(&device).await;
    still_serves(&server.target()).await;
}

async fn download_queries(backend: Backend) {
    const NAMES: &[&str] = &[
        "after",
        "limit",
        "until",
        "schema",
        "include_self",
        "epoch",
        "after[]",
        "AFTER",
        "",
        "x",
    ];
    let seed = Seed::from_env();
    let (_database, server) = server(backend, Config::default()).await;
    let device = server.target().one_device();
    device
        .upload(&[insert(1, "business.users", &fresh_key(), json!({}))])
        .await;
    for case in 0..cases(250) {
        let mut rng = seed.rng(case as u64);
        let mut query = String::new();
        for _ in 0..rng.random_range(0..5) {
            let name = NAMES.choose(&mut rng).expect("not empty");
            let value: Vec<u8> = match rng.random_range(0..4) {
                0 => rng.random_range(-3..2_000_i64).to_string().into_bytes(),
                1 => NASTY.choose(&mut rng).expect("not empty").bytes().collect(),
                2 => (0..rng.random_range(0..8)).map(|_| rng.random()).collect(),
                _ => b"business".to_vec(),
            };
            let encoded: String = value.iter().map(|byte| format!("%{byte:02x}")).collect();
            query.push_str(&format!("{name}={encoded}&"));
        }
        let reply = device.download_raw(&query).await;
        match reply.status {
            200 => assert!(reply.json()["window_until"].as_i64() >= Some(0), "{query}"),
            400 => drop(reply.refused(400, "invalid_request")),
            409 => drop(reply.refused(409, "epoch_mismatch")),
            other => panic!("{other} for {query}: {}", reply.text),
        }
    }
    still_serves(&server.target()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens() {
    let seed = Seed::from_env();
    let (_database, server) = server(Backend::Embedded, Config::default()).await;
    let target = server.target();
    let url = format!("{}/sync/download", target.base());
    let good = target.one_device().token().to_owned();
    for case in 0..cases(250) {
        let mut rng = seed.rng(case as u64);
        let mut bytes = format!("Bearer {good}").into_bytes();
        mutate(&mut bytes, &mut rng);
        // What may stand in a header at all.
        bytes.retain(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f));
        let request = target.client().get(&url);
        let reply = HttpDevice::send(request.header("authorization", bytes.as_slice())).await;
        let untouched = String::from_utf8_lossy(&bytes).contains(&good);
        match reply.status {
            200 if untouched => {}
            401 => drop(reply.refused(401, "authentication_failed")),
            other => panic!("{other} for {}", String::from_utf8_lossy(&bytes)),
        }
    }
    // Well signed, with anything inside.
    for case in 0..cases(250) {
        let mut rng = seed.rng(1_000_000 + case as u64);
        let mut claims =
            json!({"sub": "u", "did": "d", "exp": 4_000_000_000_u32, "nbf": 1, "iat": 1});
        for _ in 0..rng.random_range(1..4) {
            mutate_value(&mut claims, &mut rng);
        }
        let key = EncodingKey::from_secret(target.secret());
        let token = encode(&Header::new(Algorithm::HS256), &claims, &key).expect("signs");
        let device = HttpDevice::new(target.clone(), "-", "-", token);
        let download = device.download_raw("").await;
        let upload = device.upload_raw("{}").await;
        assert_eq!(download.status, upload.status, "{claims}");
        assert!(
            [200, 401].contains(&upload.status),
            "{} for {claims}",
            upload.status
        );
    }
    still_serves(&target).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_frames() {
    let seed = Seed::from_env();
    let (_database, server) = server(Backend::Embedded, Config::default()).await;
    let target = server.target();
    let device = target.one_device();
    for case in 0..cases(60) {
        let mut rng = seed.rng(case as u64);
        let mut socket = device.connect().await;
        socket.hello().await;
        for _ in 0..rng.random_range(1..8) {
            let mut bytes = json!({"type": "token", "token": device.token()})
                .to_string()
                .into_bytes();
            mutate(&mut bytes, &mut rng);
            let message = match rng.random_range(0..4) {
                0 => Message::binary(bytes),
                1 => Message::Ping(bytes.into_iter().take(125).collect()),
                2 => Message::Pong(bytes.into_iter().take(125).collect()),
                _ => Message::text(String::from_utf8_lossy(&bytes).into_owned()),
            };
            if socket.send(message).await.is_err() {
                break;
            }
        }
    }
    for case in 0..cases(60) {
        raw_frames(&device, &mut seed.rng(1_000_000 + case as u64)).await;
    }
    still_serves(&target).await;
    let mut socket: Socket = device.connect().await;
    socket.hello().await;
}

/// Bytes after the upgrade that need not be frames: bad opcodes, reserved bits,
/// unmasked, lengths that lie. The server closes, or waits for more.
async fn raw_frames(device: &HttpDevice, rng: &mut StdRng) {
    let mut stream = TcpStream::connect(device.target().authority())
        .await
        .expect("connects");
    let upgrade = format!(
        "GET /sync/ws HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        device.token()
    );
    stream.write_all(upgrade.as_bytes()).await.expect("sent");
    let mut bytes: Vec<u8> = (0..rng.random_range(1..300))
        .map(|_| rng.random())
        .collect();
    if rng.random_bool(0.7) {
        // A plausible head: some opcode, masked, some length.
        bytes[0] = rng.random_range(0x80..=0x8f);
        bytes.insert(1, 0x80 | rng.random_range(0..=0x7f));
    }
    // The server may close at any byte.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .expect("a closed connection is closed by the server too");
    assert!(
        answer.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

/// Requests that are barely HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_requests() {
    let seed = Seed::from_env();
    let (_database, server) = server(Backend::Embedded, Config::default()).await;
    let target = server.target();
    let device = target.one_device();
    let body =
        json!({"changes": [insert(1, "business.users", &fresh_key(), json!({}))]}).to_string();
    for case in 0..cases(100) {
        let mut rng = seed.rng(case as u64);
        let mut bytes = format!(
            "POST /sync/upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
            device.token(),
            body.len()
        )
        .into_bytes();
        mutate(&mut bytes, &mut rng);
        let mut stream = TcpStream::connect(target.authority())
            .await
            .expect("connects");
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        // A request that promises more than it sends is waited for at most 10 s.
        let _ = tokio::time::timeout(Duration::from_secs(15), read)
            .await
            .expect("the server answers or closes");
        let answer = String::from_utf8_lossy(&answer);
        // The mutation may have made it a request of HTTP/1.0, answered as such.
        let status = answer
            .strip_prefix("HTTP/1.1 ")
            .or_else(|| answer.strip_prefix("HTTP/1.0 "));
        let is_fine =
            answer.is_empty() || status.is_some_and(|status| status.starts_with(['2', '4']));
        assert!(is_fine, "{answer} for {}", String::from_utf8_lossy(&bytes));
    }
    still_serves(&target).await;
}
