//! `oversync verify` over a log that is folded: silent when it is right, and every kind
//! of planted damage is found and named.

use oversync_tests::conformance::business_tables;
use oversync_tests::device::{delete, insert, update};
use oversync_tests::folding::{eager, folded_up_to, own};
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Server, on_both_stores};
use serde_json::{Value, json};

on_both_stores!(
    a_place_without_its_row,
    a_place_left_out,
    a_place_for_an_older_entry,
    a_row_before_its_parent,
    an_entry_that_was_not_swept,
    a_business_row_of_a_folded_tombstone,
    nothing_is_found_where_nothing_is_wrong,
);

/// Two users, a post of the second, a book, and a book that is gone; folded. In this
/// order, and the places up to the floor, 7: 4, 5, 6, 7.
struct Folded {
    backend: Backend,
    server: Server,
    database: oversync_tests::Database,
    keys: Vec<String>,
}

const GONE: usize = 4;
const FLOOR: i64 = 7;

impl Folded {
    async fn set(backend: Backend) -> Self {
        let database = backend.database().await;
        database.execute(business_tables(backend)).await;
        let mut server = Server::start(&database, eager()).await;
        let device = server.target().one_device();
        let keys: Vec<String> = (0..5).map(|_| fresh_key()).collect();
        let book = json!({"title": "a book"});
        let changes = [
            insert(1, "business.users", &keys[0], json!({})),
            insert(2, "business.users", &keys[1], json!({})),
            insert(3, "business.posts", &keys[2], json!({"author_id": keys[1]})),
            insert(4, "shelf.books", &keys[3], book.clone()),
            insert(5, "shelf.books", &keys[GONE], book),
            delete(6, "shelf.books", &keys[GONE], 1),
            update(7, "business.users", &keys[0], 1, json!({"n": 2})),
        ];
        for change in changes {
            let status = device.upload_one(change).await;
            assert_eq!(status["status"], "applied", "{status}");
        }
        folded_up_to(&database, FLOOR).await;
        server.terminate().await;
        let folded = Self {
            backend,
            server,
            database,
            keys,
        };
        assert_eq!(folded.differences().await, json!([]));
        folded
    }

    /// Plants damage: SQL with `{folded}` and the like for tables.
    async fn damage(&self, sql: &str) {
        let sql = ["folded", "log", "users", "owners", "rows"]
            .iter()
            .fold(sql.to_owned(), |sql, table| {
                sql.replace(&format!("{{{table}}}"), &own(&self.database, table))
            });
        self.database.execute(&sql).await;
    }

    async fn differences(&self) -> Value {
        let output = self.server.run(&["verify", "--all", "--json"]).await;
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        report["differences"].clone()
    }

    async fn finds(&self, expected: &[&str]) {
        let differences = self.differences().await;
        let findings: Vec<&str> = differences
            .as_array()
            .expect("a list")
            .iter()
            .map(|difference| difference["finding"].as_str().expect("text"))
            .collect();
        assert_eq!(findings, expected, "{differences:#}");
    }
}

async fn nothing_is_found_where_nothing_is_wrong(backend: Backend) {
    Folded::set(backend).await;
}

async fn a_place_without_its_row(backend: Backend) {
    let folded = Folded::set(backend).await;
    folded.damage("DELETE FROM {folded} WHERE place = 4").await;
    folded.finds(&["fold_missing"]).await;
}

async fn a_place_left_out(backend: Backend) {
    let folded = Folded::set(backend).await;
    folded
        .damage("UPDATE {folded} SET place = 2 WHERE place = 4")
        .await;
    folded.finds(&["fold_place"]).await;
    folded
        .damage("UPDATE {folded} SET place = place - 1 WHERE place > 2; UPDATE {folded} SET place = 3 WHERE place = 2")
        .await;
    folded.finds(&["fold_place"]).await;
}

async fn a_place_for_an_older_entry(backend: Backend) {
    let folded = Folded::set(backend).await;
    folded
        .damage("UPDATE {folded} SET server_id = 2 WHERE place = 5")
        .await;
    folded.finds(&["fold_entry", "fold_missing"]).await;
}

async fn a_row_before_its_parent(backend: Backend) {
    let folded = Folded::set(backend).await;
    // The parent's entry and the child's, 2 and 3, change places.
    folded
        .damage("UPDATE {folded} SET server_id = 5 - server_id WHERE server_id IN (2, 3)")
        .await;
    folded.finds(&["fold_order"]).await;
}

async fn an_entry_that_was_not_swept(backend: Backend) {
    let folded = Folded::set(backend).await;
    // The first of the two changes of one row.
    let sql = match folded.backend {
        Backend::Postgres => {
            "INSERT INTO {log} SELECT user_key, 1, 1, 1, ts, device_key, table_key, op, pk, fingerprint, payload
             FROM {log} WHERE server_id = 7"
        }
        Backend::Embedded => {
            "INSERT INTO {log} SELECT user_key, 1, device_key, 1, table_key, pk, op, 1, ts, fingerprint, payload
             FROM {log} WHERE server_id = 7"
        }
    };
    folded.damage(sql).await;
    folded.finds(&["fold_left"]).await;
}

async fn a_business_row_of_a_folded_tombstone(backend: Backend) {
    let folded = Folded::set(backend).await;
    let key = &folded.keys[GONE];
    let (books, pk) = match backend {
        Backend::Postgres => ("shelf.books", format!("'{key}'")),
        Backend::Embedded => ("books", format!("x'{}'", key.replace('-', ""))),
    };
    let sql = format!(
        "INSERT INTO {books} (id, title) VALUES ('{key}', 'a book');
         INSERT INTO {{owners}} (table_key, pk, user_key)
             SELECT table_key, {pk}, user_key FROM {{rows}} WHERE deleted"
    );
    folded.damage(&sql).await;
    let found = folded.differences().await;
    let first = &found[0];
    assert_eq!(first["finding"], "business_extra", "{found:#}");
    assert_eq!(first["key"], key.as_str(), "{found:#}");
}
