//! Everything that can be set, and where it comes from.
//!
//! Defaults, then the file given with `--config`, then the environment
//! (`OVERSYNC_…`, nested keys with `__`), then the command line; the later wins.
//! Unknown keys are errors that name them. The environment is read here only.

mod admin;
mod auth;
mod files;
mod nats;
mod rates;
mod retention;
mod tls;

pub(crate) use admin::admin_token_problem;
pub use auth::AuthSettings;
pub(crate) use auth::secret_problem;
pub(crate) use files::open_files;
pub use nats::NatsSettings;
pub use rates::{Rate, RateSettings};
pub use retention::RetentionSettings;
pub use tls::TlsSettings;

use crate::auth::TokenAuthenticator;
use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use oversync_shared::catalog::ForeignKeys;
use oversync_shared::wire::Limits;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The secret of `--dev`, so that tokens outlive a restart while developing.
const DEV_SECRET: &str = "oversync-development-secret-for-dev-mode-only";

/// The operators' token of `--dev`, where they have a listener.
const DEV_ADMIN_TOKEN: &str = "oversync-development-operators-token-for-dev-mode-only";

/// Secrets that stand in documentation; refused except in development.
const KNOWN_SECRETS: &[&str] = &[
    DEV_SECRET,
    DEV_ADMIN_TOKEN,
    "your-256-bit-secret",
    "your-secret-key-change-in-production",
    "a-string-secret-at-least-256-bits-long",
    "change-me-change-me-change-me-change-me",
];

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// The settings of a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// … and at least.
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
    /// How logs are written.
    pub log_format: LogFormat,
    /// Which logs are written, as in `info,oversync=debug`.
    pub log: String,
    /// What one request may carry.
    pub limits: LimitSettings,
    /// How processes tell each other of commits.
    pub nats: NatsSettings,
    /// How much one user and one address may ask for.
    pub rates: RateSettings,
    /// How the log is kept short.
    pub retention: RetentionSettings,
    /// Whether every synchronised table must exist in the database. Otherwise
    /// those that do are projected, and the others only synchronised.
    pub strict_tables: bool,
    /// Which references of an upload are checked.
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

/// What one request may carry.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Changes per upload.
    pub max_changes: usize,
    /// Bytes of one payload.
    pub max_payload_bytes: usize,
    /// Bytes of an upload's body.
    pub max_body_bytes: usize,
    /// Changes per download page.
    pub max_page: usize,
    /// Bytes of upload bodies in memory at a time; beyond, 503.
    pub max_in_flight_bytes: usize,
    /// Bytes of large answers in memory at a time, while their clients read
    /// them; beyond, those that stand still are cut off, then 503.
    pub max_answer_bytes: usize,
    /// WebSockets open at a time; beyond, 503. Three quarters of the open files that
    /// the system allows the process, unless set.
    pub max_sockets: Option<usize>,
    /// After how many seconds in which a client takes nothing of what is sent to
    /// it its connection ends (on Linux).
    pub stall_seconds: u64,
}

/// A synchronised table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSettings {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// The key column, where it is not the declared primary key.
    #[serde(default)]
    pub key_column: Option<String>,
    /// The column that holds the owning user. One of type uuid holds the names that
    /// are UUIDs in lower case with dashes; rows of other users fail.
    #[serde(default)]
    pub owner_column: Option<String>,
    /// Whether a handler of the host application writes its rows, in place of
    /// the generic projection. It needs no business table then.
    #[serde(default)]
    pub handled: bool,
    /// Foreign keys that no business table declares.
    #[serde(default)]
    pub references: Vec<ReferenceSettings>,
}

/// A foreign key that no business table declares.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceSettings {
    /// The referencing column.
    pub column: String,
    /// The table referred to: `table` in the same schema, or `schema.table`.
    /// It may be one that is not synchronised, as long as it exists.
    pub table: String,
    /// The column referred to; the (primary) key unless set.
    #[serde(default)]
    pub ref_column: Option<String>,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            max_changes: 1_000,
            max_payload_bytes: 1024 * 1024,
            max_body_bytes: 8 * 1024 * 1024,
            max_page: 1_000,
            max_in_flight_bytes: 256 * 1024 * 1024,
            max_answer_bytes: 64 * 1024 * 1024,
            max_sockets: None,
            stall_seconds: 60,
        }
    }
}

