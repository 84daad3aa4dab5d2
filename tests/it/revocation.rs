//! Device revocation: refused at every process, told on every socket, and back
//! again when reinstated.

use futures_util::{StreamExt as _, stream};
use oversync_tests::device::insert;
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{
    App, Backend, Config, Database, Event, HttpDevice, Port, Reply, Server, Socket, eventually,
    on_both_stores, within,
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const USERS: &str = "business.users";

/// PROTOCOL.md section 7.
const PROMISED: Duration = Duration::from_secs(5);

on_both_stores!(
    a_revoked_device_is_refused_everywhere,
    an_upload_on_its_way_is_refused,
    it_stays_revoked_over_a_restart,
    a_device_never_seen_can_be_revoked,
    what_is_wrong_is_named,
    the_last_list_stands_while_it_cannot_be_read,
    a_revoked_device_keeps_its_edits,
);

async fn server(backend: Backend) -> (Database, Server) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default().operators()).await;
    (database, server)
}

fn is_refused(reply: &Reply) -> bool {
    if reply.status != 401 {
        return false;
    }
    let body = json!({"error": "authentication_failed", "message": "authentication failed"});
    assert_eq!(reply.json(), body, "the same words as for a bad token");
    true
}

/// Every way in is closed.
async fn refused_everywhere(device: &HttpDevice) {
    for path in [
        "/sync/download",
        "/sync/download?wait=5",
        "/sync/schema-version",
        "/sync/capabilities",
        "/admin/materialize-failures",
    ] {
        assert!(is_refused(&device.get(path).await), "{path}");
    }
    let body = json!({"changes": [insert(99, USERS, &fresh_key(), json!({}))]});
    assert!(is_refused(&device.upload_raw(body.to_string()).await));
    let refused = device.try_connect(&[]).await.expect_err("no socket");
    assert_eq!(refused.status, 401);
}

/// The socket gets its `bye` and is closed, in time.
async fn is_told(socket: &mut Socket, since: Instant) {
    let bye = socket.message().await;
    assert_eq!(
        (&bye["type"], &bye["reason"]),
        (&json!("bye"), &json!("revoked")),
        "{bye}"
    );
    assert_eq!(socket.closed().await, Some(1000));
    assert!(since.elapsed() < PROMISED, "{:?}", since.elapsed());
}

/// A long poll that is waiting, the only one at this server.
async fn waiting(server: &Server, device: &HttpDevice) -> tokio::task::JoinHandle<Reply> {
    let after = device.download("").await["head"].clone();
    let polling = device.clone();
    let poll = tokio::spawn(async move {
        let query = format!("after={after}&include_self=true&wait=60");
        polling.download_raw(&query).await
    });
    eventually("the poll waits", || async {
        let waiting = server.admin().metric("oversync_polls_waiting").await;
        (waiting == 1.0).then_some(())
    })
    .await;
    poll
}

async fn devices(server: &Server, user: &str) -> Vec<Value> {
    let reply = server
        .admin()
        .get(&format!("/admin/devices?user={user}"))
        .await
        .ok();
    assert_eq!(reply["user"], user);
    reply["devices"].as_array().expect("devices").clone()
}

async fn a_revoked_device_is_refused_everywhere(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (admin, (ada, bob)) = (server.admin(), server.target().two_devices());
    let namesake = server.target().device(&fresh_user(), bob.name());
    ada.upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    bob.upload(&[insert(7, USERS, &fresh_key(), json!({"by": "bob"}))])
        .await;
    admin
        .write(bob.user(), &[insert(0, USERS, &fresh_key(), json!({}))])
        .await;
    let (mut bobs, mut again, mut adas) = (
        bob.connect().await,
        bob.connect().await,
        ada.connect().await,
    );
    let mut other = namesake.connect().await;
    let mut told = adas.hello().await;
    for socket in [&mut bobs, &mut again, &mut other] {
        socket.hello().await;
    }
    let poll = waiting(&server, &bob).await;

    admin.revoke(&bob).await;
    let since = Instant::now();
    is_told(&mut bobs, since).await;
    is_told(&mut again, since).await;
    assert!(is_refused(&poll.await.expect("an answer")));
    assert!(since.elapsed() < PROMISED, "{:?}", since.elapsed());
    refused_everywhere(&bob).await;

    // Nobody else notices; what it wrote stays.
    let reply = ada
        .upload(&[insert(2, USERS, &fresh_key(), json!({}))])
        .await;
    assert_eq!(reply["head"], 4);
    adas.told_of(4, &mut told).await;
    let (changes, _) = ada.download_all(0, 10, "").await;
    assert_eq!(changes[0]["source_id"], bob.name());
    let quiet = Duration::from_millis(300);
    assert_eq!(other.next_within(quiet).await, None::<Event>);
    namesake.download("").await;

    let listed = devices(&server, bob.user()).await;
    let names: Vec<&Value> = listed.iter().map(|device| &device["device"]).collect();
    assert_eq!(
        names,
        [ada.name(), bob.name()],
        "the server itself is no device"
    );
    assert_eq!(listed[1]["highest_source_change_id"], 7);
    let first = listed[1]["revoked_at"].as_str().expect("a time").to_owned();
    let last = listed[1]["last_change_at"].as_str().expect("a time");
    assert!(
        last < first.as_str() && listed[0]["revoked_at"].is_null(),
        "{listed:?}"
    );

    // Twice is once.
    admin.revoke(&bob).await;
    assert_eq!(devices(&server, bob.user()).await[1]["revoked_at"], *first);
    admin.reinstate(&bob).await;
    admin.reinstate(&bob).await;
    assert_eq!(bob.connect().await.hello().await, 4);
    let status = bob
        .upload_one(insert(8, USERS, &fresh_key(), json!({})))
        .await;
    assert_eq!(status["status"], "applied");
    assert!(devices(&server, bob.user()).await[1]["revoked_at"].is_null());
    server.verified().await;
}

