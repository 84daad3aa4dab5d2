//! An SQLite of 2017 as a process: `tests/old-sqlite`, built when the first test asks.
//!
//! It stands outside the workspace, which can link one SQLite only.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Where its program is.
#[derive(Debug, Clone, Copy)]
pub struct OldSqlite(&'static Path);

impl OldSqlite {
    /// Builds it, once in this process; of several processes cargo lets one build.
    /// Takes a minute in a fresh checkout, and fetches its package as cargo does.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn build() -> Self {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        Self(PROGRAM.get_or_init(|| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
            let root = root.expect("the workspace");
            let target = root.join("target").join("old-sqlite");
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build
                .args(["build", "--locked", "--quiet", "--manifest-path"])
                .arg(root.join("tests/old-sqlite/Cargo.toml"))
                .arg("--target-dir")
                .arg(&target)
                // What the tests are built with is not for it.
                .env_remove("RUSTFLAGS")
                .env_remove("CARGO_ENCODED_RUSTFLAGS")
                .env_remove("CARGO_BUILD_TARGET");
            let output = build.output().expect("cargo runs");
            assert!(output.status.success(), "{build:?}: {output:?}");
            target.join("debug").join("oversync-old-sqlite")
        }))
    }

    /// Runs SQL on a file, in a process of its own: the rows, one a line, or what
    /// SQLite says of the first statement that fails.
    ///
    /// # Errors
    /// SQLite's words.
    ///
    /// # Panics
    /// When the process cannot be run.
    pub fn run(self, file: &Path, sql: &str) -> Result<String, String> {
        let mut child = Command::new(self.0)
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the old SQLite runs");
        let mut input = child.stdin.take().expect("its input is piped");
        input.write_all(sql.as_bytes()).expect("it reads");
        drop(input);
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        match output.status.code() {
            Some(0) => Ok(text(output.stdout)),
            Some(1) => Err(text(output.stderr)),
            _ => panic!("the old SQLite: {output:?}"),
        }
    }
}
