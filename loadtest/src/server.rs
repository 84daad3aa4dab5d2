//! A server of the load test's own: the real binary, in a process of its own.

use crate::scenario::Store;
use anyhow::{Context as _, bail};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// How long a server may take to say where it listens.
const START: Duration = Duration::from_secs(30);

/// A running server and its folder.
pub struct Server {
    process: Child,
    url: String,
    _folder: TempDir,
}

impl Server {
    /// Starts `oversync`, which must stand beside this program.
    pub async fn start(store: Store, database_url: Option<&str>) -> anyhow::Result<Self> {
        let program = beside_us("oversync")?;
        let folder = tempfile::tempdir()?;
        let database = match (store, database_url) {
            (Store::Embedded, _) => {
                format!("sqlite://{}", folder.path().join("oversync.db").display())
            }
            (Store::Postgres, Some(url)) => url.to_owned(),
            (Store::Postgres, None) => bail!("--store postgres needs --database-url"),
        };
        let mut process = Command::new(&program)
            .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--log", "warn"])
            // The URL may hold a password, which other users could read in a
            // process list.
            .env("OVERSYNC_DATABASE_URL", database)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| program.display().to_string())?;
        let stdout = process.stdout.take().context("BUG: stdout is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let url = tokio::time::timeout(START, async {
            while let Some(line) = lines.next_line().await? {
                if let Some(url) = line.strip_prefix("oversync listens on ") {
                    return Ok(url.to_owned());
                }
            }
            bail!("the server ended before it listened; see its message above")
        })
        .await
        .context("the server did not listen in time")??;
        // The pipe must not fill up.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        wait_until_ready(&url).await?;
        Ok(Self {
            process,
            url,
            _folder: folder,
        })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends it.
    pub async fn stop(mut self) {
        // It is ours alone, and everything has been measured.
        let _ = self.process.kill().await;
    }
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

fn beside_us(name: &str) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(name);
    if !program.exists() {
        bail!(
            "{} is missing: run cargo build --workspace --bins",
            program.display()
        );
    }
    Ok(program)
}
