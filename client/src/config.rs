//! What an application tells the client: which file, which server, whose data,
//! which tables.

use crate::error::SetupError;
use crate::field_merge::{DeletePolicy, FieldMerge};
use crate::resolver::Resolver;
use crate::tls;
use crate::token::TokenProvider;
use oversync_shared::merge::ColumnPolicy;
use oversync_shared::names::DEFAULT_SCHEMA;
use oversync_shared::{DeviceId, UserId};
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often to ask the server when no hint has come.
const POLL: Duration = Duration::from_secs(30);

/// How often to look whether another program has written to the file. A look
/// costs a few microseconds.
const FOREIGN_WRITERS: Duration = Duration::from_millis(100);

/// How long what lost in a conflict is kept.
const KEEP_CONFLICTS: Duration = Duration::from_secs(30 * 86_400);

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
    pub(crate) merge: FieldMerge,
    /// In place of the merge.
    pub(crate) resolver: Option<Arc<dyn Resolver>>,
    pub(crate) keep_conflicts: Duration,
    pub(crate) poll: Duration,
    pub(crate) foreign_writers: Duration,
    pub(crate) hints: bool,
    pub(crate) schema_version: Option<i64>,
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) traces: bool,
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
            merge: FieldMerge::new(),
            resolver: None,
            keep_conflicts: KEEP_CONFLICTS,
            poll: POLL,
            foreign_writers: FOREIGN_WRITERS,
            hints: true,
            schema_version: None,
            certificates: Vec::new(),
            traces: false,
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

    /// What becomes of a column that two devices have changed differently; the
    /// server's value stands by default. Columns that only one of them has
    /// changed need no policy: both edits are kept.
    ///
    /// ```
    /// # use oversqlite::{ColumnPolicy, Config, DeletePolicy, UserId};
    /// # let user = UserId::new("user-ada").unwrap();
    /// # let token = || async { Ok(String::new()) };
    /// let config = Config::new("notes.db", "https://sync.example.org", user, token)
    ///     .table("posts")
    ///     .merge_column("posts", "views", ColumnPolicy::Add)
    ///     .merge_column("posts", "title", ColumnPolicy::Newest("updated_at".into()))
    ///     .merge_deletes("posts", DeletePolicy::EditWins);
    /// ```
    #[must_use]
    pub fn merge_column(mut self, table: &str, column: &str, policy: ColumnPolicy) -> Self {
        self.merge = self.merge.column(table, column, policy);
        self
    }

    /// The policy of all columns of a table that have none of their own.
    #[must_use]
    pub fn merge_table(mut self, table: &str, policy: ColumnPolicy) -> Self {
        self.merge = self.merge.table(table, policy);
        self
    }

    /// What becomes of a row of a table that one device has deleted and another
    /// one edited.
    #[must_use]
    pub fn merge_deletes(mut self, table: &str, policy: DeletePolicy) -> Self {
        self.merge = self.merge.deletes(table, policy);
        self
    }

    /// Who decides conflicts instead of the merge by field: one of
    /// [`ServerWins`](crate::ServerWins), [`ClientWins`](crate::ClientWins),
    /// [`NewestBy`](crate::NewestBy), or your own. It is asked about every row
    /// that both sides have changed; merge policies are then without effect.
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolver) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// How long to keep what lost in a conflict (default 30 days), in whole
    /// days. At least so long by this device's clock, and on at least so many days
    /// of the server's calendar on which the file is synchronised: a clock that
    /// jumps, were it at every start, deletes nothing fresh.
    #[must_use]
    pub fn keep_conflicts(mut self, time: Duration) -> Self {
        self.keep_conflicts = time;
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

    /// Whether spans are written for OpenTelemetry, to the tracer provider that the
    /// application has installed (`opentelemetry::global`): one for each request, and one
    /// for what becomes of each of at most 100 changes of a batch or page, in a trace of
    /// that change which the server and other devices write into too. Off by default. To
    /// keep the same traces as they do, sample by the trace id alone.
    #[must_use]
    pub fn traces(mut self, on: bool) -> Self {
        self.traces = on;
        self
    }

    /// Certificates (PEM, one or several) of authorities to believe besides those of
    /// the system: for a server whose certificate a company has signed itself. On
    /// Linux the file that `SSL_CERT_FILE` names replaces the system's.
    pub fn root_certificates(mut self, pem: &[u8]) -> Result<Self, SetupError> {
        self.certificates = tls::read_certificates(pem)?;
        Ok(self)
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
