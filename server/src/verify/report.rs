//! What was found, in words.

use crate::store::audit::{Logged, RowName, TableKey};
use oversync_shared::{RowKey, ServerId, TableName, UserId};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;

/// Differences that are reported at most, when all are asked for: more than
/// anybody reads.
const MAX_REPORTED: usize = 1_000;

/// Longest value that is shown, in characters.
const MAX_SHOWN: usize = 200;

/// What does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Ids of the log are left out.
    MissingEntry,
    /// An id of the log stands there twice.
    DoubledEntry,
    /// An entry's device does not exist.
    UnknownDevice,
    /// An entry's table does not exist.
    UnknownTable,
    /// A device's change is in the log twice.
    ChangeTwice,
    /// An entry's time is none.
    Time,
    /// An entry's operation cannot be.
    Op,
    /// An entry's payload is no JSON object.
    Payload,
    /// An entry's content is not what was taken.
    Fingerprint,
    /// An entry's version does not follow the row's last.
    Version,
    /// The head row does not say where the log ends.
    Head,
    /// A device's highest change id is below one in the log.
    Watermark,
    /// The places of the fold do not lead to the floor one by one.
    FoldPlace,
    /// A place of the fold stands for no row at the floor, or for one twice.
    FoldEntry,
    /// A row that lives at the floor has no place in the fold.
    FoldMissing,
    /// A row has its place in the fold before one that it refers to, or behind what
    /// is deleted.
    FoldOrder,
    /// An entry below the floor that the fold has replaced.
    FoldLeft,
    /// A row of the log has no state.
    RowMissing,
    /// A state whose row is not in the log.
    RowExtra,
    /// A state with another version.
    RowVersion,
    /// A state that is live for deleted, or deleted for live.
    RowDeleted,
    /// A state that points to another entry.
    RowPointer,
    /// A business row is not there.
    BusinessMissing,
    /// A business row, or its owner record, is not this user's.
    BusinessOwner,
    /// A business row, or its owner record, should be gone.
    BusinessExtra,
    /// A business row has another value.
    BusinessValue,
    /// A row cannot be projected, and is not in the failure list.
    BusinessFailure,
    /// Something that belongs to nobody.
    Stray,
}

impl Finding {
    const fn words(self) -> &'static str {
        match self {
            Self::MissingEntry => "entries are missing from the log",
            Self::DoubledEntry => "an entry stands twice in the log",
            Self::UnknownDevice => "the entry's device does not exist",
            Self::UnknownTable => "the table does not exist",
            Self::ChangeTwice => "a change was applied twice",
            Self::Time => "the entry has an impossible time",
            Self::Op => "the entry has an impossible operation",
            Self::Payload => "the entry's payload is damaged",
            Self::Fingerprint => "the entry's content does not have its fingerprint",
            Self::Version => "the entry's version does not follow the row's last",
            Self::Head => "the head is not where the log ends",
            Self::Watermark => "the device's highest change is below one in the log",
            Self::FoldPlace => "the places of the fold do not lead to the floor",
            Self::FoldEntry => "the place stands for no row at the floor, or for one twice",
            Self::FoldMissing => "the row has no place in the fold",
            Self::FoldOrder => "the row's place in the fold is before one that it needs",
            Self::FoldLeft => "the entry has been replaced by the fold",
            Self::RowMissing => "the row has no state",
            Self::RowExtra => "the state belongs to no row of the log",
            Self::RowVersion => "the row's state has another version",
            Self::RowDeleted => "the row's state is live for deleted or deleted for live",
            Self::RowPointer => "the row's state points to another entry",
            Self::BusinessMissing => "the business row is missing",
            Self::BusinessOwner => "the business row is not recorded as this user's",
            Self::BusinessExtra => "the business row is still this user's",
            Self::BusinessValue => "the business row has another value",
            Self::BusinessFailure => "the row cannot be projected and is not in the failure list",
            Self::Stray => "something belongs to nobody",
        }
    }
}

