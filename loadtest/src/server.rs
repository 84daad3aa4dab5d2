//! Servers of the load test's own: the real binary, one or several processes on
//! one database, which can be killed and started again where they were.

use crate::measure::told::Operators;
use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use uuid::Uuid;

/// How long a server may take to say where it listens.
const START: Duration = Duration::from_secs(60);

/// How often one is started again where it was before that counts as impossible.
const RELAUNCHES: usize = 5;

/// The store of a server that the load test starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// The embedded SQLite store.
    Embedded,
    /// PostgreSQL.
    Postgres,
}

impl Store {
    /// For the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Postgres => "postgres",
        }
    }
}

/// How servers fold their logs.
#[derive(Debug, Clone, Copy)]
pub struct Folding {
    /// Nothing younger; at least twice the pause.
    pub keep: Duration,
    /// Between two passes.
    pub pause: Duration,
    /// Of a user, before it is worth it.
    pub min_entries: usize,
}

impl Folding {
    /// For the program `oversync`.
    pub fn set(self, command: &mut Command) {
        for (name, value) in [
            ("ENABLED", "true".to_owned()),
            ("KEEP_SECONDS", self.keep.as_secs_f64().to_string()),
            ("PAUSE_MS", self.pause.as_millis().to_string()),
            ("MIN_ENTRIES", self.min_entries.to_string()),
        ] {
            command.env(format!("OVERSYNC_RETENTION__{name}"), value);
        }
    }
}

/// How servers are started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `sqlite://…` or `postgres://…`; a file in a folder of its own when `None`.
    pub database_url: Option<String>,
    /// Processes; above 1 only on PostgreSQL.
    pub processes: usize,
    /// Whether operators may ask them how they are.
    pub operators: bool,
    /// SQL run at every start: business tables to project into.
    pub schema_file: Option<PathBuf>,
    /// Whether, and how, they fold.
    pub folding: Option<Folding>,
}

/// Running servers and their folder.
pub struct Servers {
    processes: Vec<Process>,
    options: Options,
    database_url: String,
    pids: Arc<Mutex<Vec<u32>>>,
    operators: Operators,
    folder: TempDir,
}

struct Process {
    child: Child,
    address: SocketAddr,
    admin: Option<SocketAddr>,
}

