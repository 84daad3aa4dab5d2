//! A device's file in the hands of another program: `oversqlite watch`, a process
//! of its own, which is there to be killed in the middle of whatever it does.

use crate::server::beside_us;
use crate::target::Target;
use anyhow::{Context as _, ensure};
use std::path::Path;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// Where that program finds its token.
const TOKEN: &str = "LOADTEST_DEVICE_TOKEN";

/// The running program; it ends with its handle.
pub struct Elsewhere(Child);

impl Elsewhere {
    /// Lets it have the file of this user's device, which nobody else keeps.
    pub async fn start(
        target: &Target,
        url: &str,
        file: &Path,
        (user, device): (&str, &str),
    ) -> anyhow::Result<Self> {
        let program = beside_us("oversqlite")?;
        let token = target.sign_in(user, device).await?.token;
        let command = || {
            let mut command = Command::new(&program);
            command
                .arg("--db")
                .arg(file)
                .env(TOKEN, &token)
                .stdin(Stdio::null())
                .process_group(0)
                .kill_on_drop(true);
            command
        };
        let done = command()
            .args(["init", "--server", url, "--schema", "business"])
            .args(["--table", "users", "--table", "posts"])
            .args(["--token-env", TOKEN])
            .output()
            .await
            .context("oversqlite init")?;
        ensure!(done.status.success(), "oversqlite init: {}", done.status);
        let child = command()
            .args(["watch", "--json"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("oversqlite watch")?;
        Ok(Self(child))
    }

    /// SIGKILL.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.0.kill().await?)
    }
}
