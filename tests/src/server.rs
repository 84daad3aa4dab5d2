//! A real server process: the binary `oversync`, on a free port.
//!
//! It ends with its [`Server`]. When a test panics, what the process logged is
//! printed; otherwise it is looked through for tokens.

use crate::admin::{ADMIN_TOKEN, Admin};
use crate::backend::Database;
use crate::canary;
use crate::eventually::within;
use crate::target::Target;
use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use toml::{Table, Value};

/// Signs the tokens of every server started here.
pub const SECRET: &str = "a secret for tests only, forty-two bytes..";

/// Has every server here fold all the time, whatever is tested.
const RETENTION: &str = "OVERSYNC_TEST_RETENTION";

/// The line with which a server says that it is ready to be connected to.
const READY: &str = "oversync listens on ";

/// The line after it, of a server that operators can reach.
const OPERATORS: &str = "operators: http://";

/// SIGTERM to exit: the pause for `bye` and running requests, on a busy machine.
const TERMINATE_DEADLINE: Duration = Duration::from_secs(30);

/// Settings of a server, as they stand in its file.
#[derive(Debug, Clone)]
pub struct Config {
    table: Table,
}

impl Default for Config {
    /// The tables of the conformance suite, two workers, logs as an operator has
    /// them who looks closely; [`folding`](Self::folding) where the environment asks
    /// for it.
    fn default() -> Self {
        let tables = include_str!("conformance/tables.toml");
        let mut table: Table = tables.parse().expect("the tables are TOML");
        table.insert("jwt_secret".into(), SECRET.into());
        table.insert("workers".into(), 2.into());
        table.insert("log".into(), "info,oversync=debug".into());
        let config = Self { table };
        match std::env::var_os(RETENTION) {
            Some(value) if !value.is_empty() => config.folding(),
            _ => config,
        }
    }
}

impl Config {
    /// Sets one setting; the name may have one dot, as in `limits.max_changes`.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        match name.split_once('.') {
            None => self.table.insert(name.to_owned(), value.into()),
            Some((section, name)) => self
                .table
                .entry(section)
                .or_insert_with(|| Table::new().into())
                .as_table_mut()
                .expect("a section")
                .insert(name.to_owned(), value.into()),
        };
        self
    }

    /// Leaves out a setting that the default has.
    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.table.remove(name);
        self
    }

    /// The settings as a file has them.
    pub fn to_toml(&self) -> String {
        self.table.to_string()
    }

    /// Folds all the time, and everything that no device needs, as soon as all that
    /// was heard of devices is written down. With a rest between: on PostgreSQL each
    /// pass has a connection of its own.
    #[must_use]
    pub fn folding(self) -> Self {
        self.set("retention.enabled", true)
            .set("retention.pause_ms", 50)
            .set("retention.keep_seconds", 1)
            .set("retention.min_entries", 1)
    }

    /// With a listener for operators.
    #[must_use]
    pub fn operators(self) -> Self {
        self.set("admin_listen", "127.0.0.1:0")
            .set("admin_token", ADMIN_TOKEN)
    }

    /// Uploads without actors and caches.
    #[must_use]
    pub fn bypass_actors(self) -> Self {
        self.set("bypass_actors", true)
    }
}

/// Where a server listens after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Where it listened before.
    Same,
    /// On any free port.
    Free,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    process: Process,
    config: PathBuf,
    log: PathBuf,
    /// Whether tests put tokens into addresses here.
    misused: Cell<bool>,
    _folder: TempDir,
}

#[derive(Debug)]
struct Process {
    child: Child,
    address: SocketAddr,
    operators: Option<SocketAddr>,
    // Kept open: a process whose output nobody reads would be told so.
    output: Option<BufReader<ChildStdout>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a process on a database. Several may share one PostgreSQL database.
    pub async fn start(database: &Database, config: Config) -> Self {
        let folder = TempDir::with_prefix("oversync-test.").expect("a temporary folder");
        let config_file = folder.path().join("oversync.toml");
        std::fs::write(
            &config_file,
            config.set("database_url", database.url()).to_toml(),
        )
        .expect("the settings are written");
        let log = folder.path().join("log.txt");
        let process = launch(config_file.clone(), log.clone(), None).await;
        Self {
            process,
            config: config_file,
            log,
            misused: Cell::new(false),
            _folder: folder,
        }
    }

