//! One change, followed from the device that made it to the one that applies it, by
//! what server and devices tell a collector.

use crate::programs::{add, init, oversqlite, run};
use oversync_shared::trace::ChangeTrace;
use oversync_shared::{ChangeId, UserId};
use oversync_tests::collector::{Collector, Span};
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Backend, Config, Port, Server, eventually, on_both_stores};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

on_both_stores!(
    a_change_is_one_trace,
    what_waited_says_how_long,
    a_share_of_traces_is_kept_by_all_alike,
    a_collector_that_is_away_holds_nothing_up,
);

/// Where nothing listens, and no test is given the port.
const NOBODY: &str = "http://127.0.0.1:1";

fn sync(file: &Path, collector: &Collector) {
    run(oversqlite(file)
        .arg("sync")
        .env("OVERSQLITE_TRACES", collector.endpoint()));
}

fn status(file: &Path) -> Value {
    let output = run(oversqlite(file).args(["--json", "status"]));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn only<'a>(spans: &'a [Span], name: &str, trace: &[u8]) -> &'a Span {
    let mut found = spans
        .iter()
        .filter(|span| span.name == name && span.trace == trace);
    let span = found.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(found.next().is_none(), "one {name}");
    span
}

async fn a_change_is_one_trace(backend: Backend) {
    let collector = Collector::start();
    let database = backend.database().await;
    let config = Config::default()
        .set("dev", true)
        .set("trace.endpoint", collector.endpoint());
    let mut server = Server::start(&database, config).await;
    let folder = TempDir::with_prefix("oversync-app.").expect("a temporary folder");
    let [phone, laptop] = ["phone.db", "laptop.db"].map(|name| init(&folder, name, &server));
    add(&phone, &fresh_key());
    sync(&phone, &collector);
    sync(&laptop, &collector);
    let (user, device) = {
        let status = status(&phone);
        let text = |name: &str| status[name].as_str().expect("a text").to_owned();
        (text("user"), text("device"))
    };
    // It sends what it has left.
    server.terminate().await;
    let user = UserId::new(user).expect("a user");
    let trace = ChangeTrace::of(&user, &device, ChangeId::new(1));
    let spans = collector.spans();
    let chain = [
        ("change.upload", "oversqlite"),
        ("change.commit", "oversync"),
        ("change.page", "oversync"),
        ("change.apply", "oversqlite"),
    ];
    for (name, service) in chain {
        let span = only(&spans, name, &trace.trace_id);
        assert_eq!(span.service, service, "{name}");
        assert_eq!(span.parent, trace.parent_id, "{name}");
        assert!(span.time.0 <= span.time.1 && span.time.0 > 0, "{name}");
    }
    // Each request is one trace from the device to the server; what the server did with
    // the change points there.
    for (change, request) in [("change.commit", "upload"), ("change.page", "download")] {
        let told = only(&spans, change, &trace.trace_id);
        let [link] = &told.links[..] else {
            panic!("{change} points to one span: {told:?}")
        };
        let here = spans
            .iter()
            .find(|span| span.id == *link)
            .expect("the request");
        assert_eq!(here.name, format!("oversync.{request}"));
        let there = spans
            .iter()
            .find(|span| span.id == here.parent)
            .expect("the caller");
        assert_eq!(there.name, format!("oversqlite.{request}"));
        assert_eq!(there.trace, here.trace);
    }
    assert!(collector.has_text(&device), "attributes have come");
    for secret in ["eyJ", "Bearer"] {
        assert!(!collector.has_text(secret), "{secret} in a span");
    }
}

async fn what_waited_says_how_long(backend: Backend) {
    let collector = Collector::start();
    let database = backend.database().await;
    let server = Server::start(&database, Config::default().set("dev", true)).await;
    let folder = TempDir::with_prefix("oversync-app.").expect("a temporary folder");
    let phone = init(&folder, "phone.db", &server);
    sync(&phone, &collector);
    add(&phone, &fresh_key());
    // It is seen, and not sent.
    run(oversqlite(&phone).args(["rejected", "retry", "--all"]));
    let file = Connection::open(&phone).expect("the file opens");
    let earlier = file.execute("UPDATE _sync_pending SET at = at - 60", []);
    assert_eq!(earlier.expect("it runs"), 1);
    add(&phone, &fresh_key());
    sync(&phone, &collector);
    let status = status(&phone);
    let text = |name: &str| status[name].as_str().expect("a text").to_owned();
    let user = UserId::new(text("user")).expect("a user");
    let spans = collector.spans();
    let trace = |id| ChangeTrace::of(&user, &text("device"), ChangeId::new(id));
    let waited = only(&spans, "change.wait", &trace(1).trace_id);
    let sent = only(&spans, "change.upload", &trace(1).trace_id);
    assert_eq!(waited.parent, trace(1).parent_id);
    assert_eq!(waited.time.1, sent.time.0, "one after the other");
    let seconds = (waited.time.1 - waited.time.0) / 1_000_000_000;
    assert!((58..3_600).contains(&seconds), "{seconds} s");
    // The other one was seen when it was sent.
    only(&spans, "change.upload", &trace(2).trace_id);
    let mut others = spans.iter().filter(|span| span.name == "change.wait");
    assert!(others.all(|span| span.trace == trace(1).trace_id));
}

/// By the trace id alone: a change is told of by everybody or by nobody.
async fn a_share_of_traces_is_kept_by_all_alike(backend: Backend) {
    let collector = Collector::start();
    let database = backend.database().await;
    let config = Config::default()
        .set("trace.endpoint", collector.endpoint())
        .set("trace.share", 0.25);
    let mut server = Server::start(&database, config).await;
    let user = fresh_user();
    let target = server.target();
    let writer = target.device(&user, "writer");
    for id in 1..=80 {
        let key = fresh_key();
        let change = json!({"source_change_id": id, "schema": "business", "table": "users",
            "op": "INSERT", "pk": key, "server_version": 0,
            "payload": {"id": key, "name": "Ann"}});
        writer.upload(&[change]).await;
    }
    let page = target.device(&user, "reader").download("limit=100").await;
    assert_eq!(page["changes"].as_array().map(Vec::len), Some(80));
    server.terminate().await;
    let traces = |name: &str| {
        let spans = collector.spans();
        let mut traces: Vec<_> = spans
            .into_iter()
            .filter(|span| span.name == name)
            .map(|span| span.trace)
            .collect();
        traces.sort();
        traces
    };
    let kept = traces("change.commit");
    assert!((5..40).contains(&kept.len()), "{} of 80", kept.len());
    assert_eq!(kept, traces("change.page"));
}

async fn a_collector_that_is_away_holds_nothing_up(backend: Backend) {
    let database = backend.database().await;
    let config = Config::default().set("trace.endpoint", NOBODY);
    let mut server = Server::start(&database, config).await;
    let user = fresh_user();
    let writer = server.target().device(&user, "writer");
    let key = fresh_key();
    let change = json!({"source_change_id": 1, "schema": "business", "table": "users",
        "op": "INSERT", "pk": key, "server_version": 0, "payload": {"id": key, "name": "Ann"}});
    let reply = writer.upload(&[change]).await;
    assert_eq!(reply["statuses"][0]["status"], "applied");
    server.terminate().await;
    assert!(
        server.log().contains("ExportError"),
        "it says so: {}",
        server.log()
    );
    server.restart(Port::Same).await;
    let reader = server.target().device(&user, "reader");
    eventually("it is back", || async {
        (reader.download("").await["head"] == 1).then_some(())
    })
    .await;
}
