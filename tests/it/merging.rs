//! One row, edited on two devices: what both have done survives, what loses can
//! be got back, and an edit that the server refuses can be tried again.

use oversqlite::{ClientWins, ColumnPolicy, Config as DeviceConfig, DeletePolicy};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{App, Backend, Config, Port, Server, eventually, on_both_stores};

on_both_stores!(
    edits_of_different_columns_survive_everywhere,
    one_column_follows_its_policy_and_the_loser_can_be_restored,
    a_row_that_lost_to_a_delete_can_be_restored,
    what_lost_goes_when_it_is_old_by_the_servers_calendar_too,
    a_conflict_in_an_answer_fetches_what_it_misses,
    a_refused_parent_and_its_child_go_when_it_is_retried,
    a_refused_edit_that_is_dropped_leaves_the_servers_row,
);

struct Pair {
    ada: App,
    bob: App,
    key: String,
}

impl Pair {
    /// Two devices with one person in common, both offline from here.
    async fn new(server: &Server, tune: fn(DeviceConfig) -> DeviceConfig) -> Self {
        let user = fresh_user();
        let ada = App::open_with(&server.target(), &user, "ada", tune).await;
        let bob = App::open_with(&server.target(), &user, "bob", tune).await;
        let pair = Self {
            ada,
            bob,
            key: fresh_key(),
        };
        pair.ada.add(&pair.key, "Ann");
        pair.meet().await;
        pair
    }

    /// Everything is exchanged.
    async fn meet(&self) {
        for device in [&self.ada, &self.bob, &self.ada, &self.bob] {
            let done = device.client.sync().await.expect("synchronised");
            assert!(done.complete);
        }
    }

    fn both(&self) -> [Vec<String>; 2] {
        [&self.ada, &self.bob].map(rows)
    }
}

fn run(app: &App, sql: &str) {
    app.connection().execute_batch(sql).expect("runs");
}

fn rows(app: &App) -> Vec<String> {
    let file = app.connection();
    let mut statement = file
        .prepare("SELECT name || ' ' || ifnull(email, '-') FROM users ORDER BY id")
        .expect("the table is there");
    let rows = statement.query_map([], |row| row.get(0)).expect("rows");
    rows.collect::<Result<_, _>>().expect("texts")
}

async fn server(backend: Backend) -> (oversync_tests::Database, Server) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default().unfolded()).await;
    (database, server)
}

async fn edits_of_different_columns_survive_everywhere(backend: Backend) {
    let (_database, server) = server(backend).await;
    let pair = Pair::new(&server, |config| config).await;
    run(&pair.ada, "UPDATE users SET name = 'Anna'");
    run(&pair.bob, "UPDATE users SET email = 'ann@example.org'");
    pair.meet().await;
    assert_eq!(
        pair.both(),
        [["Anna ann@example.org"], ["Anna ann@example.org"]]
    );
    for device in [&pair.ada, &pair.bob] {
        assert!(device.client.conflicts().await.expect("a list").is_empty());
        assert!(device.client.rejected().await.expect("a list").is_empty());
    }
    // On the server, too: one insert, and one edit of each device.
    let observer = server
        .target()
        .device(pair.ada.client.user().as_str(), "observer");
    let (changes, _) = observer.download_all(0, 100, "").await;
    assert_eq!(changes.len(), 3);
    let last = &changes[2]["payload"];
    assert_eq!(
        (&last["name"], &last["email"]),
        (&"Anna".into(), &"ann@example.org".into())
    );
}

