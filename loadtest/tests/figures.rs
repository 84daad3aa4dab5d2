//! `loadtest floor` and `loadtest bench` as people call them: every program
//! runs, says what it measured and stands on, and refuses what makes no figure.
//! Nothing is asserted about how fast anything is.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The private PostgreSQL.
fn postgres() -> String {
    std::env::var("TEST_POSTGRES_URL").expect("run under tests/with-postgres")
}

fn loadtest(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command
        .current_dir(folder.path())
        .env_remove("TEST_POSTGRES_URL")
        .stdin(Stdio::null());
    command
}

fn run(command: &mut Command, status: i32) -> Output {
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(status), "{output:#?}");
    output
}

fn json(folder: &Path, name: &str) -> Value {
    let text = std::fs::read(folder.join("loadtest-report").join(name)).expect("figures");
    serde_json::from_slice(&text).expect("JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().expect("rounds");
    values
        .iter()
        .map(|value| value.as_f64().expect("a number"))
        .collect()
}

fn floor(folder: &TempDir, name: &str, flags: &[&str]) {
    let mut command = loadtest(folder);
    command
        .args(["floor", name, "--seconds", "0.05"])
        .args(flags);
    run(&mut command, 0);
    let found = json(folder.path(), &format!("floor-{name}.json"));
    let mut rounds = numbers(&found["rounds"]["values"]);
    assert_eq!(rounds.len(), 5, "{name}");
    assert!(rounds.iter().all(|value| *value > 0.0), "{name} {rounds:?}");
    rounds.sort_by(f64::total_cmp);
    assert_eq!(found["median"].as_f64(), Some(rounds[2]), "{name}");
    assert_eq!(found["fsync"].as_array().map(Vec::len), Some(5), "{name}");
    assert!(found["machine"]["cores"].as_u64() > Some(0));
}

#[test]
fn floors_without_a_database_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    floor(
        &folder,
        "sqlite-upload",
        &["--users", "3", "--changes", "2"],
    );
    floor(&folder, "sqlite-load", &["--rows", "500"]);
    floor(&folder, "sqlite-edits", &["--rows", "500"]);
    floor(&folder, "http-empty", &[]);
    floor(&folder, "ws-echo", &[]);
    // Four rounds have no middle that means anything.
    let few = ["floor", "ws-echo", "--rounds", "4"];
    run(loadtest(&folder).args(few), 2);
    let output = run(loadtest(&folder).args(["floor", "postgres-commit"]), 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--database-url"));
}

#[test]
fn floors_on_postgres_run_in_every_style_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = postgres();
    let on = ["--database-url", url.as_str(), "--connections", "2"];
    floor(&folder, "postgres-commit", &on);
    for style in ["set", "rows", "batched"] {
        let flags = ["--style", style, "--users", "2", "--changes", "3"];
        floor(&folder, "postgres-upload", &[&on[..], &flags[..]].concat());
        let flags = ["--style", style, "--changes", "3"];
        floor(&folder, "http-upload", &[&on[..], &flags[..]].concat());
    }
    let found = json(folder.path(), "floor-http-upload.json");
    assert!(found["durability"]["fsync"].is_string(), "{found}");
    let command = found["command"].as_str().expect("a command");
    assert!(
        command.starts_with("loadtest floor http-upload"),
        "{command}"
    );
}

#[test]
fn a_row_of_the_table_has_its_raw_values_and_its_target() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = postgres();
    let flags = ["bench", "b1", "B13", "--seconds", "0.2"];
    let output = run(
        loadtest(&folder)
            .args(flags)
            .args(["--database-url", url.as_str()]),
        0,
    );
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        table.contains("| B1 |") && table.contains("| B13 |"),
        "{table}"
    );
    let rows = json(folder.path(), "bench.json");
    let first = &rows[0];
    let roles: Vec<&str> = first["measured"]
        .as_array()
        .expect("contenders")
        .iter()
        .map(|found| {
            assert_eq!(numbers(&found["values"]).len(), 5);
            found["role"].as_str().expect("a role")
        })
        .collect();
    assert_eq!(roles, ["ours", "floor", "reference", "reference"]);
    let target = &first["targets"][0];
    let ratio = numbers(&serde_json::json!([
        first["measured"][0]["median"],
        first["measured"][2]["median"]
    ]));
    let told = target["value"].as_f64().expect("a ratio");
    assert!((told - ratio[0] / ratio[1]).abs() < 1e-9);
    let page = std::fs::read_to_string(folder.path().join("loadtest-report/bench.md"));
    let page = page.expect("a page");
    assert!(
        page.contains("| B1 |") && page.contains("- machine: "),
        "{page}"
    );
    assert!(page.contains("  ours  "), "raw values: {page}");
    // This is a debug build, on a database without fsync: it says so.
    assert!(table.contains("no figure"), "{table}");
}

/// The servers fold, and the devices agree at the end, or there would be no row.
#[test]
fn what_is_on_disk_is_measured_on_both_stores() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = postgres();
    let flags = ["bench", "STORAGE", "--log-rows", "2000", "--seconds", "0.2"];
    run(
        loadtest(&folder)
            .args(flags)
            .args(["--database-url", url.as_str()]),
        0,
    );
    let rows = json(folder.path(), "bench.json");
    let rows = rows.as_array().expect("lines");
    assert_eq!(rows.len(), 2);
    for row in rows {
        for contender in [
            "folding, at work",
            "after fold --compact",
            "fresh copy, folded",
        ] {
            let measured = row["measured"].as_array().expect("contenders").iter();
            let found = measured.clone().find(|found| found["name"] == contender);
            let values = numbers(&found.expect(contender)["values"]);
            assert!(
                values.len() == 5 && values.iter().all(|mib| *mib > 0.1),
                "{row}"
            );
        }
        let notes = row["notes"].to_string();
        assert!(
            notes.contains("aged: ") && notes.contains("fresh: "),
            "{notes}"
        );
    }
}

#[test]
fn what_cannot_be_measured_is_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = run(loadtest(&folder).args(["bench", "B2"]), 2);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        table.contains("B2 | not measured") && table.contains("PostgreSQL"),
        "{table}"
    );
}

#[test]
fn several_processes_on_one_postgres_agree() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = postgres();
    let flags = ["--store", "postgres", "--processes", "2", "--seconds", "2"];
    run(
        loadtest(&folder)
            .args(["run", "--scenario", "conflicts", "--users", "1"])
            .args(flags)
            .args(["--database-url", url.as_str()]),
        0,
    );
    let found = json(folder.path(), "report.json");
    assert_eq!(found["processes"], 2);
    assert_eq!(found["convergence"]["equal"], true);
    assert!(found["environment"]["versions"]["PostgreSQL"].is_string());
}
