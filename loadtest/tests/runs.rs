//! The binary `loadtest` as people and CI call it: real runs against real
//! servers, its exit status, its reports, and a server that lies.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Both kinds of device, every kind of change, churn, a ramp and a storm.
const LITTLE: &str = r#"
[[phases]]
name = "grow"
kind = "grow"
rows = 400
[[phases]]
name = "ramp"
kind = "ramp"
seconds = 4
[[phases]]
name = "storm"
kind = "storm"
seconds = 30
restart = true
[[phases]]
name = "new"
kind = "hydrate"
seconds = 30

[[fleets]]
name = "real"
device = "real"
users = 1
devices = 2
rate = 20
phases = ["ramp"]
mix = { insert = 50, update = 30, delete = 10, conflict = 10 }

[[fleets]]
name = "lean"
device = "lean"
users = 2
devices = 2
rate = 40
batch = [1, 5]
listen = "downloads"
phases = ["ramp"]
preload = 30
mix = { insert = 40, update = 40, delete = 10, conflict = 10 }
churn = { every_seconds = 1, offline_seconds = [0, 1] }
"#;

/// One lean device, as fast as it goes.
const UPLOADS: &str = "[[phases]]\nname = 'uploads'\nkind = 'hold'\nseconds = 3\n\
                       [[fleets]]\nname = 'f'\ndevice = 'lean'\nloop = 'closed'\n";

fn loadtest(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.current_dir(folder.path()).stdin(Stdio::null());
    command
}

fn folder_with(scenario: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("own.toml"), scenario).expect("written");
    folder
}

fn run(command: &mut Command, status: i32) -> Output {
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(status), "{output:#?}");
    // Tokens begin as every JSON object in base64url does.
    for text in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(text);
        assert!(!text.contains("eyJ"), "a token is printed: {text}");
    }
    output
}

fn report(folder: &Path) -> Value {
    let text = std::fs::read(folder.join("loadtest-report/report.json")).expect("a report");
    serde_json::from_slice(&text).expect("JSON")
}

fn samples(report: &Value, stage: &str) -> u64 {
    let stages = report["stages"].as_array().expect("stages");
    stages
        .iter()
        .find(|found| found["name"] == stage)
        .and_then(|found| found["latency"]["samples"].as_u64())
        .unwrap_or_else(|| panic!("no stage {stage}: {stages:?}"))
}