async fn one_column_follows_its_policy_and_the_loser_can_be_restored(backend: Backend) {
    let (_database, server) = server(backend).await;
    let pair = Pair::new(&server, |config| {
        config.merge_column("users", "email", ColumnPolicy::Max)
    })
    .await;
    run(
        &pair.ada,
        "UPDATE users SET name = 'Anna', email = 'a@example.org'",
    );
    run(
        &pair.bob,
        "UPDATE users SET name = 'Anne', email = 'b@example.org'",
    );
    pair.meet().await;
    // The name is the server's by default, the address the greater one.
    assert_eq!(
        pair.both(),
        [["Anna b@example.org"], ["Anna b@example.org"]]
    );
    let kept = pair.bob.client.conflicts().await.expect("a list");
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].columns, ["email", "name"]);
    let lost = r#"{"email":"a@example.org","name":"Anne"}"#;
    assert_eq!(kept[0].lost.as_deref(), Some(lost));
    assert!(
        pair.ada
            .client
            .conflicts()
            .await
            .expect("a list")
            .is_empty()
    );

    pair.bob
        .client
        .restore_conflict(kept[0].id)
        .await
        .expect("restored");
    pair.meet().await;
    assert_eq!(
        pair.both(),
        [["Anne a@example.org"], ["Anne a@example.org"]]
    );
    assert!(
        pair.bob
            .client
            .conflicts()
            .await
            .expect("a list")
            .is_empty()
    );
}

async fn a_row_that_lost_to_a_delete_can_be_restored(backend: Backend) {
    let (_database, server) = server(backend).await;
    for (tune, here) in [
        ((|config| config) as fn(DeviceConfig) -> DeviceConfig, 0),
        (
            |config| config.merge_deletes("users", DeletePolicy::EditWins),
            1,
        ),
        (|config| config.resolver(ClientWins), 1),
    ] {
        let pair = Pair::new(&server, tune).await;
        run(&pair.ada, "DELETE FROM users");
        run(&pair.bob, "UPDATE users SET email = 'ann@example.org'");
        pair.meet().await;
        assert_eq!(pair.both().map(|rows| rows.len()), [here, here]);
        let kept = pair.bob.client.conflicts().await.expect("a list");
        assert_eq!(kept.len(), 1);
        pair.bob
            .client
            .restore_conflict(kept[0].id)
            .await
            .expect("restored");
        pair.meet().await;
        // The other way round now, on both.
        assert_eq!(pair.both().map(|rows| rows.len()), [1 - here, 1 - here]);
    }
}

/// A row that is larger than the server takes, and one that refers to it.
async fn what_lost_goes_when_it_is_old_by_the_servers_calendar_too(backend: Backend) {
    let (_database, server) = server(backend).await;
    let pair = Pair::new(&server, |config| config).await;
    run(&pair.ada, "UPDATE users SET name = 'Anna'");
    run(&pair.bob, "UPDATE users SET name = 'Anne'");
    pair.meet().await;
    let target = server.target();
    let left = async |aged: &str| {
        run(&pair.bob, aged);
        // A process that has just been started, and hears the time from the server.
        let next = pair.bob.second(&target).await;
        next.client.sync().await.expect("synchronised");
        next.client.conflicts().await.expect("a list").len()
    };
    let by_this_clock = "UPDATE _sync_conflicts SET at = at - 31 * 86400";
    assert_eq!(left(by_this_clock).await, 1);
    assert_eq!(left("UPDATE _sync_conflicts SET day = day - 31").await, 0);
}

