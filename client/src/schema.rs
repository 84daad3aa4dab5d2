//! The application's tables, as far as the client needs to know them.
//!
//! All SQL of this crate takes table and column names from here, never from
//! what a peer sent. `declared.rs` and `discover.rs` read them from the file.

use std::collections::HashMap;

/// Prefix of everything this crate puts into the application's file.
pub(crate) const OWN_PREFIX: &str = "_sync_";

/// A name as SQL wants it.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Fills a template in, in one pass: a table may be called "{n}".
pub(crate) fn fill_in(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        let Some(length) = rest[start..].find('}') else {
            break;
        };
        out.push_str(&rest[..start]);
        out.push_str(&value(&rest[start + 1..start + length]));
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    out
}

/// A column's name on the wire.
pub(crate) fn fold(column: &str) -> String {
    column.to_lowercase()
}

/// How SQLite converts what is stored in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Affinity {
    /// INTEGER and NUMERIC.
    Numeric,
    Real,
    Text,
    /// BLOB, or no declared type: nothing is converted.
    None,
}

impl Affinity {
    /// SQLite's rules, in their order.
    pub(crate) fn of(declared: &str) -> Self {
        let declared = declared.to_uppercase();
        let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
        if has(&["INT"]) {
            Self::Numeric
        } else if has(&["CHAR", "CLOB", "TEXT"]) {
            Self::Text
        } else if declared.is_empty() || has(&["BLOB"]) {
            Self::None
        } else if has(&["REAL", "FLOA", "DOUB"]) {
            Self::Real
        } else {
            Self::Numeric
        }
    }
}

/// How the key is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// A UUID as text, in the application's spelling.
    Text,
    /// Its 16 bytes.
    Blob,
}

/// One column that travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Lower case: the name in payloads.
    pub(crate) wire: String,
    /// Declared BLOB: base64 in payloads.
    pub(crate) blob: bool,
    /// Refers to the BLOB key of a synchronised table.
    pub(crate) reference: bool,
    /// NULL is not allowed.
    pub(crate) not_null: bool,
    /// The default, as an SQL expression.
    pub(crate) default: Option<String>,
    pub(crate) affinity: Affinity,
}

/// What happens to a child when its parent goes, or gets other values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// NO ACTION or RESTRICT.
    Refuse,
    Cascade,
    /// SET NULL or SET DEFAULT.
    Set,
}

/// A foreign key, seen from the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignKey {
    pub(crate) child: String,
    pub(crate) columns: Vec<String>,
    pub(crate) parent: String,
    pub(crate) parent_columns: Vec<String>,
    pub(crate) on_delete: Action,
    pub(crate) on_update: Action,
}

impl ForeignKey {
    /// Whether an update of the parent's columns changes the child.
    pub(crate) fn follows(&self) -> bool {
        self.on_update != Action::Refuse
    }

    /// Whether a column of the parent is one that it refers to.
    pub(crate) fn refers_to(&self, column: &str) -> bool {
        let mut columns = self.parent_columns.iter();
        columns.any(|name| name.eq_ignore_ascii_case(column))
    }
}

/// A table that is not synchronised, at an end of a foreign key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unlisted {
    pub(crate) name: String,
    /// What tells its rows apart: the row number, or the primary key.
    pub(crate) identity: Vec<String>,
    /// Foreign keys that refer to it.
    pub(crate) children: Vec<ForeignKey>,
    /// Whether its rows refuse the delete of a row that they refer to.
    pub(crate) refuses: bool,
}

/// A table at an end of a foreign key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End<'a> {
    Listed(&'a Table),
    Other(&'a Unlisted),
}

impl<'a> End<'a> {
    pub(crate) fn name(&self) -> &'a str {
        match self {
            Self::Listed(table) => &table.name,
            Self::Other(table) => &table.name,
        }
    }

    /// Foreign keys that refer to it.
    pub(crate) fn children(&self) -> &'a [ForeignKey] {
        match self {
            Self::Listed(table) => &table.children,
            Self::Other(table) => &table.children,
        }
    }

    /// Whether what happens to its rows concerns nobody: none refers to them, and they
    /// refuse nothing that they might give way to by going themselves.
    pub(crate) fn is_last(&self) -> bool {
        matches!(self, Self::Other(table) if table.children.is_empty() && !table.refuses)
    }

    /// The columns that tell its rows apart.
    pub(crate) fn identity(&self) -> &'a [String] {
        match self {
            Self::Listed(table) => std::slice::from_ref(&table.key_column().name),
            Self::Other(table) => &table.identity,
        }
    }
}

