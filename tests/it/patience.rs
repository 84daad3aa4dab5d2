//! What an engine does when the server asks for patience, when calls are dropped
//! in the middle, and what its status says all the while.

use oversync_tests::proxy::{Proxy, Verdict};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{App, Backend, Config, Server, Target, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_asked_before_the_time_the_server_names() {
    let database = Backend::Embedded.database().await;
    let server = Server::start(&database, Config::default()).await;
    let busy = Arc::new(AtomicBool::new(true));
    let judge = Arc::clone(&busy);
    let proxy = Proxy::start(server.address(), move |line| {
        let tells = line.contains("/sync/capabilities");
        match judge.load(Ordering::SeqCst) && !tells {
            true => Verdict::Busy(2),
            false => Verdict::Pass,
        }
    })
    .await;
    let behind = Target::new(proxy.base(), server.target().secret());
    let user = fresh_user();
    let ada = App::open(&behind, &user, "ada").await;
    ada.client.start().expect("the engine starts");
    let start = Instant::now();
    let mut n = 0;
    while start.elapsed() < Duration::from_secs(9) {
        // New work is no reason to ask sooner.
        ada.add(&fresh_key(), &format!("{n}"));
        n += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for way in ["/sync/download", "/sync/ws"] {
        let seen = proxy.seen(way);
        assert!((2..=5).contains(&seen.len()), "{way}: {} times", seen.len());
        for pair in seen.windows(2) {
            let apart = pair[1] - pair[0];
            assert!(apart >= Duration::from_millis(1_950), "{way}: {apart:?}");
        }
    }
    assert!(
        proxy.seen("/sync/upload").is_empty(),
        "the first pass comes first"
    );
    busy.store(false, Ordering::SeqCst);
    within(Duration::from_secs(10), "everything is sent", || async {
        let status = ada.client.status().await.expect("a status");
        (status.unsent == 0 && status.hydrated).then_some(())
    })
    .await;
}
