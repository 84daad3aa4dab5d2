//! What operators see: every metric of the manual and of the dashboard on a running
//! server, and what a day's work moves.

use oversync_tests::device::{insert, update};
use oversync_tests::target::fresh_key;
use oversync_tests::{Admin, App, Backend, Config, Database, Server, eventually, on_both_stores};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const USERS: &str = "business.users";

const MANUAL: &str = include_str!("../../docs/METRICS.md");

const DASHBOARD: &str = include_str!("../../packaging/grafana.json");

on_both_stores!(
    every_name_is_there_from_the_start,
    work_moves_its_metrics,
    a_row_that_another_device_has_is_timed,
    who_begins_is_written_down_only_where_it_matters,
);

/// Words that begin as our metrics do.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_lowercase() && c != '_')
        .filter(|word| word.starts_with("oversync_"))
        .collect()
}

/// Those of the manual's table.
fn manual() -> BTreeSet<&'static str> {
    let rows = MANUAL
        .lines()
        .filter(|line| line.starts_with("| `oversync_"));
    rows.filter_map(|row| row.split('`').nth(1)).collect()
}

async fn server(backend: Backend) -> (Database, Server) {
    let database = backend.database().await;
    let server = Server::start(&database, Config::default().unfolded().operators()).await;
    (database, server)
}

async fn every_name_is_there_from_the_start(backend: Backend) {
    let (_database, server) = server(backend).await;
    // Codes of errors are not known beforehand.
    let refused = server.target().one_device().download_raw("after=x").await;
    assert_eq!(refused.status, 400);
    let text = server.admin().get("/metrics").await.text;
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let exposed: BTreeSet<&str> = types.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(
        exposed,
        manual(),
        "left: the server, right: docs/METRICS.md"
    );
    for name in &exposed {
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
    }
    // Each has a value, not only a name.
    let valued: BTreeSet<&str> = text.lines().flat_map(names).collect();
    for name in names(DASHBOARD) {
        assert!(valued.contains(name), "{name} of packaging/grafana.json");
    }
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let drawn = panels.iter().filter(|panel| panel["type"] == "timeseries");
    assert!(drawn.clone().count() > 15, "a dashboard");
    for panel in drawn {
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            let asked = target["expr"].as_str().expect("an expression");
            assert!(!names(asked).is_empty(), "{asked}");
        }
    }
}

