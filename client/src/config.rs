//! What an application tells the client: which file, which server, whose data,
//! which tables.

use crate::resolver::{Resolver, ServerWins};
use crate::token::TokenProvider;
use oversync_shared::names::DEFAULT_SCHEMA;
use oversync_shared::{DeviceId, UserId};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often to ask the server when no hint has come.
const POLL: Duration = Duration::from_secs(30);

/// How often to look whether another program has written to the file. A look
/// costs a few microseconds.
const FOREIGN_WRITERS: Duration = Duration::from_millis(100);

/// One synchronised table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    /// Its name in the file.
    pub name: String,
    /// The column with the UUID; the declared primary key when `None`.
    pub key_column: Option<String>,
}

/// Everything [`Client::open`](crate::Client::open) needs.
#[derive(Clone)]
pub struct Config {
    pub(crate) path: PathBuf,
    pub(crate) server: String,
    pub(crate) user: UserId,
    pub(crate) device: Option<DeviceId>,
    pub(crate) schema: String,
    pub(crate) tables: Vec<TableSpec>,
    pub(crate) tokens: Arc<dyn TokenProvider>,
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) poll: Duration,
    pub(crate) foreign_writers: Duration,
    pub(crate) hints: bool,
    pub(crate) schema_version: Option<i64>,
}

impl Config {
    /// The file, the server's address (`http://…` or `https://…`), whose data
    /// it is, and where tokens come from. A token provider is any
    /// `Fn() -> impl Future<Output = Result<String, TokenError>>`.
    pub fn new(
        path: impl AsRef<Path>,
        server: impl Into<String>,
        user: UserId,
        tokens: impl TokenProvider,
    ) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            server: server.into(),
            user,
            device: None,
            schema: DEFAULT_SCHEMA.to_owned(),
            tables: Vec::new(),
            tokens: Arc::new(tokens),
            resolver: Arc::new(ServerWins),
            poll: POLL,
            foreign_writers: FOREIGN_WRITERS,
            hints: true,
            schema_version: None,
        }
    }

    /// This installation's name. Without it the file's own is used, generated
    /// at the first opening.
    #[must_use]
    pub fn device(mut self, device: DeviceId) -> Self {
        self.device = Some(device);
        self
    }

    /// The schema under which the server knows the tables; `public` by default.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Synchronises a table by its declared primary key.
    #[must_use]
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.tables.push(TableSpec {
            name: name.into(),
            key_column: None,
        });
        self
    }

    /// Synchronises a table by another unique column that holds a UUID.
    #[must_use]
    pub fn table_with_key(mut self, name: impl Into<String>, key: impl Into<String>) -> Self {
        self.tables.push(TableSpec {
            name: name.into(),
            key_column: Some(key.into()),
        });
        self
    }

    /// Who decides conflicts; [`ServerWins`] by default.
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolver) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    /// How often the engine asks the server although no hint has come (default
    /// 30 s). A net below the hints, not the way changes arrive.
    #[must_use]
    pub fn poll_interval(mut self, every: Duration) -> Self {
        self.poll = every;
        self
    }

    /// How often the engine looks for commits of connections that did not come
    /// from [`Client::connection`](crate::Client::connection) (default 100 ms).
    #[must_use]
    pub fn foreign_writers_interval(mut self, every: Duration) -> Self {
        self.foreign_writers = every;
        self
    }

    /// Whether the engine opens a WebSocket for hints (default) or only polls.
    #[must_use]
    pub fn hints(mut self, on: bool) -> Self {
        self.hints = on;
        self
    }

    /// The application's schema version, sent with every request; a server that
    /// does not take it answers [`NetworkError::SchemaVersion`](crate::NetworkError::SchemaVersion).
    #[must_use]
    pub fn schema_version(mut self, version: i64) -> Self {
        self.schema_version = Some(version);
        self
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("path", &self.path)
            .field("server", &self.server)
            .field("user", &self.user)
            .field("device", &self.device)
            .field("schema", &self.schema)
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}
