//! What the operators' console asks the server for: everybody who is connected, what
//! has just happened, one user's devices, rows and log, and what could not be written.

use oversync_tests::conformance::business_tables;
use oversync_tests::device::{delete, insert, update};
use oversync_tests::folding::{long_written, own};
use oversync_tests::target::fresh_key;
use oversync_tests::{
    ADMIN_TOKEN, Admin, Backend, Config, Database, HttpDevice, Port, Server, eventually,
    on_both_stores,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const USERS: &str = "business.users";
const BOOKS: &str = "shelf.books";

/// Everything that is asked for, with what it cannot do without.
const ASKED: &[&str] = &[
    "/admin/overview",
    "/admin/feed",
    "/admin/storage",
    "/admin/tables",
    "/admin/users",
    "/admin/user?user=u",
    "/admin/user/devices?user=u",
    "/admin/user/rows?user=u",
    "/admin/user/entries?user=u",
    "/admin/failures",
];

on_both_stores!(
    who_is_connected_and_what_happens,
    one_users_rows_and_log_page_by_page,
    a_users_devices_and_who_holds_the_log,
    places_that_a_restore_has_left_out_are_no_entries,
    what_could_not_be_written_is_tried_again,
    users_are_found_by_name,
    a_large_payload_is_told_by_its_beginning,
    what_is_wrong_is_named,
);

async fn server(backend: Backend) -> (Database, Server) {
    let database = backend.database().await;
    database.execute(business_tables(backend)).await;
    // The log as it was written, whatever the environment asks for.
    let config = Config::default()
        .operators()
        .set("retention.enabled", false);
    let server = Server::start(&database, config).await;
    (database, server)
}

async fn ok(admin: &Admin, path: impl AsRef<str>) -> Value {
    admin.get(path.as_ref()).await.ok()
}

/// Pages through a list to its end: everything, and how many pages it was.
async fn all(admin: &Admin, path: &str, list: &str, go_on: &str) -> (Vec<Value>, usize) {
    let (mut found, mut pages, mut after) = (Vec::new(), 0, String::new());
    loop {
        let page = ok(admin, format!("{path}{after}")).await;
        let items = page[list].as_array().expect("a list");
        found.extend(items.iter().cloned());
        pages += 1;
        let next = match &page["next"] {
            Value::Null => return (found, pages),
            Value::String(next) => next.clone(),
            other => other.to_string(),
        };
        let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
        after = format!("&{go_on}={next}");
    }
}

fn texts<'a>(list: &'a [Value], name: &str) -> Vec<&'a str> {
    let text = |item: &'a Value| item[name].as_str().expect("a text");
    list.iter().map(text).collect()
}