/// A device that is revoked while its body is on the way has not uploaded.
async fn an_upload_on_its_way_is_refused(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (admin, device) = (server.admin(), server.target().one_device());
    // Long enough to be waited for: a body earns a second with each KiB.
    let first = " ".repeat(10 * 1024);
    let rest = json!({"changes": [insert(1, USERS, &fresh_key(), json!({}))]}).to_string();
    let arrived = first.len() as f64;
    let (go_on, gone_on) = tokio::sync::oneshot::channel::<()>();
    let pieces =
        stream::once(async { Ok::<_, std::io::Error>(first) }).chain(stream::once(async {
            gone_on.await.expect("told to go on");
            Ok(rest)
        }));
    let sending = device.clone();
    let upload = tokio::spawn(async move {
        let pieces = reqwest::Body::wrap_stream(pieces);
        sending.upload_raw(pieces).await
    });
    // Its first bytes have arrived, so its token has been taken.
    eventually("the body is on its way", || async {
        (admin.metric("oversync_upload_bytes_in_flight").await == arrived).then_some(())
    })
    .await;
    admin.revoke(&device).await;
    go_on.send(()).expect("it waits");
    assert!(is_refused(&upload.await.expect("an answer")));
    admin.reinstate(&device).await;
    assert_eq!(device.download("").await["head"], 0);
}

async fn it_stays_revoked_over_a_restart(backend: Backend) {
    let (_database, mut server) = server(backend).await;
    let (ada, bob) = server.target().two_devices();
    server.admin().revoke(&bob).await;
    server.kill();
    server.restart(Port::Free).await;
    refused_everywhere(&bob.at(&server.target())).await;
    ada.at(&server.target()).download("").await;
}

async fn a_device_never_seen_can_be_revoked(backend: Backend) {
    let (_database, server) = server(backend).await;
    let device = server.target().one_device();
    assert_eq!(devices(&server, device.user()).await, Vec::<Value>::new());
    server.admin().revoke(&device).await;
    refused_everywhere(&device).await;
    let listed = devices(&server, device.user()).await;
    assert_eq!(listed.len(), 1);
    assert!(listed[0]["highest_source_change_id"].is_null() && listed[0]["revoked_at"].is_string());
}

