//! `oversqlite init`: makes a file a user's, and remembers in it how to reach the
//! server.

use super::{Usage, print};
use crate::settings::{Settings, TokenSource};
use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use oversqlite::{Client, DeviceId, Error, NetworkError};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use uuid::Uuid;

#[derive(Debug, Args)]
pub(super) struct Init {
    /// The server's address, for example http://127.0.0.1:8080.
    #[arg(long, value_name = "URL")]
    server: String,
    /// The schema under which the server knows the tables.
    #[arg(long, default_value = "public")]
    schema: String,
    /// A table to synchronise, with its key column if that is not the primary
    /// key. Repeat for each table.
    #[arg(long = "table", value_name = "TABLE[:KEY]", required = true)]
    tables: Vec<String>,
    /// Run this SQL first, for example to create the tables.
    #[arg(long, value_name = "FILE")]
    schema_sql: Option<PathBuf>,
    /// This installation's name (default: generated).
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    #[command(flatten)]
    token: TokenArguments,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TokenArguments {
    /// Sign in by this name at a development server, again whenever a token is
    /// needed.
    #[arg(long, value_name = "NAME")]
    signin: Option<String>,
    /// Take the token from this environment variable.
    #[arg(long, value_name = "VAR")]
    token_env: Option<String>,
    /// Take the token from what this shell command prints.
    #[arg(long, value_name = "CMD")]
    token_command: Option<String>,
}

pub(super) async fn run(database: &Path, init: &Init, as_json: bool) -> anyhow::Result<ExitCode> {
    if let Some(path) = &init.schema_sql {
        let sql = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        rusqlite::Connection::open(database)?
            .execute_batch(&sql)
            .with_context(|| format!("running {}", path.display()))?;
    }
    let token = match (
        &init.token.signin,
        &init.token.token_env,
        &init.token.token_command,
    ) {
        (Some(name), _, _) => TokenSource::SignIn(name.clone()),
        (_, Some(name), _) => TokenSource::Env(name.clone()),
        (_, _, Some(command)) => TokenSource::Command(command.clone()),
        (None, None, None) => bail!("one of --signin, --token-env, --token-command is needed"),
    };
    let (user, device) = identity(init, &token).await?;
    if init.schema_sql.is_none() && !database.exists() {
        bail!(Usage(format!(
            "{} does not exist: make the file and its tables first, or name their SQL with --schema-sql",
            database.display()
        )));
    }
    let settings = Settings {
        server: init.server.clone(),
        schema: init.schema.clone(),
        tables: init.tables.clone(),
        token,
        user,
        device,
    };
    let client = Client::open(settings.config(database)?).await?;
    let (user, device) = (client.user().to_string(), client.device().to_string());
    client.stop().await;
    settings.store(database)?;
    print(
        as_json,
        &json!({"type": "initialised", "user": user, "device": device, "tables": settings.tables}),
        &format!(
            "{}: {} of {user} on device {device}; next: `oversqlite --db {} watch`",
            database.display(),
            settings.tables.join(", "),
            database.display(),
        ),
    );
    Ok(ExitCode::SUCCESS)
}

/// User and device: from the sign-in, or from the token's own claims.
async fn identity(init: &Init, token: &TokenSource) -> anyhow::Result<(String, String)> {
    let given = init.device.clone();
    if let TokenSource::SignIn(name) = token {
        let device = given.unwrap_or_else(|| Uuid::new_v4().to_string());
        let device = DeviceId::new(device).context("--device")?;
        let reply = oversqlite::sign_in(&init.server, name, "", &device).await?;
        return Ok((reply.user_id, reply.device_id));
    }
    // These tokens are for one device, whatever its name.
    let anyone = DeviceId::new("unnamed").expect("BUG: a plain name");
    let text = token
        .clone()
        .fetch(init.server.clone(), anyone)
        .await
        .map_err(|error| Error::Network(NetworkError::Token(error.to_string())))?;
    let claims = text
        .split('.')
        .nth(1)
        .and_then(|part| URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok())
        .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
        .context("the token is no JWT: its user cannot be read")?;
    let claim = |name: &str| claims.get(name).and_then(|v| v.as_str()).map(str::to_owned);
    let user = claim("sub").context("the token has no `sub`")?;
    let device = claim("did").context("the token has no `did`")?;
    if given.is_some_and(|given| given != device) {
        bail!("the token is for device \"{device}\", not for the one given with --device");
    }
    Ok((user, device))
}
