//! Business rows to be written or removed, and what can come of it.

use super::cascade::{Cascades, Reached};
use super::standing::Standing;
use crate::projection::{Handled, Kind, NOT_UNIQUE, Projection};
use crate::store::handler::{Before, recorded};
use oversync_shared::{RowVersion, TableName, UserId, json};
use sqlx::error::DatabaseError;
use std::borrow::Cow;
use uuid::Uuid;

/// A row to be written or removed.
#[derive(Debug, Clone)]
pub(super) struct Work<'a> {
    pub(super) user: i64,
    pub(super) user_id: &'a UserId,
    pub(super) writer: Writer<'a>,
    pub(super) before: Before,
    pub(super) table_key: i32,
    pub(super) pk: Uuid,
    pub(super) version: RowVersion,
    /// `None` removes the row.
    pub(super) payload: Option<&'a str>,
    pub(super) op: i16,
    /// Of a projected upsert, which columns its payload has ([`present`]).
    pub(super) columns: Result<Vec<bool>, String>,
    /// What the database does by itself when rows are deleted.
    pub(super) cascades: &'a Cascades,
    /// Which rows may not stand on which.
    pub(super) standing: &'a Standing,
}

/// Who writes the rows of a table.
#[derive(Debug, Clone, Copy)]
pub(super) enum Writer<'a> {
    Projection(&'a Projection),
    Handler(&'a Handled),
}

impl Writer<'_> {
    pub(super) fn name(&self) -> &TableName {
        match self {
            Self::Projection(projection) => &projection.name,
            Self::Handler(handled) => &handled.name,
        }
    }

    pub(super) fn rank(&self) -> usize {
        match self {
            Self::Projection(projection) => projection.rank,
            Self::Handler(handled) => handled.rank,
        }
    }

    pub(super) fn is_cyclic(&self) -> bool {
        match self {
            Self::Projection(projection) => projection.cyclic,
            Self::Handler(handled) => handled.cyclic,
        }
    }
}

impl<'a> Work<'a> {
    pub(super) fn projection(&self) -> &'a Projection {
        match self.writer {
            Writer::Projection(projection) => projection,
            Writer::Handler(_) => unreachable!("BUG: a handler's row is not projected"),
        }
    }

    pub(super) fn present(&self) -> Result<Vec<bool>, Trouble> {
        self.columns.clone().map_err(Trouble::Data)
    }

    /// Whether it is written by itself: a handler's row, unless rows may need it
    /// that it needs.
    pub(super) fn is_alone(&self) -> bool {
        matches!(self.writer, Writer::Handler(handled) if !handled.cyclic)
    }

    /// Parents' upserts, children's upserts, children's deletes, parents'
    /// deletes; tables together.
    pub(super) fn order(&self) -> (bool, i64, i32) {
        let rank = self.writer.rank() as i64;
        let is_delete = self.payload.is_none();
        (
            is_delete,
            if is_delete { -rank } else { rank },
            self.table_key,
        )
    }
}

/// A row that could not be written.
pub(super) struct Failed {
    pub(super) index: usize,
    pub(super) error: String,
}

/// How projecting ended.
#[derive(Default)]
pub(super) struct Projected {
    /// What could not be written.
    pub(super) failed: Vec<Failed>,
    /// Other rows that were changed beside what was.
    pub(super) reached: Vec<Reached>,
}

/// Why a set of rows could not be written together.
pub(super) enum Trouble {
    /// The data: try smaller sets.
    Data(String),
    /// The database: give up.
    Store(sqlx::Error),
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(cause) if !is_passing(&*cause) => Self::Data(text(&*cause)),
            other => Self::Store(other),
        }
    }
}

/// 40: deadlocks and the like; 53, 57, 58: resources, shutdown, the system. They
/// are most likely not a row's fault, and pass.
pub(super) fn is_passing(cause: &dyn DatabaseError) -> bool {
    let classes = ["40", "53", "57", "58"];
    cause
        .code()
        .is_some_and(|code| classes.iter().any(|class| code.starts_with(class)))
}

fn text(cause: &dyn DatabaseError) -> String {
    if cause.is_unique_violation() {
        NOT_UNIQUE.to_owned()
    } else {
        cause.message().to_owned()
    }
}

/// What a fault that passes means for the rows that were being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passing {
    /// Nothing: the transaction is taken back, to be tried again.
    TakesBack,
    /// It does not pass, then: it is a row's failure like any other. A trigger or a
    /// handler may raise it again and again, and nobody else should wait for that.
    IsTheRows,
}

impl Passing {
    pub(super) fn judge(self, trouble: Trouble) -> Trouble {
        match (self, trouble) {
            (Self::IsTheRows, Trouble::Store(sqlx::Error::Database(cause))) => {
                Trouble::Data(recorded(cause.message()))
            }
            (_, trouble) => trouble,
        }
    }
}

/// Which of the table's columns a payload has; the text of a failure where it
/// cannot be written. `look` is shown the names of its columns.
pub(super) fn present(
    projection: &Projection,
    user: &UserId,
    payload: &str,
    look: impl FnOnce(&[(Cow<'_, str>, &str)]),
) -> Result<Vec<bool>, String> {
    let members = json::members(payload).map_err(|fault| fault.to_string())?;
    look(&members);
    if let Some(refusal) = projection.refuses(user) {
        return Err(refusal.to_owned());
    }
    projection
        .columns
        .iter()
        .map(|column| {
            let value = members
                .iter()
                .find(|(name, _)| *name == column.wire_name.as_str());
            if column.column.kind == Kind::Array && value.is_some_and(|(_, text)| *text != "null") {
                let name = &column.column.name;
                return Err(format!("column {name}: arrays cannot be synchronised"));
            }
            Ok(value.is_some() && column.column.kind != Kind::Array)
        })
        .collect()
}
