//! The server as a writer: back-end code changes a user's rows, and devices get
//! them like any other change.

use futures_util::future::join_all;
use oversync_tests::app::people;
use oversync_tests::device::{change, delete, insert, update};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{
    Admin, App, Backend, Config, Database, HttpDevice, Server, eventually, on_both_stores,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const USERS: &str = "business.users";
const POSTS: &str = "business.posts";

on_both_stores!(
    the_server_writes_as_a_device_does,
    what_is_wrong_is_named,
    a_row_is_set_whatever_its_version_is,
    device_and_server_race_on_one_row,
    device_and_server_race_without_actors,
    business_rows_follow,
    users_are_apart,
    a_connected_device_gets_the_row_by_a_hint,
    a_conflict_with_a_devices_edit_is_the_devices_to_resolve,
    a_row_can_be_read,
);

/// "Whatever the version is now."
fn set(table: &str, pk: &str, payload: Value) -> Value {
    let mut change = update(0, table, pk, 0, payload);
    change["server_version"] = json!("current");
    change
}

async fn server(backend: Backend) -> (Database, Server) {
    let database = backend.database().await;
    // Its whole stream is looked at.
    let config = Config::default().unfolded().operators();
    let server = Server::start(&database, config).await;
    (database, server)
}

/// A user's whole stream: dense, every row's versions without a gap, and no
/// change id of a source twice.
async fn whole_stream(device: &HttpDevice) -> Vec<Value> {
    let (changes, _) = device.download_all(0, 1_000, "&include_self=true").await;
    let mut ids = BTreeSet::new();
    let mut versions = std::collections::HashMap::new();
    for (index, change) in changes.iter().enumerate() {
        assert_eq!(change["server_id"], index as i64 + 1, "dense");
        let source = (
            change["source_id"].to_string(),
            change["source_change_id"].as_i64(),
        );
        assert!(ids.insert(source), "an id twice: {change}");
        let version = versions.entry(change["pk"].to_string()).or_insert(0);
        *version += 1;
        assert_eq!(change["server_version"], *version, "{change}");
    }
    changes
}

async fn the_server_writes_as_a_device_does(backend: Backend) {
    let (_database, server) = server(backend).await;
    let admin = server.admin();
    // Nobody has ever seen this user. The child stands before its parent.
    let user = fresh_user();
    let (author, post) = (fresh_key(), fresh_key());
    let reply = admin
        .write(
            &user,
            &[
                insert(7, POSTS, &post, json!({"author_id": author, "n": 1.50})),
                insert(7, USERS, &author, json!({"name": "Ann"})),
            ],
        )
        .await;
    assert_eq!(
        (&reply["accepted"], &reply["head"]),
        (&json!(true), &json!(2))
    );
    let ids = |reply: &Value| -> Vec<i64> {
        let statuses = reply["statuses"].as_array().expect("statuses");
        let id = |status: &Value| status["source_change_id"].as_i64().expect("an id");
        statuses.iter().map(id).collect()
    };
    // The numbers are the server's, in the order of the stream.
    assert_eq!(ids(&reply), [2, 1]);
    assert_eq!(reply["highest_source_change_id"], 2);

    // A device sees both, and writes on top; its own number 1 is its own.
    let device = server.target().device(&user, "phone");
    let changes = whole_stream(&device).await;
    assert_eq!(changes[0]["pk"], *author);
    assert_eq!(changes[0]["source_id"], "server");
    assert!(changes[0]["op"] == "INSERT" && changes[1]["payload"]["n"] == 1.5);
    let status = device
        .upload_one(update(1, USERS, &author, 1, json!({"name": "Anna"})))
        .await;
    assert_eq!(status["new_server_version"], 2, "{status}");

    // What the server believed is no longer true: the row comes back.
    let reply = admin
        .write(
            &user,
            &[
                update(0, USERS, &author, 1, json!({"name": "Anne"})),
                delete(0, POSTS, &post, 1),
                delete(0, USERS, &fresh_key(), 0),
            ],
        )
        .await;
    let conflict = &reply["statuses"][0];
    assert_eq!(conflict["status"], "conflict", "{conflict}");
    assert_eq!(conflict["server_row"]["payload"], json!({"name": "Anna"}));
    assert_eq!(conflict["server_row"]["server_version"], 2);
    assert_eq!(reply["statuses"][1]["new_server_version"], 2);
    assert_eq!(reply["statuses"][2]["status"], "applied");
    assert_eq!(ids(&reply), [0, 3, 0], "what is not written has no number");

    // The same write again, as after an answer that was lost: never doubled.
    let again = admin.write_one(&user, delete(0, POSTS, &post, 1)).await;
    assert_eq!(again["status"], "conflict", "{again}");
    assert_eq!(whole_stream(&device).await.len(), 4);
    assert_eq!(device.upload(&[]).await["highest_source_change_id"], 1);
    server.verified().await;
}

async fn what_is_wrong_is_named(backend: Backend) {
    let database = backend.database().await;
    let config = Config::default()
        .operators()
        .set("limits.max_changes", 3)
        .set("limits.max_payload_bytes", 100)
        .set("limits.max_body_bytes", 4_000);
    let server = Server::start(&database, config).await;
    let (admin, user) = (server.admin(), fresh_user());
    let good = insert(0, USERS, &fresh_key(), json!({}));
    for (body, message) in [
        ("{", "Failed to parse upload request"),
        ("[]", "Failed to parse upload request"),
        (r#"{"changes":[]}"#, "user is missing"),
        (r#"{"user":null}"#, "user is missing"),
        (r#"{"user":""}"#, "user is empty"),
        (
            r#"{"user":"a\u0000b"}"#,
            "user contains a control character",
        ),
        (r#"{"user":7}"#, "Failed to parse upload request"),
        (
            r#"{"user":"u","changes":[{"server_version":"newest"}]}"#,
            "server_version must be an integer or \"current\", not \"newest\"",
        ),
        (
            r#"{"user":"u","changes":[{"server_version":1.5}]}"#,
            "Failed to parse upload request",
        ),
    ] {
        admin
            .post_raw("/admin/write", body)
            .await
            .bad_request(message);
    }
    let long = json!({"user": "u".repeat(256), "changes": [good]});
    let reply = admin.post("/admin/write", &long).await;
    reply.bad_request("user is longer than 255 bytes");
    let reply = admin.post_raw("/admin/write", vec![b' '; 4_001]).await;
    assert_eq!(
        reply.refused(413, "request_too_large")["limit_bytes"],
        4_000
    );
    let stale = json!({"user": user, "epoch": "another", "changes": [good]});
    let reply = admin.post("/admin/write", &stale).await;
    reply.refused(409, "epoch_mismatch");
    let device = server.target().device(&user, "phone");
    let body = json!({"user": user, "changes": [good]});
    let intruder = admin.showing(device.token());
    let reply = intruder.post("/admin/write", &body).await;
    reply.refused(401, "authentication_failed");

    let post = insert(0, POSTS, &fresh_key(), json!({"author_id": fresh_key()}));
    let reason = async |change: Value| {
        let status = admin.write_one(&user, change).await;
        assert_eq!(status["source_change_id"], 0, "{status}");
        status["invalid"]["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(reason(post).await, "fk_missing");
    assert_eq!(
        reason(insert(0, "a.b", &fresh_key(), json!({}))).await,
        "unregistered_table"
    );
    assert_eq!(
        reason(insert(0, USERS, "x", json!({}))).await,
        "bad_payload"
    );
    let large = json!({"text": "x".repeat(100)});
    assert_eq!(
        reason(insert(0, USERS, &fresh_key(), large)).await,
        "bad_payload"
    );
    let unknown = change(0, USERS, "UPSERT", &fresh_key(), 0, json!({}));
    assert_eq!(reason(unknown).await, "bad_payload");
    assert_eq!(
        reason(update(0, USERS, &fresh_key(), 4, json!({}))).await,
        "internal_error"
    );
    let reply = admin.write(&user, &vec![good.clone(); 4]).await;
    assert_eq!(reply["accepted"], false);
    assert_eq!(reply["statuses"][3]["invalid"]["reason"], "batch_too_large");
    assert_eq!(device.download("").await["head"], 0, "nothing was written");

    // What operators may say, devices may not.
    let set = set(USERS, &fresh_key(), json!({}));
    let reply = device
        .upload_raw(json!({"changes": [set]}).to_string())
        .await;
    reply.bad_request("Failed to parse upload request");
}

async fn a_row_is_set_whatever_its_version_is(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (admin, user) = (server.admin(), fresh_user());
    let device = server.target().device(&user, "phone");
    let key = fresh_key();
    // New, known, several times in one call, deleted and back.
    let versions = |reply: &Value| -> Vec<i64> {
        let statuses = reply["statuses"].as_array().expect("statuses");
        let version = |status: &Value| status["new_server_version"].as_i64().unwrap_or(0);
        statuses.iter().map(version).collect()
    };
    let many = [1, 2, 3].map(|n| set(USERS, &key, json!({ "n": n })));
    assert_eq!(versions(&admin.write(&user, &many).await), [1, 2, 3]);
    assert_eq!(versions(&admin.write(&user, &many).await), [4, 5, 6]);
    let mut gone = delete(0, USERS, &key, 0);
    gone["server_version"] = json!("current");
    let both = [gone.clone(), set(USERS, &key, json!({"n": 4}))];
    assert_eq!(
        versions(&admin.write(&user, &both).await),
        [8, 7],
        "deletes come last"
    );
    assert_eq!(versions(&admin.write(&user, &both[1..]).await), [9]);

    // It is never lost, however fast the device edits the same row.
    let edits = async {
        let mut version = 9;
        for id in 1..=40 {
            let edit = update(id, USERS, &key, version, json!({"by": "device"}));
            let status = device.upload_one(edit).await;
            version = match status["status"].as_str() {
                Some("applied") => &status["new_server_version"],
                _ => &status["server_row"]["server_version"],
            }
            .as_i64()
            .expect("a version");
        }
    };
    let sets = join_all((0..4).map(async |_| {
        for _ in 0..10 {
            let status = admin
                .write_one(&user, set(USERS, &key, json!({"by": "server"})))
                .await;
            assert_eq!(status["status"], "applied", "{status}");
        }
    }));
    tokio::join!(edits, sets);
    let changes = whole_stream(&device).await;
    let set_by_server = |change: &&Value| change["payload"]["by"] == "server";
    assert_eq!(changes.iter().filter(set_by_server).count(), 40);
    server.verified().await;
}

/// Both sides edit one row from what they know of it: each version is made once,
/// the other side is shown it.
async fn race(device: HttpDevice, admin: Admin) {
    let user = device.user().to_owned();
    let key = fresh_key();
    admin
        .write(&user, &[insert(0, USERS, &key, json!({}))])
        .await;
    for version in 1..=25 {
        let by = |who: &str| update(version, USERS, &key, version, json!({ "by": who }));
        let (edit, write) = (by("device"), by("server"));
        let (theirs, ours) = tokio::join!(device.upload_one(edit), admin.write_one(&user, write));
        let statuses = [&theirs["status"], &ours["status"]];
        let (winner, loser) = match theirs["status"].as_str() {
            Some("applied") => (("device", &theirs), &ours),
            _ => (("server", &ours), &theirs),
        };
        assert!(statuses.contains(&&json!("applied")), "{statuses:?}");
        assert_eq!(winner.1["new_server_version"], version + 1);
        assert_eq!(loser["status"], "conflict", "{loser}");
        assert_eq!(loser["server_row"]["payload"], json!({"by": winner.0}));
        assert_eq!(loser["server_row"]["server_version"], version + 1);
    }
    assert_eq!(whole_stream(&device).await.len(), 26);
}

async fn device_and_server_race_on_one_row(backend: Backend) {
    let (_database, server) = server(backend).await;
    race(server.target().one_device(), server.admin()).await;
    server.verified().await;
}

async fn device_and_server_race_without_actors(backend: Backend) {
    let database = backend.database().await;
    let config = Config::default().unfolded().operators().bypass_actors();
    let server = Server::start(&database, config).await;
    race(server.target().one_device(), server.admin()).await;
    server.verified().await;
}

/// Processes of one database write for one user at once: no number twice, no
/// gap, no write lost.
async fn several_processes_write(config: Config) {
    let database = Backend::Postgres.database().await;
    let servers = [
        Server::start(&database, config.clone()).await,
        Server::start(&database, config).await,
    ];
    let (user, shared) = (fresh_user(), fresh_key());
    let writers = (0..6_usize).map(|n| {
        let admin = servers[n % 2].admin();
        let (user, shared) = (&user, &shared);
        async move {
            for _ in 0..10 {
                let changes = [
                    insert(0, USERS, &fresh_key(), json!({ "n": n })),
                    set(USERS, shared, json!({ "n": n })),
                ];
                let reply = admin.write(user, &changes).await;
                for status in reply["statuses"].as_array().expect("statuses") {
                    assert_eq!(status["status"], "applied", "{status}");
                    assert!(status["source_change_id"].as_i64() > Some(0), "{status}");
                }
            }
        }
    });
    join_all(writers).await;
    let changes = whole_stream(&servers[0].target().device(&user, "phone")).await;
    assert_eq!(changes.len(), 120);
    for (index, change) in changes.iter().enumerate() {
        assert_eq!(
            change["source_change_id"],
            index as i64 + 1,
            "dense: {change}"
        );
    }
    servers[1].verified().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_give_out_each_number_once() {
    several_processes_write(Config::default().unfolded().operators()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_without_actors_give_out_each_number_once() {
    several_processes_write(Config::default().unfolded().operators().bypass_actors()).await;
}

async fn business_rows_follow(backend: Backend) {
    let database = backend.database().await;
    let (schema, table) = match backend {
        Backend::Postgres => (
            "CREATE SCHEMA shop; CREATE TABLE shop.notes (id uuid PRIMARY KEY, owner text NOT NULL, title text CHECK (title <> 'bad'))",
            "shop.notes",
        ),
        Backend::Embedded => (
            "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, owner TEXT NOT NULL, title TEXT CHECK (title <> 'bad'))",
            "notes",
        ),
    };
    database.execute(schema).await;
    let tables: toml::Table =
        toml::from_str("tables = [{ schema = 'shop', table = 'notes', owner_column = 'owner' }]")
            .expect("TOML");
    let config = Config::default()
        .operators()
        .set("tables", tables["tables"].clone());
    let server = Server::start(&database, config).await;
    let (admin, user) = (server.admin(), fresh_user());
    let (key, other) = (fresh_key(), fresh_key());
    let changes = [
        set("shop.notes", &key, json!({"id": key, "title": "one"})),
        set("shop.notes", &key, json!({"id": key, "title": "two"})),
        set("shop.notes", &other, json!({"id": other, "title": "bad"})),
    ];
    for status in admin.write(&user, &changes).await["statuses"]
        .as_array()
        .expect("statuses")
    {
        assert_eq!(status["status"], "applied", "{status}");
    }
    let title = database
        .ask(&format!("SELECT title FROM {table} WHERE owner = '{user}'"))
        .await;
    assert_eq!(title.as_deref(), Some("two"));
    // What cannot be projected stands in the user's own list.
    let device = server.target().device(&user, "phone");
    let failures = device.get("/admin/materialize-failures").await.ok();
    assert_eq!(
        (failures.as_array().map(Vec::len), &failures[0]["pk"]),
        (Some(1), &json!(other))
    );
    assert_eq!(
        admin.metric("oversync_projection_failures_total").await,
        1.0
    );
    server.verified().await;
}

async fn users_are_apart(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (admin, ann, bob) = (server.admin(), fresh_user(), fresh_user());
    let device = server.target().device(&bob, "phone");
    let mut socket = device.connect().await;
    assert_eq!(socket.hello().await, 0);
    let key = fresh_key();
    admin
        .write(&ann, &[insert(0, USERS, &key, json!({"of": "ann"}))])
        .await;
    assert_eq!(device.download("").await["head"], 0);
    // A parent of hers is none of his; the same key is another row.
    let post = insert(0, POSTS, &fresh_key(), json!({"author_id": key}));
    let status = admin.write_one(&bob, post).await;
    assert_eq!(status["invalid"]["reason"], "fk_missing");
    let status = admin
        .write_one(&bob, insert(0, USERS, &key, json!({"of": "bob"})))
        .await;
    assert_eq!(
        (&status["new_server_version"], &status["source_change_id"]),
        (&json!(1), &json!(1))
    );
    let hint = socket.message().await;
    assert_eq!(
        (&hint["after"], &hint["head"]),
        (&json!(0), &json!(1)),
        "only his own"
    );
    let changes = whole_stream(&device).await;
    assert_eq!(
        (changes.len(), &changes[0]["payload"]),
        (1, &json!({"of": "bob"}))
    );
}

/// The device polls once an hour: what arrives came by a hint. On PostgreSQL it
/// is connected to another process than the one that writes.
async fn a_connected_device_gets_the_row_by_a_hint(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default().operators()).await;
    let second = match backend {
        Backend::Postgres => Some(Server::start(&database, Config::default()).await),
        Backend::Embedded => None,
    };
    let user = fresh_user();
    let target = second.as_ref().unwrap_or(&server).target();
    let app = App::start(&target, &user, "phone").await;
    eventually("the device is online", || async {
        let status = app.client.status().await.expect("a status");
        (status.connection == oversqlite::ConnectionState::Online && status.hydrated).then_some(())
    })
    .await;
    for name in ["Ann", "Anna", "Anne"] {
        let key = fresh_key();
        let row = json!({"id": key, "name": name});
        server.admin().write(&user, &[set(USERS, &key, row)]).await;
        eventually("the row is on the device", || async {
            app.people()
                .contains(&(key.clone(), name.to_owned()))
                .then_some(())
        })
        .await;
    }
}

async fn a_conflict_with_a_devices_edit_is_the_devices_to_resolve(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (admin, user) = (server.admin(), fresh_user());
    let app = App::open(&server.target(), &user, "phone").await;
    let key = fresh_key();
    app.add(&key, "Ann");
    app.client.sync().await.expect("synchronised");
    // Both edit version 1; the server is first.
    app.connection()
        .execute("UPDATE users SET name = 'Anna' WHERE id = ?1", [&key])
        .expect("the row is changed");
    let edit = update(0, USERS, &key, 1, json!({"id": key, "name": "Anne"}));
    assert_eq!(
        admin.write_one(&user, edit.clone()).await["status"],
        "applied"
    );
    app.client.sync().await.expect("synchronised");
    assert_eq!(people(app.path()), [(key.clone(), "Anne".to_owned())]);
    assert_eq!(app.client.conflicts().await.expect("a list").len(), 1);
    // And the other way round: the device is first.
    app.connection()
        .execute("UPDATE users SET name = 'Anita' WHERE id = ?1", [&key])
        .expect("the row is changed");
    app.client.sync().await.expect("synchronised");
    let mut late = edit;
    late["server_version"] = json!(2);
    let status = admin.write_one(&user, late).await;
    assert_eq!(status["status"], "conflict", "{status}");
    assert_eq!(status["server_row"]["payload"]["name"], "Anita");
    server.verified().await;
}

async fn a_row_can_be_read(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (admin, user, key) = (server.admin(), fresh_user(), fresh_key());
    let row = async |user: &str, table: &str, pk: &str| {
        let query = format!("user={user}&schema=business&table={table}&pk={pk}");
        admin.get(&format!("/admin/row?{query}")).await
    };
    row(&user, "users", &key).await.refused(404, "not_found");
    let big = r#"{"n": 9007199254740993, "d": 1.50}"#;
    let body = format!(
        r#"{{"user":"{user}","changes":[{{"schema":"business","table":"users","op":"INSERT","pk":"{key}","payload":{big}}}]}}"#
    );
    admin.post_raw("/admin/write", body).await.ok();
    let reply = row(&user, "users", &key.to_uppercase()).await;
    assert!(reply.text.contains(big), "digit for digit: {}", reply.text);
    assert_eq!(
        (&reply.ok()["server_version"], &reply.ok()["deleted"]),
        (&json!(1), &json!(false))
    );
    row(&fresh_user(), "users", &key)
        .await
        .refused(404, "not_found");
    admin.write(&user, &[delete(0, USERS, &key, 1)]).await;
    let gone = row(&user, "users", &key).await.ok();
    let expected = json!({
        "schema_name": "business", "table_name": "users", "id": key,
        "server_version": 2, "deleted": true, "payload": null,
    });
    assert_eq!(gone, expected);
    let wrong = row(&user, "nothing", &key).await;
    wrong.bad_request("table not registered business.nothing");
    row(&user, "users", "x")
        .await
        .bad_request("bad_payload: invalid UUID format: x");
    row("", "users", &key).await.bad_request("user is empty");
    let request = admin.request(reqwest::Method::GET, "/admin/row?user=u");
    HttpDevice::send(request)
        .await
        .refused(401, "authentication_failed");
}
