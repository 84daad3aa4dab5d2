//! Which business tables rows are projected into, and how.
//!
//! Plain data, discovered once at start: a registered table that exists in the
//! database gets its rows written there, in the upload's own transaction. The
//! stores write them; a row that cannot be written is recorded as a failure and
//! never fails the upload.

use crate::settings::TableSettings;
use crate::store::handler::HandlersOfTable;
use oversync_shared::catalog::ColumnIx;
use oversync_shared::{RowKey, RowVersion, TableIx, TableName, UserId};
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::HashSet;
use uuid::Uuid;

/// The text of a failure when the business row is not this user's. It says
/// nothing about whose it is.
pub const NOT_YOURS: &str = "the business row belongs to somebody else";

/// The text of a failure when a UNIQUE column has the value already: constant,
/// since the other row may be another user's.
pub const NOT_UNIQUE: &str = "a unique column of the business table has this value already";

/// The text of a failure when a row would stand on a business row that is not
/// this user's: its owner could not delete that any more.
pub const STANDS_ON_ANOTHERS: &str =
    "the business row refers to a business row that belongs to somebody else";

/// The text of a failure when the owner column is a `varchar(n)` and the user's name
/// ends with a blank: two users of one owner, perhaps.
pub const CUT_NAME: &str =
    "the owner column cannot tell a name that ends with a blank from one that does not";

/// The text of a failure when the owner column is declared `uuid` in SQLite, which
/// turns numbers in such a column into others, and the user's name is a number.
pub const NUMBER_NAME: &str =
    "the owner column is of type uuid, which keeps no name that is a number as it is";

/// The text of a failure when the owner column holds UUIDs and the user's name is
/// none as the column prints it. Another spelling would be the same value: two
/// users of one owner.
pub const NO_UUID_NAME: &str =
    "the owner column is of type uuid, and the user's name is not a UUID in lower case with dashes";

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A UUID type.
    Uuid,
    /// Text of any length.
    Text,
    /// An integer of up to 64 bits.
    Integer,
    /// A binary floating point number.
    Real,
    /// An exact decimal.
    Numeric,
    /// True or false.
    Boolean,
    /// A point in time.
    Timestamp,
    /// JSON.
    Json,
    /// Bytes.
    Bytes,
    /// Read from its text form (dates, times, enumerations, …).
    FromText,
    /// Cannot be projected.
    Array,
}

/// A column of a business table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// As declared.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// The type's name in the database.
    pub type_name: String,
    /// The type with its length or precision, which storing a value enforces.
    pub stored_type: String,
    /// Computed by the database: never written.
    pub generated: bool,
    /// Alone unique or the primary key.
    pub unique: bool,
}

/// A business table as the database describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BusinessTable {
    /// In declared order.
    pub columns: Vec<Column>,
    /// Columns of the declared primary key.
    pub primary_key: Vec<String>,
    /// Single-column foreign keys.
    pub references: Vec<DeclaredReference>,
    /// All foreign keys.
    pub foreign_keys: Vec<DeclaredKey>,
}

impl BusinessTable {
    /// Adds a foreign key: referencing and referenced columns, as declared.
    pub(crate) fn declare(&mut self, parent: TableName, columns: Vec<(String, String)>) {
        if let [(here, there)] = &columns[..] {
            self.references.push(DeclaredReference {
                column: here.to_lowercase(),
                parent: parent.clone(),
                parent_column: there.clone(),
            });
        }
        self.foreign_keys.push(DeclaredKey { parent, columns });
    }
}

/// A foreign key that the database declares, of any number of columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredKey {
    /// The table it refers to.
    pub parent: TableName,
    /// Referencing and referenced columns, as declared.
    pub columns: Vec<(String, String)>,
}

/// A single-column foreign key that the database declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredReference {
    /// The referencing column, lower case.
    pub column: String,
    /// The table it refers to.
    pub parent: TableName,
    /// The column it refers to, as declared.
    pub parent_column: String,
}

