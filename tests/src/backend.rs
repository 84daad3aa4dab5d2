//! A database of its own for every test: a SQLite file in a temporary folder,
//! or a database on the PostgreSQL server that `tests/with-postgres` provides.
//!
//! Both are gone when the [`Database`] is dropped. A missing PostgreSQL server
//! is a failure, never a skipped test.

use rusqlite::OptionalExtension as _;
use sqlx::{Connection as _, Executor as _, PgConnection};
use std::future::Future;
use std::time::Duration;
use tempfile::TempDir;
use uuid::Uuid;

/// The variable in which `tests/with-postgres` names its server.
const POSTGRES_URL: &str = "TEST_POSTGRES_URL";

/// How long the embedded store's file may be taken by its server.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which store a server runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The SQLite file.
    Embedded,
    /// PostgreSQL.
    Postgres,
}

impl Backend {
    /// Makes an empty database.
    pub async fn database(self) -> Database {
        match self {
            Self::Embedded => {
                let folder = TempDir::with_prefix("oversync-test.").expect("a temporary folder");
                Database {
                    url: format!("sqlite://{}/server.db", folder.path().display()),
                    kept: Kept::Folder(folder),
                }
            }
            Self::Postgres => Self::postgres_with("").await,
        }
    }

    /// Makes an empty database on PostgreSQL with options of CREATE DATABASE.
    pub async fn postgres_with(options: &str) -> Database {
        let admin_url = postgres_url();
        let name = format!("test_{}", Uuid::new_v4().simple());
        execute(&admin_url, format!("CREATE DATABASE {name} {options}"))
            .await
            .expect("the PostgreSQL server takes a new database");
        Database {
            url: with_database(&admin_url, &name),
            kept: Kept::Postgres { admin_url, name },
        }
    }
}

/// One test's database.
#[derive(Debug)]
pub struct Database {
    url: String,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    Folder(TempDir),
    Postgres { admin_url: String, name: String },
}

impl Database {
    /// For the setting `database_url`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Which store it is for.
    pub fn backend(&self) -> Backend {
        match self.kept {
            Kept::Folder(_) => Backend::Embedded,
            Kept::Postgres { .. } => Backend::Postgres,
        }
    }

    /// Runs SQL behind the server's back: to prepare business tables, or to
    /// plant damage.
    pub async fn execute(&self, sql: &str) {
        match &self.kept {
            Kept::Folder(folder) => file(folder).execute_batch(sql).expect("the SQL runs"),
            Kept::Postgres { .. } => execute(&self.url, sql.to_owned())
                .await
                .expect("the SQL runs"),
        }
    }
}

impl Database {
    /// Asks behind the server's back: the first column of the first row as
    /// text; `None` for NULL or no row.
    pub async fn ask(&self, sql: &str) -> Option<String> {
        match &self.kept {
            Kept::Folder(folder) => {
                let value = file(folder)
                    .query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0))
                    .optional()
                    .expect("the SQL runs");
                match value? {
                    rusqlite::types::Value::Null => None,
                    rusqlite::types::Value::Integer(number) => Some(number.to_string()),
                    rusqlite::types::Value::Real(number) => Some(number.to_string()),
                    rusqlite::types::Value::Text(text) => Some(text),
                    rusqlite::types::Value::Blob(bytes) => Some(format!("{bytes:?}")),
                }
            }
            Kept::Postgres { .. } => {
                let mut connection = PgConnection::connect(&self.url).await.expect("connects");
                let sql = format!("SELECT q.v::text FROM ({sql}) AS q (v)");
                let value: Option<Option<String>> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
                    .fetch_optional(&mut connection)
                    .await
                    .expect("the SQL runs");
                value.flatten()
            }
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Kept::Postgres { admin_url, name } = &self.kept {
            let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            let dropped = block_on(execute(&admin_url.clone(), sql));
            if let Err(error) = dropped {
                eprintln!("database {name} stays behind: {error}");
            }
        }
    }
}

/// The embedded store's file, whose server may write and fold just now.
fn file(folder: &TempDir) -> rusqlite::Connection {
    let file = rusqlite::Connection::open(folder.path().join("server.db"));
    let file = file.expect("the file opens");
    file.busy_timeout(PATIENCE).expect("a time-out is set");
    file
}

fn postgres_url() -> String {
    std::env::var(POSTGRES_URL).unwrap_or_else(|_| {
        panic!("{POSTGRES_URL} is not set: these tests need PostgreSQL, run them with: tests/with-postgres cargo test")
    })
}

/// Puts another database name into a URL; the query (the socket's folder) stays.
fn with_database(url: &str, name: &str) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (server, _) = base
        .rsplit_once('/')
        .expect("the URL names a database after its last slash");
    format!("{server}/{name}?{query}")
}

async fn execute(url: &str, sql: String) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    connection
        .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql)))
        .await?;
    connection.close().await
}

/// `Drop` cannot await, and a test's runtime cannot be entered twice: a thread
/// with a runtime of its own can.
fn block_on<T: Send>(work: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime")
                    .block_on(work)
            })
            .join()
            .expect("dropping a database does not panic")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sockets_folder_stays_in_the_url() {
        assert_eq!(
            with_database(
                "postgres://oversync@localhost/postgres?host=%2Ftmp%2Fpg",
                "x"
            ),
            "postgres://oversync@localhost/x?host=%2Ftmp%2Fpg"
        );
    }
}