/// One difference between what is recorded and what the log gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What does not fit.
    pub finding: Finding,
    /// Whose.
    pub user: String,
    /// The table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<RowKey>,
    /// The entry of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_id: Option<ServerId>,
    /// What the database has.
    pub recorded: String,
    /// What it should have.
    pub recomputed: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}", self.user)?;
        if let Some(table) = &self.table {
            write!(f, ", table {table}")?;
        }
        if let Some(key) = self.key {
            write!(f, ", key {key}")?;
        }
        if let Some(id) = self.server_id {
            write!(f, ", entry {id}")?;
        }
        write!(
            f,
            ": {}: recorded is {}, recomputed is {}",
            self.finding.words(),
            self.recorded,
            self.recomputed
        )
    }
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Users.
    pub users: u64,
    /// Entries of their logs.
    pub entries: u64,
    /// Row states.
    pub rows: u64,
    /// Rows compared with their business table.
    pub business_rows: u64,
    /// Tables left out of that: the host's handlers write them, and only they
    /// know what is right.
    #[serde(skip_serializing_if = "is_none")]
    pub handled_tables: u64,
}

const fn is_none(count: &u64) -> bool {
    *count == 0
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            users,
            entries,
            rows,
            business_rows,
            handled_tables,
        } = self;
        write!(
            f,
            "{users} users, {entries} entries, {rows} rows, {business_rows} business rows"
        )?;
        match handled_tables {
            0 => Ok(()),
            tables => write!(
                f,
                "; left out are the business rows of {tables} handled tables"
            ),
        }
    }
}

/// The result of a verification.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// How much was looked at.
    pub checked: Checked,
    /// In the order they were found.
    pub differences: Vec<Difference>,
}

/// How many differences are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Stop at the first.
    First,
    /// All, up to a thousand.
    All,
}

impl Wanted {
    const fn limit(self) -> usize {
        match self {
            Self::First => 1,
            Self::All => MAX_REPORTED,
        }
    }
}

/// Collects the differences of one user.
pub(super) struct Findings<'a> {
    user: &'a UserId,
    tables: &'a HashMap<TableKey, TableName>,
    wanted: Wanted,
    found: &'a mut Vec<Difference>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(
        user: &'a UserId,
        tables: &'a HashMap<TableKey, TableName>,
        wanted: Wanted,
        found: &'a mut Vec<Difference>,
    ) -> Self {
        Self {
            user,
            tables,
            wanted,
            found,
        }
    }

    /// Whether no more are wanted.
    pub(super) fn are_enough(&self) -> bool {
        are_enough(self.found, self.wanted)
    }

    /// About an entry of the log.
    pub(super) fn at(
        &mut self,
        entry: &Logged,
        finding: Finding,
        recorded: impl Into<String>,
        recomputed: impl Into<String>,
    ) {
        let place = Some(entry.server_id);
        self.push(
            finding,
            Some(entry.row),
            place,
            recorded.into(),
            recomputed.into(),
        );
    }

    /// About a row.
    pub(super) fn of_row(
        &mut self,
        row: RowName,
        finding: Finding,
        recorded: impl Into<String>,
        recomputed: impl Into<String>,
    ) {
        self.push(finding, Some(row), None, recorded.into(), recomputed.into());
    }

    /// About the user.
    pub(super) fn of_user(
        &mut self,
        finding: Finding,
        recorded: impl Into<String>,
        recomputed: impl Into<String>,
    ) {
        self.push(finding, None, None, recorded.into(), recomputed.into());
    }

    fn push(
        &mut self,
        finding: Finding,
        row: Option<RowName>,
        server_id: Option<ServerId>,
        recorded: String,
        recomputed: String,
    ) {
        let table = row.map(|row| match self.tables.get(&row.table) {
            Some(name) => name.to_string(),
            None => format!("number {}", row.table.0),
        });
        let difference = Difference {
            finding,
            user: self.user.to_string(),
            table,
            key: row.map(|row| row.key),
            server_id,
            recorded: shown(&recorded),
            recomputed: shown(&recomputed),
        };
        push(self.found, self.wanted, difference);
    }
}

pub(super) fn are_enough(found: &[Difference], wanted: Wanted) -> bool {
    found.len() >= wanted.limit()
}

pub(super) fn push(found: &mut Vec<Difference>, wanted: Wanted, difference: Difference) {
    if !are_enough(found, wanted) {
        found.push(difference);
    }
}

/// The beginning of a long text.
fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
