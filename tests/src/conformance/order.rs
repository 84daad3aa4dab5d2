//! Section 3: the order inside a batch, visible in the server ids.

use super::case_list;
use super::statuses::kinds;
use crate::device::{HttpDevice, delete, insert, update};
use crate::target::{Target, fresh_key};
use serde_json::{Value, json};

case_list![V1:
    without_references_request_order_is_kept,
    parents_come_first,
    deletes_come_last_and_children_first,
    rows_of_one_table_are_ordered_by_their_references,
    a_ring_of_rows_stands_together,
    a_ring_of_rows_falls_together,
    a_ring_through_two_tables,
    a_row_may_refer_to_itself,
    a_long_chain_in_reverse,
    a_child_and_its_parents_second_change,
    an_upsert_behind_its_delete_is_tried_first,
];

const USERS: &str = "business.users";
const POSTS: &str = "business.posts";
const COMMENTS: &str = "business.comments";
const NODES: &str = "tree.nodes";

/// The change ids in the order of the stream.
async fn stream(device: &HttpDevice) -> Vec<i64> {
    let (changes, _) = device.download_all(0, 1_000, "&include_self=true").await;
    changes
        .iter()
        .map(|change| change["source_change_id"].as_i64().expect("an id"))
        .collect()
}

async fn all_applied(device: &HttpDevice, changes: &[Value]) {
    let statuses = device.statuses(changes).await;
    assert!(
        kinds(&statuses).iter().all(|kind| *kind == "applied"),
        "{statuses:?}"
    );
}

fn node(id: i64, key: &str, parent: &str) -> Value {
    insert(id, NODES, key, json!({"parent_id": parent}))
}

async fn without_references_request_order_is_kept(target: Target) {
    let device = target.one_device();
    let changes: Vec<Value> = [5, 2, 9, 1, 7]
        .map(|id| insert(id, USERS, &fresh_key(), json!({})))
        .into();
    all_applied(&device, &changes).await;
    assert_eq!(stream(&device).await, [5, 2, 9, 1, 7]);
}

async fn parents_come_first(target: Target) {
    let device = target.one_device();
    let (user, post) = (fresh_key(), fresh_key());
    all_applied(
        &device,
        &[
            insert(
                1,
                COMMENTS,
                &fresh_key(),
                json!({"post_id": post, "author_id": user}),
            ),
            insert(2, POSTS, &post, json!({"author_id": user})),
            insert(3, COMMENTS, &fresh_key(), json!({"post_id": post})),
            insert(4, USERS, &user, json!({})),
            insert(5, POSTS, &fresh_key(), json!({"author_id": user})),
            insert(6, USERS, &fresh_key(), json!({})),
        ],
    )
    .await;
    assert_eq!(stream(&device).await, [4, 6, 2, 5, 1, 3]);
}

async fn deletes_come_last_and_children_first(target: Target) {
    let device = target.one_device();
    let (user, post, comment) = (fresh_key(), fresh_key(), fresh_key());
    all_applied(
        &device,
        &[
            insert(1, USERS, &user, json!({})),
            insert(2, POSTS, &post, json!({"author_id": user})),
            insert(3, COMMENTS, &comment, json!({"post_id": post})),
        ],
    )
    .await;
    all_applied(
        &device,
        &[
            delete(4, USERS, &user, 1),
            delete(5, POSTS, &post, 1),
            delete(6, COMMENTS, &comment, 1),
            insert(7, USERS, &fresh_key(), json!({})),
        ],
    )
    .await;
    assert_eq!(stream(&device).await, [1, 2, 3, 7, 6, 5, 4]);
}

async fn rows_of_one_table_are_ordered_by_their_references(target: Target) {
    let device = target.one_device();
    let (root, middle, leaf) = (fresh_key(), fresh_key(), fresh_key());
    all_applied(
        &device,
        &[
            node(1, &leaf, &middle),
            node(2, &middle, &root),
            insert(3, NODES, &root, json!({"parent_id": null})),
        ],
    )
    .await;
    assert_eq!(stream(&device).await, [3, 2, 1]);
}

