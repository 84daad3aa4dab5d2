//! Conflicts: an unsent local edit met a newer row of the server.
//!
//! A [`Resolver`] decides, on the client's database thread and inside the
//! transaction that carries the decision out: it must be quick and must not
//! touch the file. What loses is kept in the conflict list
//! ([`Client::conflicts`](crate::Client::conflicts)). The default is
//! [`FieldMerge`](crate::FieldMerge); the others here decide about whole rows.

use oversync_shared::merge::{self, Merged};
use oversync_shared::{RowKey, RowVersion};
use std::cmp::Ordering;

/// One conflict. Rows are JSON objects as on the wire, with the values as this
/// file's table holds them; `None` means deleted (or, for `base`, that the row
/// was not known before the edit).
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

/// How a conflict ends. A row that this file refuses (a constraint, a parent
/// that is not here) ends as [`Resolution::Theirs`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The server's row stands; the local edit is dropped.
    Theirs,
    /// The local row stands and is sent again, based on the server's.
    Mine,
    /// This row, a JSON object, is written here and sent.
    Merged(String),
    /// What a merge by field came to: resolvers that ask
    /// [`FieldMerge`](crate::FieldMerge) pass it on.
    Fields(Merged),
}

/// Decides conflicts.
pub trait Resolver: Send + Sync + 'static {
    /// Decides one.
    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution;

    /// Whether two edits of a row of this table that come to the same row are
    /// settled by that, without a question. Not where something counts.
    fn equal_edits_are_one(&self, table: &str) -> bool {
        let _ = table;
        true
    }
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

/// The row whose column (such as `updated_at`) is greater stands as a whole:
/// numbers compared exactly, text by its bytes, a value beats NULL, a tie is the
/// server's. A delete has no such column: it stands against any edit.
///
/// Devices with wrong clocks win or lose too often; nothing else breaks.
#[derive(Debug, Clone)]
pub struct NewestBy(String);

impl NewestBy {
    /// By this column.
    pub fn new(column: impl Into<String>) -> Self {
        Self(column.into())
    }
}

impl Resolver for NewestBy {
    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution {
        let (Some(mine), Some(theirs)) = (conflict.mine, conflict.theirs) else {
            return match conflict.mine {
                None => Resolution::Mine,
                Some(_) => Resolution::Theirs,
            };
        };
        let (mine, theirs) = (merge::value(mine, &self.0), merge::value(theirs, &self.0));
        match merge::newer(mine, theirs) {
            Some(Ordering::Greater) => Resolution::Mine,
            _ => Resolution::Theirs,
        }
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
