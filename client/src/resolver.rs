//! Conflicts: an unsent local edit met a newer row of the server.
//!
//! A [`Resolver`] decides, on the client's database thread and inside the
//! transaction that carries the decision out: it must be quick and must not
//! touch the file. What loses is kept in `_sync_conflicts`.

use oversync_shared::{RowKey, RowVersion};

/// One conflict. Rows are JSON objects as on the wire; `None` means deleted (or,
/// for `base`, that the row was not known before the edit).
#[derive(Debug, Clone, Copy)]
pub struct Conflict<'a> {
    /// The local table.
    pub table: &'a str,
    /// The row.
    pub key: RowKey,
    /// The row as the server had it before the local edit.
    pub base: Option<&'a str>,
    /// The row as it stands on this device.
    pub mine: Option<&'a str>,
    /// The row as it stands on the server.
    pub theirs: Option<&'a str>,
    /// The server's version of `theirs`.
    pub theirs_version: RowVersion,
}

/// How a conflict ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The server's row stands; the local edit is dropped.
    Theirs,
    /// The local row stands and is sent again, based on the server's.
    Mine,
    /// This row, a JSON object, is written here and sent.
    Merged(String),
}

impl Resolution {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Theirs => "theirs",
            Self::Mine => "mine",
            Self::Merged(_) => "merged",
        }
    }
}

/// Decides conflicts.
pub trait Resolver: Send + Sync + 'static {
    /// Decides one.
    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution;
}

/// The server's row always stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerWins;

impl Resolver for ServerWins {
    fn resolve(&self, _: &Conflict<'_>) -> Resolution {
        Resolution::Theirs
    }
}

/// The local row always stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientWins;

impl Resolver for ClientWins {
    fn resolve(&self, _: &Conflict<'_>) -> Resolution {
        Resolution::Mine
    }
}

impl<F> Resolver for F
where
    F: Fn(&Conflict<'_>) -> Resolution + Send + Sync + 'static,
{
    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution {
        self(conflict)
    }
}