async fn a_ring_of_rows_stands_together(target: Target) {
    let device = target.one_device();
    let (a, b, c) = (fresh_key(), fresh_key(), fresh_key());
    all_applied(
        &device,
        &[
            node(1, &a, &b),
            node(2, &b, &c),
            node(3, &c, &a),
            node(4, &fresh_key(), &a),
        ],
    )
    .await;
    assert_eq!(stream(&device).await, [1, 2, 3, 4]);
}

async fn a_ring_of_rows_falls_together(target: Target) {
    let device = target.one_device();
    let (a, b, c) = (fresh_key(), fresh_key(), fresh_key());
    let statuses = device
        .statuses(&[
            node(1, &a, &b),
            // The row is not there: this one cannot be applied, and so none can.
            update(2, NODES, &b, 4, json!({"parent_id": c})),
            node(3, &c, &a),
            node(4, &fresh_key(), &a),
            insert(5, NODES, &fresh_key(), json!({})),
        ])
        .await;
    assert_eq!(
        kinds(&statuses),
        ["invalid", "invalid", "invalid", "invalid", "applied"]
    );
    for (index, key) in [(0, &b), (2, &a), (3, &a)] {
        let details = json!({"missing": [format!("{NODES}:{key}")]});
        assert_eq!(statuses[index]["invalid"]["details"], details);
    }
    assert_eq!(statuses[1]["invalid"]["reason"], "internal_error");
    assert_eq!(stream(&device).await, [5]);
    // None of the ids was used up.
    all_applied(
        &device,
        &[node(3, &c, &a), node(2, &b, &c), node(1, &a, &b)],
    )
    .await;
}

async fn a_ring_through_two_tables(target: Target) {
    let device = target.one_device();
    let (left, right, lone) = (fresh_key(), fresh_key(), fresh_key());
    all_applied(
        &device,
        &[
            insert(1, "ring.rights", &right, json!({"left_id": left})),
            insert(2, "ring.lefts", &left, json!({"right_id": right})),
            insert(3, "ring.rights", &lone, json!({"left_id": left})),
        ],
    )
    .await;
    assert_eq!(stream(&device).await, [1, 2, 3]);
    // Deletes need no order here: nothing checks what a delete leaves behind.
    all_applied(
        &device,
        &[
            delete(4, "ring.lefts", &left, 1),
            delete(5, "ring.rights", &right, 1),
        ],
    )
    .await;
}

async fn a_row_may_refer_to_itself(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    all_applied(&device, &[node(1, &key, &key)]).await;
    all_applied(
        &device,
        &[update(2, NODES, &key, 1, json!({"parent_id": key}))],
    )
    .await;
}

async fn a_long_chain_in_reverse(target: Target) {
    let device = target.one_device();
    let keys: Vec<String> = (0..300).map(|_| fresh_key()).collect();
    let mut changes: Vec<Value> = keys
        .windows(2)
        .enumerate()
        .map(|(index, pair)| node(index as i64 + 1, &pair[1], &pair[0]))
        .collect();
    changes.push(insert(0, NODES, &keys[0], json!({})));
    changes.reverse();
    changes.rotate_left(1);
    all_applied(&device, &changes).await;
    assert_eq!(stream(&device).await, (0..300).collect::<Vec<_>>());
}

async fn a_child_and_its_parents_second_change(target: Target) {
    let device = target.one_device();
    let (parent, child) = (fresh_key(), fresh_key());
    // The parent's second change refers to the child, which refers to the parent:
    // a ring of rows, whose own order is nobody's business.
    all_applied(
        &device,
        &[
            insert(1, NODES, &parent, json!({})),
            update(2, NODES, &parent, 1, json!({"parent_id": child})),
            node(3, &child, &parent),
        ],
    )
    .await;
    let ids = stream(&device).await;
    assert_eq!((ids.len(), ids[0]), (3, 1), "{ids:?}");
}

/// Upserts before deletes, whatever the request says: the delete finds a row that
/// has moved on.
async fn an_upsert_behind_its_delete_is_tried_first(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    all_applied(&device, &[insert(1, USERS, &key, json!({}))]).await;
    let statuses = device
        .statuses(&[
            delete(2, USERS, &key, 1),
            update(3, USERS, &key, 1, json!({"n": 2})),
        ])
        .await;
    assert_eq!(kinds(&statuses), ["conflict", "applied"]);
    assert_eq!(statuses[0]["server_row"]["server_version"], 2);
    assert_eq!(stream(&device).await, [1, 3]);
}
