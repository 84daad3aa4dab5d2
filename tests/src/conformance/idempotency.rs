//! Section 3: a change id means one content, for ever.

use super::case_list;
use super::statuses::{applied, conflict, invalid, kinds};
use crate::device::{change, delete, insert, update};
use crate::target::{Target, fresh_key};
use serde_json::json;

case_list![V1:
    the_same_change_has_the_same_answer_and_no_effect,
    the_first_answer_stands_when_the_row_has_moved_on,
    the_base_version_is_not_content,
    key_order_white_space_and_spelling_are_not_content,
    numbers_count_by_their_digits,
    every_part_of_the_content_counts,
    other_content_with_a_row_is_a_conflict,
    other_content_without_a_row_is_invalid,
    other_content_for_a_deleted_row_shows_the_tombstone,
    a_repeat_inside_one_batch,
    other_content_inside_one_batch,
    change_ids_are_per_device,
    a_delete_of_nothing_leaves_no_record,
    a_recorded_change_skips_foreign_keys_and_the_gate,
    ids_may_come_in_any_order;
Extension:
    the_highest_change_id_is_told,
];

const USERS: &str = "business.users";

async fn the_same_change_has_the_same_answer_and_no_effect(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    let batch = [
        insert(1, USERS, &key, json!({"n": 1})),
        update(2, USERS, &key, 1, json!({"n": 2})),
        delete(3, USERS, &key, 2),
    ];
    let first = device.statuses(&batch).await;
    for _ in 0..3 {
        assert_eq!(device.statuses(&batch).await, first);
    }
    for (change, status) in batch.iter().zip(&first) {
        assert_eq!(device.upload_one(change.clone()).await, *status);
    }
    assert_eq!(device.server_ids("&include_self=true").await, [1, 2, 3]);
}

async fn the_first_answer_stands_when_the_row_has_moved_on(target: Target) {
    let (ada, bob) = target.two_devices();
    let key = fresh_key();
    let first = insert(1, USERS, &key, json!({"by": "ada"}));
    applied(&ada.upload_one(first.clone()).await, 1, 1);
    applied(
        &bob.upload_one(update(1, USERS, &key, 1, json!({"by": "bob"})))
            .await,
        1,
        2,
    );
    applied(&ada.upload_one(first.clone()).await, 1, 1);
    applied(&bob.upload_one(delete(2, USERS, &key, 2)).await, 2, 3);
    applied(&ada.upload_one(first).await, 1, 1);
    assert_eq!(ada.server_ids("&include_self=true").await, [1, 2, 3]);
}

async fn the_base_version_is_not_content(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    applied(
        &device.upload_one(insert(1, USERS, &key, json!({}))).await,
        1,
        1,
    );
    let other_base = change(1, USERS, "INSERT", &key, 41, json!({}));
    applied(&device.upload_one(other_base).await, 1, 1);
}

async fn key_order_white_space_and_spelling_are_not_content(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    let body = |schema: &str, op: &str, pk: &str, payload: &str| {
        format!(
            r#"{{"changes":[{{"source_change_id":1,"schema":"{schema}","table":"users","op":"{op}","pk":"{pk}","payload":{payload}}}]}}"#
        )
    };
    let first = r#"{"a":{"x":[1,2],"y":"é\n"},"b":2.50}"#;
    let again = " { \"b\" :\n2.50, \"\\u0061\" : { \"y\": \"\\u00e9\\u000a\", \"x\":[ 1 ,2 ]} } ";
    let reply = device
        .upload_raw(body("business", "INSERT", &key, first))
        .await
        .ok();
    applied(&reply["statuses"][0], 1, 1);
    let upper = key.to_uppercase();
    for (schema, op, pk, payload) in [
        ("business", "INSERT", &key, again),
        (" Business ", "insert", &upper, first),
    ] {
        let reply = device.upload_raw(body(schema, op, pk, payload)).await.ok();
        applied(&reply["statuses"][0], 1, 1);
    }
    assert_eq!(device.server_ids("&include_self=true").await, [1]);
}

