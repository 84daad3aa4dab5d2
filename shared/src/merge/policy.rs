//! What becomes of a column that both sides have changed: the policies, and
//! which column has which.

use super::fold;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// A column that both sides have changed, differently. Values are JSON texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnConflict<'a> {
    /// The column's name, lower case.
    pub column: &'a str,
    /// Its value before the local edit; none when that is not known.
    pub base: Option<&'a str>,
    /// Its value on this device.
    pub mine: &'a str,
    /// Its value on the server.
    pub theirs: &'a str,
}

/// What a policy of the application's own decides about a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnChoice {
    /// The server's value stands.
    Server,
    /// This device's value stands.
    Client,
    /// This value, as JSON text, takes in what both have done: nothing is lost.
    /// Text that is no JSON counts as [`ColumnChoice::Server`].
    Value(String),
}

/// A policy of the application's own.
pub type ColumnRule = dyn Fn(&ColumnConflict<'_>) -> ColumnChoice + Send + Sync;

/// What becomes of a column that both sides have changed, differently. Wherever
/// a policy has no answer (values of different kinds, no base, an overflow), the
/// server's value stands and this device's is recorded as lost.
#[derive(Clone, Default)]
pub enum ColumnPolicy {
    /// The server's value stands.
    #[default]
    Server,
    /// This device's value stands.
    Client,
    /// The value of the side on which this column (such as `updated_at`) is
    /// greater stands: numbers compared exactly, text by its bytes; a value
    /// beats NULL. A tie is the server's.
    Newest(String),
    /// The greater value stands: numbers exactly, text by its bytes.
    Max,
    /// The smaller value stands.
    Min,
    /// A counter: `theirs + mine − base`, so that what both have added counts,
    /// also when both have added the same. Only a server whose history was
    /// replaced after it had taken the edit, and before this device heard of
    /// that, makes an edit count twice.
    /// Integers give an integer of 64 bits (an overflow is no answer), numbers
    /// with a point and decimals in text are added as decimals of up to 34
    /// digits, exactly.
    Add,
    /// The application decides. See [`ColumnPolicy::custom`].
    Custom(Arc<ColumnRule>),
}

impl ColumnPolicy {
    /// A policy of the application's own. It is asked inside a transaction: it
    /// must be quick and must not touch the file.
    pub fn custom(
        rule: impl Fn(&ColumnConflict<'_>) -> ColumnChoice + Send + Sync + 'static,
    ) -> Self {
        Self::Custom(Arc::new(rule))
    }
}

impl fmt::Debug for ColumnPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => f.write_str("Server"),
            Self::Client => f.write_str("Client"),
            Self::Newest(column) => f.debug_tuple("Newest").field(column).finish(),
            Self::Max => f.write_str("Max"),
            Self::Min => f.write_str("Min"),
            Self::Add => f.write_str("Add"),
            Self::Custom(_) => f.write_str("Custom(…)"),
        }
    }
}

/// The policies of one table.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    columns: BTreeMap<String, ColumnPolicy>,
    /// Columns that others are newest by: the greater value stands in them,
    /// unless they have a policy of their own.
    stamps: BTreeSet<String>,
    otherwise: ColumnPolicy,
}

impl Policies {
    /// Sets the policy of a column.
    pub fn set(&mut self, column: &str, policy: ColumnPolicy) {
        self.note_stamp(&policy);
        self.columns.insert(fold(column), policy);
    }

    /// Sets the policy of all other columns; [`ColumnPolicy::Server`] by default.
    pub fn set_otherwise(&mut self, policy: ColumnPolicy) {
        self.note_stamp(&policy);
        self.otherwise = policy;
    }

    fn note_stamp(&mut self, policy: &ColumnPolicy) {
        if let ColumnPolicy::Newest(stamp) = policy {
            self.stamps.insert(fold(stamp));
        }
    }

    pub(super) fn of(&self, column: &str) -> &ColumnPolicy {
        match self.columns.get(column) {
            Some(policy) => policy,
            None if self.stamps.contains(column) => &ColumnPolicy::Max,
            None => &self.otherwise,
        }
    }

    /// Whether any column is a counter.
    pub fn count(&self) -> bool {
        let all = self.columns.values().chain([&self.otherwise]);
        all.into_iter()
            .any(|policy| matches!(policy, ColumnPolicy::Add))
    }

    /// Every column that a policy names, lower case.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        let columns = self.columns.keys().chain(&self.stamps);
        columns.map(String::as_str)
    }
}