/// An upload's answer brings a row whose parent no page has brought yet. Nothing
/// else would make this device ask: no hints, and a poll once an hour.
async fn a_conflict_in_an_answer_fetches_what_it_misses(backend: Backend) {
    let (_database, server) = server(backend).await;
    let pair = Pair::new(&server, |config| config.hints(false)).await;
    let post = fresh_key();
    run(
        &pair.ada,
        &format!(
            "INSERT INTO posts (id, title, author_id) VALUES ('{post}', 'a', '{}')",
            pair.key
        ),
    );
    pair.meet().await;
    // The engine's first look brings this one; the next would be in an hour.
    let marker = fresh_key();
    pair.ada.add(&marker, "Marker");
    pair.ada.client.sync().await.expect("synchronised");
    pair.bob.client.start().expect("the engine starts");
    eventually("the first look is over", || async {
        pair.bob
            .people()
            .iter()
            .any(|(id, _)| *id == marker)
            .then_some(())
    })
    .await;
    let author = fresh_key();
    pair.ada.add(&author, "Bea");
    run(
        &pair.ada,
        &format!("UPDATE posts SET author_id = '{author}'"),
    );
    pair.ada.client.sync().await.expect("synchronised");
    run(&pair.bob, "UPDATE posts SET title = 'b'");
    eventually("both edits are in one row", || async {
        let found: (String, String) = pair
            .bob
            .connection()
            .query_row("SELECT title, author_id FROM posts", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .expect("a row");
        (found == ("b".to_owned(), author.clone())).then_some(())
    })
    .await;
    pair.bob.sent().await;
}

async fn refused(backend: Backend) -> (oversync_tests::Database, Server, App) {
    let database = backend.database().await;
    let small = Config::default().set("limits.max_payload_bytes", 1_000);
    let server = Server::start(&database, small).await;
    let app = App::open(&server.target(), &fresh_user(), "ada").await;
    (database, server, app)
}

async fn a_refused_parent_and_its_child_go_when_it_is_retried(backend: Backend) {
    let (database, server, app) = refused(backend).await;
    let (parent, child) = (fresh_key(), fresh_key());
    app.add(&parent, &"x".repeat(2_000));
    let sql =
        format!("INSERT INTO posts (id, title, author_id) VALUES ('{child}', 't', '{parent}')");
    run(&app, &sql);
    app.client.sync().await.expect("synchronised");
    let refused = app.client.rejected().await.expect("a list");
    assert_eq!((refused.len(), &*refused[0].reason), (1, "bad_payload"));
    let status = app.client.status().await.expect("a status");
    assert_eq!((status.rejected, status.unsent), (1, 1), "the child waits");
    let line: serde_json::Value =
        serde_json::from_str(&app.client.export_rejected().await.expect("lines")).expect("one");
    assert_eq!(
        (&line["key"], &line["payload"]["id"]),
        (&parent.as_str().into(), &parent.as_str().into())
    );

    // In vain, and then not: the child goes with it.
    app.client
        .retry_rejected(refused[0].id)
        .await
        .expect("retried");
    app.client.sync().await.expect("synchronised");
    assert_eq!(app.client.rejected().await.expect("a list").len(), 1);
    let user = app.client.user().as_str().to_owned();
    app.client.stop().await;
    drop(server);
    let server = Server::start(&database, Config::default()).await;
    let app = app.reopen(&server.target()).await;
    assert_eq!(app.client.retry_all_rejected().await.expect("retried"), 1);
    app.client.sync().await.expect("synchronised");
    let status = app.client.status().await.expect("a status");
    assert_eq!((status.rejected, status.unsent), (0, 0));
    let observer = server.target().device(&user, "observer");
    assert_eq!(observer.server_ids("").await, [1, 2]);
}

async fn a_refused_edit_that_is_dropped_leaves_the_servers_row(backend: Backend) {
    let (_database, mut server, app) = refused(backend).await;
    let (kept, never) = (fresh_key(), fresh_key());
    app.add(&kept, "Ann");
    app.client.sync().await.expect("synchronised");
    let long = "x".repeat(2_000);
    run(&app, &format!("UPDATE users SET name = '{long}'"));
    app.add(&never, &long);
    app.client.sync().await.expect("synchronised");
    for entry in app.client.rejected().await.expect("a list") {
        app.client.drop_rejected(entry.id).await.expect("dropped");
    }
    assert_eq!(rows(&app), ["Ann -"]);
    server.terminate().await;
    server.restart(Port::Same).await;
    let done = app.client.sync().await.expect("synchronised");
    assert_eq!((done.uploaded.sent, done.complete), (0, true));
}