async fn numbers_count_by_their_digits(target: Target) {
    let device = target.one_device();
    for (index, (one, other)) in [
        ("9007199254740993", "9007199254740992"),
        ("1", "1.0"),
        ("1e2", "100"),
        ("0.1", "0.10"),
        ("-0", "0"),
        (
            "123456789012345678901234567890",
            "123456789012345678901234567891",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let key = fresh_key();
        let body = |number: &str| {
            format!(
                r#"{{"changes":[{{"source_change_id":{index},"schema":"business","table":"users","op":"INSERT","pk":"{key}","payload":{{"n":{number}}}}}]}}"#
            )
        };
        for (number, status) in [(one, "applied"), (other, "conflict"), (one, "applied")] {
            let reply = device.upload_raw(body(number)).await.ok();
            assert_eq!(reply["statuses"][0]["status"], status, "{number}");
        }
    }
}

async fn every_part_of_the_content_counts(target: Target) {
    let device = target.one_device();
    let (key, other_key) = (fresh_key(), fresh_key());
    device
        .upload(&[
            insert(1, USERS, &key, json!({"a": 1})),
            insert(2, USERS, &other_key, json!({})),
        ])
        .await;
    device
        .upload(&[insert(3, "public.notes", &key, json!({"a": 1}))])
        .await;
    for other in [
        change(1, USERS, "INSERT", &key, 0, json!({"a": 2})),
        change(1, USERS, "UPDATE", &key, 0, json!({"a": 1})),
        delete(1, USERS, &key, 1),
        change(1, USERS, "INSERT", &other_key, 0, json!({"a": 1})),
        change(1, "public.notes", "INSERT", &key, 0, json!({"a": 1})),
        change(1, USERS, "INSERT", &key, 1, json!({"a": null})),
        change(1, USERS, "INSERT", &key, 1, json!({"a": 1, "b": null})),
    ] {
        let status = device.upload_one(other.clone()).await;
        assert_eq!(status["status"], "conflict", "{other}");
    }
    assert_eq!(device.server_ids("&include_self=true").await, [1, 2, 3]);
}

async fn other_content_with_a_row_is_a_conflict(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    device
        .upload(&[insert(1, USERS, &key, json!({"n": 1}))])
        .await;
    // Even with the right version.
    let status = device
        .upload_one(update(1, USERS, &key, 1, json!({"n": 2})))
        .await;
    conflict(&status, 1, USERS, &key, 1, Some(json!({"n": 1})));
}

async fn other_content_without_a_row_is_invalid(target: Target) {
    let device = target.one_device();
    device
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    for other in [
        insert(1, USERS, &fresh_key(), json!({})),
        delete(1, USERS, &fresh_key(), 0),
    ] {
        let status = device.upload_one(other).await;
        invalid(
            &status,
            1,
            "bad_payload",
            "source_change_id 1 was used for another change",
        );
    }
}

async fn other_content_for_a_deleted_row_shows_the_tombstone(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    device
        .upload(&[insert(1, USERS, &key, json!({})), delete(2, USERS, &key, 1)])
        .await;
    let status = device
        .upload_one(insert(1, USERS, &key, json!({"other": 1})))
        .await;
    conflict(&status, 1, USERS, &key, 2, None);
}

async fn a_repeat_inside_one_batch(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    let change = insert(1, USERS, &key, json!({"n": 1}));
    let statuses = device
        .statuses(&[
            change.clone(),
            update(2, USERS, &key, 1, json!({"n": 2})),
            change,
        ])
        .await;
    applied(&statuses[0], 1, 1);
    applied(&statuses[1], 2, 2);
    applied(&statuses[2], 1, 1);
    assert_eq!(device.server_ids("&include_self=true").await, [1, 2]);
}

async fn other_content_inside_one_batch(target: Target) {
    let device = target.one_device();
    let (key, other) = (fresh_key(), fresh_key());
    let statuses = device
        .statuses(&[
            insert(1, USERS, &key, json!({"n": 1})),
            update(1, USERS, &key, 1, json!({"n": 2})),
            insert(1, USERS, &other, json!({})),
        ])
        .await;
    applied(&statuses[0], 1, 1);
    conflict(&statuses[1], 1, USERS, &key, 1, Some(json!({"n": 1})));
    invalid(
        &statuses[2],
        1,
        "bad_payload",
        "source_change_id 1 was used for another change",
    );
    // An entry that was refused does not hold the id against the next one.
    let statuses = device
        .statuses(&[
            change(2, USERS, "INSERT", &other, 7, json!({})),
            insert(2, USERS, &other, json!({"n": 2})),
        ])
        .await;
    assert_eq!(kinds(&statuses), ["invalid", "applied"]);
}

async fn change_ids_are_per_device(target: Target) {
    let (ada, bob) = target.two_devices();
    applied(
        &ada.upload_one(insert(1, USERS, &fresh_key(), json!({})))
            .await,
        1,
        1,
    );
    applied(
        &bob.upload_one(insert(1, USERS, &fresh_key(), json!({})))
            .await,
        1,
        1,
    );
    assert_eq!(ada.server_ids("&include_self=true").await, [1, 2]);
}

async fn a_delete_of_nothing_leaves_no_record(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    for _ in 0..2 {
        applied(&device.upload_one(delete(1, USERS, &key, 0)).await, 1, 0);
    }
    applied(
        &device.upload_one(insert(1, USERS, &key, json!({}))).await,
        1,
        1,
    );
    let status = device.upload_one(delete(1, USERS, &key, 0)).await;
    conflict(&status, 1, USERS, &key, 1, Some(json!({})));
}

async fn a_recorded_change_skips_foreign_keys_and_the_gate(target: Target) {
    let device = target.one_device();
    let (author, post) = (fresh_key(), fresh_key());
    let write = insert(2, "business.posts", &post, json!({"author_id": author}));
    device
        .upload(&[insert(1, USERS, &author, json!({})), write.clone()])
        .await;
    device
        .upload(&[
            delete(3, "business.posts", &post, 1),
            delete(4, USERS, &author, 1),
        ])
        .await;
    applied(&device.upload_one(write).await, 2, 1);
}

async fn ids_may_come_in_any_order(target: Target) {
    let device = target.one_device();
    let change = |id: i64| insert(id, USERS, &fresh_key(), json!({"id": id}));
    let (high, low) = (change(1_000_000), change(5));
    applied(&device.upload_one(high.clone()).await, 1_000_000, 1);
    applied(&device.upload_one(low.clone()).await, 5, 1);
    applied(&device.upload_one(low).await, 5, 1);
    applied(&device.upload_one(high).await, 1_000_000, 1);
    assert_eq!(device.server_ids("&include_self=true").await, [1, 2]);
}

async fn the_highest_change_id_is_told(target: Target) {
    let (ada, bob) = target.two_devices();
    assert!(
        ada.download("")
            .await
            .get("highest_source_change_id")
            .is_none()
    );
    let reply = ada
        .upload(&[
            insert(8, USERS, &fresh_key(), json!({})),
            insert(3, USERS, &fresh_key(), json!({})),
        ])
        .await;
    assert_eq!(reply["highest_source_change_id"], 8);
    // A refused change is not on record.
    let refused = change(90, USERS, "INSERT", &fresh_key(), 4, json!({}));
    assert_eq!(ada.upload(&[refused]).await["highest_source_change_id"], 8);
    assert_eq!(ada.download("").await["highest_source_change_id"], 8);
    assert!(
        bob.download("")
            .await
            .get("highest_source_change_id")
            .is_none()
    );
}
