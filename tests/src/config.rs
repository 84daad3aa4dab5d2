//! What the servers of the tests are set to: the tables of the conformance suite, and
//! what a test asks for besides.

use crate::admin::ADMIN_TOKEN;
use crate::server::SECRET;
use toml::{Table, Value};

/// Has every server here fold all the time, whatever is tested, but those of
/// [`Config::unfolded`].
const RETENTION: &str = "OVERSYNC_TEST_RETENTION";

/// Settings of a server, as they stand in its file.
#[derive(Debug, Clone)]
pub struct Config {
    table: Table,
}

impl Default for Config {
    /// The tables of the conformance suite, two workers, logs as an operator has
    /// them who looks closely; [`folding`](Self::folding) where the environment asks
    /// for it.
    fn default() -> Self {
        let tables = include_str!("conformance/tables.toml");
        let mut table: Table = tables.parse().expect("the tables are TOML");
        table.insert("jwt_secret".into(), SECRET.into());
        table.insert("workers".into(), 2.into());
        table.insert("log".into(), "info,oversync=debug".into());
        let config = Self { table };
        match std::env::var_os(RETENTION) {
            Some(value) if !value.is_empty() => config.folding(),
            _ => config,
        }
    }
}

impl Config {
    /// Sets one setting; the name may have one dot, as in `limits.max_changes`.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        match name.split_once('.') {
            None => self.table.insert(name.to_owned(), value.into()),
            Some((section, name)) => self
                .table
                .entry(section)
                .or_insert_with(|| Table::new().into())
                .as_table_mut()
                .expect("a section")
                .insert(name.to_owned(), value.into()),
        };
        self
    }

    /// Leaves out a setting that the default has.
    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.table.remove(name);
        self
    }

    /// The settings as a file has them.
    pub fn to_toml(&self) -> String {
        self.table.to_string()
    }

    /// Folds all the time, and everything that no device needs, as soon as all that
    /// was heard of devices is written down. With a rest between: on PostgreSQL each
    /// pass has a connection of its own.
    #[must_use]
    pub fn folding(self) -> Self {
        self.set("retention.enabled", true)
            .set("retention.pause_ms", 50)
            .set("retention.keep_seconds", 1)
            .set("retention.min_entries", 1)
    }

    /// Of a test that looks at the log as it was written: nothing is folded, whatever the
    /// environment asks for.
    #[must_use]
    pub fn unfolded(self) -> Self {
        self.set("retention.enabled", false)
    }

    /// With a listener for operators.
    #[must_use]
    pub fn operators(self) -> Self {
        self.set("admin_listen", "127.0.0.1:0")
            .set("admin_token", ADMIN_TOKEN)
    }

    /// Uploads without actors and caches.
    #[must_use]
    pub fn bypass_actors(self) -> Self {
        self.set("bypass_actors", true)
    }
}
