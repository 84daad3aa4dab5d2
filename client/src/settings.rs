//! What `oversqlite init` keeps in the file for the other commands: never a
//! token, only where to get one.

use anyhow::{Context as _, bail};
use oversqlite::{Config, DeviceId, Error, NetworkError, TokenError, UserId, sign_in};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", content = "value", rename_all = "snake_case")]
pub(crate) enum TokenSource {
    /// Sign in by name at a development server.
    SignIn(String),
    /// An environment variable holds it.
    Env(String),
    /// A shell command prints it.
    Command(String),
}

impl TokenSource {
    /// Fetches a token.
    pub(crate) async fn fetch(
        self,
        server: String,
        device: DeviceId,
    ) -> Result<String, TokenError> {
        match self {
            Self::SignIn(name) => {
                let reply = sign_in(&server, &name, "", &device).await;
                Ok(reply.map_err(no_token)?.token)
            }
            Self::Env(name) => {
                let value = std::env::var(&name);
                value
                    .map_err(|_| TokenError::new(format!("environment variable {name} is not set")))
            }
            Self::Command(command) => tokio::task::spawn_blocking(move || run(&command))
                .await
                .map_err(|error| TokenError::new(error.to_string()))?,
        }
    }
}

fn no_token(error: Error) -> TokenError {
    match error {
        Error::Network(NetworkError::Unreachable(why)) => TokenError::unreachable(why),
        error => TokenError::new(error.to_string()),
    }
}

fn run(command: &str) -> Result<String, TokenError> {
    let output = std::process::Command::new("sh")
        .args(["-c", command])
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| TokenError::new(format!("{command}: {error}")))?;
    if !output.status.success() {
        return Err(TokenError::new(format!("{command}: {}", output.status)));
    }
    let token = String::from_utf8(output.stdout)
        .map_err(|_| TokenError::new(format!("{command} printed no text")))?;
    Ok(token.trim().to_owned())
}

/// Everything the other commands need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) server: String,
    pub(crate) schema: String,
    /// `table` or `table:key_column`.
    pub(crate) tables: Vec<String>,
    pub(crate) token: TokenSource,
    pub(crate) user: String,
    pub(crate) device: String,
}

/// The name under which they are kept in `_sync_setting`.
const NAME: &str = "cli";

impl Settings {
    /// Writes them into a file that a client has opened before.
    pub(crate) fn store(&self, database: &Path) -> anyhow::Result<()> {
        let conn = open(database)?;
        conn.execute(
            "INSERT INTO _sync_setting (name, value) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            [NAME, &serde_json::to_string(self)?],
        )?;
        Ok(())
    }

    /// Reads what `init` has stored.
    pub(crate) fn load(database: &Path) -> anyhow::Result<Self> {
        let hint = || {
            format!(
                "{} has not been initialised: run `oversqlite --db FILE init` first",
                database.display()
            )
        };
        if !database.exists() {
            bail!(hint());
        }
        let text: String = open(database)?
            .query_row(
                "SELECT value FROM _sync_setting WHERE name = ?1",
                [NAME],
                |row| row.get(0),
            )
            .with_context(hint)?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A configuration for the client.
    pub(crate) fn config(&self, database: &Path) -> anyhow::Result<Config> {
        let device = DeviceId::new(&self.device).context("device")?;
        let user = UserId::new(&self.user).context("user")?;
        let (source, server, for_device) =
            (self.token.clone(), self.server.clone(), device.clone());
        let token = move || source.clone().fetch(server.clone(), for_device.clone());
        let mut config = Config::new(database, &self.server, user, token)
            .device(device)
            .schema(&self.schema)
            .traces(collector().is_some());
        for table in &self.tables {
            config = match table.split_once(':') {
                Some((name, key)) => config.table_with_key(name, key),
                None => config.table(table),
            };
        }
        Ok(config)
    }
}

/// The address of a collector that takes OTLP over HTTP, as in `http://127.0.0.1:4318`.
pub(crate) const COLLECTOR: &str = "OVERSQLITE_TRACES";

/// Where spans go; empty is as good as not set.
pub(crate) fn collector() -> Option<String> {
    let address = std::env::var(COLLECTOR).ok();
    address.filter(|text| !text.is_empty())
}

fn open(database: &Path) -> anyhow::Result<Connection> {
    let conn = Connection::open(database)?;
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(conn)
}