/// How one registered table is projected.
#[derive(Debug, Clone)]
pub struct Projection {
    /// The registered table.
    pub table: TableIx,
    /// Its name.
    pub name: TableName,
    /// Parents rank below their children.
    pub rank: usize,
    /// Whether its rows may refer to each other.
    pub cyclic: bool,
    /// The column with the row's key.
    pub key: Column,
    /// The column with the owning user, where there is one.
    pub owner: Option<Column>,
    /// All other columns that can be written.
    pub columns: Vec<ProjectedColumn>,
    /// The names of all columns as payloads spell them, also of those that are
    /// not written.
    pub known: HashSet<String>,
    /// What its rows stand on, besides the rows that [`ProjectedColumn::refers_to`]
    /// names by their keys.
    pub footings: Vec<Footing>,
}

/// Columns by which a business row refers to one of a projected table: as long as
/// it is there, the other cannot go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footing {
    /// The table it refers to.
    pub parent: TableIx,
    /// Referencing and referenced columns, as declared.
    pub columns: Vec<(String, String)>,
}

/// A column that is filled from the payload.
#[derive(Debug, Clone)]
pub struct ProjectedColumn {
    /// The column.
    pub column: Column,
    /// Its name in payloads.
    pub wire_name: String,
    /// The registered tables whose keys it refers to.
    pub refers_to: Vec<TableIx>,
}

impl Projection {
    /// Why this user's rows cannot be written at all, where they cannot.
    pub fn refuses(&self, user: &UserId) -> Option<&'static str> {
        let owner = self.owner.as_ref()?;
        let is_canonical = |name: &str| {
            Uuid::try_parse(name).is_ok_and(|uuid| uuid.hyphenated().to_string() == name)
        };
        if owner.kind == Kind::Uuid {
            return (!is_canonical(user.as_str())).then_some(NO_UUID_NAME);
        }
        // Assigning to it cuts blanks at the end, beyond n, without an error: the row
        // would be another user's.
        let cuts = owner.stored_type.starts_with("character varying(");
        (cuts && user.as_str().ends_with(' ')).then_some(CUT_NAME)
    }
}

impl ProjectedColumn {
    /// Whether it refers to a registered table's key.
    pub const fn is_reference(&self) -> bool {
        !self.refers_to.is_empty()
    }
}

/// A column, not the key of a registered table, in which values that payloads
/// refer to are looked up.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// Its place in the catalog.
    pub place: ColumnIx,
    /// Its table.
    pub table: TableName,
    /// Its table, where that is synchronised: only rows that the user may see
    /// count. The rows of other tables are nobody's, and all of them count.
    pub registered: Option<TableIx>,
    /// What the database says of it.
    pub column: Column,
}

/// A table whose rows the host's own handler writes.
#[derive(Debug, Clone)]
pub struct Handled {
    /// The registered table.
    pub table: TableIx,
    /// Its name.
    pub name: TableName,
    /// Parents rank below their children.
    pub rank: usize,
    /// Whether its rows may refer to each other.
    pub cyclic: bool,
    /// Who writes them.
    pub handlers: HandlersOfTable,
}

/// What happens at start to foreign keys between synchronised business tables
/// that are checked row by row. Only PostgreSQL has such.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Constraints {
    /// They are made DEFERRABLE INITIALLY DEFERRED, so that rows which refer to
    /// each other in a ring can be written.
    #[default]
    Defer,
    /// Nothing.
    LeaveAlone,
}

/// What the store does with business tables.
#[derive(Debug, Clone, Default)]
pub struct Business {
    /// The tables that rows are projected into.
    pub projections: Vec<Projection>,
    /// The tables that the host's handlers write.
    pub handled: Vec<Handled>,
    /// The columns that are looked at.
    pub lookups: Vec<Lookup>,
    /// What happens to their foreign keys at start.
    pub constraints: Constraints,
}

