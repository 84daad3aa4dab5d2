//! The rules of the house that a machine can check: who may depend on whom, who
//! may know of what, and what does not occur at all.
//!
//! A rule that is broken names file and line. Product code is what ships: the
//! `src` folders of the server, the shared crate, the client and the load test,
//! up to a file's `#[cfg(test)]`, without files that are tests only.

use std::path::{Path, PathBuf};

/// A file of this repository.
struct File {
    /// From the root, with slashes.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

/// What is not part of the sources.
const SKIPPED: &[&str] = &["target", ".git", "data", "node_modules"];

fn files() -> Vec<File> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<File>) {
        let entries = std::fs::read_dir(folder).expect("a readable folder");
        for entry in entries.map(|entry| entry.expect("a readable entry")) {
            let (name, path) = (entry.file_name(), entry.path());
            if SKIPPED.contains(&name.to_string_lossy().as_ref()) {
                continue;
            }
            if path.is_dir() {
                walk(&path, root, found);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(root).expect("below the root");
                found.push(File {
                    path: path.to_string_lossy().replace('\\', "/"),
                    text,
                });
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 50, "the sources are where they should be");
    found
}

fn rust_files() -> impl Iterator<Item = File> {
    files()
        .into_iter()
        .filter(|file| file.path.ends_with(".rs"))
}

/// Product code only, tests cut off.
fn product(folders: &[&str]) -> Vec<File> {
    rust_files()
        .filter(|file| folders.iter().any(|folder| file.path.starts_with(folder)))
        .filter(|file| !file.path.contains("/tests/") && !file.path.ends_with("/tests.rs"))
        .map(|mut file| {
            if let Some(end) = file.text.find("#[cfg(test)]") {
                file.text.truncate(end);
            }
            file
        })
        .collect()
}

const PRODUCT: &[&str] = &["server/src/", "shared/src/", "client/src/", "loadtest/src/"];

/// The lines of code, without comments, in which a word stands; quotes inside
/// strings do not count.
fn mentions<'a>(file: &'a File, word: &'a str) -> impl Iterator<Item = String> + 'a {
    file.text
        .lines()
        .enumerate()
        .filter(move |(_, line)| {
            !line.trim_start().starts_with("//") && line.replace("\\\"", "").contains(word)
        })
        .map(|(index, line)| format!("{}:{}: {}", file.path, index + 1, line.trim()))
}

#[track_caller]
fn no_mention(files: &[File], words: &[&str], allowed: impl Fn(&str) -> bool) {
    let found: Vec<String> = files
        .iter()
        .filter(|file| !allowed(&file.path))
        .flat_map(|file| words.iter().flat_map(|word| mentions(file, word)))
        .collect();
    assert!(found.is_empty(), "{words:?} in:\n{}", found.join("\n"));
}

fn dependencies(package: &str) -> Vec<String> {
    let text =
        std::fs::read_to_string(root().join(package).join("Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = text.parse().expect("TOML");
    ["dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| manifest.get(*section)?.as_table())
        .flat_map(|table| table.keys().cloned())
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    for (package, forbidden) in [
        ("server", &["oversqlite", "oversync-tests", "loadtest"][..]),
        (
            "client",
            &[
                "oversync",
                "oversync-tests",
                "loadtest",
                "actix",
                "actix-web",
                "sqlx",
            ],
        ),
        ("loadtest", &["oversync", "oversync-tests"]),
        (
            "shared",
            &[
                "oversync",
                "oversqlite",
                "oversync-tests",
                "tokio",
                "actix",
                "actix-web",
                "sqlx",
                "rusqlite",
                "reqwest",
                "rand",
                "tracing",
                "time",
            ],
        ),
    ] {
        let found = dependencies(package);
        assert!(!found.is_empty());
        for name in forbidden {
            assert!(
                !found.iter().any(|found| found == name),
                "{package} depends on {name}"
            );
        }
    }
}

#[test]
fn only_the_edge_of_the_server_knows_actix() {
    let edge = [
        "server/src/live/",
        "server/src/http/",
        "server/src/user.rs",
        "server/src/service.rs",
        "server/src/service/start.rs",
        "server/src/serve.rs",
        "server/src/requests.rs",
        "server/src/cli.rs",
        "server/src/auth/mod.rs",
    ];
    no_mention(&product(&["server/src/"]), &["actix"], |path| {
        edge.iter().any(|edge| path.starts_with(edge))
    });
}

#[test]
fn only_the_sockets_know_actix_web_actors() {
    no_mention(&product(&["server/src/"]), &["actix_web_actors"], |path| {
        path == "server/src/live/session.rs"
    });
}

#[test]
fn only_the_stores_know_sql() {
    let words = [
        "sqlx::",
        "rusqlite::",
        "\"SELECT ",
        "\"INSERT ",
        "\"UPDATE ",
        "\"DELETE FROM",
        "\"CREATE TABLE",
        ".sql\"",
    ];
    no_mention(&product(&["server/src/"]), &words, |path| {
        path.starts_with("server/src/store/")
    });
}

#[test]
fn the_shared_crate_does_no_io_and_reads_no_clock() {
    let words = [
        "std::fs",
        "std::net",
        "std::io",
        "std::env",
        "std::thread",
        "Instant::now",
        "SystemTime",
        "async fn",
        "rand::",
    ];
    no_mention(&product(&["shared/src/"]), &words, |_| false);
}

#[test]
fn what_does_not_occur_in_product_code() {
    let words = [
        "do_send(",
        "SystemTime::now",
        ".unwrap()",
        "#[allow(",
        "#![allow(",
        "unsafe ",
        "dbg!(",
        "todo!(",
    ];
    // Each side has one clock.
    no_mention(&product(PRODUCT), &words, |path| {
        path.ends_with("/clock.rs")
    });
}

#[test]
fn the_environment_is_read_in_one_file_of_the_server() {
    let words = ["std::env", "env::var", "Env::prefixed"];
    no_mention(&product(&["server/src/"]), &words, |path| {
        path == "server/src/settings.rs"
    });
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<String> = rust_files()
        .filter(|file| {
            let head = file.text.lines().find(|line| !line.trim().is_empty());
            !head.is_some_and(|line| line.starts_with("//! "))
        })
        .map(|file| file.path)
        .collect();
    assert!(
        silent.is_empty(),
        "no //! at the top of:\n{}",
        silent.join("\n")
    );
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    for file in rust_files() {
        let name = file.path.rsplit('/').next().expect("a name");
        for word in [
            "common", "util", "utils", "helper", "helpers", "manager", "misc",
        ] {
            assert!(name != format!("{word}.rs"), "{}", file.path);
        }
    }
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    // Written in halves, so that this file does not find itself.
    let words = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
    ];
    let found: Vec<String> = files()
        .iter()
        .flat_map(|file| {
            file.text.lines().enumerate().filter_map(|(index, line)| {
                let word = words.iter().find(|word| line.contains(**word))?;
                Some(format!("{}:{}: {word}", file.path, index + 1))
            })
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn packages_come_from_the_public_registry() {
    let official = "registry+https://github.com/rust-lang/crates.io-index";
    for lock in ["Cargo.lock", "tests/old-sqlite/Cargo.lock"] {
        let lock = std::fs::read_to_string(root().join(lock)).expect("a lock file");
        for line in lock.lines().filter(|line| line.starts_with("source = ")) {
            assert_eq!(line, format!("source = \"{official}\""));
        }
    }
    let elsewhere: Vec<String> = files()
        .into_iter()
        .filter(|file| file.path.ends_with(".toml") && file.text.contains("replace-with"))
        .map(|file| file.path)
        .collect();
    assert!(
        elsewhere.is_empty(),
        "a registry is replaced in {elsewhere:?}"
    );
}
