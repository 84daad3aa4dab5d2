//! Everything that can be set, and where it comes from.
//!
//! Defaults, then the file given with `--config`, then the environment
//! (`OVERSYNC_…`, nested keys with `__`), then the command line; the later wins.
//! Unknown keys are errors that name them. The environment is read here only.

mod admin;
mod auth;
mod files;
mod limits;
mod manual;
mod nats;
mod quotas;
mod rates;
mod retention;
mod secret;
mod tables;
#[cfg(test)]
mod tests;
mod tls;
mod trace;

pub(crate) use admin::admin_token_problem;
pub use auth::AuthSettings;
pub(crate) use auth::secret_problem;
pub(crate) use files::open_files;
pub use limits::{LimitSettings, MAX_PAGE};
pub use nats::NatsSettings;
pub use quotas::QuotaSettings;
pub use rates::{Rate, RateSettings};
pub use retention::RetentionSettings;
pub use secret::Secret;
pub use tables::{ReferenceSettings, TableSettings};
pub use tls::TlsSettings;
pub use trace::TraceSettings;

use crate::auth::TokenAuthenticator;
use documented::DocumentedFields;
use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use oversync_shared::catalog::ForeignKeys;
use secret::{DEV_ADMIN_TOKEN, DEV_SECRET, from_file, is_known, without_password};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tables::example_tables;

/// The settings of a server.
#[derive(Debug, Clone, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// `sqlite://FILE` (embedded, one process) or `postgres://…`.
    #[serde(serialize_with = "without_password")]
    pub database_url: String,
    /// Signs and checks tokens (HS256, HS384, HS512); at least 32, 48, 64 bytes.
    pub jwt_secret: Option<Secret>,
    /// A file with the secret, read again when it changes; white space around it
    /// does not count. Tokens of the old secret are refused from then on; a
    /// WebSocket that is open stays until its token ends.
    pub jwt_secret_file: Option<PathBuf>,
    /// Which tokens are taken, where HS256 is not what is wanted.
    pub auth: AuthSettings,
    /// SQL that is run at every start, before anything else; for examples.
    pub schema_file: Option<PathBuf>,
    /// Development: `POST /signin`, a known secret, the example tables.
    pub dev: bool,
    /// Told to devices.
    pub app_name: String,
    /// The application's schema version that devices may have at most.
    pub schema_version: i64,
    /// The application's schema version that devices must have at least.
    pub min_schema_version: i64,
    /// Where operators listen; off unless set. Needs `admin_token`.
    pub admin_listen: Option<SocketAddr>,
    /// What operators show there, `Authorization: Bearer …`; at least 32 bytes.
    pub admin_token: Option<Secret>,
    /// A file with that token, read again when it changes; white space around
    /// it does not count.
    pub admin_token_file: Option<PathBuf>,
    /// The certificate of HTTPS.
    pub tls: TlsSettings,
    /// Origins, as in `https://app.example`, whose pages may use the server from a
    /// browser, besides its own: requests (CORS) and the WebSocket.
    pub allowed_origins: Vec<String>,
    /// HTTP worker threads; the number of cores unless set.
    pub workers: Option<usize>,
    /// How long running requests may take after SIGTERM, in seconds.
    pub shutdown_seconds: u64,
    /// Upload without actors and caches: slower, to prove that they are not
    /// what keeps order.
    pub bypass_actors: bool,
    /// How logs are written: `text`, a line for people, or `json`, an object per line.
    pub log_format: LogFormat,
    /// Which logs are written, as in `info,oversync=debug`.
    pub log: String,
    /// What one request may carry.
    pub limits: LimitSettings,
    /// How processes tell each other of commits.
    pub nats: NatsSettings,
    /// How much one user may have.
    pub quotas: QuotaSettings,
    /// How much one user and one address may ask for.
    pub rates: RateSettings,
    /// How the log is kept short.
    pub retention: RetentionSettings,
    /// Which spans are written for OpenTelemetry.
    pub trace: TraceSettings,
    /// Whether every synchronised table must exist in the database. Otherwise
    /// those that do are projected, and the others only synchronised.
    pub strict_tables: bool,
    /// Which references of an upload are checked: `enabled`, `disabled`, or
    /// `ref_column_aware` (a parent of the same upload counts by other columns, too).
    pub foreign_keys: ForeignKeys,
    /// Whether foreign keys between synchronised business tables stay as they
    /// are; otherwise they become DEFERRABLE INITIALLY DEFERRED (PostgreSQL).
    pub leave_constraints_alone: bool,
    /// The synchronised tables.
    pub tables: Vec<TableSettings>,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object per line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            database_url: "sqlite://data/oversync.db".to_owned(),
            jwt_secret: None,
            jwt_secret_file: None,
            auth: AuthSettings::default(),
            schema_file: None,
            dev: false,
            app_name: "oversync".to_owned(),
            schema_version: 1,
            min_schema_version: 1,
            admin_listen: None,
            admin_token: None,
            admin_token_file: None,
            tls: TlsSettings::default(),
            allowed_origins: Vec::new(),
            workers: None,
            shutdown_seconds: 15,
            bypass_actors: false,
            log_format: LogFormat::Text,
            log: "info".to_owned(),
            limits: LimitSettings::default(),
            nats: NatsSettings::default(),
            quotas: QuotaSettings::default(),
            rates: RateSettings::default(),
            retention: RetentionSettings::default(),
            trace: TraceSettings::default(),
            strict_tables: false,
            foreign_keys: ForeignKeys::default(),
            leave_constraints_alone: false,
            tables: Vec::new(),
        }
    }
}