async fn what_is_wrong_is_named(backend: Backend) {
    let (_database, server) = server(backend).await;
    let admin = server.admin();
    for path in ["/admin/revoke", "/admin/reinstate"] {
        for (body, message) in [
            ("{", "the body must be {\"user\": …, \"device\": …}"),
            (
                r#"{"user":1,"device":"d"}"#,
                "the body must be {\"user\": …, \"device\": …}",
            ),
            (r#"{"device":"d"}"#, "user is empty"),
            (r#"{"user":"u"}"#, "device is empty"),
            (r#"{"user":"u","device":"server"}"#, "device is reserved"),
            (
                r#"{"user":"u","device":"a\nb"}"#,
                "device contains a control character",
            ),
        ] {
            admin.post_raw(path, body).await.bad_request(message);
        }
        let device = server.target().one_device();
        let body = json!({"user": device.user(), "device": device.name()});
        assert!(is_refused(
            &admin.showing(device.token()).post(path, &body).await
        ));
        device.download("").await;
    }
    admin
        .get("/admin/devices")
        .await
        .bad_request("user is empty");
}

async fn the_last_list_stands_while_it_cannot_be_read(backend: Backend) {
    let (database, server) = server(backend).await;
    let (ada, bob) = server.target().two_devices();
    server.admin().revoke(&bob).await;
    let (table, elsewhere) = match backend {
        Backend::Postgres => ("oversync.revoked", "elsewhere"),
        Backend::Embedded => ("_oversync_revoked", "elsewhere"),
    };
    let back = match backend {
        Backend::Postgres => "oversync.elsewhere",
        Backend::Embedded => "elsewhere",
    };
    // The count moves, so that the list is read.
    let meta = table.replace("revoked", "meta");
    database
        .execute(&format!("ALTER TABLE {table} RENAME TO {elsewhere}"))
        .await;
    database
        .execute(&format!("UPDATE {meta} SET revocations = revocations + 1"))
        .await;
    eventually("the fault is logged", || async {
        server.log().contains("the last list stands").then_some(())
    })
    .await;
    refused_everywhere(&bob).await;
    ada.download("").await;
    let name = table.rsplit('.').next().expect("a name");
    database
        .execute(&format!("ALTER TABLE {back} RENAME TO {name}"))
        .await;
    eventually("it is read again", || async {
        server.log().contains("are read again").then_some(())
    })
    .await;
    refused_everywhere(&bob).await;
    server.admin().revoke(&ada).await;
    refused_everywhere(&ada).await;
}

/// The real client: what it writes while revoked waits, and arrives afterwards.
async fn a_revoked_device_keeps_its_edits(backend: Backend) {
    let (_database, server) = server(backend).await;
    let user = fresh_user();
    let app = App::start(&server.target(), &user, "phone").await;
    let device = server.target().device(&user, "phone");
    app.sent().await;
    server.admin().revoke(&device).await;
    eventually("the device is not online any more", || async {
        let status = app.client.status().await.expect("a status");
        (status.connection != oversqlite::ConnectionState::Online).then_some(())
    })
    .await;
    let keys = [fresh_key(), fresh_key()];
    for key in &keys {
        app.add(key, "Ann");
    }
    assert!(app.client.sync().await.is_err());
    let status = app.client.status().await.expect("a status");
    assert_eq!(status.unsent, 2);
    assert_eq!(app.client.rejected().await.expect("a list").len(), 0);
    server.admin().reinstate(&device).await;
    app.sent().await;
    assert_eq!(device.download("include_self=true").await["head"], 2);
    assert_eq!(app.people().len(), 2);
}

async fn done(server: &Server, args: &[&str]) -> String {
    let output = server.run(args).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Revoked at one process or on the command line, heard at the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_processes_hear_of_it() {
    let (database, here) = server(Backend::Postgres).await;
    let there = Server::start(&database, Config::default().operators()).await;
    let device = there.target().one_device();
    let (user, name) = (device.user(), device.name());
    for round in 0..3 {
        let mut socket = device.connect().await;
        socket.hello().await;
        let poll = waiting(&there, &device).await;
        if round == 1 {
            let text = done(&here, &["revoke", "--user", user, "--device", name]).await;
            assert_eq!(text, format!("revoked: {name} of {user}\n"));
        } else {
            here.admin().revoke(&device).await;
        }
        let since = Instant::now();
        is_told(&mut socket, since).await;
        assert!(is_refused(&poll.await.expect("an answer")));
        assert!(since.elapsed() < PROMISED, "{:?}", since.elapsed());
        // After the command line, neither process knew of it at once.
        let roaming = device.at(&here.target());
        let left = PROMISED.saturating_sub(since.elapsed());
        within(left, "the other process refuses too", || async {
            is_refused(&roaming.download_raw("").await).then_some(())
        })
        .await;
        for device in [&device, &roaming] {
            refused_everywhere(device).await;
        }
        let listed = done(&here, &["devices", "--user", user]).await;
        let line = listed.lines().nth(1).expect("a device");
        assert!(line.starts_with(&format!("{name}\t-\t-\t20")), "{listed}");
        if round == 1 {
            done(&here, &["reinstate", "--user", user, "--device", name]).await;
        } else {
            here.admin().reinstate(&device).await;
        }
        within(PROMISED, "it is let in again", || async {
            (device.download_raw("").await.status == 200).then_some(())
        })
        .await;
    }
}

/// The embedded store's file is its server's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_and_the_embedded_store() {
    let (_database, mut server) = server(Backend::Embedded).await;
    let device = server.target().one_device();
    device
        .upload(&[insert(3, USERS, &fresh_key(), json!({}))])
        .await;
    let (user, name) = (device.user(), device.name());
    let revoke = ["revoke", "--user", user, "--device", name];
    let output = server.run(&revoke).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        text.contains("running server") && text.contains("POST /admin/revoke"),
        "{text}"
    );
    device.download("").await;

    server.terminate().await;
    done(&server, &revoke).await;
    let listed = done(&server, &["devices", "--user", user]).await;
    assert!(listed.contains(&format!("{name}\t3\t20")), "{listed}");
    server.restart(Port::Free).await;
    refused_everywhere(&device.at(&server.target())).await;

    let wrong = server
        .run(&["revoke", "--user", "u", "--device", "server"])
        .await;
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--device"));
    server.terminate().await;
    let nowhere = [
        "devices",
        "--user",
        "u",
        "--database-url",
        "sqlite://nowhere/x.db",
    ];
    let output = server.run(&nowhere).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no file nowhere/x.db"));
}