#[test]
fn a_run_measures_every_stage_and_its_report_stands_alone() {
    let folder = folder_with(LITTLE);
    let ran = ["run", "--scenario", "own.toml", "--seed", "7"];
    run(loadtest(&folder).args(ran), 0);
    let found = report(folder.path());
    assert_eq!(found["convergence"]["equal"], true);
    assert!(found["convergence"]["acknowledged"].as_u64() > Some(60));
    assert_eq!(found["seed"], 7);
    let phases = found["phases"].as_array().expect("phases");
    let names: Vec<_> = phases.iter().map(|phase| &phase["name"]).collect();
    assert_eq!(names, ["ramp", "storm", "new"], "growing is not measured");
    for stage in [
        "acknowledged",
        "hint received",
        "applied elsewhere",
        "download answered",
        "hydrated",
        "caught up",
    ] {
        assert!(samples(&found, stage) > 0, "{stage}");
    }
    assert_eq!(samples(&found, "hydrated"), 3, "a new device for each user");
    assert!(found["environment"]["fsync_before"]["p50_ms"].as_f64() > Some(0.0));
    let seconds = found["timeline"].as_array().expect("a timeline");
    assert!(
        seconds
            .iter()
            .any(|second| second["server"]["rss"].as_u64() > Some(1_000_000))
    );

    let page =
        std::fs::read_to_string(folder.path().join("loadtest-report/report.html")).expect("a page");
    for outside in ["<script", "src=", "url(", "@import", "href="] {
        assert!(!page.contains(outside), "{outside} in the page");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
    assert!(page.matches("<svg class=\"chart\"").count() >= 6);

    // The same report twice: nothing is better, nothing is worse.
    let same = ["compare", "loadtest-report", "loadtest-report/report.json"];
    let output = run(loadtest(&folder).args(same).args(["--fail-below", "1"]), 0);
    assert!(String::from_utf8_lossy(&output.stdout).contains("1.00"));
    run(
        loadtest(&folder).args(same).args(["--fail-below", "1.01"]),
        3,
    );
    let page = std::fs::read_to_string(folder.path().join("loadtest-report/comparison.html"));
    assert!(page.expect("a page").contains("<svg"));
}

/// Servers and devices are killed first, and then nothing may grow much.
const KILLS: &str = r#"
[steady]
warmup_seconds = 1
max_rss_growth_percent = 100
max_files_growth = 100
max_live_growth_percent = 100

[[phases]]
name = "kills"
kind = "hold"
seconds = 6
kill_every_seconds = 2

[[phases]]
name = "rest"
kind = "hold"
seconds = 14

[[fleets]]
name = "real"
device = "real"
devices = 2
rate = 10
preload = 5
mix = { insert = 10, update = 90 }
churn = { every_seconds = 3, offline_seconds = [1, 2], killed = true }
"#;

#[test]
fn killed_servers_and_devices_lose_nothing_and_the_server_tells_of_itself() {
    let folder = folder_with(KILLS);
    let ran = ["run", "--scenario", "own.toml", "--seed", "8"];
    run(loadtest(&folder).args(ran).args(["--patience", "120"]), 0);
    let found = report(folder.path());
    assert_eq!(found["convergence"]["equal"], true);
    let steadiness = &found["steadiness"];
    for live in ["live_before", "live_after"] {
        assert!(steadiness[live].as_u64() > Some(100_000), "{steadiness}");
    }
    let seconds = found["timeline"].as_array().expect("a timeline");
    let told = |name: &str| {
        let values = seconds
            .iter()
            .filter_map(|second| second["told"][name].as_f64());
        values.fold(f64::MIN, f64::max)
    };
    assert!(told("changes") > 0.0 && told("sessions") >= 2.0);
    // It cannot start where the server is just away, twice on each device.
    let errors = found["errors"].as_object().expect("errors");
    let elsewhere = errors
        .iter()
        .filter(|(kind, _)| kind.contains("oversqlite"));
    let count: u64 = elsewhere.filter_map(|(_, count)| count.as_u64()).sum();
    assert!(count <= 4, "the other program could not start: {errors:?}");
    let page = std::fs::read_to_string(folder.path().join("loadtest-report/report.html"));
    let page = page.expect("a page");
    assert!(page.contains("What the server tells of itself") && page.contains("pages read"));
}

/// Every story once, while the server is killed.
const STORIES: &str = "[[phases]]\nname = 'lives'\nkind = 'stories'\nusers = 11\n\
                       kill_every_seconds = 4\n";

#[test]
fn every_story_ends_well() {
    let folder = folder_with(STORIES);
    let ran = ["run", "--scenario", "own.toml", "--seed", "9"];
    run(loadtest(&folder).args(ran).args(["--patience", "120"]), 0);
    let found = report(folder.path());
    assert_eq!(found["convergence"]["equal"], true);
    assert_eq!(found["fleets"][0]["users"], 11);
    assert!(found["convergence"]["rows"].as_u64() > Some(250), "{found}");
    assert!(samples(&found, "hydrated") > 11);
}

#[test]
fn a_story_that_ends_wrong_fails_the_run() {
    let folder = folder_with("[[phases]]\nname = 'lives'\nkind = 'stories'\nusers = 1\n");
    let url = liar(Duration::ZERO);
    let ran = ["run", "--scenario", "own.toml", "--url", &url];
    run(loadtest(&folder).args(ran).args(["--patience", "0"]), 1);
    let found = report(folder.path());
    let all = found["convergence"]["differences"].to_string();
    assert!(all.contains("a fresh install"), "{all}");
}

#[test]
fn thresholds_are_exit_status_3() {
    let folder = folder_with(UPLOADS);
    let ran = ["run", "--scenario", "own.toml"];
    let hard = ["--max-p99-ms", "0.001", "--min-rate", "100000000"];
    let output = run(loadtest(&folder).args(ran).args(hard), 3);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.matches("missed:").count(), 2, "{said}");
    let easy = ["--max-p99-ms", "acknowledged=60000", "--min-rate", "0.1"];
    run(loadtest(&folder).args(ran).args(easy), 0);
    let unknown = ["--max-p99-ms", "no such stage=60000"];
    run(loadtest(&folder).args(ran).args(unknown), 3);
}

#[test]
fn mistakes_are_exit_status_2_and_named() {
    let folder = folder_with(&UPLOADS.replace("device =", "devize ="));
    let output = run(loadtest(&folder).args(["run", "--scenario", "own.toml"]), 2);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("own.toml") && said.contains("devize"),
        "{said}"
    );
    let output = run(loadtest(&folder).args(["run", "--scenario", "smokey"]), 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("loadtest scenarios"));
}

#[test]
fn a_named_scenario_can_be_printed_and_run_from_the_file() {
    let folder = folder_with("");
    for name in ["smoke", "idle-10k", "soak", "stories"] {
        let shown = run(loadtest(&folder).args(["scenarios", "--show", name]), 0);
        std::fs::write(folder.path().join("own.toml"), shown.stdout).expect("written");
        // Impossible, and refused only after the file was read and taken.
        let refused = ["run", "--scenario", "own.toml", "--users", "90000000"];
        let output = run(loadtest(&folder).args(refused), 2);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("open files"), "{said}");
    }
}

