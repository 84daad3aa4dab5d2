//! The book in `docs/`: its commands work, its links lead somewhere, and the tests
//! that it names exist.
//!
//! A page's `sh` blocks are one script, run in an empty folder beside `docs/` and
//! `examples/`. What cannot be run here stands in `console` blocks.

use oversync_tests::canary;
use oversync_tests::server::{binary, without_settings};
use rustix::process::{Pid, Signal, kill_process_group};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The addresses in the book; each run has its own.
const PORTS: [&str; 2] = ["8080", "9090"];

/// Ports below those that the system gives out by itself, so that no other test
/// takes one between choosing and listening; a range for each page.
const FIRST_PORT: u16 = 20_000;
const PORTS_A_PAGE: u16 = 1_000;

/// Far more than any page needs.
const PATIENCE: Duration = Duration::from_secs(120);

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the workspace").to_owned()
}

fn page(name: &str) -> String {
    let path = root().join("docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn pages() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("docs")).expect("docs");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.into_string().expect("text"));
    names.filter(|name| name.ends_with(".md")).collect()
}

/// The `sh` blocks of a page, in order.
fn script(text: &str) -> String {
    let mut script = String::from("set -euo pipefail\n");
    let mut inside = false;
    for line in text.lines() {
        match (inside, line) {
            (false, "```sh") => inside = true,
            (true, "```") => inside = false,
            (true, line) => {
                script.push_str(line);
                script.push('\n');
            }
            (false, _) => {}
        }
    }
    assert!(!inside, "a block without an end");
    script
}

fn free_port(from: u16) -> String {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let start = from + u16::try_from(std::process::id() % 900).expect("below 900");
    let port = (start..from + PORTS_A_PAGE).find(is_free);
    port.expect("a free port").to_string()
}

/// Runs it with a process group of its own, of which nothing is left.
fn run(script: &str, port: &str, folder: &Path) -> Output {
    let programs = binary("oversync");
    let programs = programs.parent().expect("a folder").to_owned();
    // Those of this build, found by name.
    binary("oversqlite");
    let path = std::env::var("PATH").expect("PATH");
    let log = |name: &str| std::fs::File::create(folder.join(name)).expect("a file");
    let mut bash = Command::new("bash");
    without_settings(&mut bash);
    let mut child = bash
        .args(["-c", script])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", programs.display()))
        // Where a page leaves it at the default.
        .env("OVERSYNC_LISTEN", format!("127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(log("out.log"))
        .stderr(log("err.log"))
        .process_group(0)
        .spawn()
        .expect("bash is installed");
    let group = Pid::from_child(&child);
    let end_all = || {
        // There may be nobody left in it.
        let _ = kill_process_group(group, Signal::KILL);
    };
    let until = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().expect("a child") {
            Some(status) => break status,
            None if Instant::now() > until => {
                end_all();
                break child.wait().expect("it ends");
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    // Servers that a page did not come to stop.
    end_all();
    let read = |name: &str| std::fs::read(folder.join(name)).expect("a file");
    Output {
        status,
        stdout: read("out.log"),
        stderr: read("err.log"),
    }
}

fn every_command_works(name: &str, nth: u16) {
    let folder = TempDir::with_prefix("oversync-book.").expect("a temporary folder");
    for beside in ["docs", "examples"] {
        symlink(root().join(beside), folder.path().join(beside)).expect("a link");
    }
    let mut text = script(&page(name));
    assert!(text.lines().count() > 5, "{name} has commands");
    let free = [0, 1].map(|at| free_port(FIRST_PORT + (nth * 2 + at) * PORTS_A_PAGE));
    for (port, free) in PORTS.iter().zip(&free) {
        text = text.replace(port, free);
    }
    let output = run(&text, &free[0], folder.path());
    assert!(
        output.status.success(),
        "{name}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    canary::look_through(&output);
}

#[test]
fn the_page_for_applications_works() {
    every_command_works("APPLICATION.md", 0);
}

#[test]
fn the_page_for_http_clients_works() {
    every_command_works("HTTP-CLIENT.md", 1);
}

#[test]
fn the_page_for_operators_works() {
    every_command_works("OPERATE.md", 2);
}

#[test]
fn no_other_page_has_commands_that_nobody_runs() {
    for name in pages() {
        let run = ["APPLICATION.md", "HTTP-CLIENT.md", "OPERATE.md"].contains(&name.as_str());
        assert!(run || !page(&name).contains("```sh\n"), "{name}");
    }
}

#[test]
fn every_page_is_in_the_contents_and_every_link_leads_somewhere() {
    let contents = page("SUMMARY.md");
    for name in pages() {
        assert!(
            name == "SUMMARY.md" || contents.contains(&format!("]({name})")),
            "{name} is not in the contents"
        );
        let text = page(&name);
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().expect("a link's end");
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { &name } else { path };
            assert!(root().join("docs").join(target).exists(), "{name}: {link}");
            if !anchor.is_empty() {
                let plain = |heading: &str| {
                    let kept = |c: char| c.is_alphanumeric() || c == ' ' || c == '-' || c == '_';
                    let heading: String = heading.chars().filter(|c| kept(*c)).collect();
                    heading.trim().to_lowercase().replace(' ', "-")
                };
                let text = page(target);
                let found = text
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| plain(line.trim_start_matches('#')) == anchor);
                assert!(found, "{name}: {link}");
            }
        }
    }
}

#[test]
fn the_tests_that_it_names_exist() {
    let text = page("GUARANTEES.md");
    let mut named = 0;
    for name in text.split('`') {
        let path = match name.split_once("::") {
            Some((_, "")) => continue,
            Some(("it", name)) => root().join("tests/it").join(format!("{name}.rs")),
            Some(("device", name)) => root().join("client/src/tests").join(format!("{name}.rs")),
            _ => continue,
        };
        let folder = path.with_extension("");
        assert!(path.exists() || folder.is_dir(), "{name}");
        named += 1;
    }
    assert!(named > 30, "{named}");
}