async fn who_is_connected_and_what_happens(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (admin, (ada, bob)) = (server.admin(), server.target().two_devices());
    let before = ok(&admin, "/admin/overview").await;
    assert_eq!(
        (&before["users"], &before["next"]),
        (&json!(0), &Value::Null)
    );
    let store = match backend {
        Backend::Embedded => "embedded SQLite",
        Backend::Postgres => "PostgreSQL",
    };
    assert_eq!(before["store"], store);

    let mut socket = bob.connect().await;
    let mut told = socket.hello().await;
    let other = server.target().one_device();
    let mut another = other.connect().await;
    another.hello().await;
    // Waits for what is to come.
    let waiting = tokio::spawn({
        let admin = admin.clone();
        async move { ok(&admin, "/admin/feed?after=0&wait=25").await }
    });
    ada.upload(&[
        insert(1, USERS, &fresh_key(), json!({})),
        insert(2, USERS, &fresh_key(), json!({})),
    ])
    .await;
    socket.told_of(2, &mut told).await;
    let first = waiting.await.expect("no panic");
    assert_ne!(first["events"], json!([]));
    let both = eventually("both are in the feed", || async {
        let page = ok(&admin, "/admin/feed?after=0").await;
        let events = page["events"].as_array()?.clone();
        (events.len() == 2).then_some(events)
    })
    .await;
    // In either order: the hint may have come of the question for heads.
    let of_kind = |kind| {
        let found = both.iter().find(|event| event["kind"] == kind);
        found.unwrap_or_else(|| panic!("{kind} in {both:?}"))
    };
    let commit = of_kind("commit");
    assert_eq!(
        (
            &commit["user"],
            &commit["device"],
            &commit["changes"],
            &commit["head"]
        ),
        (&json!(ada.user()), &json!("ada"), &json!(2), &json!(2))
    );
    let hint = of_kind("hint");
    assert_eq!((&hint["sessions"], &hint["head"]), (&json!(1), &json!(2)));
    let numbers: Vec<_> = both.iter().map(|event| &event["number"]).collect();
    assert_eq!(numbers, [&json!(1), &json!(2)]);
    // What changes nothing is no commit.
    ada.upload(&[insert(3, USERS, "no key", json!({}))]).await;
    let page = ok(&admin, "/admin/feed?after=2").await;
    assert_eq!((&page["events"], &page["last"]), (&json!([]), &json!(2)));

    let now = ok(&admin, "/admin/overview?limit=1").await;
    assert_eq!((&now["sessions"], &now["users"]), (&json!(2), &json!(2)));
    let (connected, pages) = all(&admin, "/admin/overview?limit=1", "connected", "after").await;
    let mut expected = [bob.user(), other.user()];
    expected.sort_unstable();
    assert_eq!((texts(&connected, "user"), pages), (expected.to_vec(), 2));
    let devices = ok(&admin, format!("/admin/user/devices?user={}", ada.user())).await;
    let devices = devices["devices"].as_array().expect("a list");
    let sessions: Vec<_> = devices
        .iter()
        .map(|d| (&d["device"], &d["sessions"]))
        .collect();
    // Bob has never uploaded: nothing is written down of him yet.
    let expected = [(&json!("ada"), &json!(0)), (&json!("bob"), &json!(1))];
    assert_eq!(sessions, expected);
    drop((socket, another));
    eventually("nobody is connected", || async {
        let now = ok(&admin, "/admin/overview").await;
        (now["users"] == 0).then_some(())
    })
    .await;
}

