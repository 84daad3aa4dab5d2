//! A real server process: the binary `oversync`, on a free port.
//!
//! It ends with its [`Server`]. When a test panics, what the process logged is
//! printed; otherwise it is looked through for tokens.

use crate::admin::Admin;
use crate::backend::Database;
use crate::canary;
use crate::config::Config;
use crate::eventually::within;
use crate::port::HeldPort;
use crate::target::Target;
use serde_json::Value;
use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Signs the tokens of every server started here.
pub const SECRET: &str = "a secret for tests only, forty-two bytes..";

/// The line with which a server says that it is ready to be connected to.
const READY: &str = "oversync listens on ";

/// The line after it, of a server that operators can reach.
const OPERATORS: &str = "operators: http://";

/// SIGTERM to exit: the pause for `bye` and running requests, on a busy machine.
const TERMINATE_DEADLINE: Duration = Duration::from_secs(30);

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
    port: HeldPort,
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
        let port = HeldPort::take();
        let process = launch(config_file.clone(), log.clone(), port.address()).await;
        Self {
            process,
            port,
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
        if port == Port::Free {
            self.port = HeldPort::take();
        }
        let address = self.port.address();
        self.process = launch(self.config.clone(), self.log.clone(), address).await;
    }

    /// Runs `oversync verify` beside it, for all users.
    ///
    /// # Panics
    /// When anything differs, or it cannot run.
    pub async fn verified(&self) {
        let output = self.run(&["verify", "--all"]).await;
        assert!(output.status.success(), "{output:?}");
    }

    /// The binary `oversync` with these arguments and the server's settings.
    pub fn program(&self, args: &[&str]) -> Command {
        program(&self.config, args)
    }

    /// Runs `oversync` with these arguments and the server's settings, whatever comes of it.
    pub async fn run(&self, args: &[&str]) -> Output {
        output(self.program(args)).await
    }

    /// The same, which must succeed: what it prints, which is JSON.
    ///
    /// # Panics
    /// When it fails, or prints something else.
    pub async fn told(&self, args: &[&str]) -> Value {
        let output = self.run(args).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
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
async fn launch(config: PathBuf, log: PathBuf, address: SocketAddr) -> Process {
    tokio::task::spawn_blocking(move || launch_blocking(&config, &log, address))
        .await
        .expect("the server starts")
}

fn launch_blocking(config: &Path, log: &Path, address: SocketAddr) -> Process {
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
    without_settings(&mut command);
    command
}

/// Keeps from a program what the environment of the tests has: every `OVERSYNC_` is a
/// setting to it, also one that is meant for the tests.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OVERSYNC_") {
            command.env_remove(name);
        }
    }
}

/// The binary `oversync` with these arguments and the settings in a file.
pub fn program(config: &Path, args: &[&str]) -> Command {
    let mut program = command();
    program.args(args).arg("--config").arg(config);
    program
}

/// Runs a program to its end, off the test's own threads.
pub async fn output(mut program: Command) -> Output {
    tokio::task::spawn_blocking(move || program.output().expect("it runs"))
        .await
        .expect("it ends")
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