impl Servers {
    /// Starts `oversync`, which must stand beside this program.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let database_url = options
            .database_url
            .clone()
            .unwrap_or_else(|| format!("sqlite://{}", folder.path().join("oversync.db").display()));
        ensure!(
            options.processes <= 1 || database_url.starts_with("postgres"),
            "several processes need PostgreSQL: --store postgres"
        );
        let mut servers = Self {
            processes: Vec::new(),
            options,
            database_url,
            pids: Arc::default(),
            operators: Operators {
                addresses: Arc::default(),
                // Longer than the 32 bytes that a token must have.
                token: Uuid::new_v4().simple().to_string() + "-of-a-load-test",
            },
            folder,
        };
        for _ in 0..servers.options.processes.max(1) {
            let process = servers.launch(None).await?;
            servers.processes.push(process);
        }
        servers.note();
        Ok(servers)
    }

    /// Their addresses.
    pub fn urls(&self) -> Vec<String> {
        self.processes
            .iter()
            .map(|process| format!("http://{}", process.address))
            .collect()
    }

    /// Their process ids, which change when they are started again.
    pub fn pids(&self) -> Arc<Mutex<Vec<u32>>> {
        Arc::clone(&self.pids)
    }

    /// Where they tell of themselves; addresses change when they are started
    /// again.
    pub fn operators(&self) -> Operators {
        self.operators.clone()
    }

    /// Where an embedded store's file is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// SIGKILL to all, and a new start on the same ports and the same database.
    pub async fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            process.child.kill().await?;
        }
        for index in 0..self.processes.len() {
            let address = self.processes[index].address;
            self.processes[index] = self.relaunch(address).await?;
        }
        self.note();
        Ok(())
    }

    /// SIGKILL to one of them, the n-th counted round and round, and a new start
    /// on the same port.
    pub async fn kill_one(&mut self, number: usize) -> anyhow::Result<()> {
        let index = number % self.processes.len();
        self.processes[index].child.kill().await?;
        let address = self.processes[index].address;
        self.processes[index] = self.relaunch(address).await?;
        self.note();
        Ok(())
    }

    /// Ends them.
    pub async fn stop(mut self) {
        for process in &mut self.processes {
            // They are ours alone, and everything has been measured.
            let _ = process.child.kill().await;
        }
    }

    fn note(&self) {
        let pids = self
            .processes
            .iter()
            .filter_map(|process| process.child.id());
        *self.pids.lock().expect("BUG: no panic under this lock") = pids.collect();
        let admins = self.processes.iter().filter_map(|process| process.admin);
        let mut addresses = self.operators.addresses.lock();
        **addresses.as_mut().expect("BUG: no panic under this lock") = admins.collect();
    }

    /// Starts one where it was. A device that asks a port where nobody listens
    /// may, once in many thousands of times, get that very port for its own end.
    async fn relaunch(&self, address: SocketAddr) -> anyhow::Result<Process> {
        for _ in 1..RELAUNCHES {
            if let Ok(process) = self.launch(Some(address)).await {
                return Ok(process);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.launch(Some(address)).await
    }

    async fn launch(&self, address: Option<SocketAddr>) -> anyhow::Result<Process> {
        let program = beside_us("oversync")?;
        let listen = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut command = Command::new(&program);
        command
            .args(["serve", "--dev", "--log", "warn", "--listen"])
            .arg(listen.to_string())
            // The URL may hold a password, which other users could read in a
            // process list.
            .env("OVERSYNC_DATABASE_URL", &self.database_url);
        if let Some(file) = &self.options.schema_file {
            command.arg("--schema-file").arg(file);
        }
        if let Some(folding) = self.options.folding {
            folding.set(&mut command);
        }
        const LISTENS: &str = "oversync listens on http://";
        let (child, address, admin) = if self.options.operators {
            command
                .args(["--admin-listen", "127.0.0.1:0"])
                .env("OVERSYNC_ADMIN_TOKEN", &self.operators.token);
            let (child, [address, admin]) =
                started_at(command, [LISTENS, "operators: http://"]).await?;
            (child, address, Some(admin))
        } else {
            let (child, address) = started(command, LISTENS).await?;
            (child, address, None)
        };
        wait_until_ready(&format!("http://{address}")).await?;
        Ok(Process {
            child,
            address,
            admin,
        })
    }
}

/// Starts a program that says on its standard output where it listens. It ends
/// with its handle, and does not hear the terminal's Ctrl-C.
pub async fn started(
    command: Command,
    listens: &'static str,
) -> anyhow::Result<(Child, SocketAddr)> {
    let (child, [address]) = started_at(command, [listens]).await?;
    Ok((child, address))
}

/// The same for a program that listens in several places, and says so in this
/// order.
async fn started_at<const N: usize>(
    mut command: Command,
    listens: [&'static str; N],
) -> anyhow::Result<(Child, [SocketAddr; N])> {
    let mut child = command
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .process_group(0)
        .spawn()
        .with_context(|| format!("{:?}", command.as_std().get_program()))?;
    let stdout = child.stdout.take().context("BUG: stdout is piped")?;
    let mut lines = BufReader::new(stdout).lines();
    let addresses = tokio::time::timeout(START, async {
        let mut found = [SocketAddr::from(([0, 0, 0, 0], 0)); N];
        for (place, address) in listens.into_iter().zip(&mut found) {
            loop {
                let Some(line) = lines.next_line().await? else {
                    bail!("the server ended before it listened; see its message above")
                };
                if let Some(text) = line.strip_prefix(place) {
                    *address = text.trim().parse()?;
                    break;
                }
            }
        }
        Ok(found)
    })
    .await
    .context("the server did not listen in time")??;
    // The pipe must not fill up.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, addresses))
}

async fn wait_until_ready(url: &str) -> anyhow::Result<()> {
    let ready = async {
        loop {
            if let Ok(answer) = reqwest::get(format!("{url}/ready")).await
                && answer.status().is_success()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(START, ready)
        .await
        .context("the server is not ready in time")
}

/// A program of this workspace, which must stand beside this one.
pub fn beside_us(name: &str) -> anyhow::Result<PathBuf> {
    let mut program = std::env::current_exe()?.with_file_name(name);
    // The load test's own tests stand one folder deeper.
    if !program.exists()
        && let Some(above) = program.parent().and_then(Path::parent)
    {
        program = above.join(name);
    }
    if !program.exists() {
        bail!(
            "{} is missing: run cargo build --workspace --bins",
            program.display()
        );
    }
    Ok(program)
}