/// Why a business table cannot be projected into; names what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProjectionError {
    /// No key can be told.
    #[error("{0} has no single-column primary key; name its key with key_column")]
    NoKey(TableName),
    /// The primary key has several columns.
    #[error(
        "{0} has a composite primary key ({1}); rows need one UUID column: name it with key_column"
    )]
    CompositeKey(TableName, String),
    /// A named column does not exist.
    #[error("{0} has no column {1}, which {2} names")]
    NoColumn(TableName, String, &'static str),
    /// The key cannot hold a UUID.
    #[error("{0}.{1} is of type {2}; a key must be able to hold a UUID: uuid, text or bytes")]
    KeyType(TableName, String, String),
    /// The key is not unique.
    #[error("{0}.{1} is neither the primary key nor UNIQUE, so it cannot be the key")]
    KeyNotUnique(TableName, String),
    /// The owner column cannot hold a user's name.
    #[error("{0}.{1} is of type {2}; an owner column holds the user's name: text or uuid")]
    OwnerType(TableName, String, String),
}

impl Projection {
    /// Fits the settings of a registered table to what the database describes.
    pub(crate) fn new(
        table: TableIx,
        name: &TableName,
        rank: usize,
        cyclic: bool,
        settings: &TableSettings,
        found: &BusinessTable,
        references: &[(&str, TableIx)],
    ) -> Result<Self, ProjectionError> {
        let find = |column: &str, setting| {
            let found = found
                .columns
                .iter()
                .find(|c| c.name.eq_ignore_ascii_case(column));
            found
                .cloned()
                .ok_or_else(|| ProjectionError::NoColumn(name.clone(), column.to_owned(), setting))
        };
        let key = match (&settings.key_column, &found.primary_key[..]) {
            (Some(column), _) => find(column, "key_column")?,
            (None, [column]) => find(column, "the primary key")?,
            (None, []) => return Err(ProjectionError::NoKey(name.clone())),
            (None, several) => {
                return Err(ProjectionError::CompositeKey(
                    name.clone(),
                    several.join(", "),
                ));
            }
        };
        if !matches!(key.kind, Kind::Uuid | Kind::Text | Kind::Bytes) {
            return Err(ProjectionError::KeyType(
                name.clone(),
                key.name,
                key.type_name,
            ));
        }
        if !key.unique {
            return Err(ProjectionError::KeyNotUnique(name.clone(), key.name));
        }
        let owner = settings
            .owner_column
            .as_deref()
            .map(|column| find(column, "owner_column"))
            .transpose()?;
        if let Some(owner) = owner
            .as_ref()
            .filter(|owner| !matches!(owner.kind, Kind::Text | Kind::Uuid))
        {
            return Err(ProjectionError::OwnerType(
                name.clone(),
                owner.name.clone(),
                owner.type_name.clone(),
            ));
        }
        let columns = found
            .columns
            .iter()
            .filter(|column| {
                !column.generated && **column != key && Some(*column) != owner.as_ref()
            })
            .map(|column| {
                let wire_name = column.name.to_lowercase();
                let parents = references.iter().filter(|(name, _)| *name == wire_name);
                ProjectedColumn {
                    column: column.clone(),
                    refers_to: parents.map(|(_, parent)| *parent).collect(),
                    wire_name,
                }
            })
            .collect();
        Ok(Self {
            table,
            name: name.clone(),
            rank,
            cyclic,
            key,
            owner,
            columns,
            known: found
                .columns
                .iter()
                .map(|column| column.name.to_lowercase())
                .collect(),
            footings: Vec::new(),
        })
    }
}

/// A row that could not be projected, as operators see it.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Failure {
    /// The user's own number of it, to name it when retrying. Later ones have
    /// higher numbers; none is used again.
    pub id: i64,
    /// The owning user.
    pub user_id: String,
    /// The table's schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The row.
    #[schema(value_type = String, format = "uuid")]
    pub pk: RowKey,
    /// The version that could not be written.
    pub attempted_version: RowVersion,
    /// What happened to the row.
    pub op: &'static str,
    /// The row at that version.
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
    /// Why.
    pub error: String,
    /// When it first failed, RFC 3339 UTC.
    pub first_seen: String,
    /// How often it was retried.
    pub retry_count: i32,
}

/// What became of a retry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// No such failure of this user.
    NotFound,
    /// Somebody retries it right now.
    InProgress,
    /// The row's current state is in the business table.
    Projected(RowVersion),
    /// The row is not there any more; the record is gone too.
    Stale,
    /// It failed again, with this text.
    Failed(String),
}
