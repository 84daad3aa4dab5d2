//! Bounded storage: what the log is folded to is a history that any reader can
//! apply, nothing that a device still needs is gone, and every answer is what it
//! would have been. Folding runs without a rest and takes all that it may.

use oversync_tests::conformance::{business_tables, cases, run};
use oversync_tests::device::{delete, insert, update};
use oversync_tests::folding::{
    count, eager, folded_up_to, ids, long_written, name_of, own, people, silence,
};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{App, Backend, Seed, Server, eventually, on_both_stores};
use rand::Rng as _;
use serde_json::{Value, json};

on_both_stores!(
    a_row_that_changed_often_is_one_row_for_a_fresh_device,
    what_a_live_device_needs_is_not_folded,
    a_place_in_the_fold_is_of_who_was_given_it,
    a_repeated_change_is_answered_as_before,
    a_client_behind_the_floor_begins_again_and_keeps_its_edits,
    real_clients_agree_while_it_folds,
    conformance_holds_while_it_folds,
    conformance_holds_beside_folding,
);

/// How often the row is changed that is changed often, where not 3,000 times.
const CHANGED: &str = "OVERSYNC_TEST_CHANGES_OF_A_ROW";

async fn a_row_that_changed_often_is_one_row_for_a_fresh_device(backend: Backend) {
    const CHANGES: i64 = 500;
    let changed = std::env::var(CHANGED).map_or(3_000, |text| text.parse().expect("a number"));
    let uploads = changed / CHANGES;
    let database = backend.database().await;
    let server = Server::start(&database, eager()).await;
    let ann = server.target().one_device();
    let (key, gone) = (fresh_key(), fresh_key());
    let mut id = 0;
    for upload in 0..uploads {
        let changes: Vec<Value> = (0..CHANGES)
            .map(|_| {
                id += 1;
                match id {
                    1 => insert(id, "business.users", &gone, json!({})),
                    2 => delete(id, "business.users", &gone, 1),
                    _ => update(id, "business.users", &key, id - 3, name_of(id)),
                }
            })
            .collect();
        let first = upload * CHANGES + 1;
        let body = json!({ "changes": changes, "settled_below": first });
        let reply = ann.upload_raw(body.to_string()).await.ok();
        for status in reply["statuses"].as_array().expect("statuses") {
            assert_eq!(status["status"], "applied", "{status}");
        }
    }
    folded_up_to(&database, id).await;
    let (seen, cursor) = ann.sibling("fresh").download_all(0, 100, "").await;
    assert_eq!((seen.len(), cursor), (1, id));
    let row = &seen[0];
    assert_eq!(row["op"], "INSERT");
    assert_eq!(row["server_version"], id - 2);
    assert_eq!(row["server_id"], id);
    assert_eq!(row["payload"], name_of(id));
    // One entry, one place; the records of what may be sent again, and no other.
    assert_eq!(count(&database, "log").await, 1);
    assert_eq!(count(&database, "folded").await, 1);
    assert!(count(&database, "records").await <= CHANGES);
    // Who was deleted stays so.
    let late = insert(1, "business.users", &gone, json!({}));
    let late = ann.sibling("late").upload_one(late).await;
    assert_eq!(late["status"], "conflict", "{late}");
    assert_eq!(late["server_row"]["deleted"], true);
    assert_eq!(late["server_row"]["server_version"], 2);
    server.verified().await;
}

async fn what_a_live_device_needs_is_not_folded(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, eager()).await;
    let ann = server.target().one_device();
    let eve = ann.sibling("eve");
    let keys: Vec<String> = (0..20).map(|_| fresh_key()).collect();
    // At once: a few more of them would not be worth a new fold.
    ann.upload(&people(1, &keys)).await;
    folded_up_to(&database, 20).await;
    // Eve is in the middle of the fold. What comes is not folded under her.
    let page = eve.download("after=0&limit=10").await;
    assert_eq!(page["next_after"], 10);
    for (id, key) in (21..).zip(&keys) {
        ann.upload(&[delete(id, "business.users", key, 1)]).await;
    }
    // It is she alone who holds them, not their age.
    long_written(&database).await;
    assert_eq!(count(&database, "users WHERE floor = 20").await, 1);
    // This page says that she need not read them again: from here on it may be.
    let page = eve.download("after=10&limit=20").await;
    assert_eq!(ids(&page["changes"]), (11..=30).collect::<Vec<_>>());
    // She comes from there: what she has read is folded, and no more.
    eve.download("after=30&limit=1").await;
    folded_up_to(&database, 30).await;
    let (seen, end) = eve.download_all(30, 7, "").await;
    assert_eq!(ids(&seen.into()), (31..=40).collect::<Vec<_>>());
    // When she has them all, they are folded: nothing lives.
    eve.download(&format!("after={end}")).await;
    folded_up_to(&database, 40).await;
    assert_eq!(count(&database, "log").await, 0);
    let fresh = ann.sibling("fresh");
    let (nothing, _) = fresh.download_all(0, 100, "").await;
    assert!(nothing.is_empty());

    // Silent for long, she counts no more, is told so, and begins again.
    let key = fresh_key();
    silence(&database, "eve").await;
    for version in 0..5 {
        let change = update(
            41 + version,
            "business.users",
            &key,
            version,
            name_of(version),
        );
        ann.upload(&[change]).await;
    }
    // Who was told that there is nothing up to 40 may have gone on to there.
    fresh.download("after=45").await;
    folded_up_to(&database, 45).await;
    let told = eve
        .download_raw("after=41")
        .await
        .refused(410, "history_pruned");
    assert_eq!(told["floor"], 45);
    let (seen, _) = eve.download_all(0, 100, "").await;
    assert_eq!(seen.len(), 1);
    server.verified().await;
}