/// Why settings cannot be used. The text names the setting.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Malformed, of the wrong type, or unknown.
    #[error("settings: {0}")]
    Malformed(Box<figment::Error>),
    /// A file that a setting names cannot be read.
    #[error("{setting}: {path}: {error}")]
    File {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A value that makes no sense.
    #[error("{setting}: {problem}")]
    Value {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
}

impl Settings {
    /// Reads the file, the environment and `flags` (the command line, as
    /// setting-value pairs), and checks the result. With `dev`, what is needed
    /// and not set is filled in.
    pub fn load(config: Option<&Path>, flags: impl Serialize) -> Result<Self, SettingsError> {
        let mut figment = Figment::new();
        if let Some(path) = config {
            let text = std::fs::read_to_string(path).map_err(|error| SettingsError::File {
                setting: "--config",
                path: path.display().to_string(),
                error,
            })?;
            figment = figment.merge(Toml::string(&text));
        }
        // OVERSYNC_CONFIG is --config itself, read by the command line.
        figment = figment.merge(Env::prefixed("OVERSYNC_").ignore(&["config"]).split("__"));
        figment = figment.merge(Serialized::defaults(flags));
        let mut settings: Self = figment
            .extract()
            .map_err(|error| SettingsError::Malformed(Box::new(error)))?;
        settings.fill_in()?;
        settings.check()?;
        Ok(settings)
    }

    fn fill_in(&mut self) -> Result<(), SettingsError> {
        from_file(
            ("jwt_secret", &mut self.jwt_secret),
            ("jwt_secret_file", self.jwt_secret_file.as_deref()),
        )?;
        from_file(
            ("admin_token", &mut self.admin_token),
            ("admin_token_file", self.admin_token_file.as_deref()),
        )?;
        if self.dev {
            if self.admin_listen.is_some() {
                self.admin_token
                    .get_or_insert_with(|| Secret::new(DEV_ADMIN_TOKEN));
            }
            if !self.auth.has_public_keys() {
                self.jwt_secret
                    .get_or_insert_with(|| Secret::new(DEV_SECRET));
            }
            if self.tables.is_empty() {
                self.tables = example_tables();
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), SettingsError> {
        self.check_auth()?;
        self.check_admin()?;
        self.check_answers()?;
        self.check_sockets()?;
        self.check_nats()?;
        self.check_tls()?;
        self.check_origins()?;
        self.check_retention()?;
        self.check_trace()?;
        // Reads the key files, so that their mistakes show here too.
        TokenAuthenticator::from_settings(self)?;
        if self.min_schema_version > self.schema_version {
            return Err(value("min_schema_version", "is above schema_version"));
        }
        let limits = [
            ("limits.max_changes", self.limits.max_changes),
            ("limits.max_payload_bytes", self.limits.max_payload_bytes),
            ("limits.max_body_bytes", self.limits.max_body_bytes),
            ("limits.max_page", self.limits.max_page),
        ];
        for (setting, limit) in limits {
            if limit == 0 {
                return Err(value(setting, "must be at least 1"));
            }
        }
        // Less often, proxies cut the connection (60 s is common).
        if !(5..=60).contains(&self.limits.ping_seconds) {
            return Err(value("limits.ping_seconds", "must be between 5 and 60"));
        }
        if self.limits.max_page > MAX_PAGE {
            return Err(value(
                "limits.max_page",
                "must be at most 1000, which is what the protocol allows",
            ));
        }
        if self.limits.max_in_flight_bytes < self.limits.max_body_bytes {
            return Err(value(
                "limits.max_in_flight_bytes",
                "is below limits.max_body_bytes: no upload could pass",
            ));
        }
        if self.workers == Some(0) {
            return Err(value("workers", "must be at least 1"));
        }
        Ok(())
    }

    /// CORS compares them byte by byte with what browsers send.
    fn check_origins(&self) -> Result<(), SettingsError> {
        for origin in &self.allowed_origins {
            // Lower case, no default port, no path; also capacitor://localhost.
            let is_one = url::Url::parse(origin).is_ok_and(|url| match url.origin() {
                url::Origin::Tuple(..) => url.origin().ascii_serialization() == *origin,
                url::Origin::Opaque(_) => {
                    url.has_host() && url.path().is_empty() && url.as_str() == origin
                }
            });
            if !is_one {
                let problem = format!(
                    "\"{origin}\" is no origin as browsers write it, as in https://app.example"
                );
                return Err(value("allowed_origins", &problem));
            }
        }
        Ok(())
    }

    /// The known token of `--dev`, when that is what operators show.
    pub(crate) fn dev_admin_token(&self) -> Option<&'static str> {
        let token = self.admin_token.as_ref()?;
        (token.expose() == DEV_ADMIN_TOKEN).then_some(DEV_ADMIN_TOKEN)
    }

    /// As TOML, with secrets hidden.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("BUG: settings serialise")
    }
}

fn value(setting: &'static str, problem: &str) -> SettingsError {
    SettingsError::Value {
        setting,
        problem: problem.to_owned(),
    }
}