async fn one_users_rows_and_log_page_by_page(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (admin, device) = (server.admin(), server.target().one_device());
    let stranger = server.target().one_device();
    stranger
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    let keys: Vec<String> = (0..5)
        .map(|n| format!("0000000{n}-0000-4000-8000-000000000000"))
        .collect();
    let make = |(n, key): (i64, &String)| {
        let table = if n % 2 == 0 { USERS } else { "public.notes" };
        insert(n + 1, table, key, json!({"n": n}))
    };
    let changes: Vec<Value> = (0..).zip(&keys).map(make).collect();
    device.upload(&changes).await;
    device
        .upload(&[
            update(6, USERS, &keys[0], 1, json!({"n": "again"})),
            delete(7, "public.notes", &keys[1], 1),
        ])
        .await;
    let user = device.user();
    let rows = format!("/admin/user/rows?user={user}");
    let expected = [&keys[0], &keys[2], &keys[4], &keys[1], &keys[3]].map(String::as_str);
    for limit in 1..=6 {
        let (found, pages) = all(&admin, &format!("{rows}&limit={limit}"), "rows", "after").await;
        assert_eq!(
            (texts(&found, "pk"), pages),
            (expected.to_vec(), 5_usize.div_ceil(limit))
        );
    }
    let (found, _) = all(&admin, &rows, "rows", "after").await;
    let (first, gone) = (&found[0], &found[3]);
    assert_eq!(
        (&first["payload"], &first["server_version"]),
        (&json!(r#"{"n":"again"}"#), &json!(2))
    );
    assert_eq!(
        (&first["device"], &first["source_change_id"]),
        (&json!("ada"), &json!(6))
    );
    assert_eq!(
        (&gone["deleted"], &gone["payload"], &gone["server_id"]),
        (&json!(true), &Value::Null, &json!(7))
    );
    for (query, expected) in [
        ("table=public.n", vec![&keys[1], &keys[3]]),
        ("table=public.n&key=00000003", vec![&keys[3]]),
        ("key=00000002-00", vec![&keys[2]]),
        ("table=PUBLIC", vec![]),
        ("table=public.n%25", vec![]),
    ] {
        let page = ok(&admin, format!("{rows}&{query}")).await;
        let found = page["rows"].as_array().expect("a list");
        assert_eq!(texts(found, "pk"), expected, "{query}");
    }

    let entries = format!("/admin/user/entries?user={user}");
    for limit in [1, 3, 7, 8] {
        let path = format!("{entries}&limit={limit}");
        let (found, pages) = all(&admin, &path, "entries", "before").await;
        let places: Vec<i64> = found
            .iter()
            .filter_map(|e| e["server_id"].as_i64())
            .collect();
        assert_eq!(
            (places, pages),
            ((1..=7).rev().collect(), 7_usize.div_ceil(limit))
        );
    }
    let newest = &ok(&admin, &entries).await["entries"][0];
    assert_eq!(
        (&newest["op"], &newest["device"], &newest["payload"]),
        (&json!("DELETE"), &json!("ada"), &Value::Null)
    );
    let log = server.log();
    assert!(
        log.contains("looks at a user's data") && log.contains("127.0.0.1"),
        "who looked is logged"
    );
}

/// Some of what is a user's own could be looked at unseen.
#[tokio::test]
async fn who_looks_at_whom_is_logged() {
    let (_database, server) = server(Backend::Embedded).await;
    let (admin, ann) = (server.admin(), server.target().one_device());
    ann.upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    let user = ann.user();
    let lines = |words: &[&str]| {
        let log = server.log();
        let is_it = |line: &&str| words.iter().all(|word| line.contains(word));
        log.lines().filter(is_it).count()
    };
    for path in [
        "user",
        "user/devices",
        "devices",
        "user/rows",
        "user/entries",
        "failures",
    ] {
        let before = lines(&["looks at a user's data", user, "127.0.0.1"]);
        ok(&admin, format!("/admin/{path}?user={user}")).await;
        let after = lines(&["looks at a user's data", user, "127.0.0.1"]);
        assert_eq!(after, before + 1, "{path}");
    }
    let everybody = || lines(&["looks at all users' data", "failures"]);
    ok(&admin, "/admin/failures").await;
    assert_eq!(everybody(), 1);
    // Who goes on watching is logged once; who begins in the middle is, too.
    let looks = || lines(&["looks at all users' data", "the feed", "127.0.0.1"]);
    let last = ok(&admin, "/admin/feed").await["last"].clone();
    for _ in 0..3 {
        assert_eq!(
            ok(&admin, format!("/admin/feed?after={last}")).await["last"],
            last
        );
    }
    assert_eq!(looks(), 1);
    let middle = last.as_u64().expect("a number") - 1;
    ok(&admin, format!("/admin/feed?after={middle}")).await;
    assert_eq!(looks(), 2);
}

async fn a_users_devices_and_who_holds_the_log(backend: Backend) {
    let database = backend.database().await;
    // Nothing is folded, and everything is soon old enough.
    let config = Config::default()
        .operators()
        .set("retention.enabled", false)
        .set("retention.pause_ms", 100)
        .set("retention.keep_seconds", 0.2);
    let server = Server::start(&database, config).await;
    let (admin, (ada, bob)) = (server.admin(), server.target().two_devices());
    let user = ada.user();
    for id in 1..=4 {
        ada.upload(&[insert(id, USERS, &fresh_key(), json!({}))])
            .await;
    }
    bob.download("after=3").await;
    let zoe = ada.sibling("zoe");
    zoe.download("after=4").await;
    admin.revoke(&ada.sibling("lost")).await;
    let devices = || async {
        let path = format!("/admin/user/devices?user={user}&limit=1");
        all(&admin, &path, "devices", "after").await
    };
    let (found, pages) = eventually("what was heard is written down", || async {
        let (found, pages) = devices().await;
        let bob = found
            .iter()
            .find(|d| d["device"] == "bob" && !d["read_at"].is_null());
        let zoe = found
            .iter()
            .find(|d| d["device"] == "zoe" && !d["read_at"].is_null());
        bob.and(zoe)?;
        Some((found.clone(), pages))
    })
    .await;
    assert_eq!(
        (texts(&found, "device"), pages),
        (vec!["ada", "bob", "lost", "zoe"], 4)
    );
    let [_, bobs, lost, zoes] = &found[..] else {
        panic!("four devices")
    };
    assert_eq!(
        (
            &bobs["cursor"],
            &bobs["behind_by"],
            &bobs["counts_for_retention"]
        ),
        (&json!(3), &json!(1), &json!(true))
    );
    assert_eq!(
        (&zoes["cursor"], &zoes["behind_by"]),
        (&json!(4), &json!(0))
    );
    assert!(
        lost["revoked_at"].is_string() && lost["cursor"].is_null(),
        "{lost}"
    );

    // What holds: bob, who needs the last entry.
    let one = eventually("it is old enough", || async {
        let one = ok(&admin, format!("/admin/user?user={user}")).await;
        // Past the place of the holder.
        (one["holders"] != json!([])).then_some(one)
    })
    .await;
    assert_eq!(
        (&one["head"], &one["ceiling"], &one["foldable"]),
        (&json!(4), &json!(3), &json!(3))
    );
    assert_eq!(
        texts(one["holders"].as_array().expect("a list"), "device"),
        ["bob"]
    );
    // As soon as bob has read it, the whole log may be folded; this process knows at once.
    bob.download("after=4").await;
    let (found, _) = devices().await;
    assert_eq!(
        (&found[1]["cursor"], &found[1]["behind_by"]),
        (&json!(4), &json!(0))
    );
    eventually("nobody holds the log", || async {
        let one = ok(&admin, format!("/admin/user?user={user}")).await;
        (one["foldable"] == 4 && one["holders"] == json!([])).then_some(())
    })
    .await;
}

async fn places_that_a_restore_has_left_out_are_no_entries(backend: Backend) {
    let database = backend.database().await;
    let config = Config::default()
        .operators()
        .set("retention.enabled", false)
        .set("retention.pause_ms", 100);
    let mut server = Server::start(&database, config).await;
    let (ada, bob) = server.target().two_devices();
    let add = async |id: i64| {
        ada.upload(&[insert(id, USERS, &fresh_key(), json!({}))])
            .await
    };
    for id in 1..=4 {
        add(id).await;
    }
    let user = ada.user();
    let devices = format!("/admin/user/devices?user={user}");
    bob.download("after=2").await;
    let bobs = async |server: &Server| {
        let found = ok(&server.admin(), &devices).await;
        let list = found["devices"].as_array().expect("a list").iter();
        list.clone()
            .find(|each| each["device"] == "bob" && !each["read_at"].is_null())
            .cloned()
    };
    eventually("what was heard is written down", || bobs(&server)).await;
    server.terminate().await;
    server.told(&["restore", "--in-place", "--json"]).await;
    server.restart(Port::Same).await;
    add(5).await;
    let bob = bobs(&server).await.expect("it is written down");
    assert_eq!((&bob["cursor"], &bob["behind_by"]), (&json!(2), &json!(3)));
    // As if all of it had been written long ago.
    server.terminate().await;
    long_written(&database).await;
    server.restart(Port::Same).await;
    let one = ok(&server.admin(), format!("/admin/user?user={user}")).await;
    assert_eq!(one["foldable"], 2, "{one}");
    assert_eq!(one["holders"][0]["behind_by"], 3, "{one}");
    // Without bob, all of it could be folded.
    server.terminate().await;
    let forget = format!("DELETE FROM {}", own(&database, "readers"));
    database.execute(&forget).await;
    server.restart(Port::Same).await;
    let one = ok(&server.admin(), format!("/admin/user?user={user}")).await;
    assert_eq!(one["foldable"], 5, "{one}");
}

async fn what_could_not_be_written_is_tried_again(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (admin, ann) = (server.admin(), server.target().one_device());
    let (bob, key) = (server.target().one_device(), fresh_key());
    ann.upload(&[insert(1, BOOKS, &key, json!({"title": "a", "label": "x"}))])
        .await;
    bob.upload(&[
        insert(1, BOOKS, &fresh_key(), json!({"title": ""})),
        insert(2, BOOKS, &fresh_key(), json!({"title": "b", "label": "x"})),
    ])
    .await;
    let cat = server.target().one_device();
    cat.upload(&[insert(1, BOOKS, &fresh_key(), json!({"title": ""}))])
        .await;
    let (found, pages) = all(&admin, "/admin/failures?limit=1", "failures", "after").await;
    assert_eq!(
        (texts(&found, "user"), pages),
        (vec![bob.user(), bob.user(), cat.user()], 3)
    );
    let (found, pages) = all(
        &admin,
        &format!("/admin/failures?limit=1&user={}", bob.user()),
        "failures",
        "after",
    )
    .await;
    assert_eq!((found.len(), pages), (2, 2));
    let taken = found
        .iter()
        .find(|f| f["payload"].as_str().is_some_and(|p| p.contains("\"x\"")));
    let taken = taken.expect("the second").clone();

    let retry = |user: &str, id: &Value| {
        let body = json!({"user": user, "id": id});
        let admin = admin.clone();
        async move { admin.post("/admin/failures/retry", &body).await }
    };
    // Another user's number is nobody's.
    retry(ann.user(), &taken["id"])
        .await
        .refused(404, "not_found");
    let still = retry(bob.user(), &taken["id"]).await.ok();
    assert_eq!(still["status"], "materialize_error");
    ann.upload(&[delete(2, BOOKS, &key, 1)]).await;
    let done = retry(bob.user(), &taken["id"]).await.ok();
    assert_eq!(done, json!({"status": "applied", "new_server_version": 1}));
    retry(bob.user(), &taken["id"])
        .await
        .refused(404, "not_found");
    let left = ok(&admin, format!("/admin/failures?user={}", bob.user())).await;
    assert_eq!(left["failures"].as_array().map(Vec::len), Some(1));
    assert!(server.log().contains("tried a failed row again"));
    server.verified().await;
}

async fn users_are_found_by_name(backend: Backend) {
    let (_database, server) = server(backend).await;
    let admin = server.admin();
    let names = ["an", "ann", "anna", "ann%", "bob", "Ann", "\u{e9}va"];
    for name in names {
        let device = server.target().device(name, "d");
        device
            .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
            .await;
    }
    let find = async |prefix: &str| {
        let prefix: String = url::form_urlencoded::byte_serialize(prefix.as_bytes()).collect();
        let path = format!("/admin/users?limit=2&prefix={prefix}");
        let (found, _) = all(&admin, &path, "users", "after").await;
        texts(&found, "user")
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(find("ann").await, ["ann", "ann%", "anna"]);
    assert_eq!(find("ann%").await, ["ann%"]);
    assert_eq!(find("\u{e9}").await, ["\u{e9}va"]);
    assert_eq!(find("x").await, [""; 0]);
    assert_eq!(find("").await.len(), names.len());
}

async fn a_large_payload_is_told_by_its_beginning(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (admin, device) = (server.admin(), server.target().one_device());
    let text = "\u{e9}".repeat(300_000);
    device
        .upload(&[insert(
            1,
            BOOKS,
            &fresh_key(),
            json!({"title": "", "text": text}),
        )])
        .await;
    let user = device.user();
    for (path, list) in [
        ("user/rows", "rows"),
        ("user/entries", "entries"),
        ("failures", "failures"),
    ] {
        let reply = admin.get(&format!("/admin/{path}?user={user}")).await;
        let page = reply.ok();
        let one = &page[list][0];
        assert_eq!(
            one["payload"].as_str().map(|text| text.chars().count()),
            Some(2_000),
            "{path}"
        );
        assert!(one["payload_bytes"].as_i64() > Some(600_000), "{path}");
        assert!(reply.text.len() < 10_000, "{path}");
    }
}

async fn what_is_wrong_is_named(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (admin, device) = (server.admin(), server.target().one_device());
    for path in ASKED {
        let without = HttpDevice::send(admin.request(Method::GET, path)).await;
        without.refused(401, "authentication_failed");
        admin
            .showing(device.token())
            .get(path)
            .await
            .refused(401, "authentication_failed");
    }
    let body = json!({"user": "u", "id": 1}).to_string();
    let retry = admin
        .request(Method::POST, "/admin/failures/retry")
        .body(body);
    HttpDevice::send(retry)
        .await
        .refused(401, "authentication_failed");
    for (path, named) in [
        ("/admin/overview?limit=0", "limit must be between 1 and 500"),
        ("/admin/overview?limit=x", "limit must be a whole number"),
        ("/admin/overview?after=%00", "after must be a user's name"),
        ("/admin/feed?wait=31", "wait must be between 0 and 30"),
        ("/admin/feed?after=-1", "after must be a whole number"),
        ("/admin/users?limit=501", "limit must be between 1 and 500"),
        (
            "/admin/users?prefix=a%00",
            "prefix contains a control character",
        ),
        ("/admin/user", "user is empty"),
        (
            "/admin/user/devices?user=a%00",
            "user contains a control character",
        ),
        (
            "/admin/user/devices?user=a&after=%00",
            "after contains a control character",
        ),
        (
            "/admin/user/rows?user=a&key=xyz",
            "key must be the beginning of a UUID",
        ),
        (
            "/admin/user/rows?user=a&after=users",
            "after must be schema.table/key, as a page says in next",
        ),
        (
            "/admin/user/rows?user=a&limit=101",
            "limit must be between 1 and 100",
        ),
        (
            "/admin/user/entries?user=a&before=new",
            "before must be a whole number",
        ),
        (
            "/admin/failures?after=5",
            "after must be as a page says in next",
        ),
    ] {
        let reply = admin.get(path).await;
        assert_eq!(
            (reply.status, &reply.json()["message"]),
            (400, &json!(named)),
            "{path}"
        );
    }
    let reply = admin.post_raw("/admin/failures/retry", "{}").await;
    reply.bad_request("the body must be {\"user\": \u{2026}, \"id\": \u{2026}}");
    // Nothing of it is an error of ours.
    admin
        .get("/admin/user?user=nobody")
        .await
        .refused(404, "not_found");
    for path in ["user/rows", "user/entries", "user/devices", "failures"] {
        let page = ok(
            &admin,
            format!("/admin/{path}?user=nobody&table=%00&key=&before=-9223372036854775808"),
        )
        .await;
        assert_eq!(page["next"], Value::Null, "{path}");
    }
    // On the devices' listener there is none of it.
    for path in ASKED.iter().chain(&["/console", "/console/console.js"]) {
        assert_eq!(device.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_does_not_wait_for_who_watches() {
    let (_database, mut server) = server(Backend::Embedded).await;
    let admin = server.admin();
    let address = admin.base().strip_prefix("http://").expect("plain HTTP");
    let mut watching = TcpStream::connect(address).await.expect("taken in");
    let request = format!(
        "GET /admin/feed?wait=30 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\r\n"
    );
    let sent = watching.write_all(request.as_bytes()).await;
    sent.expect("sent");
    // One thread serves both, in the order they came.
    assert_eq!(admin.get("/health").await.status, 200);
    let start = Instant::now();
    server.terminate().await;
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    let mut answer = String::new();
    let read = watching.read_to_string(&mut answer).await;
    read.expect("an answer, and the end");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"events\":[]"),
        "{answer}"
    );
}
