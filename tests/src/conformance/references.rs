//! Section 3: foreign keys.

use super::case_list;
use super::statuses::{applied, invalid, kinds, missing};
use crate::device::{delete, insert, update};
use crate::target::{Target, fresh_key};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::json;
use uuid::Uuid;

case_list![V1:
    null_absent_and_empty_pass,
    a_parent_on_the_server_counts,
    a_parent_in_the_batch_counts_in_any_order,
    a_missing_parent_is_named_as_sent,
    every_missing_parent_is_named,
    a_tombstone_is_no_parent,
    a_parent_that_comes_back_is_one,
    parents_are_understood_in_every_spelling,
    parents_in_the_batch_are_understood_in_every_spelling,
    a_parent_deleted_in_the_batch_is_known_in_every_spelling,
    what_is_no_key_is_bad_payload,
    a_parent_deleted_in_the_batch_does_not_count,
    an_invalid_delete_dooms_no_parent,
    the_child_of_a_failed_parent_is_missing_it,
    the_grandchild_of_a_failed_parent_too,
    a_delete_has_no_foreign_keys,
    an_update_is_checked_too,
    another_schema_may_be_referred_to,
    a_parent_of_another_table_with_the_same_key_is_none,
    foreign_keys_come_before_the_gate,
];

const USERS: &str = "business.users";
const POSTS: &str = "business.posts";
const COMMENTS: &str = "business.comments";

fn absent(table: &str, value: &str) -> Vec<String> {
    vec![format!("{table}:{value}")]
}

async fn null_absent_and_empty_pass(target: Target) {
    let device = target.one_device();
    for (id, payload) in [
        (1, json!({"author_id": null})),
        (2, json!({})),
        (3, json!({"author_id": ""})),
    ] {
        applied(
            &device
                .upload_one(insert(id, POSTS, &fresh_key(), payload))
                .await,
            id,
            1,
        );
    }
}

async fn a_parent_on_the_server_counts(target: Target) {
    let (ada, bob) = target.two_devices();
    let user = fresh_key();
    ada.upload(&[insert(1, USERS, &user, json!({}))]).await;
    let status = bob
        .upload_one(insert(1, POSTS, &fresh_key(), json!({"author_id": user})))
        .await;
    applied(&status, 1, 1);
}

async fn a_parent_in_the_batch_counts_in_any_order(target: Target) {
    let device = target.one_device();
    let user = fresh_key();
    let statuses = device
        .statuses(&[
            insert(1, POSTS, &fresh_key(), json!({"author_id": user})),
            insert(2, USERS, &user, json!({})),
        ])
        .await;
    assert_eq!(kinds(&statuses), ["applied", "applied"]);
}

async fn a_missing_parent_is_named_as_sent(target: Target) {
    let device = target.one_device();
    let user = fresh_key();
    for sent in [
        user.clone(),
        user.to_uppercase(),
        user.replace('-', ""),
        STANDARD.encode(Uuid::parse_str(&user).expect("a UUID").as_bytes()),
    ] {
        let status = device
            .upload_one(insert(1, POSTS, &fresh_key(), json!({"author_id": sent})))
            .await;
        missing(&status, 1, &absent(USERS, &sent));
    }
}

async fn every_missing_parent_is_named(target: Target) {
    let device = target.one_device();
    let (post, user) = (fresh_key(), fresh_key());
    let status = device
        .upload_one(insert(
            1,
            COMMENTS,
            &fresh_key(),
            json!({"author_id": user, "post_id": post}),
        ))
        .await;
    let mut named: Vec<String> =
        serde_json::from_value(status["invalid"]["details"]["missing"].clone()).expect("a list");
    named.sort_unstable();
    assert_eq!(
        named,
        [format!("{POSTS}:{post}"), format!("{USERS}:{user}")]
    );
}

async fn a_tombstone_is_no_parent(target: Target) {
    let device = target.one_device();
    let user = fresh_key();
    device
        .upload(&[
            insert(1, USERS, &user, json!({})),
            delete(2, USERS, &user, 1),
        ])
        .await;
    let status = device
        .upload_one(insert(3, POSTS, &fresh_key(), json!({"author_id": user})))
        .await;
    missing(&status, 3, &absent(USERS, &user));
}