async fn work_moves_its_metrics(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (admin, (ada, bob)) = (server.admin(), server.target().two_devices());
    let socket_owner = bob.clone();
    let mut socket = bob.connect().await;
    let mut told = socket.hello().await;
    let key = fresh_key();
    ada.upload(&[insert(1, USERS, &key, json!({}))]).await;
    socket.told_of(1, &mut told).await;
    ada.upload(&[update(2, USERS, &key, 1, json!({}))]).await;
    socket.told_of(2, &mut told).await;
    // From memory; and for a device that is not known, from the database.
    bob.download("").await;
    bob.sibling("cid").download("").await;
    for (metric, expected) in [
        (r#"oversync_newest_downloads_total{found="yes"}"#, 1.0),
        (r#"oversync_newest_downloads_total{found="no"}"#, 1.0),
        ("oversync_hints_total", 2.0),
        (r#"oversync_upload_stage_seconds_count{stage="body"}"#, 2.0),
        (r#"oversync_upload_stage_seconds_count{stage="check"}"#, 2.0),
        (r#"oversync_upload_stage_seconds_count{stage="turn"}"#, 2.0),
        (r#"oversync_upload_stage_seconds_count{stage="lane"}"#, 2.0),
        (
            r#"oversync_upload_stage_seconds_count{stage="commit"}"#,
            2.0,
        ),
        (
            r#"oversync_download_stage_seconds_count{stage="read"}"#,
            1.0,
        ),
        (
            r#"oversync_download_stage_seconds_count{stage="admission"}"#,
            1.0,
        ),
        (r#"oversync_store_questions_total{verb="commit"}"#, 2.0),
        (r#"oversync_store_seconds_count{verb="page"}"#, 1.0),
        ("oversync_uploads_in_flight", 0.0),
        ("oversync_turns_waiting", 0.0),
        ("oversync_commits_waiting", 0.0),
        ("oversync_downloads_in_flight", 0.0),
        ("oversync_sessions_stalled", 0.0),
        ("oversync_hints_dropped_total", 0.0),
    ] {
        assert_eq!(admin.metric(metric).await, expected, "{metric}");
    }
    // One of the two may have been found by the question for heads.
    let timed = admin.metric("oversync_hint_seconds_count").await;
    assert!((1.0..=2.0).contains(&timed), "{timed}");
    // The server asks now and then by itself.
    eventually("the database is left alone", || async {
        (admin.metric("oversync_store_in_flight").await == 0.0).then_some(())
    })
    .await;
    match backend {
        Backend::Embedded => {
            eventually("the file is measured", || async {
                let size = admin.metric(r#"oversync_storage_bytes{kind="file"}"#).await;
                (size > 0.0).then_some(())
            })
            .await;
            assert_eq!(connections(&admin).await, 0.0);
        }
        Backend::Postgres => {
            for kind in ["database", "log", "rows"] {
                let bytes = format!("oversync_storage_bytes{{kind=\"{kind}\"}}");
                eventually(kind, || async {
                    (admin.metric_named(bytes.clone()).await > 0.0).then_some(())
                })
                .await;
            }
            assert!(connections(&admin).await >= 1.0);
            // Heads go to other processes, also when there are none.
            eventually("the heads are published", || async {
                let published = admin.metric("oversync_bus_publish_seconds_count").await;
                (published >= 1.0).then_some(())
            })
            .await;
        }
    }
    // A long poll counts while it waits.
    let head = told;
    let waiting = tokio::spawn(async move { bob.download(&format!("after={head}&wait=60")).await });
    eventually("the poll waits", || async {
        (admin.metric("oversync_polls_waiting").await == 1.0).then_some(())
    })
    .await;
    ada.upload(&[insert(3, USERS, &fresh_key(), json!({}))])
        .await;
    assert_eq!(waiting.await.expect("no panic")["head"], 3);
    assert_eq!(admin.metric("oversync_polls_waiting").await, 0.0);
    // Who is told to go counts under the reason.
    admin.revoke(&socket_owner).await;
    eventually("the session is told why", || async {
        let byes = admin
            .metric(r#"oversync_byes_total{reason="revoked"}"#)
            .await;
        (byes == 1.0).then_some(())
    })
    .await;
}

/// By what devices say with their next request; the real one does.
async fn a_row_that_another_device_has_is_timed(backend: Backend) {
    let (_database, server) = server(backend).await;
    let (admin, (ada, bob)) = (server.admin(), server.target().two_devices());
    let app = App::start(&server.target(), ada.user(), "app").await;
    let seen = "oversync_visible_seconds_count";
    let slow = r#"oversync_visible_seconds_bucket{le="0.5"}"#;
    // Only what this process has committed for somebody who listens is known.
    let _socket = bob.connect().await;
    let say = async |applied: &str| {
        let request = bob.request(Method::GET, "/sync/schema-version");
        let answer = request.header("Oversync-Applied", applied).send().await;
        assert_eq!(answer.expect("an answer").status(), 200);
    };
    let key = fresh_key();
    ada.upload(&[insert(1, USERS, &key, json!({"name": "Ann"}))])
        .await;
    eventually("the row is at the app", || async {
        (app.people().len() == 1).then_some(())
    })
    .await;
    app.add(&fresh_key(), "Bob");
    eventually("the app has said so", || async {
        (admin.metric(seen).await == 1.0).then_some(())
    })
    .await;
    // What is no place, not committed, or not understood counts for nothing.
    for nothing in [
        "",
        "1",
        "1; age=",
        "1; age=-1",
        "x; age=1",
        "-1; age=1",
        "0; age=1",
        "9223372036854775807; age=0",
        "9223372036854775808; age=0",
    ] {
        say(nothing).await;
    }
    assert_eq!(admin.metric(seen).await, 1.0);
    // So long ago that it was there at once.
    let before = admin.metric(slow).await;
    say("1; age=4294967295").await;
    assert_eq!(admin.metric(seen).await, 2.0);
    assert_eq!(admin.metric(slow).await, before + 1.0);
}

/// A place in a fold is written down before the page is given out, once. Where nothing is
/// folded there is no such place, and a download waits for no write.
async fn who_begins_is_written_down_only_where_it_matters(backend: Backend) {
    for (is_folding, expected) in [(false, 0.0), (true, 1.0)] {
        let database = backend.database().await;
        let config = Config::default().operators();
        let server = Server::start(&database, config.set("retention.enabled", is_folding)).await;
        let (ada, bob) = server.target().two_devices();
        let rows: Vec<Value> = (1..=5)
            .map(|id| insert(id, USERS, &fresh_key(), json!({})))
            .collect();
        ada.upload(&rows).await;
        for _ in 0..3 {
            let page = bob.download("after=0&limit=2").await;
            assert_eq!(page["has_more"], true);
        }
        let written = r#"oversync_store_questions_total{verb="reads_fold"}"#;
        assert_eq!(server.admin().metric(written).await, expected);
        let (rest, cursor) = bob.download_all(2, 2, "").await;
        assert_eq!((rest.len(), cursor), (3, 5));
        assert_eq!(server.admin().metric(written).await, expected);
    }
}

async fn connections(admin: &Admin) -> f64 {
    let mut all = 0.0;
    for state in ["idle", "busy"] {
        let metric = format!("oversync_pool_connections{{state=\"{state}\"}}");
        all += admin.metric_named(metric).await;
    }
    all
}
