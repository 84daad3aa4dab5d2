//! Servers that do not say what they take, and answers that come in part: a batch is
//! halved until it fits, a page is applied as a whole or not at all, and a pass that
//! an upload's answer begins is carried out without anybody's help.

use oversqlite::{Error, NetworkError};
use oversync_tests::device::insert;
use oversync_tests::proxy::{Proxy, Verdict};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{App, Backend, Config, Server, Target, eventually, on_both_stores};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

on_both_stores!(
    a_batch_is_halved_until_a_silent_server_takes_it,
    a_page_that_is_cut_short_is_not_applied,
    a_pass_begun_by_an_upload_goes_on_by_itself,
);

/// Rows that are sent together.
const ROWS: usize = 60;

/// What something in between lets through, in bytes.
const LET_THROUGH: usize = 2_500;

fn behind(proxy: &Proxy, server: &Server) -> Target {
    Target::new(proxy.base(), server.target().secret())
}

/// Neither the number of changes nor the size is told, by anybody.
async fn a_batch_is_halved_until_a_silent_server_takes_it(backend: Backend) {
    let database = backend.database().await;
    let config = Config::default().set("limits.max_changes", 7);
    let server = Server::start(&database, config).await;
    for most in [usize::MAX, LET_THROUGH] {
        let proxy = Proxy::start(server.address(), move |line| {
            match (
                line.contains("/sync/capabilities"),
                line.contains("/sync/upload"),
            ) {
                (true, _) => Verdict::Refuse(404),
                (_, true) => Verdict::AtMost(most),
                _ => Verdict::Pass,
            }
        })
        .await;
        let user = fresh_user();
        let ada = App::open(&behind(&proxy, &server), &user, "ada").await;
        ada.client.hydrate().await.expect("hydrated");
        let mut keys: Vec<String> = (0..ROWS).map(|_| fresh_key()).collect();
        for key in &keys {
            ada.add(key, &"x".repeat(300));
        }
        let huge = fresh_key();
        if most == LET_THROUGH {
            ada.add(&huge, &"y".repeat(2 * LET_THROUGH));
        }
        let done = ada.client.sync().await.expect("synchronises");
        assert!(done.complete);
        assert_eq!(done.uploaded.applied, ROWS);
        let refused = ada.client.rejected().await.expect("a list");
        let refused: Vec<_> = refused
            .iter()
            .map(|one| (&one.key, &one.reason[..]))
            .collect();
        match most {
            LET_THROUGH => assert_eq!(refused, [(&huge, "request_too_large")]),
            _ => assert!(refused.is_empty(), "{refused:?}"),
        }
        let observer = server.target().device(&user, "observer");
        let (changes, _) = observer.download_all(0, 100, "").await;
        let mut there: Vec<&str> = changes
            .iter()
            .filter_map(|one| one["pk"].as_str())
            .collect();
        there.sort_unstable();
        keys.sort();
        assert_eq!(there, keys, "every row once");
        // Halved a few times, and not for every batch anew; a change alone is the
        // least that can be sent.
        let uploads = proxy.seen("/sync/upload").len();
        assert!(uploads <= ROWS / 2 + 12, "{uploads} uploads");
        ada.client.stop().await;
    }
}

/// Whatever part of a page has come, none of it is applied; the next try goes on
/// where the last page ended.
async fn a_page_that_is_cut_short_is_not_applied(backend: Backend) {
    let database = backend.database().await;
    // Where a page of the log ended means nothing any more once it is folded, and the
    // device would begin again.
    let config = Config::default().unfolded().set("limits.max_page", 20);
    let server = Server::start(&database, config).await;
    let user = fresh_user();
    let peer = server.target().device(&user, "peer");
    let rows: Vec<_> = (1..=50)
        .map(|n| {
            insert(
                n,
                "business.users",
                &fresh_key(),
                json!({"name": format!("n{n}")}),
            )
        })
        .collect();
    peer.upload(&rows).await;
    // The second page comes in part: its head, half of it, all but the last bytes.
    for part in [10, 120, 1_000, 3_000] {
        let pages = Arc::new(AtomicUsize::new(0));
        let asked = Arc::clone(&pages);
        let proxy = Proxy::start(server.address(), move |line| {
            let is_cut = line.contains("after=20&") && asked.fetch_add(1, Ordering::SeqCst) < 3;
            match is_cut {
                true => Verdict::Short(part),
                false => Verdict::Pass,
            }
        })
        .await;
        let bob = App::open(&behind(&proxy, &server), &user, "bob").await;
        assert_eq!(
            bob.client
                .download_once(1_000)
                .await
                .expect("a page")
                .applied,
            20
        );
        let cut = bob.client.download_once(1_000).await;
        assert!(
            matches!(cut, Err(Error::Network(NetworkError::Unreachable(_)))),
            "{part}: {cut:?}"
        );
        assert_eq!(bob.people().len(), 20, "{part}");
        let status = bob.client.status().await.expect("a status");
        assert_eq!((status.cursor, status.hydrated), (20, false), "{part}");
        // The engine tries again by itself.
        bob.client.start().expect("the engine starts");
        eventually("all rows are here", || async {
            let status = bob.client.status().await.expect("a status");
            (status.hydrated && bob.people().len() == 50).then_some(())
        })
        .await;
        assert!(pages.load(Ordering::SeqCst) >= 3, "it was cut");
        bob.client.stop().await;
    }
}

/// An upload is answered that the history is another one. The socket stays open, no
/// hint comes, nobody polls: the engine itself has to begin the pass.
async fn a_pass_begun_by_an_upload_goes_on_by_itself(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default()).await;
    let uploads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&uploads);
    let proxy = Proxy::start(server.address(), move |line| {
        // The second upload only.
        match line.contains("/sync/upload") && count.fetch_add(1, Ordering::SeqCst) == 1 {
            true => Verdict::Answer(
                409,
                r#"{"error":"epoch_mismatch","message":"another history","epoch":"another"}"#,
            ),
            false => Verdict::Pass,
        }
    })
    .await;
    let user = fresh_user();
    let ada = App::start(&behind(&proxy, &server), &user, "ada").await;
    eventually("it is online", || async {
        let status = ada.client.status().await.expect("a status");
        let is_online = status.connection == oversqlite::ConnectionState::Online;
        (is_online && status.hydrated).then_some(())
    })
    .await;
    let (first, second) = (fresh_key(), fresh_key());
    ada.add(&first, "first");
    ada.sent().await;
    let sockets = proxy.seen("/sync/ws").len();
    ada.add(&second, "second");
    ada.sent().await;
    assert!(uploads.load(Ordering::SeqCst) >= 3, "it was refused once");
    assert_eq!(proxy.seen("/sync/ws").len(), sockets, "the socket stays");
    let observer = server.target().device(&user, "observer");
    let (changes, _) = observer.download_all(0, 100, "").await;
    let there: Vec<&str> = changes
        .iter()
        .filter_map(|one| one["pk"].as_str())
        .collect();
    assert_eq!(there, [first, second]);
}
