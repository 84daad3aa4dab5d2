//! One committed state of a user, as far as an upload needs to know it.
//!
//! The shell reads it: [`needs`] names the rows and change ids, the changes
//! themselves the values they refer to ([`Change::values`]). What is not in it
//! does not exist.

use super::change::{Change, Fingerprint, Link};
use super::fault::Fault;
use super::room::Room;
use super::value::ColumnValue;
use crate::catalog::{ColumnIx, TableIx};
use crate::ids::{ChangeId, RowVersion, ServerId};
use crate::key::RowKey;
use std::collections::{HashMap, HashSet};

/// A row of one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowAt {
    /// Its table.
    pub table: TableIx,
    /// Its key.
    pub key: RowKey,
}

/// What the server holds about a row it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowState {
    /// How often it has been written, from 1.
    pub version: RowVersion,
    /// Whether it is a tombstone.
    pub deleted: bool,
    /// Its latest entry in the stream, which holds its payload.
    pub at: ServerId,
}

/// A change on record under the calling device's change id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Of the content that was applied.
    pub fingerprint: Fingerprint,
    /// The version it was answered with.
    pub version: RowVersion,
}

/// One committed state of a user, as far as an upload needs it ([`needs`]).
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The user's head.
    pub head: ServerId,
    /// Rows that exist; what is not here has never been seen.
    pub rows: HashMap<RowAt, RowState>,
    /// The calling device's change ids on record.
    pub recorded: HashMap<ChangeId, Recorded>,
    /// Rows that count as parents because the business table has them for this
    /// user, synchronised or not.
    pub in_business: HashSet<RowAt>,
    /// Who holds the values that changes refer to ([`Change::values`]), in business
    /// tables, as far as this user may see them. Of many holders of one value, more than
    /// the upload has deletes are enough.
    pub holders: HashMap<(ColumnIx, ColumnValue), Vec<Holder>>,
    /// How much more the user may have.
    pub room: Room,
}

/// A business row that holds a value somebody refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Holder {
    /// The business row of a synchronised table, by its key.
    Row(RowKey),
    /// A row that no upload can delete: its table is not synchronised, or its
    /// key is no UUID.
    Other,
}

/// What must be in the [`View`] before an upload can be decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Rows changed or referred to.
    pub rows: HashSet<RowAt>,
    /// Change ids used.
    pub ids: HashSet<ChangeId>,
}

/// Names the rows and ids that a decision looks at.
pub fn needs(changes: &[Result<Change, Fault>]) -> Needs {
    let mut needs = Needs::default();
    for change in changes.iter().flatten() {
        needs.ids.insert(change.id);
        needs.rows.insert(change.row());
        for link in &change.links {
            if let Link::Key { parent, .. } = link {
                needs.rows.insert(*parent);
            }
        }
    }
    needs
}
