//! The default resolver: edits of different columns of one row are both kept.
//!
//! The merge itself is pure and stands in `oversync_shared::merge`; here are the
//! application's policies, by table and column.

use crate::resolver::{Conflict, Resolution, Resolver};
use oversync_shared::merge::{self, ColumnPolicy, Policies};
use std::collections::HashMap;

/// What becomes of a row that one side has deleted and the other one edited.
/// Either way the result is the same whichever side reached the server first,
/// and what loses is kept in the conflict list, from where it can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeletePolicy {
    /// The row is deleted. The default: a delete is an explicit act, mostly goes
    /// with a whole family of rows, and a row that comes back alone would be
    /// refused where its parent is gone.
    #[default]
    DeleteWins,
    /// The edited row stands, or is made anew.
    EditWins,
}

#[derive(Debug, Clone, Default)]
struct TableRules {
    columns: Policies,
    deletes: Option<DeletePolicy>,
}

/// Merges two edits of one row column by column.
///
/// A column that only one side has changed keeps that side's value, without
/// anybody being asked. What happens to a column that both have changed, and to
/// a row that one has deleted, is a policy. [`Config`](crate::Config) builds one;
/// a [`Resolver`] of the application's own may ask one for the tables it does
/// not care about.
///
/// Without a base image (a row that both devices have made under one key, an
/// edit made while its table was being altered) every column in which the sides
/// differ counts as changed on both.
///
/// ```
/// use oversqlite::{ColumnPolicy, Conflict, FieldMerge, Resolution, Resolver};
///
/// let merge = FieldMerge::new().column("posts", "views", ColumnPolicy::Add);
/// let resolver = move |conflict: &Conflict<'_>| match conflict.table {
///     "settings" => Resolution::Theirs,
///     _ => merge.resolve(conflict),
/// };
/// # let _ = resolver;
/// ```
#[derive(Debug, Clone, Default)]
pub struct FieldMerge {
    tables: HashMap<String, TableRules>,
    deletes: DeletePolicy,
}

impl FieldMerge {
    /// The server's value for every column that both sides have changed, and
    /// [`DeletePolicy::DeleteWins`].
    pub fn new() -> Self {
        Self::default()
    }

    /// The policy of one column.
    #[must_use]
    pub fn column(mut self, table: &str, column: &str, policy: ColumnPolicy) -> Self {
        self.rules(table).columns.set(column, policy);
        self
    }

    /// The policy of all columns of a table that have none of their own.
    #[must_use]
    pub fn table(mut self, table: &str, policy: ColumnPolicy) -> Self {
        self.rules(table).columns.set_otherwise(policy);
        self
    }

    /// What becomes of rows of a table that one side has deleted.
    #[must_use]
    pub fn deletes(mut self, table: &str, policy: DeletePolicy) -> Self {
        self.rules(table).deletes = Some(policy);
        self
    }

    /// The same for all tables that have no policy of their own.
    #[must_use]
    pub fn all_deletes(mut self, policy: DeletePolicy) -> Self {
        self.deletes = policy;
        self
    }

    fn rules(&mut self, table: &str) -> &mut TableRules {
        self.tables.entry(table.to_lowercase()).or_default()
    }

    /// Every table a policy is for, with the columns it names.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        self.tables
            .iter()
            .map(|(table, rules)| (table.as_str(), rules.columns.named().collect()))
    }
}

impl Resolver for FieldMerge {
    fn equal_edits_are_one(&self, table: &str) -> bool {
        let rules = self.tables.get(&table.to_lowercase());
        !rules.is_some_and(|rules| rules.columns.count())
    }

    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution {
        let rules = self.tables.get(&conflict.table.to_lowercase());
        let deletes = rules
            .and_then(|rules| rules.deletes)
            .unwrap_or(self.deletes);
        let (mine, theirs) = match (conflict.mine, conflict.theirs, deletes) {
            (Some(mine), Some(theirs), _) => (mine, theirs),
            (None, Some(_), DeletePolicy::DeleteWins) | (Some(_), None, DeletePolicy::EditWins) => {
                return Resolution::Mine;
            }
            _ => return Resolution::Theirs,
        };
        let plain = Policies::default();
        let policies = rules.map_or(&plain, |rules| &rules.columns);
        match merge::merge(conflict.base, mine, theirs, policies) {
            Ok(merged) => Resolution::Fields(merged),
            // A peer's row that is no row cannot be written here either.
            Err(_) => Resolution::Theirs,
        }
    }
}