/// A device reads from the start, and comes with a cursor of former times: another
/// copy of its file, or its doctor, has read. What it has missed would be lost.
async fn a_place_in_the_fold_is_of_who_was_given_it(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, eager()).await;
    let ann = server.target().one_device();
    let eve = ann.sibling("eve");
    let keys: Vec<String> = (0..20).map(|_| fresh_key()).collect();
    ann.upload(&people(1, &keys)).await;
    let gone: Vec<Value> = (21..)
        .zip(&keys[..10])
        .map(|(id, key)| delete(id, "business.users", key, 1))
        .collect();
    ann.upload(&gone).await;
    folded_up_to(&database, 30).await;
    let page = eve.download("after=0&limit=2").await;
    assert_eq!(ids(&page["changes"]), [21, 22]);
    // Any number below the floor but the one that she was given.
    for stale in [1, 20, 21, 23, 25, 29] {
        let stale = eve.download_raw(&format!("after={stale}")).await;
        stale.refused(410, "history_pruned");
    }
    // An answer may be lost: the last page may be asked for again.
    for _ in 0..2 {
        let page = eve.download("after=22&limit=3").await;
        assert_eq!(ids(&page["changes"]), [23, 24, 25]);
    }
    let again = eve.download_raw("after=21").await;
    again.refused(410, "history_pruned");
    let (rest, end) = eve.download_all(25, 2, "").await;
    assert_eq!(ids(&rest.into()), [26, 27, 28, 29, 30]);
    assert_eq!(end, 30);
    server.verified().await;
}

async fn a_repeated_change_is_answered_as_before(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, eager()).await;
    let ann = server.target().one_device();
    let key = fresh_key();
    let changes: Vec<Value> = (0..6)
        .map(|n| update(n + 1, "business.users", &key, n, name_of(n)))
        .collect();
    let first = ann.statuses(&changes).await;
    folded_up_to(&database, 6).await;
    assert_eq!(count(&database, "log").await, 1);
    assert_eq!(ann.statuses(&changes).await, first);
    let other = update(3, "business.users", &key, 6, json!({"name": "other"}));
    let other = ann.upload_one(other).await;
    assert_eq!(other["status"], "conflict", "its number was used: {other}");
    // What the device has settled is forgotten, and still never done twice.
    let body = json!({
        "changes": [update(7, "business.users", &key, 6, json!({}))],
        "settled_below": 4,
    });
    ann.upload_raw(body.to_string()).await.ok();
    folded_up_to(&database, 7).await;
    assert_eq!(count(&database, "records").await, 3);
    let again = ann.statuses(&changes).await;
    for status in &again[..3] {
        assert_eq!(status["status"], "conflict", "{status}");
    }
    assert_eq!(again[3..], first[3..]);
    assert_eq!(ann.download("after=0&include_self=true").await["head"], 7);
    server.verified().await;
}

/// The client does not lose what it has not sent, and loses what others deleted.
async fn a_client_behind_the_floor_begins_again_and_keeps_its_edits(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, eager()).await;
    let user = fresh_user();
    let ada = App::open(&server.target(), &user, "ada").await;
    let bob = App::open(&server.target(), &user, "bob").await;
    let keys: Vec<String> = (0..10).map(|_| fresh_key()).collect();
    for key in &keys {
        ada.add(key, "before");
    }
    ada.client.sync().await.expect("synchronised");
    bob.client.sync().await.expect("synchronised");
    assert_eq!(bob.people().len(), 10);
    // While Bob is away: half is deleted, half is changed, and all of it folded.
    let mine = fresh_key();
    bob.add(&mine, "unsent");
    let run = |app: &App, sql: &str, key: &str| {
        app.connection().execute(sql, [key]).expect("the SQL runs");
    };
    run(
        &bob,
        "UPDATE users SET name = 'edited' WHERE id = ?1",
        &keys[9],
    );
    let head = format!("SELECT head FROM {}", own(&database, "users"));
    let floor = format!("SELECT floor FROM {}", own(&database, "users"));
    eventually("Bob is known", || async {
        let bob = count(&database, "readers WHERE device_id = 'bob'").await;
        (bob == 1).then_some(())
    })
    .await;
    for key in &keys[..5] {
        run(&ada, "DELETE FROM users WHERE id = ?1", key);
    }
    for key in &keys[5..9] {
        run(&ada, "UPDATE users SET name = 'after' WHERE id = ?1", key);
    }
    ada.client.sync().await.expect("synchronised");
    silence(&database, "bob").await;
    eventually("everything is folded", || async {
        ada.client.sync().await.ok()?;
        (database.ask(&head).await? == database.ask(&floor).await?).then_some(())
    })
    .await;
    bob.client.sync().await.expect("synchronised");
    bob.client.sync().await.expect("synchronised");
    ada.client.sync().await.expect("synchronised");
    let people = ada.people();
    assert_eq!(people, bob.people());
    assert_eq!(people.len(), 6);
    let name = |key: &String| {
        people
            .iter()
            .find(|row| row.0 == *key)
            .map(|row| row.1.as_str())
    };
    assert_eq!(name(&mine), Some("unsent"));
    assert_eq!(name(&keys[9]), Some("edited"));
    assert_eq!(name(&keys[5]), Some("after"));
    server.verified().await;
}