#[test]
fn ctrl_c_still_reports() {
    let folder = folder_with(&UPLOADS.replace("seconds = 3", "seconds = 600"));
    let mut child = loadtest(&folder)
        .args(["run", "--scenario", "own.toml"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    // Said after the first second.
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    lines
        .find(|line| line.as_ref().is_ok_and(|line| line.contains("changes/s")))
        .expect("it says what it does")
        .expect("text");
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("kill runs");
    assert!(sent.success());
    let rest: Vec<_> = lines.map_while(Result::ok).collect();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{rest:#?} {output:#?}");
    let found = report(folder.path());
    assert_eq!(found["interrupted"], true);
    assert_eq!(found["convergence"]["equal"], true);
    assert!(samples(&found, "acknowledged") > 0);
}

/// A v1 server that acknowledges every change, takes this long to do so, and
/// keeps none.
fn liar(delay: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || {
                let mut seen = Vec::new();
                let mut piece = [0; 65_536];
                while let Ok(count @ 1..) = stream.read(&mut piece) {
                    seen.extend_from_slice(&piece[..count]);
                    let text = String::from_utf8_lossy(&seen).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else {
                        continue;
                    };
                    let length = head
                        .lines()
                        .find_map(|line| line.strip_prefix("Content-Length: "))
                        .map_or(0, |length| length.parse().expect("a number"));
                    if body.len() < length {
                        continue;
                    }
                    if head.starts_with("POST /sync/upload") {
                        std::thread::sleep(delay);
                    }
                    let answer = lie(head, body);
                    let status = if answer.is_empty() { "404 -" } else { "200 OK" };
                    let head = format!(
                        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
                        answer.len()
                    );
                    stream
                        .write_all((head + &answer).as_bytes())
                        .expect("the load test reads");
                    seen.clear();
                }
            });
        }
    });
    url
}

fn lie(head: &str, body: &str) -> String {
    if head.starts_with("POST /signin") {
        return r#"{"token":"t","user_id":"u","device_id":"d"}"#.to_owned();
    }
    if head.starts_with("GET /sync/download") {
        return r#"{"changes":[],"has_more":false,"next_after":0,"window_until":0}"#.to_owned();
    }
    if !head.starts_with("POST /sync/upload") {
        return String::new();
    }
    let sent: Value = serde_json::from_str(body).expect("an upload is JSON");
    let statuses: Vec<Value> = sent["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .map(|change| {
            serde_json::json!({
                "source_change_id": change["source_change_id"],
                "status": "applied",
                "new_server_version": 1,
            })
        })
        .collect();
    serde_json::json!({"accepted": true, "highest_server_seq": 1, "statuses": statuses}).to_string()
}

#[test]
fn a_server_that_loses_what_it_acknowledged_is_found_out() {
    let folder = folder_with(UPLOADS);
    let url = liar(Duration::ZERO);
    let ran = ["run", "--scenario", "own.toml", "--url", &url];
    let strict = ["--seed", "11", "--patience", "1"];
    let output = run(loadtest(&folder).args(ran).args(strict), 1);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("--seed 11"), "{said}");
    let found = report(folder.path());
    let difference = found["convergence"]["differences"][0]
        .as_str()
        .expect("one");
    assert!(
        difference.contains("acknowledged and is missing"),
        "{difference}"
    );
}

#[test]
fn waiting_behind_a_slow_answer_is_part_of_the_latency() {
    // Due 20 times a second for two seconds, answered five times a second.
    let open = "loop = 'open'\nrate = 20";
    let scenario = UPLOADS.replace("loop = 'closed'", open);
    let folder = folder_with(&scenario.replace("seconds = 3", "seconds = 2"));
    let url = liar(Duration::from_millis(200));
    let ran = ["run", "--scenario", "own.toml", "--url", &url];
    // It lies, too.
    run(loadtest(&folder).args(ran).args(["--patience", "0"]), 1);
    let found = report(folder.path());
    let latency = &found["stages"][0]["latency"];
    // The tenth is answered after 2.0 s at the earliest and was due at 0.45 s.
    // Measured from sending, all would be at 0.2 s.
    let longest = latency["max_ms"].as_f64().expect("a time");
    assert!(longest > 900.0, "{latency}");
    // What is due does not make the phase longer: it is counted instead.
    let late = found["errors"]["due, but not begun in time"].as_u64();
    let answered = latency["samples"].as_u64().expect("a number");
    assert_eq!(late.map(|late| late + answered), Some(40), "{found}");
}
