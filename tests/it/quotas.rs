//! What one user may have: limits on live rows, their bytes, and devices. A limit
//! passes and limit + 1 does not, whoever counts and however many processes there are;
//! a refusal leaves no trace; and the database is not asked more than it must be.

use oversync_tests::device::{delete, insert, update};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{
    Admin, App, Backend, Config, HttpDevice, Port, Seed, Server, eventually, on_both_stores,
};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

on_both_stores!(
    bytes_up_to_the_limit_and_no_more,
    rows_that_were_there_count_and_tombstones_do_not,
    a_device_too_many_reads_and_does_not_write,
    a_refused_edit_is_sent_again_when_there_is_room,
    the_database_is_hardly_asked,
    limits_are_taken_over_while_it_runs,
    nothing_random_passes_a_limit,
);

/// A payload of so many bytes.
fn sized(bytes: usize) -> Value {
    let value = json!({ "name": "x".repeat(bytes - r#"{"name":""}"#.len()) });
    assert_eq!(value.to_string().len(), bytes);
    value
}

/// The letter of each status: applied, conflict, over a quota, another fault.
fn letters(statuses: &[Value]) -> String {
    let letter = |status: &Value| match status["status"].as_str() {
        Some("applied") => 'a',
        Some("conflict") => 'c',
        _ if status["invalid"]["reason"] == "precheck_error" => 'q',
        _ => 'i',
    };
    statuses.iter().map(letter).collect()
}

fn message(status: &Value) -> &str {
    let message = status["message"].as_str().expect("a message");
    assert_eq!(status["invalid"]["reason"], "precheck_error", "{status}");
    assert_eq!(status["invalid"]["details"]["error"], message, "{status}");
    message
}

const USERS: &str = "business.users";

async fn bytes_up_to_the_limit_and_no_more(backend: Backend) {
    let database = backend.database().await;
    let config = Config::default().operators().set("quotas.user_bytes", 300);
    let server = Server::start(&database, config).await;
    let (ann, eve) = server.target().two_devices();
    let (one, two, three) = (fresh_key(), fresh_key(), fresh_key());
    let first = [
        insert(1, USERS, &one, sized(100)),
        insert(2, USERS, &two, sized(200)),
        insert(3, USERS, &three, sized(20)),
        // A child of what was refused has no parent.
        insert(
            4,
            "business.posts",
            &fresh_key(),
            json!({"author_id": three}),
        ),
    ];
    let reply = ann.upload(&first).await;
    let statuses = reply["statuses"].as_array().expect("statuses");
    assert_eq!(letters(statuses), "aaqi");
    assert_eq!(
        message(&statuses[2]),
        "quota exceeded: user_bytes 300, in use 300, this change 20"
    );
    assert_eq!(statuses[3]["invalid"]["reason"], "fk_missing");
    assert_eq!(
        (&reply["head"], &reply["accepted"]),
        (&json!(2), &json!(true))
    );
    // At the limit: the same again, nothing that grows, all that does not.
    let letters_of = async |changes: &[Value]| letters(&ann.statuses(changes).await);
    assert_eq!(letters_of(&first).await, "aaqi");
    assert_eq!(
        letters_of(&[update(5, USERS, &one, 1, sized(101))]).await,
        "q"
    );
    assert_eq!(
        letters_of(&[update(5, USERS, &one, 1, sized(100))]).await,
        "a"
    );
    assert_eq!(
        letters_of(&[update(6, USERS, &one, 2, sized(80))]).await,
        "a"
    );
    // What was refused has not used up its number; whose row moved on is told so.
    assert_eq!(letters_of(&first[2..3]).await, "a");
    assert_eq!(
        letters_of(&[update(7, USERS, &one, 1, sized(900))]).await,
        "c"
    );
    assert_eq!(
        letters_of(&[update(8, USERS, &one, 3, sized(81))]).await,
        "q"
    );
    assert_eq!(letters_of(&[delete(9, USERS, &one, 3)]).await, "a");
    // Another device of the same user has the same room, another user has its own.
    assert_eq!(
        letters(
            &eve.statuses(&[insert(1, USERS, &fresh_key(), sized(81))])
                .await
        ),
        "q"
    );
    assert_eq!(
        letters(
            &eve.statuses(&[insert(1, USERS, &fresh_key(), sized(80))])
                .await
        ),
        "a"
    );
    let other = server.target().one_device();
    assert_eq!(
        letters(
            &other
                .statuses(&[insert(1, USERS, &fresh_key(), sized(300))])
                .await
        ),
        "a"
    );
    let refused = "oversync_over_quota_total{quota=\"user_bytes\"}";
    assert_eq!(server.admin().metric(refused).await, 5.0);
    server.verified().await;
}

/// A server without limits wrote them; folding, tombstones and what back-end code
/// writes make no difference.
async fn rows_that_were_there_count_and_tombstones_do_not(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let ann = server.target().one_device();
    let keys: Vec<String> = (0..6).map(|_| fresh_key()).collect();
    let rows = (1..)
        .zip(&keys)
        .map(|(id, key)| insert(id, USERS, key, sized(50)));
    ann.upload(&rows.collect::<Vec<_>>()).await;
    ann.upload(&[
        update(7, USERS, &keys[0], 1, sized(60)),
        delete(8, USERS, &keys[1], 1),
        delete(9, USERS, &keys[2], 1),
    ])
    .await;
    server.terminate().await;
    let config = Config::default().operators().set("quotas.user_rows", 5);
    let config = config.set("quotas.user_bytes", 300).folding();
    let server = Server::start(&database, config).await;
    let ann = ann.at(&server.target());
    // 4 rows of 210 bytes.
    let more = [
        update(10, USERS, &keys[1], 2, sized(50)),
        insert(11, USERS, &fresh_key(), sized(20)),
    ];
    let statuses = ann.statuses(&more).await;
    assert_eq!(letters(&statuses), "aq");
    assert_eq!(
        message(&statuses[1]),
        "quota exceeded: user_rows 5, in use 5, this change 1"
    );
    let grows = update(12, USERS, &keys[3], 1, sized(91));
    assert_eq!(
        message(&ann.upload_one(grows).await),
        "quota exceeded: user_bytes 300, in use 260, this change 41"
    );
    // The server itself is not limited, and counted.
    let set = json!({
        "schema": "business", "table": "users", "op": "INSERT", "pk": fresh_key(),
        "server_version": 0, "payload": sized(100),
    });
    let written = server.admin().write_one(ann.user(), set).await;
    assert_eq!(written["status"], "applied");
    let changes = [
        update(13, USERS, &keys[3], 1, sized(51)),
        update(14, USERS, &keys[4], 1, sized(49)),
        delete(15, USERS, &keys[5], 1),
    ];
    let reply = ann.upload_patiently(&changes).await;
    let statuses = reply["statuses"].as_array().expect("statuses").clone();
    assert_eq!(letters(&statuses), "qaa");
    assert_eq!(
        message(&statuses[0]),
        "quota exceeded: user_bytes 300, in use 360, this change 1"
    );
    server.verified().await;
}

async fn a_device_too_many_reads_and_does_not_write(backend: Backend) {
    let database = backend.database().await;
    let config = Config::default().operators().set("quotas.user_devices", 2);
    let server = Server::start(&database, config).await;
    let (ann, eve) = server.target().two_devices();
    let max = ann.sibling("max");
    let key = fresh_key();
    let add = |id| insert(id, USERS, &fresh_key(), json!({}));
    assert_eq!(
        letters(&ann.statuses(&[insert(1, USERS, &key, json!({}))]).await),
        "a"
    );
    // Who has written nothing is none; the answer to what is wrong stays.
    assert_eq!(
        letters(&max.statuses(&[update(1, USERS, &key, 7, json!({}))]).await),
        "c"
    );
    assert_eq!(letters(&eve.statuses(&[add(1)]).await), "a");
    let statuses = max
        .statuses(&[
            add(1),
            delete(2, USERS, &key, 1),
            insert(3, "business.nothing", &key, json!({})),
        ])
        .await;
    assert_eq!(letters(&statuses), "qqi");
    assert_eq!(
        message(&statuses[1]),
        "quota exceeded: user_devices 2, in use 2, this one is new"
    );
    assert_eq!(statuses[2]["invalid"]["reason"], "unregistered_table");
    let (seen, _) = max.download_all(0, 100, "").await;
    assert_eq!(seen.len(), 2);
    // The others go on; one that is revoked makes room, and is let in again later.
    assert_eq!(letters(&ann.statuses(&[add(2)]).await), "a");
    server.admin().revoke(&eve).await;
    assert_eq!(letters(&max.statuses(&[add(1)]).await), "a");
    server.admin().reinstate(&eve).await;
    eventually("eve is let in", || async {
        (eve.upload_raw(json!({"changes": [add(2)]}).to_string())
            .await
            .status
            == 200)
            .then_some(())
    })
    .await;
    let late = ann.sibling("late").upload_one(add(1)).await;
    assert_eq!(
        message(&late),
        "quota exceeded: user_devices 2, in use 3, this one is new"
    );
    let refused = "oversync_over_quota_total{quota=\"user_devices\"}";
    assert_eq!(server.admin().metric(refused).await, 3.0);
    server.verified().await;
}

/// The real client: in the list of refusals, with the reason, and from there once
/// more when something was deleted.
async fn a_refused_edit_is_sent_again_when_there_is_room(backend: Backend) {
    let database = backend.database().await;
    let config = Config::default().set("quotas.user_rows", 3);
    let server = Server::start(&database, config).await;
    let user = fresh_user();
    let ada = App::open(&server.target(), &user, "ada").await;
    let keys: Vec<String> = (0..5).map(|_| fresh_key()).collect();
    for key in &keys {
        ada.add(key, "one of five");
    }
    ada.client.sync().await.expect("synchronises");
    let refused = ada.client.rejected().await.expect("a list");
    assert_eq!(refused.len(), 2);
    for one in &refused {
        assert_eq!((&*one.op, &*one.reason), ("INSERT", "precheck_error"));
        assert!(
            one.detail
                .contains("quota exceeded: user_rows 3, in use 3, this change 1"),
            "{one:?}"
        );
    }
    // They are still the application's; nothing else is held up.
    assert_eq!(ada.people().len(), 5);
    let gone = keys
        .iter()
        .find(|key| refused.iter().all(|one| one.key != **key));
    let gone = gone.expect("three are not refused");
    ada.connection()
        .execute("DELETE FROM users WHERE id = ?1", [gone])
        .expect("deleted");
    ada.client.sync().await.expect("synchronises");
    assert_eq!(ada.client.rejected().await.expect("a list").len(), 2);
    assert_eq!(ada.client.retry_all_rejected().await.expect("retried"), 2);
    ada.client.sync().await.expect("synchronises");
    let refused = ada.client.rejected().await.expect("a list");
    assert_eq!(refused.len(), 1, "{refused:?}");
    let observer = server.target().device(&user, "observer");
    assert_eq!(lives(&observer).await.0, 3);
    server.verified().await;
    ada.client.stop().await;
}

async fn questions(admin: &Admin, verb: &str) -> f64 {
    let metric = format!("oversync_store_questions_total{{verb=\"{verb}\"}}");
    admin.metric_named(metric).await
}

/// Once for a user, while it is far from its limits; and not for each refusal.
async fn the_database_is_hardly_asked(backend: Backend) {
    let database = backend.database().await;
    let config = Config::default()
        .operators()
        .set("quotas.user_bytes", 10_000);
    let server = Server::start(&database, config).await;
    let (admin, ann) = (server.admin(), server.target().one_device());
    let asked = async || {
        let mut asked = Vec::new();
        for verb in ["usage", "usage_since", "sizes"] {
            asked.push(questions(&admin, verb).await);
        }
        asked
    };
    let key = fresh_key();
    for version in 0..30 {
        ann.upload(&[update(version + 1, USERS, &key, version, sized(100))])
            .await;
    }
    assert_eq!(asked().await, [1.0, 0.0, 0.0]);
    // 3000 bytes at most, 100 in truth. The bound is near the limit now.
    let big = fresh_key();
    ann.upload(&[insert(31, USERS, &big, sized(6_990))]).await;
    assert_eq!(asked().await, [1.0, 0.0, 0.0]);
    // Beyond the bound, and not beyond the truth. A refusal is never a guess: all is
    // counted once more, not before some seconds have passed.
    let more = insert(32, USERS, &fresh_key(), sized(2_910));
    let reply = ann.upload_patiently(std::slice::from_ref(&more)).await;
    assert_eq!(
        letters(reply["statuses"].as_array().expect("statuses")),
        "a"
    );
    let after = asked().await;
    assert_eq!((after[0], after[1]), (2.0, 0.0));
    // At the limit, a thousand refusals, and edits that fit, ask no more than for the
    // rows that they replace.
    for id in 0..20 {
        let refused = insert(40 + id, USERS, &fresh_key(), sized(12));
        assert_eq!(letters(&ann.statuses(&[refused]).await), "q");
        let same = update(100 + id, USERS, &big, 1 + id, sized(6_990));
        assert_eq!(letters(&ann.statuses(&[same]).await), "a");
    }
    let room = [delete(200, USERS, &key, 30)];
    assert_eq!(letters(&ann.statuses(&room).await), "a");
    let fits = insert(201, USERS, &fresh_key(), sized(100));
    assert_eq!(letters(&ann.statuses(&[fits]).await), "a");
    let end = asked().await;
    assert_eq!((end[0], end[1]), (2.0, 0.0));
    server.verified().await;
}

async fn limits_are_taken_over_while_it_runs(backend: Backend) {
    let database = backend.database().await;
    let limit = |rows: i64| Config::default().set("quotas.user_rows", rows);
    let server = Server::answering(&database, limit(1)).await;
    let ann = server.target().one_device();
    let add = |id| [insert(id, USERS, &fresh_key(), json!({}))];
    assert_eq!(letters(&ann.statuses(&add(1)).await), "a");
    assert_eq!(letters(&ann.statuses(&add(2)).await), "q");
    server.reload(&database, limit(2));
    eventually("the new limit counts", || async {
        (letters(&ann.statuses(&add(2)).await) == "a").then_some(())
    })
    .await;
    assert_eq!(letters(&ann.statuses(&add(3)).await), "q");
    server.reload(&database, Config::default());
    eventually("there is none", || async {
        (letters(&ann.statuses(&add(3)).await) == "a").then_some(())
    })
    .await;
}

/// Two processes, or one that is started again and again: whatever is sent where, and
/// by several devices at once, what lives is never more than the limits.
async fn nothing_random_passes_a_limit(backend: Backend) {
    const ROWS: usize = 12;
    const BYTES: usize = 1_000;
    let mut rng: StdRng = Seed::from_env().rng(0);
    let database = backend.database().await;
    let limited = || {
        let config = Config::default().set("quotas.user_rows", ROWS as i64);
        config.set("quotas.user_bytes", BYTES as i64)
    };
    let mut servers = vec![Server::start(&database, limited()).await];
    if backend == Backend::Postgres {
        servers.push(Server::start(&database, limited().bypass_actors()).await);
    }
    let user = fresh_user();
    let keys: Vec<String> = (0..20).map(|_| fresh_key()).collect();
    let mut seen = (String::new(), 0);
    for round in 0..8 {
        if backend == Backend::Embedded && round % 4 == 3 {
            servers[0].terminate().await;
            servers[0].restart(Port::Free).await;
        }
        let mut writers = Vec::new();
        for (place, server) in servers.iter().enumerate() {
            for name in 0..2 {
                let device = server
                    .target()
                    .device(&user, &format!("device {place} {name}"));
                let batch = random_batch(&mut rng, &device, round, &keys).await;
                writers.push(async move {
                    let reply = device.upload_patiently(&batch).await;
                    letters(reply["statuses"].as_array().expect("statuses"))
                });
            }
        }
        for answer in futures_util::future::join_all(writers).await {
            seen.0 += &answer;
        }
        let (rows, bytes) = lives(&servers[0].target().device(&user, "observer")).await;
        assert!(
            rows <= ROWS && bytes <= BYTES,
            "{rows} rows of {bytes} bytes"
        );
        seen.1 = seen.1.max(rows);
    }
    // It came to something.
    assert!(seen.0.contains('q') && seen.0.contains('a'), "{seen:?}");
    assert!(seen.1 * 2 >= ROWS, "{seen:?}");
    servers[0].verified().await;
}

/// Changes of random rows at the versions they have now, with numbers of their own.
async fn random_batch(
    rng: &mut StdRng,
    device: &HttpDevice,
    round: i64,
    keys: &[String],
) -> Vec<Value> {
    let (entries, _) = device.download_all(0, 100, "&include_self=true").await;
    let version = |key: &str| {
        let last = entries.iter().rfind(|one| one["pk"] == *key);
        last.and_then(|one| one["server_version"].as_i64())
            .unwrap_or(0)
    };
    (0..6)
        .map(|n| {
            let key = &keys[rng.random_range(0..keys.len())];
            let id = round * 10 + n + 1;
            match rng.random_range(0..4) {
                0 => delete(id, USERS, key, version(key)),
                _ => update(
                    id,
                    USERS,
                    key,
                    version(key),
                    sized(rng.random_range(12..200)),
                ),
            }
        })
        .collect()
}

/// Live rows and the bytes of their payloads, as a reader sees them.
async fn lives(observer: &HttpDevice) -> (usize, usize) {
    let (entries, _) = observer.download_all(0, 100, "").await;
    let mut live = std::collections::HashMap::new();
    for entry in &entries {
        live.insert(entry["pk"].to_string(), entry["payload"].clone());
    }
    let live = live.values().filter(|payload| !payload.is_null());
    let sizes: Vec<usize> = live.map(|payload| payload.to_string().len()).collect();
    (sizes.len(), sizes.iter().sum())
}
