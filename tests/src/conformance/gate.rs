//! Section 3: the version gate, row by row of its table, and several changes of
//! one row.

use super::case_list;
use super::statuses::{applied, conflict, invalid, kinds};
use crate::device::{HttpDevice, change, delete, insert, update};
use crate::target::{Target, fresh_key};
use serde_json::{Value, json};

case_list![V1:
    never_seen_upsert_with_version_0,
    never_seen_upsert_with_another_version,
    never_seen_delete_with_version_0,
    never_seen_delete_with_another_version,
    live_upsert_with_its_version,
    live_upsert_with_another_version,
    live_delete_with_its_version,
    live_delete_with_another_version,
    tombstone_upsert_with_its_version,
    tombstone_upsert_with_another_version,
    tombstone_delete_with_its_version,
    tombstone_delete_with_another_version,
    several_changes_of_one_row_build_on_each_other,
    a_failed_change_in_the_middle_of_a_row,
    a_conflict_inside_a_batch_shows_the_batchs_own_row,
    a_conflict_leaves_no_trace,
    a_conflict_shows_digits_as_they_were_sent,
    versions_count_per_row,
];

const USERS: &str = "business.users";

/// A device and a row in the state `live` (version 2) or tombstone (version 3).
async fn row(target: &Target, live: bool) -> (HttpDevice, String) {
    let device = target.one_device();
    let key = fresh_key();
    let mut changes = vec![
        insert(1, USERS, &key, json!({"n": 1})),
        update(2, USERS, &key, 1, json!({"n": 2})),
    ];
    if !live {
        changes.push(delete(3, USERS, &key, 2));
    }
    device.upload(&changes).await;
    (device, key)
}

async fn latest(device: &HttpDevice) -> Value {
    let (changes, _) = device.download_all(0, 1_000, "&include_self=true").await;
    changes.last().expect("a change").clone()
}

async fn never_seen_upsert_with_version_0(target: Target) {
    let device = target.one_device();
    for (id, op) in [(1, "INSERT"), (2, "UPDATE")] {
        let key = fresh_key();
        applied(
            &device
                .upload_one(change(id, USERS, op, &key, 0, json!({"n": id})))
                .await,
            id,
            1,
        );
        let entry = latest(&device).await;
        assert_eq!(
            (&entry["op"], &entry["server_version"]),
            (&json!(op), &json!(1))
        );
    }
}

async fn never_seen_upsert_with_another_version(target: Target) {
    let device = target.one_device();
    for op in ["INSERT", "UPDATE"] {
        for version in [1, 7, -1] {
            let key = fresh_key();
            let status = device
                .upload_one(change(1, USERS, op, &key, version, json!({})))
                .await;
            let message = format!("conflict without server_row for {USERS} pk={key}");
            invalid(&status, 1, "internal_error", &message);
        }
    }
    assert_eq!(device.download("").await["window_until"], 0);
}

async fn never_seen_delete_with_version_0(target: Target) {
    let device = target.one_device();
    applied(
        &device.upload_one(delete(1, USERS, &fresh_key(), 0)).await,
        1,
        0,
    );
    assert_eq!(
        device.download("").await["window_until"],
        0,
        "nothing is logged"
    );
}

async fn never_seen_delete_with_another_version(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    let status = device.upload_one(delete(1, USERS, &key, 3)).await;
    let message = format!("conflict without server_row for {USERS} pk={key}");
    invalid(&status, 1, "internal_error", &message);
}

async fn live_upsert_with_its_version(target: Target) {
    for op in ["INSERT", "UPDATE"] {
        let (device, key) = row(&target, true).await;
        applied(
            &device
                .upload_one(change(9, USERS, op, &key, 2, json!({"n": 3})))
                .await,
            9,
            3,
        );
        let entry = latest(&device).await;
        assert_eq!(entry["server_version"], 3);
        assert_eq!(entry["deleted"], false);
    }
}

async fn live_upsert_with_another_version(target: Target) {
    let (device, key) = row(&target, true).await;
    for op in ["INSERT", "UPDATE"] {
        for version in [0, 1, 3, -2, i64::MAX] {
            let status = device
                .upload_one(change(9, USERS, op, &key, version, json!({})))
                .await;
            conflict(&status, 9, USERS, &key, 2, Some(json!({"n": 2})));
        }
    }
}

async fn live_delete_with_its_version(target: Target) {
    let (device, key) = row(&target, true).await;
    applied(&device.upload_one(delete(9, USERS, &key, 2)).await, 9, 3);
    let entry = latest(&device).await;
    assert_eq!(
        (&entry["op"], &entry["deleted"]),
        (&json!("DELETE"), &json!(true))
    );
    assert!(
        entry.get("payload").is_none(),
        "a delete has no payload key: {entry}"
    );
}

async fn live_delete_with_another_version(target: Target) {
    let (device, key) = row(&target, true).await;
    for version in [0, 1, 3] {
        let status = device.upload_one(delete(9, USERS, &key, version)).await;
        conflict(&status, 9, USERS, &key, 2, Some(json!({"n": 2})));
    }
}

async fn tombstone_upsert_with_its_version(target: Target) {
    for op in ["INSERT", "UPDATE"] {
        let (device, key) = row(&target, false).await;
        applied(
            &device
                .upload_one(change(9, USERS, op, &key, 3, json!({"n": 4})))
                .await,
            9,
            4,
        );
        assert_eq!(latest(&device).await["deleted"], false);
        let status = device
            .upload_one(update(10, USERS, &key, 1, json!({})))
            .await;
        conflict(&status, 10, USERS, &key, 4, Some(json!({"n": 4})));
    }
}

