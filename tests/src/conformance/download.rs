//! Section 4: pages of the change stream.

use super::case_list;
use crate::device::{HttpDevice, delete, insert, update};
use crate::target::{Target, fresh_key};
use serde_json::{Value, json};

case_list![V1:
    a_change_has_exactly_its_fields,
    a_stream_nobody_wrote_is_empty,
    ones_own_changes_are_left_out,
    only_true_includes_ones_own,
    the_default_page_is_100,
    every_page_size_gives_the_same,
    has_more_is_exact,
    has_more_does_not_count_what_is_not_visible,
    next_after_is_the_last_id_or_after,
    a_window_is_frozen,
    until_is_echoed_as_given,
    a_window_may_end_before_it_starts,
    a_window_beyond_the_head_takes_what_comes,
    after_beyond_the_head_is_empty,
    a_schema_filters_exactly,
    a_payload_comes_back_as_the_same_text,
    numbers_come_back_digit_for_digit,
    empty_parameters_count_as_absent,
    server_ids_are_dense;
Extension:
    head_and_epoch_come_with_every_reply,
];

const USERS: &str = "business.users";

/// A user's `n` changes by device ada, and a device that reads them.
async fn written(target: &Target, n: i64) -> (HttpDevice, HttpDevice) {
    let (ada, bob) = target.two_devices();
    let changes: Vec<Value> = (1..=n)
        .map(|id| insert(id, USERS, &fresh_key(), json!({"n": id})))
        .collect();
    for batch in changes.chunks(500) {
        ada.upload(batch).await;
    }
    (ada, bob)
}

