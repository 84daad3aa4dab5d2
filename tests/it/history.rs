//! History kept for audit: what folding removes from the log is moved, and `oversync
//! history` prints all that was ever written to a user's rows, beside the server.

use oversync_tests::device::{delete, insert, update};
use oversync_tests::folding::{count, eager, folded_up_to};
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, HttpDevice, Seed, Server, on_both_stores};
use rand::Rng as _;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

on_both_stores!(
    everything_ever_written_is_in_it,
    nothing_is_kept_unless_asked_for,
    a_large_history_is_not_held_in_memory,
);

const USERS: &str = "business.users";

pub(crate) fn keeping() -> Config {
    eager().set("retention.keep_history", true)
}

/// What `oversync history` prints.
pub(crate) async fn history(server: &Server, user: &str, more: &[&str]) -> Vec<Value> {
    let args = ["history", "--user", user];
    let output = server.run(&[&args[..], more].concat()).await;
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = lines.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// Random edits of a few rows, deletes and new beginnings among them, by two devices,
/// folded again and again meanwhile: the history is what was sent, in order.
async fn everything_ever_written_is_in_it(backend: Backend) {
    let mut rng = Seed::from_env().rng(0);
    let database = backend.database().await;
    let server = Server::start(&database, keeping()).await;
    let (ann, eve) = server.target().two_devices();
    let keys: Vec<String> = (0..5).map(|_| fresh_key()).collect();
    let mut versions = [0; 5];
    let mut written: Vec<Value> = Vec::new();
    for n in 1..=120_i64 {
        let row = rng.random_range(0..keys.len());
        let (key, version) = (&keys[row], versions[row]);
        let device = if n % 3 == 0 { &eve } else { &ann };
        let wants_delete = version > 0 && rng.random_range(0..4) == 0;
        let change = match version {
            _ if wants_delete => delete(n, USERS, key, version),
            0 => insert(n, USERS, key, json!({"n": n, "name": "new"})),
            // Lines within a text and between the parts of a payload.
            _ => update(n, USERS, key, version, json!({"n": n, "name": "a\nb"})),
        };
        let body = serde_json::to_string_pretty(&json!({ "changes": [change] })).expect("JSON");
        let status = device.upload_raw(body).await.ok()["statuses"][0].clone();
        assert_eq!(status["status"], "applied", "{status}");
        versions[row] += 1;
        let mut line = json!({
            "server_id": n, "source_id": device.name(), "source_change_id": n,
            "schema": "business", "table": "users", "op": change["op"], "pk": key,
            "server_version": versions[row],
        });
        if !wants_delete {
            line["payload"] = change["payload"].clone();
        }
        written.push(line);
        if n == 40 {
            folded_up_to(&database, n).await;
        }
    }
    folded_up_to(&database, 120).await;
    let left = count(&database, "log").await;
    assert_eq!(left + count(&database, "history").await, 120);
    assert!(left <= 10, "{left} entries are left in the log");

    let all = history(&server, ann.user(), &[]).await;
    let folded = all.iter().filter(|line| line["folded"] == true).count();
    assert_eq!(folded as i64, 120 - left);
    assert_eq!(without_times(&all), written);
    let middle = all[60]["ts"].as_str().expect("a time");
    // One row, one table, since a time.
    let of = |key: &str| -> Vec<Value> {
        written
            .iter()
            .filter(|line| line["pk"] == *key)
            .cloned()
            .collect()
    };
    let one = history(&server, ann.user(), &["--pk", &keys[2].to_uppercase()]).await;
    assert_eq!(without_times(&one), of(&keys[2]));
    assert!(
        history(&server, ann.user(), &["--table", "business.posts"])
            .await
            .is_empty()
    );
    let some = history(&server, ann.user(), &["--table", USERS, "--since", middle]).await;
    assert_eq!(without_times(&some), written[60..]);
    // Another user's is another one.
    let other = server.target().one_device();
    other
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    assert_eq!(history(&server, other.user(), &[]).await.len(), 1);
    server.verified().await;
}

fn without_times(lines: &[Value]) -> Vec<Value> {
    let lines = lines.iter().cloned();
    lines
        .map(|mut line| {
            let fields = line.as_object_mut().expect("an object");
            let (ts, folded) = (fields.remove("ts"), fields.remove("folded"));
            assert!(
                ts.is_some_and(|ts| ts.is_string()) && folded.is_some_and(|is| is.is_boolean())
            );
            line
        })
        .collect()
}

async fn nothing_is_kept_unless_asked_for(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, eager()).await;
    let ann = server.target().one_device();
    let key = fresh_key();
    for version in 0..30 {
        ann.upload(&[update(
            version + 1,
            USERS,
            &key,
            version,
            json!({"n": version}),
        )])
        .await;
    }
    folded_up_to(&database, 30).await;
    assert_eq!(count(&database, "history").await, 0);
    let left = history(&server, ann.user(), &[]).await;
    assert_eq!(left.len() as i64, count(&database, "log").await);
    assert_eq!(left.last().map(|line| &line["server_id"]), Some(&json!(30)));
    let output = server.run(&["history", "--user", "nobody"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("there is no user nobody"),
        "{said}"
    );
}

/// 60 MB, half of it folded: all of it is printed, in about half of that, most of which
/// is SQLite's cache of the file.
async fn a_large_history_is_not_held_in_memory(backend: Backend) {
    const ENTRIES: i64 = 80;
    const BYTES: usize = 750_000;
    let database = backend.database().await;
    let server = Server::start(&database, keeping()).await;
    let ann = server.target().one_device();
    let key = fresh_key();
    let name = "x".repeat(BYTES);
    for version in 0..ENTRIES / 2 {
        ann.upload(&[update(
            version + 1,
            USERS,
            &key,
            version,
            json!({ "name": name }),
        )])
        .await;
    }
    folded_up_to(&database, ENTRIES / 2).await;
    for id in ENTRIES / 2 + 1..=ENTRIES {
        ann.upload(&[insert(id, USERS, &fresh_key(), json!({ "name": name }))])
            .await;
    }
    let (lines, most) = peak(&server, &ann).await;
    assert_eq!(lines, ENTRIES);
    // The program alone takes a quarter of that.
    assert!(most < 58 * 1024, "{most} KiB for a large history");
}

/// The lines of a user's history, and the most memory in KiB that the program had when
/// all but the end of the last one was read: it waits there until somebody reads.
async fn peak(server: &Server, device: &HttpDevice) -> (i64, i64) {
    let mut history = server.program(&["history", "--user", device.user()]);
    history.stdout(Stdio::piped());
    let read = move || {
        let mut child = history.spawn().expect("history runs");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let status = format!("/proc/{}/status", child.id());
        let (mut lines, mut peak) = (0, 0);
        let mut line = Vec::new();
        loop {
            // Before each line: what it was until here.
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let most = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let most = most.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse().ok());
            peak = peak.max(most.unwrap_or(0));
            line.clear();
            if output.read_until(b'\n', &mut line).expect("it can be read") == 0 {
                break;
            }
            lines += 1;
        }
        assert!(child.wait().expect("it ends").success());
        (lines, peak)
    };
    tokio::task::spawn_blocking(read).await.expect("read")
}