async fn tombstone_upsert_with_another_version(target: Target) {
    let (device, key) = row(&target, false).await;
    for op in ["INSERT", "UPDATE"] {
        for version in [0, 2, 4] {
            let status = device
                .upload_one(change(9, USERS, op, &key, version, json!({})))
                .await;
            conflict(&status, 9, USERS, &key, 3, None);
        }
    }
}

async fn tombstone_delete_with_its_version(target: Target) {
    let (device, key) = row(&target, false).await;
    applied(&device.upload_one(delete(9, USERS, &key, 3)).await, 9, 4);
    let entry = latest(&device).await;
    assert_eq!(
        (&entry["op"], &entry["server_version"]),
        (&json!("DELETE"), &json!(4))
    );
}

async fn tombstone_delete_with_another_version(target: Target) {
    let (device, key) = row(&target, false).await;
    for version in [0, 2, 4] {
        let status = device.upload_one(delete(9, USERS, &key, version)).await;
        conflict(&status, 9, USERS, &key, 3, None);
    }
}

async fn several_changes_of_one_row_build_on_each_other(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    let statuses = device
        .statuses(&[
            insert(1, USERS, &key, json!({"n": 1})),
            update(2, USERS, &key, 1, json!({"n": 2})),
            update(3, USERS, &key, 2, json!({"n": 3})),
            delete(4, USERS, &key, 3),
        ])
        .await;
    for (index, status) in statuses.iter().enumerate() {
        applied(status, index as i64 + 1, index as i64 + 1);
    }
    let (changes, _) = device.download_all(0, 2, "&include_self=true").await;
    let versions: Vec<_> = changes
        .iter()
        .map(|c| c["server_version"].clone())
        .collect();
    assert_eq!(versions, [1, 2, 3, 4]);
}

async fn a_failed_change_in_the_middle_of_a_row(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    let statuses = device
        .statuses(&[
            insert(1, USERS, &key, json!({"n": 1})),
            change(2, USERS, "UPDATE", &key, 1, json!([])),
            update(3, USERS, &key, 2, json!({"n": 3})),
            update(4, USERS, &key, 1, json!({"n": 4})),
        ])
        .await;
    assert_eq!(
        kinds(&statuses),
        ["applied", "invalid", "conflict", "applied"]
    );
    conflict(&statuses[2], 3, USERS, &key, 1, Some(json!({"n": 1})));
    applied(&statuses[3], 4, 2);
}

async fn a_conflict_inside_a_batch_shows_the_batchs_own_row(target: Target) {
    let device = target.one_device();
    let (key, gone) = (fresh_key(), fresh_key());
    let statuses = device
        .statuses(&[
            insert(1, USERS, &key, json!({"n": 1})),
            insert(2, USERS, &key, json!({"n": 2})),
            insert(3, USERS, &gone, json!({})),
            delete(4, USERS, &gone, 1),
            delete(5, USERS, &gone, 1),
        ])
        .await;
    conflict(&statuses[1], 2, USERS, &key, 1, Some(json!({"n": 1})));
    conflict(&statuses[4], 5, USERS, &gone, 2, None);
}

async fn a_conflict_leaves_no_trace(target: Target) {
    let (ada, bob) = target.two_devices();
    let (contested, free) = (fresh_key(), fresh_key());
    ada.upload(&[insert(1, USERS, &contested, json!({"by": "ada"}))])
        .await;
    // Trap 1: in a batch with others, its retry must be a conflict again.
    let batch = [
        insert(1, USERS, &contested, json!({"by": "bob"})),
        insert(2, USERS, &free, json!({"by": "bob"})),
    ];
    let first = bob.statuses(&batch).await;
    assert_eq!(kinds(&first), ["conflict", "applied"]);
    assert_eq!(bob.statuses(&batch).await, first);
    assert_eq!(bob.server_ids("&include_self=true").await, [1, 2]);
    assert_eq!(ada.server_ids("").await, [2]);
    // The id is free: with the right base it applies.
    let mended = update(1, USERS, &contested, 1, json!({"by": "bob"}));
    applied(&bob.upload_one(mended).await, 1, 2);
}

async fn a_conflict_shows_digits_as_they_were_sent(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    let payload = r#"{"big":9007199254740993,"tiny":5e-324,"kept":1.50,"minus":-0.0}"#;
    let body = format!(
        r#"{{"changes":[{{"source_change_id":1,"schema":"business","table":"users","op":"INSERT","pk":"{key}","payload":{payload}}}]}}"#
    );
    device.upload_raw(body).await.ok();
    let again = json!({"changes": [insert(2, USERS, &key, json!({}))]});
    let reply = device.upload_raw(again.to_string()).await;
    assert!(reply.text.contains(payload), "{}", reply.text);
}

async fn versions_count_per_row(target: Target) {
    let device = target.one_device();
    let (one, two) = (fresh_key(), fresh_key());
    let statuses = device
        .statuses(&[
            insert(1, USERS, &one, json!({})),
            insert(2, USERS, &two, json!({})),
            update(3, USERS, &two, 1, json!({})),
            insert(4, "public.notes", &one, json!({})),
        ])
        .await;
    for (status, (id, version)) in statuses.iter().zip([(1, 1), (2, 1), (3, 2), (4, 1)]) {
        applied(status, id, version);
    }
}