fn ids(page: &Value) -> Vec<i64> {
    page["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .map(|change| change["server_id"].as_i64().expect("an id"))
        .collect()
}

async fn a_change_has_exactly_its_fields(target: Target) {
    let (ada, bob) = target.two_devices();
    let key = fresh_key();
    ada.upload(&[
        insert(11, USERS, &key, json!({"name": "Ann"})),
        delete(12, USERS, &key, 1),
    ])
    .await;
    let mut page = bob.download("").await;
    for change in page["changes"].as_array_mut().expect("changes") {
        let ts = change
            .as_object_mut()
            .expect("an object")
            .remove("ts")
            .expect("ts");
        let ts = ts.as_str().expect("text").to_owned();
        let is_utc = ts.ends_with('Z') && ts.len() >= 20 && ts.as_bytes()[10] == b'T';
        assert!(is_utc, "RFC 3339, UTC: {ts}");
    }
    assert_eq!(
        page["changes"],
        json!([
            {"server_id": 1, "schema": "business", "table": "users", "op": "INSERT", "pk": key,
             "payload": {"name": "Ann"}, "server_version": 1, "deleted": false, "source_id": "ada",
             "source_change_id": 11},
            {"server_id": 2, "schema": "business", "table": "users", "op": "DELETE", "pk": key,
             "server_version": 2, "deleted": true, "source_id": "ada", "source_change_id": 12},
        ])
    );
}

async fn a_stream_nobody_wrote_is_empty(target: Target) {
    let page = target.one_device().download("after=5").await;
    for (field, value) in [
        ("changes", json!([])),
        ("has_more", json!(false)),
        ("next_after", json!(5)),
        ("window_until", json!(0)),
    ] {
        assert_eq!(page[field], value, "{field}");
    }
}

async fn ones_own_changes_are_left_out(target: Target) {
    let (ada, bob) = target.two_devices();
    for id in 1..=6 {
        let device = if id % 2 == 0 { &ada } else { &bob };
        device
            .upload(&[insert(id, USERS, &fresh_key(), json!({}))])
            .await;
    }
    assert_eq!(ada.server_ids("").await, [1, 3, 5]);
    assert_eq!(bob.server_ids("").await, [2, 4, 6]);
    assert_eq!(ada.sibling("cid").server_ids("").await, [1, 2, 3, 4, 5, 6]);
    // The same device name of another user is another device.
    assert_eq!(target.one_device().server_ids("").await, [0; 0]);
}

async fn only_true_includes_ones_own(target: Target) {
    let (ada, _) = written(&target, 2).await;
    assert_eq!(ids(&ada.download("include_self=true").await), [1, 2]);
    for value in ["True", "TRUE", "1", "yes", "", "true%20", "false"] {
        let page = ada.download(&format!("include_self={value}")).await;
        assert_eq!(ids(&page), [0; 0], "{value}");
    }
}

async fn the_default_page_is_100(target: Target) {
    let (_, bob) = written(&target, 101).await;
    let page = bob.download("").await;
    assert_eq!(ids(&page), (1..=100).collect::<Vec<_>>());
    assert_eq!(page["has_more"], true);
}

async fn every_page_size_gives_the_same(target: Target) {
    let (ada, bob) = written(&target, 60).await;
    for id in 61..=70 {
        let device = if id % 3 == 0 { &ada } else { &bob };
        device
            .upload(&[insert(id, "public.notes", &fresh_key(), json!({}))])
            .await;
    }
    for (device, more) in [
        (&ada, ""),
        (&bob, ""),
        (&ada, "&include_self=true"),
        (&bob, "&schema=public"),
    ] {
        let (whole, _) = device.download_all(0, 1_000, more).await;
        for limit in [1, 2, 3, 7, 64, 70, 71] {
            let (paged, _) = device.download_all(0, limit, more).await;
            assert_eq!(paged, whole, "limit {limit}{more}");
        }
    }
}

async fn has_more_is_exact(target: Target) {
    let (_, bob) = written(&target, 10).await;
    for (query, more) in [
        ("limit=9", true),
        ("limit=10", false),
        ("limit=11", false),
        ("after=1&limit=9", false),
        ("after=1&limit=8", true),
        ("limit=5&until=5", false),
        ("limit=4&until=5", true),
        ("after=9&limit=1", false),
    ] {
        assert_eq!(bob.download(query).await["has_more"], more, "{query}");
    }
}

async fn has_more_does_not_count_what_is_not_visible(target: Target) {
    let (ada, bob) = written(&target, 3).await;
    bob.upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    ada.upload(&[insert(9, "public.notes", &fresh_key(), json!({}))])
        .await;
    // Bob's own at the end, a foreign schema at the end: neither is more.
    let page = bob.download("limit=3&until=4").await;
    assert_eq!(
        (ids(&page), &page["has_more"]),
        (vec![1, 2, 3], &json!(false))
    );
    let page = bob.download("limit=3&schema=business").await;
    assert_eq!(
        (ids(&page), &page["has_more"]),
        (vec![1, 2, 3], &json!(false))
    );
    assert_eq!(page["window_until"], 5);
    assert_eq!(page["next_after"], 3);
}

async fn next_after_is_the_last_id_or_after(target: Target) {
    let (_, bob) = written(&target, 5).await;
    for (query, next) in [
        ("limit=2", 2),
        ("after=2&limit=2", 4),
        ("after=5", 5),
        ("after=4", 5),
        ("after=3&until=3", 3),
    ] {
        assert_eq!(bob.download(query).await["next_after"], next, "{query}");
    }
}

async fn a_window_is_frozen(target: Target) {
    let (ada, bob) = written(&target, 4).await;
    let first = bob.download("limit=2").await;
    assert_eq!(first["window_until"], 4);
    ada.upload(&[insert(50, USERS, &fresh_key(), json!({}))])
        .await;
    let second = bob.download("after=2&limit=2&until=4").await;
    assert_eq!(ids(&second), [3, 4]);
    assert_eq!(
        (&second["has_more"], &second["window_until"]),
        (&json!(false), &json!(4))
    );
    assert_eq!(ids(&bob.download("after=4").await), [5]);
}

async fn until_is_echoed_as_given(target: Target) {
    let (_, bob) = written(&target, 3).await;
    for (until, echoed) in [(0, 3), (1, 1), (3, 3), (4, 4), (i64::MAX, i64::MAX)] {
        let page = bob.download(&format!("until={until}")).await;
        assert_eq!(page["window_until"], echoed);
        assert_eq!(ids(&page), (1..=echoed.min(3)).collect::<Vec<_>>());
    }
}

async fn a_window_may_end_before_it_starts(target: Target) {
    let (_, bob) = written(&target, 5).await;
    for (after, until) in [(3, 2), (3, 3), (5, 1)] {
        let page = bob.download(&format!("after={after}&until={until}")).await;
        assert_eq!((ids(&page), &page["has_more"]), (vec![], &json!(false)));
        assert_eq!(
            (&page["next_after"], &page["window_until"]),
            (&json!(after), &json!(until))
        );
    }
}

async fn a_window_beyond_the_head_takes_what_comes(target: Target) {
    let (ada, bob) = written(&target, 2).await;
    assert_eq!(ids(&bob.download("until=3").await), [1, 2]);
    let changes = [70, 71].map(|id| insert(id, USERS, &fresh_key(), json!({})));
    ada.upload(&changes).await;
    let page = bob.download("after=2&until=3").await;
    assert_eq!((ids(&page), &page["has_more"]), (vec![3], &json!(false)));
}

async fn after_beyond_the_head_is_empty(target: Target) {
    let (_, bob) = written(&target, 3).await;
    for after in [3, 4, 1_000, i64::MAX] {
        let page = bob.download(&format!("after={after}")).await;
        assert_eq!((ids(&page), &page["next_after"]), (vec![], &json!(after)));
        assert_eq!(page["window_until"], 3);
    }
}

async fn a_schema_filters_exactly(target: Target) {
    let (ada, bob) = target.two_devices();
    ada.upload(&[
        insert(1, USERS, &fresh_key(), json!({})),
        insert(2, "public.notes", &fresh_key(), json!({})),
        insert(3, "tree.nodes", &fresh_key(), json!({})),
    ])
    .await;
    for (schema, count) in [
        ("business", 1),
        ("public", 1),
        ("tree", 1),
        ("busines", 0),
        ("unknown", 0),
        ("_", 0),
    ] {
        let page = bob.download(&format!("schema={schema}")).await;
        assert_eq!(ids(&page).len(), count, "{schema}");
    }
}

async fn a_payload_comes_back_as_the_same_text(target: Target) {
    let (ada, bob) = target.two_devices();
    let payload = "{ \"b\" : [1,  2.50,{\"x\":\"\\u00e9\\/\"}] ,\n\t\"a\":\"é\\ud83d\\ude00😀\", \"zz\":{ } }";
    let body = format!(
        r#"{{"changes":[{{"payload": {payload} ,"source_change_id":1,"schema":"business","table":"users","op":"INSERT","pk":"{}"}}]}}"#,
        fresh_key()
    );
    ada.upload_raw(body).await.ok();
    let reply = bob.download_raw("").await;
    assert!(reply.text.contains(payload), "{}", reply.text);
}

async fn numbers_come_back_digit_for_digit(target: Target) {
    let (ada, bob) = target.two_devices();
    let numbers = [
        "9007199254740993",
        "-9223372036854775808",
        "9223372036854775807",
        "18446744073709551616",
        "0.1",
        "0.10",
        "1.0",
        "-0.0",
        "1e5",
        "1E+5",
        "5e-324",
        "9e999",
        "-9e999",
        "3.14159265358979323846264338327950288",
        "100000000000000000000000000000000000001",
    ];
    for (index, number) in numbers.iter().enumerate() {
        let body = format!(
            r#"{{"changes":[{{"source_change_id":{index},"schema":"business","table":"users","op":"INSERT","pk":"{}","payload":{{"n":{number}}}}}]}}"#,
            fresh_key()
        );
        ada.upload_raw(body).await.ok();
    }
    let reply = bob.download_raw("").await;
    for number in numbers {
        assert!(
            reply.text.contains(&format!(r#"{{"n":{number}}}"#)),
            "{number}"
        );
    }
}

async fn empty_parameters_count_as_absent(target: Target) {
    let (_, bob) = written(&target, 2).await;
    let page = bob.download("after=&limit=&until=&schema=&unknown=7").await;
    assert_eq!(ids(&page), [1, 2]);
}

async fn server_ids_are_dense(target: Target) {
    let (ada, bob) = target.two_devices();
    let (contested, key) = (fresh_key(), fresh_key());
    ada.upload(&[insert(1, USERS, &contested, json!({}))]).await;
    // Failures of every kind between take no ids.
    bob.upload(&[
        insert(1, USERS, &contested, json!({})),
        insert(2, "business.nothing", &fresh_key(), json!({})),
        insert(3, USERS, &key, json!({})),
        insert(
            4,
            "business.posts",
            &fresh_key(),
            json!({"author_id": fresh_key()}),
        ),
        delete(5, USERS, &fresh_key(), 0),
        insert(6, USERS, "?", json!({})),
        update(7, USERS, &key, 1, json!({})),
        insert(3, USERS, &key, json!({})),
    ])
    .await;
    ada.upload(&[insert(2, USERS, &fresh_key(), json!({}))])
        .await;
    assert_eq!(ada.server_ids("&include_self=true").await, [1, 2, 3, 4]);
}

async fn head_and_epoch_come_with_every_reply(target: Target) {
    let (ada, bob) = written(&target, 3).await;
    let epoch = bob.download("").await["epoch"].clone();
    assert!(epoch.as_str().is_some_and(|text| !text.is_empty()));
    for query in ["", "until=1", "after=9", "limit=1", "schema=unknown"] {
        let page = bob.download(query).await;
        assert_eq!(
            (&page["head"], &page["epoch"]),
            (&json!(3), &epoch),
            "{query}"
        );
    }
    let reply = ada.upload(&[]).await;
    assert_eq!(
        (&reply["head"], &reply["highest_server_seq"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(reply["epoch"], epoch);
}