async fn a_parent_that_comes_back_is_one(target: Target) {
    let device = target.one_device();
    let user = fresh_key();
    device
        .upload(&[
            insert(1, USERS, &user, json!({})),
            delete(2, USERS, &user, 1),
        ])
        .await;
    let statuses = device
        .statuses(&[
            insert(3, POSTS, &fresh_key(), json!({"author_id": user})),
            insert(4, USERS, &user, json!({})),
            update(5, USERS, &user, 2, json!({})),
        ])
        .await;
    assert_eq!(kinds(&statuses), ["applied", "conflict", "applied"]);
}

async fn parents_are_understood_in_every_spelling(target: Target) {
    let device = target.one_device();
    let user = fresh_key();
    device.upload(&[insert(0, USERS, &user, json!({}))]).await;
    let plain = user.replace('-', "");
    let uuid = Uuid::parse_str(&user).expect("a UUID");
    for (index, spelling) in [
        user.to_uppercase(),
        plain.to_uppercase(),
        plain,
        format!("{{{user}}}"),
        format!("urn:uuid:{user}"),
        STANDARD.encode(uuid.as_bytes()),
        STANDARD_NO_PAD.encode(uuid.as_bytes()),
        URL_SAFE_NO_PAD.encode(uuid.as_bytes()),
    ]
    .into_iter()
    .enumerate()
    {
        let id = index as i64 + 1;
        let status = device
            .upload_one(insert(
                id,
                POSTS,
                &fresh_key(),
                json!({"author_id": spelling}),
            ))
            .await;
        applied(&status, id, 1);
    }
}

/// Dashed, 32 hex and base64, as clients with text and BLOB keys send them.
fn spelled(key: &str) -> [String; 3] {
    let uuid = Uuid::parse_str(key).expect("a UUID");
    [
        key.to_owned(),
        key.replace('-', ""),
        STANDARD.encode(uuid.as_bytes()),
    ]
}

async fn parents_in_the_batch_are_understood_in_every_spelling(target: Target) {
    let device = target.one_device();
    let user = fresh_key();
    let mut batch: Vec<_> = (1..)
        .zip(spelled(&user))
        .map(|(id, sent)| insert(id, POSTS, &fresh_key(), json!({"author_id": sent})))
        .collect();
    batch.push(insert(9, USERS, &user.replace('-', ""), json!({})));
    assert_eq!(kinds(&device.statuses(&batch).await), ["applied"; 4]);
}

async fn a_parent_deleted_in_the_batch_is_known_in_every_spelling(target: Target) {
    let device = target.one_device();
    let user = fresh_key();
    device.upload(&[insert(1, USERS, &user, json!({}))]).await;
    let mut batch = vec![delete(2, USERS, &user.to_uppercase(), 1)];
    batch.extend(
        (3..)
            .zip(spelled(&user))
            .map(|(id, sent)| insert(id, POSTS, &fresh_key(), json!({"author_id": sent}))),
    );
    let statuses = device.statuses(&batch).await;
    for (place, sent) in (1..).zip(spelled(&user)) {
        missing(&statuses[place], place as i64 + 2, &absent(USERS, &sent));
    }
}

async fn what_is_no_key_is_bad_payload(target: Target) {
    let device = target.one_device();
    for value in [
        json!("42"),
        json!(42),
        json!(true),
        json!({}),
        json!([]),
        json!(" "),
        json!("not a key"),
        json!("AAAA"),
        json!("\u{0}"),
        json!(format!(" {}", fresh_key())),
    ] {
        let key = fresh_key();
        let status = device
            .upload_one(insert(1, POSTS, &key, json!({"author_id": value})))
            .await;
        let message = format!("bad payload for {POSTS} pk={key}");
        assert_eq!(status["message"], message, "{value}");
        invalid(&status, 1, "bad_payload", &message);
    }
}

async fn a_parent_deleted_in_the_batch_does_not_count(target: Target) {
    let device = target.one_device();
    let user = fresh_key();
    device.upload(&[insert(1, USERS, &user, json!({}))]).await;
    let child = insert(2, POSTS, &fresh_key(), json!({"author_id": user}));
    for batch in [
        [child.clone(), delete(3, USERS, &user, 1)],
        // Whatever its fate: this delete conflicts.
        [delete(5, USERS, &user, 7), child],
    ] {
        let statuses = device.statuses(&batch).await;
        let child = &statuses[usize::from(statuses[0]["source_change_id"] != 2)];
        missing(child, 2, &absent(USERS, &user));
        if statuses[1]["status"] == "applied" {
            device
                .upload(&[update(4, USERS, &user, 2, json!({}))])
                .await;
        }
    }
}