impl LimitSettings {
    /// As devices are told.
    pub fn for_devices(&self) -> Limits {
        Limits {
            max_changes: self.max_changes,
            max_payload_bytes: self.max_payload_bytes,
            max_body_bytes: self.max_body_bytes,
            max_page: self.max_page,
        }
    }
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
            rates: RateSettings::default(),
            retention: RetentionSettings::default(),
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

/// Largest page of a download (PROTOCOL.md section 4).
pub const MAX_PAGE: usize = 1_000;

/// Prints a database URL with its password hidden.
fn without_password<S: serde::Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let hidden = url::Url::parse(url)
        .ok()
        .filter(|url| url.password().is_some())
        .and_then(|mut url| {
            url.set_password(Some("***")).ok()?;
            Some(url.to_string())
        });
    serializer.serialize_str(hidden.as_deref().unwrap_or(url))
}

/// Reads a secret from its file, where the settings name one.
fn from_file(
    (name, secret): (&'static str, &mut Option<Secret>),
    (setting, path): (&'static str, Option<&Path>),
) -> Result<(), SettingsError> {
    let Some(path) = path else { return Ok(()) };
    if secret.is_some() {
        return Err(value(
            setting,
            &format!("is set together with {name}; set one of them"),
        ));
    }
    let text = std::fs::read_to_string(path).map_err(|error| SettingsError::File {
        setting,
        path: path.display().to_string(),
        error,
    })?;
    *secret = Some(Secret::new(text.trim()));
    Ok(())
}

fn is_known(secret: &[u8]) -> bool {
    KNOWN_SECRETS.iter().any(|known| known.as_bytes() == secret)
}

fn value(setting: &'static str, problem: &str) -> SettingsError {
    SettingsError::Value {
        setting,
        problem: problem.to_owned(),
    }
}

/// The tables of the README's example: a user's posts.
fn example_tables() -> Vec<TableSettings> {
    let author = ReferenceSettings {
        column: "author_id".into(),
        table: "users".into(),
        ref_column: None,
    };
    let table = |name: &str, references| TableSettings {
        schema: "business".into(),
        table: name.into(),
        references,
        ..TableSettings::default()
    };
    vec![table("users", vec![]), table("posts", vec![author])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn load(toml: &str) -> Result<Settings, SettingsError> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(toml.as_bytes()).expect("written");
        Settings::load(Some(file.path()), serde_json::json!({}))
    }

    fn problem(toml: &str) -> String {
        load(toml).expect_err("must be refused").to_string()
    }

    #[test]
    fn mistakes_name_the_setting() {
        assert!(problem("").contains("jwt_secret"));
        assert!(problem("jwt_secret = 'short'").contains("32 bytes"));
        assert!(
            problem("jwt_secret = 'a-string-secret-at-least-256-bits-long'").contains("sample")
        );
        assert!(problem("dev = true\nlisten = 'nowhere'").contains("listen"));
        assert!(problem("dev = true\nlissten = '127.0.0.1:1'").contains("lissten"));
        assert!(problem("dev = true\n[limits]\nmax_pages = 5").contains("max_pages"));
        assert!(problem("dev = true\n[limits]\nmax_page = 1001").contains("limits.max_page"));
        assert!(problem("dev = true\n[limits]\nstall_seconds = 1").contains("stall_seconds"));
        assert!(problem("dev = true\n[limits]\nmax_answer_bytes = 9").contains("max_answer"));
        let rates = |text: &str| problem(&format!("dev = true\n[rates]\n{text}"));
        assert!(rates("user_requests = 5").contains("user_requests"));
        assert!(rates("user_requests = { per_second = 0, burst = 1 }").contains("per_second"));
        assert!(rates("user_sockets = 0").contains("user_sockets"));
        assert!(rates("trusted_proxies = ['nobody']").contains("trusted_proxies"));
        for wrong in [
            "*",
            "",
            "https://a.example/",
            "https://A.example",
            "https://a.example:443",
        ] {
            let text = problem(&format!("dev = true\nallowed_origins = ['{wrong}']"));
            assert!(text.contains("allowed_origins"), "{text}");
        }
        assert!(problem("dev = true\n[[tables]]\nschema = 'a'").contains("table"));
        assert!(problem("dev = true\nmin_schema_version = 3").contains("min_schema_version"));
    }

    #[test]
    fn operators_need_a_token_of_their_own() {
        let long = "x".repeat(32);
        let base = format!("jwt_secret = 'another{long}'\nadmin_listen = '127.0.0.1:0'\n");
        let with = |rest: &str| problem(&format!("{base}{rest}"));
        assert!(with("").starts_with("admin_token: is not set"));
        let short = with("admin_token = 'hunter2-hunter2-hunter2-hunter2'");
        assert!(
            short.contains("admin_token: is shorter than 32 bytes") && !short.contains("hunter2")
        );
        assert!(with(&format!("admin_token = '{DEV_ADMIN_TOKEN}'")).contains("sample"));
        assert!(with(&format!("admin_token = '{DEV_SECRET}'")).contains("sample"));
        assert!(with(&format!("admin_token = 'another{long}'")).contains("jwt_secret"));
        assert!(with(&format!("admin_token = 'a b{long}'")).contains("header"));
        assert!(with("admin_token_file = 'missing.token'").contains("missing.token"));
        let both = format!("admin_token = '{long}'\nadmin_token_file = 'missing.token'");
        assert!(with(&both).starts_with("admin_token_file: is set together with admin_token"));

        let settings = load(&format!("{base}admin_token = '{long}'")).expect("valid");
        assert!(!settings.to_toml().contains(&long) && !format!("{settings:?}").contains(&long));
        let settings = load("dev = true\nadmin_listen = '127.0.0.1:0'").expect("valid");
        let token = settings.admin_token.expect("filled in");
        assert_eq!(token.expose(), DEV_ADMIN_TOKEN);
        assert!(load("dev = true").expect("valid").admin_token.is_none());
    }

    #[test]
    fn dev_needs_no_configuration_and_secrets_are_hidden() {
        let settings = load("dev = true").expect("valid");
        let origins = "allowed_origins = ['https://a.example:8443', 'capacitor://localhost']";
        assert!(load(&format!("dev = true\n{origins}")).is_ok());
        assert_eq!(settings.tables.len(), 2);
        let printed = settings.to_toml();
        assert!(printed.contains("jwt_secret = \"***\""), "{printed}");
        assert!(!printed.contains(DEV_SECRET) && !format!("{settings:?}").contains(DEV_SECRET));
    }

    #[test]
    fn a_database_password_is_not_printed() {
        let url = "postgres://me:hunter2@db.example/app?host=%2Frun";
        let printed = load(&format!("dev = true\ndatabase_url = '{url}'"))
            .expect("valid")
            .to_toml();
        assert!(
            printed.contains("postgres://me:***@db.example/app?host=%2Frun"),
            "{printed}"
        );
        assert!(!printed.contains("hunter2"));
    }

    #[test]
    fn nats_needs_an_address_and_a_database_to_share() {
        let nats = |text: &str| load(&format!("dev = true\n{text}"));
        let problem = |text: &str| nats(text).expect_err("must be refused").to_string();
        let shared = "database_url = 'postgres://localhost/app'\n[nats]\n";
        let url = "url = 'nats://me:hunter2@n.example:4222'\n";
        assert!(problem(&format!("{shared}url = 'example'")).contains("nats.url"));
        assert!(problem(&format!("{shared}url = 'http://n.example'")).contains("nats.url"));
        assert!(problem(&format!("{shared}{url}subject = 'a.*'")).contains("nats.subject"));
        assert!(problem(&format!("{shared}{url}subject = 'a..b'")).contains("nats.subject"));
        assert!(problem(&format!("[nats]\n{url}")).contains("embedded"));
        let settings = nats(&format!("{shared}{url}")).expect("valid");
        assert!(!settings.to_toml().contains("hunter2"));
    }

    #[test]
    fn flags_win() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(b"dev = true\napp_name = 'file'\nschema_version = 4")
            .expect("written");
        let flags = serde_json::json!({"app_name": "flag"});
        let settings = Settings::load(Some(file.path()), flags).expect("valid");
        assert_eq!(
            (settings.app_name.as_str(), settings.schema_version),
            ("flag", 4)
        );
    }
}