/// Each of them writes, edits what others wrote, deletes, and is away for a while.
async fn real_clients_agree_while_it_folds(backend: Backend) {
    let mut rng = Seed::from_env().rng(0);
    let database = backend.database().await;
    let server = Server::start(&database, eager()).await;
    let user = fresh_user();
    let mut apps = Vec::new();
    for device in ["ada", "bob", "cyd"] {
        apps.push(App::open(&server.target(), &user, device).await);
    }
    for round in 0..30 {
        let app = &apps[rng.random_range(0..apps.len())];
        app.add(&fresh_key(), &format!("added in {round}"));
        let people = app.people();
        let key = &people[rng.random_range(0..people.len())].0;
        let sql = match rng.random_range(0..3) {
            0 => "DELETE FROM users WHERE id = ?1",
            _ => "UPDATE users SET name = name || '+' WHERE id = ?1",
        };
        app.connection().execute(sql, [key]).expect("the SQL runs");
        if rng.random_bool(0.7) {
            app.client.sync().await.expect("synchronised");
        }
    }
    eventually("all have the same", || async {
        for app in &apps {
            app.client.sync().await.ok()?;
        }
        for app in &apps {
            let status = app.client.status().await.ok()?;
            (status.unsent == 0).then_some(())?;
        }
        let people = apps[0].people();
        apps.iter().all(|app| app.people() == people).then_some(())
    })
    .await;
    let fresh = App::open(&server.target(), &user, "fresh").await;
    fresh.client.sync().await.expect("synchronised");
    assert_eq!(fresh.people(), apps[0].people());
    server.verified().await;
}

/// Cases that look at a user's whole log; the others only at answers to uploads.
const LOOKS_AT_THE_LOG: &[&str] = &[
    "checks::names_are_trimmed_and_folded",
    "checks::an_empty_schema_is_public",
    "checks::keys_are_taken_in_every_spelling",
    "checks::a_payload_may_be_empty_or_use_any_key",
    "checks::nul_in_a_payload_is_harmless",
    "checks::a_bad_change_harms_no_neighbour",
    "checks::a_refused_change_id_is_not_used_up",
    "gate::never_seen_upsert_with_version_0",
    "gate::live_delete_with_its_version",
    "gate::tombstone_delete_with_its_version",
    "gate::several_changes_of_one_row_build_on_each_other",
    "gate::a_conflict_leaves_no_trace",
    "idempotency::the_same_change_has_the_same_answer_and_no_effect",
    "idempotency::the_first_answer_stands_when_the_row_has_moved_on",
    "idempotency::key_order_white_space_and_spelling_are_not_content",
    "idempotency::every_part_of_the_content_counts",
    "idempotency::a_repeat_inside_one_batch",
    "idempotency::change_ids_are_per_device",
    "idempotency::ids_may_come_in_any_order",
    "projected::a_failed_projection_does_not_change_the_status",
];

/// Folding everything at once, uploads are answered as ever.
async fn conformance_holds_while_it_folds(backend: Backend) {
    let database = backend.database().await;
    database.execute(business_tables(backend)).await;
    let server = Server::start(&database, eager()).await;
    let groups = ["references", "projected", "gate", "idempotency", "checks"];
    let wanted = cases().filter(|case| {
        let group = case.name.split("::").next().expect("a group");
        groups.contains(&group) && !LOOKS_AT_THE_LOG.contains(&case.name)
    });
    let wanted: Vec<_> = wanted.collect();
    let all = cases().filter(|case| groups.iter().any(|group| case.name.starts_with(group)));
    assert_eq!(wanted.len() + LOOKS_AT_THE_LOG.len(), all.count());
    let failures = run(&server.target(), wanted).await;
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    server.verified().await;
}

/// Where nothing is old enough to be folded, nothing differs at all.
async fn conformance_holds_beside_folding(backend: Backend) {
    let database = backend.database().await;
    database.execute(business_tables(backend)).await;
    let config = eager().set("retention.keep_seconds", 3_600);
    let server = Server::start(&database, config).await;
    let failures = run(&server.target(), cases()).await;
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    server.verified().await;
}