async fn an_invalid_delete_dooms_no_parent(target: Target) {
    let device = target.one_device();
    let user = fresh_key();
    device.upload(&[insert(1, USERS, &user, json!({}))]).await;
    let mut bad = delete(2, USERS, &user, 1);
    bad["payload"] = json!({});
    let statuses = device
        .statuses(&[
            bad,
            insert(3, POSTS, &fresh_key(), json!({"author_id": user})),
        ])
        .await;
    assert_eq!(kinds(&statuses), ["invalid", "applied"]);
}

async fn the_child_of_a_failed_parent_is_missing_it(target: Target) {
    let device = target.one_device();
    let (user, taken) = (fresh_key(), fresh_key());
    // Trap 2: a batch like this must not fail as a whole, ever.
    for parent in [
        update(1, USERS, &user, 3, json!({})),
        insert(1, "business.nothing", &user, json!({})),
        delete(1, USERS, &user, 0),
    ] {
        let statuses = device
            .statuses(&[
                parent,
                insert(2, POSTS, &fresh_key(), json!({"author_id": user})),
                insert(3, USERS, &taken, json!({})),
            ])
            .await;
        missing(&statuses[1], 2, &absent(USERS, &user));
        assert_eq!(statuses[2]["status"], "applied");
    }
}

async fn the_grandchild_of_a_failed_parent_too(target: Target) {
    let device = target.one_device();
    let (user, post) = (fresh_key(), fresh_key());
    let statuses = device
        .statuses(&[
            insert(1, COMMENTS, &fresh_key(), json!({"post_id": post})),
            insert(2, POSTS, &post, json!({"author_id": user})),
        ])
        .await;
    missing(&statuses[0], 1, &absent(POSTS, &post));
    missing(&statuses[1], 2, &absent(USERS, &user));
}

async fn a_delete_has_no_foreign_keys(target: Target) {
    let device = target.one_device();
    let (user, post) = (fresh_key(), fresh_key());
    device
        .upload(&[
            insert(1, USERS, &user, json!({})),
            insert(2, POSTS, &post, json!({"author_id": user})),
        ])
        .await;
    // The parent may go first; the child can still be deleted.
    applied(&device.upload_one(delete(3, USERS, &user, 1)).await, 3, 2);
    applied(&device.upload_one(delete(4, POSTS, &post, 1)).await, 4, 2);
}

async fn an_update_is_checked_too(target: Target) {
    let device = target.one_device();
    let (post, nobody) = (fresh_key(), fresh_key());
    device.upload(&[insert(1, POSTS, &post, json!({}))]).await;
    let status = device
        .upload_one(update(2, POSTS, &post, 1, json!({"author_id": nobody})))
        .await;
    missing(&status, 2, &absent(USERS, &nobody));
}

async fn another_schema_may_be_referred_to(target: Target) {
    let device = target.one_device();
    let user = fresh_key();
    let note = insert(1, "public.notes", &fresh_key(), json!({"owner_id": user}));
    missing(
        &device.upload_one(note.clone()).await,
        1,
        &absent(USERS, &user),
    );
    let statuses = device
        .statuses(&[note, insert(2, USERS, &user, json!({}))])
        .await;
    assert_eq!(kinds(&statuses), ["applied", "applied"]);
}

async fn a_parent_of_another_table_with_the_same_key_is_none(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    device
        .upload(&[insert(1, "public.notes", &key, json!({}))])
        .await;
    let status = device
        .upload_one(insert(2, POSTS, &key, json!({"author_id": key})))
        .await;
    missing(&status, 2, &absent(USERS, &key));
}

async fn foreign_keys_come_before_the_gate(target: Target) {
    let device = target.one_device();
    let (post, nobody) = (fresh_key(), fresh_key());
    device.upload(&[insert(1, POSTS, &post, json!({}))]).await;
    let status = device
        .upload_one(update(2, POSTS, &post, 9, json!({"author_id": nobody})))
        .await;
    missing(&status, 2, &absent(USERS, &nobody));
}
