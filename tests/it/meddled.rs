//! Hints that are lost, come a hundred times, late, in another order, or from nobody:
//! they change latency only. Both devices converge, no cursor moves but with a page,
//! and a forged history starts nothing over.

use oversync_tests::meddler::{Meddler, Meddling};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{App, Backend, Config, Server, Target, eventually, on_both_stores, within};
use rusqlite::Connection;
use std::time::{Duration, Instant};

on_both_stores!(
    lost_hints_cost_a_poll,
    a_hundred_hints_are_one_download,
    late_and_old_hints_lose_nothing,
    forged_hints_move_nothing,
);

/// Rows that each device makes.
const ROWS: usize = 10;

/// What the device that is meddled with polls at, where hints are lost.
const POLL: Duration = Duration::from_millis(300);

/// Where a device is in its stream, and in which history.
fn place(app: &App) -> (i64, String) {
    let file = Connection::open(app.path()).expect("the file opens");
    let place = file.query_row("SELECT cursor, epoch FROM _sync_client", [], |row| {
        Ok((row.get(0)?, row.get(1)?))
    });
    place.expect("the client's state")
}

/// Two devices of one user write in turn, one of them behind the meddler. What the
/// server's reads were, and how long the slowest row took.
async fn both_write(
    backend: Backend,
    meddling: Meddling,
    poll: Option<Duration>,
) -> (f64, Duration) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default().operators()).await;
    let meddler = Meddler::start(server.address(), meddling).await;
    let user = fresh_user();
    let ada = App::start(&server.target(), &user, "ada").await;
    let behind = Target::new(meddler.base(), server.target().secret());
    // Without a poll it polls once an hour.
    let bob = App::open_with(&behind, &user, "bob", |config| match poll {
        Some(poll) => config.poll_interval(poll),
        None => config,
    })
    .await;
    bob.client.start().expect("the engine starts");
    ada.sent().await;
    bob.sent().await;
    let epoch = place(&ada).1;
    let admin = server.admin();
    let reads = async || {
        let pages = admin
            .metric(r#"oversync_downloads_total{status="answered"}"#)
            .await;
        pages + admin.metric("oversync_quiet_downloads_total").await
    };
    let before = reads().await;
    let mut slowest = Duration::ZERO;
    for number in 0..ROWS {
        let made = Instant::now();
        for (from, to) in [(&ada, &bob), (&bob, &ada)] {
            let key = fresh_key();
            from.add(&key, &format!("row {number}"));
            within(Duration::from_secs(30), "the row arrives", || async {
                let (cursor, _) = place(to);
                assert!(cursor <= 2 * ROWS as i64, "beyond all there is: {cursor}");
                to.people().iter().any(|(id, _)| *id == key).then_some(())
            })
            .await;
        }
        slowest = slowest.max(made.elapsed());
    }
    eventually("both are where the stream ends", || async {
        let end = (2 * ROWS as i64, epoch.clone());
        (place(&ada) == end && place(&bob) == end).then_some(())
    })
    .await;
    assert_eq!(ada.people(), bob.people());
    (reads().await - before, slowest)
}

async fn lost_hints_cost_a_poll(backend: Backend) {
    let (_, slowest) = both_write(backend, Meddling::Lost, Some(POLL)).await;
    // Not the minutes of a device that waits for a hint.
    assert!(slowest < Duration::from_secs(20), "{slowest:?}");
}

async fn a_hundred_hints_are_one_download(backend: Backend) {
    let (reads, _) = both_write(backend, Meddling::Hundredfold, None).await;
    // Some 20 hints come 2,000 times. While a download is under way one more may be
    // wanted: they come one after another, a few while a hundred hints arrive.
    let few = (2 * ROWS * 100 / 10) as f64;
    assert!(reads <= few, "{reads} downloads for {} rows", 2 * ROWS);
}

async fn late_and_old_hints_lose_nothing(backend: Backend) {
    let late = Meddling::Delayed(Duration::from_millis(200));
    for meddling in [late, Meddling::Reordered] {
        both_write(backend, meddling, None).await;
    }
}

async fn forged_hints_move_nothing(backend: Backend) {
    both_write(backend, Meddling::Forged, None).await;
}