    /// Starts a process and waits for an answer: it listens before its tables are
    /// registered, which may still fail.
    ///
    /// # Panics
    /// When it gives up instead.
    pub async fn answering(database: &Database, config: Config) -> Self {
        let server = Self::start(database, config).await;
        let health = format!("{}/health", server.target().base());
        let answer = server.target().client().get(health).send().await;
        assert!(answer.is_ok(), "the server does not answer: {answer:?}");
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// How to talk to it.
    pub fn target(&self) -> Target {
        Target::new(format!("http://{}", self.address()), SECRET)
    }

    /// How operators talk to it.
    ///
    /// # Panics
    /// When its settings give operators no listener ([`Config::operators`]).
    pub fn admin(&self) -> Admin {
        let address = self.process.operators.expect("a listener for operators");
        Admin::new(format!("http://{address}"))
    }

    /// SIGKILL: no goodbye, nothing flushed.
    pub fn kill(&mut self) {
        self.process
            .child
            .kill()
            .expect("the process can be killed");
        self.process.child.wait().expect("the process ends");
    }

    /// SIGTERM without waiting.
    pub fn tell_to_stop(&self) {
        self.signal("-TERM");
    }

    /// Has it read this as its settings from now on: SIGHUP.
    pub fn reload(&self, database: &Database, config: Config) {
        let text = config.set("database_url", database.url()).to_toml();
        std::fs::write(&self.config, text).expect("the settings are written");
        self.signal("-HUP");
    }

    fn signal(&self, signal: &str) {
        let told = Command::new("kill")
            .args([signal, &self.process.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(told.success(), "the process takes {signal}");
    }

    /// Waits for the end and checks that it was orderly.
    ///
    /// # Panics
    /// When the process is still there after 30 seconds, or its exit code is not 0.
    pub async fn stopped(&mut self) {
        let child = &mut self.process.child;
        let status = within(TERMINATE_DEADLINE, "the server ends after SIGTERM", || {
            let status = child.try_wait().expect("the process can be waited for");
            async move { status }
        })
        .await;
        assert!(status.success(), "the server ended with {status}");
    }

    /// SIGTERM, and an orderly end.
    pub async fn terminate(&mut self) {
        self.tell_to_stop();
        self.stopped().await;
    }

    /// Starts it again after its end, on the same database.
    pub async fn restart(&mut self, port: Port) {
        let address = (port == Port::Same).then(|| self.address());
        self.process = launch(self.config.clone(), self.log.clone(), address).await;
    }

    /// Runs `oversync verify` beside it, for all users.
    ///
    /// # Panics
    /// When anything differs, or it cannot run.
    pub async fn verified(&self) {
        let mut verify = command();
        verify
            .args(["verify", "--all", "--config"])
            .arg(&self.config);
        let output = tokio::task::spawn_blocking(move || verify.output().expect("verify runs"))
            .await
            .expect("verify ends");
        assert!(output.status.success(), "{output:?}");
    }

    /// Its settings file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// A test puts tokens where they do not belong, into addresses: the server must
    /// say so at the end of its life. Otherwise it must not.
    pub fn expect_tokens_in_addresses(&self) {
        self.misused.set(true);
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("--- log of the server on {} ---\n{log}", self.address());
            return;
        }
        if let Some(line) = canary::leak(&log) {
            panic!(
                "a token in the log of the server on {}: {line}",
                self.address()
            );
        }
        if let Some(line) = canary::logged() {
            panic!("a token in the log of a client, in this test or another: {line}");
        }
        let is_misused = log.contains(canary::TOKEN_IN_ADDRESS);
        assert_eq!(is_misused, self.misused.get(), "tokens in addresses");
    }
}

/// Starts the process and reads where it listens, off the test's own threads.
async fn launch(config: PathBuf, log: PathBuf, address: Option<SocketAddr>) -> Process {
    tokio::task::spawn_blocking(move || launch_blocking(&config, &log, address))
        .await
        .expect("the server starts")
}

fn launch_blocking(config: &Path, log: &Path, address: Option<SocketAddr>) -> Process {
    let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    let errors = File::options()
        .create(true)
        .append(true)
        .open(log)
        .expect("a log file");
    let child = command()
        .args(["serve", "--listen", &address.to_string(), "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn();
    let mut process = Process {
        child: child.expect("the server binary runs"),
        address,
        operators: None,
        output: None,
    };
    let has_operators = std::fs::read_to_string(config)
        .expect("the settings are there")
        .contains("admin_listen");
    let output = process.child.stdout.take().expect("its output is piped");
    let output = process.output.insert(BufReader::new(output));
    let mut line = String::new();
    loop {
        line.clear();
        let read = output.read_line(&mut line).expect("its output is text");
        let ready = line.trim().strip_prefix(READY);
        if let Some((_, address)) = ready.and_then(|url| url.split_once("://")) {
            process.address = address.parse().expect("an address");
            if !has_operators {
                return process;
            }
        }
        if let Some(address) = line.trim().strip_prefix(OPERATORS) {
            process.operators = Some(address.parse().expect("an address"));
            return process;
        }
        if read == 0 {
            let status = process.child.wait().expect("the process ends");
            let log = std::fs::read_to_string(log).unwrap_or_default();
            panic!("the server did not start ({status}):\n{log}");
        }
    }
}

/// The binary `oversync` with a clean environment of settings.
pub fn command() -> Command {
    let mut command = Command::new(binary("oversync"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OVERSYNC_") {
            command.env_remove(name);
        }
    }
    command
}

/// Finds a binary of this workspace beside the running test.
///
/// # Panics
/// When it is missing, or older than the sources it was built from.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test knows its own path");
    // Tests run from target/<profile>/deps, programs from the folder above.
    let folder = test
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .expect("a program stands in a folder");
    let binary = folder.join(name);
    let built = modified(&binary).unwrap_or_else(|| {
        panic!("there is no binary {name} beside the tests; run: cargo build --workspace --bins --examples")
    });
    // Cargo lists what a binary was built from in a file next to it.
    let sources = std::fs::read_to_string(folder.join(format!("{name}.d"))).unwrap_or_default();
    let newer = sources
        .split_whitespace()
        .skip(1)
        .find(|source| modified(Path::new(source)).is_some_and(|time| time > built));
    if let Some(source) = newer {
        panic!(
            "the binary {name} is older than {source}; run: cargo build --workspace --bins --examples"
        );
    }
    binary
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    std::fs::metadata(path)
        .and_then(|data| data.modified())
        .ok()
}
