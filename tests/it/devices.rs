//! Real clients against real servers: what an application sees.

use oversqlite::Changed;
use oversync_tests::app::people;
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{App, Backend, Config, Port, Server, eventually, on_both_stores};
use std::time::Duration;

on_both_stores!(
    an_edit_shows_on_the_other_device_without_a_poll,
    a_server_killed_in_a_stream_of_uploads_loses_nothing,
    a_server_that_goes_away_and_comes_back_needs_no_restart,
    offline_edits_of_both_sides_meet,
    one_row_edited_on_both_sides_is_the_same_everywhere,
);

/// The row appears by a hint alone: both devices poll once an hour and look for
/// foreign writers once an hour.
async fn an_edit_shows_on_the_other_device_without_a_poll(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let user = fresh_user();
    let ada = App::start(&server.target(), &user, "ada").await;
    let bob = App::start(&server.target(), &user, "bob").await;
    for device in [&ada, &bob] {
        eventually("the device is online", || async {
            let status = device.client.status().await.expect("a status");
            (status.connection == oversqlite::ConnectionState::Online && status.hydrated)
                .then_some(())
        })
        .await;
    }
    let mut changes = bob.client.changes();
    for round in 0..20 {
        let (from, to) = if round % 2 == 0 {
            (&ada, &bob)
        } else {
            (&bob, &ada)
        };
        let mut heard = to.client.changes();
        let key = fresh_key();
        from.add(&key, "Ann");
        let next = tokio::time::timeout(Duration::from_secs(60), heard.next());
        let Ok(Some(Changed::Rows { table, keys })) = next.await else {
            panic!("round {round}: nothing arrived");
        };
        assert_eq!(
            (table.as_str(), keys.as_slice()),
            ("users", &[key.clone()][..])
        );
        // The event comes after the commit is visible.
        assert!(
            to.people().iter().any(|(id, _)| *id == key),
            "round {round}"
        );
    }
    assert!(matches!(changes.next().await, Some(Changed::Rows { .. })));
    assert_eq!(ada.people(), bob.people());
}

async fn a_server_killed_in_a_stream_of_uploads_loses_nothing(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let user = fresh_user();
    let ada = App::start(&server.target(), &user, "ada").await;
    let bob = App::start(&server.target(), &user, "bob").await;
    let mut keys = Vec::new();
    for round in 0..6 {
        for _ in 0..15 {
            let key = fresh_key();
            if keys.len() % 2 == 0 {
                ada.add(&key, "a")
            } else {
                bob.add(&key, "b")
            };
            keys.push(key);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // In the middle of it, not at the end of it.
        server.kill();
        if round % 2 == 0 {
            let key = fresh_key();
            ada.add(&key, "while it was dead");
            keys.push(key);
        }
        server.restart(Port::Same).await;
    }
    keys.sort();
    for device in [&ada, &bob] {
        eventually("both devices have every row", || async {
            let here: Vec<String> = device.people().into_iter().map(|(id, _)| id).collect();
            (here == keys).then_some(())
        })
        .await;
        device.sent().await;
        assert!(device.client.rejected().await.expect("a list").is_empty());
    }
    let observer = server.target().device(&user, "observer");
    let (changes, _) = observer.download_all(0, 100, "").await;
    let mut on_server: Vec<&str> = changes
        .iter()
        .filter_map(|change| change["pk"].as_str())
        .collect();
    on_server.sort_unstable();
    assert_eq!(
        on_server, keys,
        "every row once: nothing lost, nothing doubled"
    );
}

async fn a_server_that_goes_away_and_comes_back_needs_no_restart(backend: Backend) {
    let database = backend.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let user = fresh_user();
    let ada = App::start(&server.target(), &user, "ada").await;
    let bob = App::start(&server.target(), &user, "bob").await;
    let before = fresh_key();
    ada.add(&before, "before");
    eventually("the first row arrives", || async {
        (bob.people().len() == 1).then_some(())
    })
    .await;

    server.terminate().await;
    let (hers, his) = (fresh_key(), fresh_key());
    ada.add(&hers, "hers");
    bob.add(&his, "his");
    eventually("the devices notice", || async {
        let status = ada.client.status().await.expect("a status");
        (status.connection != oversqlite::ConnectionState::Online && status.unsent == 1)
            .then_some(())
    })
    .await;
    assert_eq!((ada.people().len(), bob.people().len()), (2, 2));

    server.restart(Port::Same).await;
    eventually("everything meets", || async {
        (ada.people().len() == 3 && ada.people() == bob.people()).then_some(())
    })
    .await;
}

async fn offline_edits_of_both_sides_meet(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let user = fresh_user();
    // Edits made before the first contact, on both devices.
    let ada = App::open(&server.target(), &user, "ada").await;
    let bob = App::open(&server.target(), &user, "bob").await;
    for n in 0..30 {
        ada.add(&fresh_key(), &format!("hers {n}"));
        bob.add(&fresh_key(), &format!("his {n}"));
    }
    ada.client.sync().await.expect("synchronised");
    bob.client.sync().await.expect("synchronised");
    ada.client.sync().await.expect("synchronised");
    assert_eq!(ada.people().len(), 60);
    assert_eq!(ada.people(), bob.people());
}

async fn one_row_edited_on_both_sides_is_the_same_everywhere(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let user = fresh_user();
    let ada = App::open(&server.target(), &user, "ada").await;
    let bob = App::open(&server.target(), &user, "bob").await;
    let key = fresh_key();
    ada.add(&key, "Ann");
    ada.client.sync().await.expect("synchronised");
    bob.client.sync().await.expect("synchronised");
    let rename = |app: &App, name: &str| {
        let sql = "UPDATE users SET name = ?2 WHERE id = ?1";
        app.connection()
            .execute(sql, [key.as_str(), name])
            .expect("the row is changed");
    };
    rename(&ada, "Anna");
    rename(&bob, "Anne");
    ada.client.sync().await.expect("synchronised");
    bob.client.sync().await.expect("synchronised");
    ada.client.sync().await.expect("synchronised");
    assert_eq!(ada.people(), bob.people());
    assert_eq!(
        people(ada.path()),
        vec![(key, "Anna".to_owned())],
        "the server's row wins by default"
    );
    assert_eq!(
        bob.client.conflicts().await.expect("a list").len(),
        1,
        "and what lost is kept"
    );
}