/// A unique index: its columns with their collations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UniqueIndex {
    pub(crate) columns: Vec<(String, String)>,
}

/// A synchronised table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// Its number in `_sync_table`; 0 until installed.
    pub(crate) n: i64,
    pub(crate) name: String,
    /// Its name on the wire.
    pub(crate) wire: String,
    pub(crate) columns: Vec<Column>,
    /// Index of the key in `columns`.
    pub(crate) key: usize,
    pub(crate) key_kind: KeyKind,
    pub(crate) unique: Vec<UniqueIndex>,
    /// A name for the number SQLite gives to each row, where it has one that no
    /// column hides: a REPLACE may go by that, too.
    pub(crate) rowid: Option<&'static str>,
    /// Foreign keys of this table.
    pub(crate) parents: Vec<ForeignKey>,
    /// Foreign keys of any table of the file that refer to this one.
    pub(crate) children: Vec<ForeignKey>,
    /// Parents have lower ranks than their children, as far as there is no ring.
    pub(crate) rank: usize,
    /// A unique index that triggers cannot follow: missing rows are looked for
    /// instead.
    pub(crate) needs_sweep: bool,
    /// Writing it may fire a trigger of the application, here or in a table that a
    /// foreign-key action reaches.
    pub(crate) fires: bool,
}

impl Column {
    /// What a REPLACE puts in the place of NULL, if anything.
    pub(crate) fn in_place_of_null(&self) -> Option<&str> {
        let default = self.default.as_deref().filter(|_| self.not_null);
        default.filter(|default| !default.eq_ignore_ascii_case("null"))
    }
}

/// Columns of the widest table whose old rows are kept: SQLite takes 2,000 in a
/// table, and the log has two of its own.
const MOST_WITH_IMAGES: usize = 1_998;

impl Table {
    /// Whether the triggers keep old rows. Without, an edit that meets another one
    /// has no base.
    pub(crate) fn has_images(&self) -> bool {
        self.columns.len() <= MOST_WITH_IMAGES
    }

    pub(crate) fn quoted(&self) -> String {
        quote(&self.name)
    }

    pub(crate) fn key_column(&self) -> &Column {
        &self.columns[self.key]
    }

    pub(crate) fn quoted_key(&self) -> String {
        quote(&self.key_column().name)
    }

    pub(crate) fn column(&self, wire: &str) -> Option<usize> {
        let exact = self.columns.iter().position(|column| column.wire == wire);
        exact.or_else(|| {
            // Payloads should come in lower case; a client may not know that.
            let folded = fold(wire);
            self.columns.iter().position(|column| column.wire == folded)
        })
    }
}

/// The synchronised tables of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    /// Parents first.
    list: Vec<Table>,
    by_wire: HashMap<String, usize>,
    by_number: HashMap<i64, usize>,
    /// The others that foreign keys name.
    others: Vec<Unlisted>,
}

impl Tables {
    /// Numbers must have been given.
    pub(crate) fn new(mut list: Vec<Table>, others: Vec<Unlisted>) -> Self {
        list.sort_by_key(|table| table.rank);
        let by_wire = list.iter().enumerate().map(|(i, t)| (t.wire.clone(), i));
        let by_number = list.iter().enumerate().map(|(i, t)| (t.n, i));
        Self {
            by_wire: by_wire.collect(),
            by_number: by_number.collect(),
            list,
            others,
        }
    }

    /// Parents first.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Table> {
        self.list.iter()
    }

    pub(crate) fn by_wire(&self, wire: &str) -> Option<&Table> {
        self.by_wire.get(wire).map(|&i| &self.list[i])
    }

    pub(crate) fn by_number(&self, n: i64) -> Option<&Table> {
        self.by_number.get(&n).map(|&i| &self.list[i])
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&Table> {
        self.list
            .iter()
            .find(|table| table.name.eq_ignore_ascii_case(name))
    }

    /// A table that a foreign key names; none where its rows cannot be told apart.
    pub(crate) fn end(&self, name: &str) -> Option<End<'_>> {
        if let Some(table) = self.by_name(name) {
            return Some(End::Listed(table));
        }
        let mut others = self.others.iter();
        let other = others.find(|table| table.name.eq_ignore_ascii_case(name));
        other.map(End::Other)
    }
}
