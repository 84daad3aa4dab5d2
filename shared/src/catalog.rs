//! The registered tables and how they refer to each other.
//!
//! Plain data that the server discovers once at start. Tables are ranked by
//! their references: a parent ranks below its children, tables that refer to
//! each other in a cycle share a rank.

use crate::graph;
use crate::key::RowKey;
use crate::names::TableName;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The place of a table in its [`Catalog`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableIx(usize);

impl TableIx {
    /// As an index into [`Catalog::tables`].
    pub const fn index(self) -> usize {
        self.0
    }
}

/// The place of a referenced column in its [`Catalog`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ColumnIx(usize);

impl ColumnIx {
    /// As an index into [`Catalog::columns`].
    pub const fn index(self) -> usize {
        self.0
    }
}

/// Which references of an upload are checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForeignKeys {
    /// All; a reference to another column than the key of a registered table
    /// by that table's business table alone.
    #[default]
    Enabled,
    /// None. The order of a batch still follows them.
    Disabled,
    /// All; a row of the same upload counts by any column that is referred to.
    RefColumnAware,
}

/// How the values of a referenced column are the same, inside one upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// Text by text, numbers by their digits.
    AsText,
    /// UUIDs in any spelling; what is none, as text.
    AsKey,
}

/// What a foreign key refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefersTo {
    /// The key of a registered table.
    Key,
    /// Any other column, of a table that is registered or not.
    Column {
        /// As declared.
        name: String,
        /// How its values are the same.
        compared: Compared,
    },
}

/// One single-column foreign key of a registered table to another (or to
/// itself), before it is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The referencing column, lower case, as it stands in payloads.
    pub column: String,
    /// The table it refers to.
    pub parent: TableName,
    /// By what.
    pub to: RefersTo,
}

/// A table to register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    /// The table.
    pub name: TableName,
    /// Its foreign keys that payloads fill.
    pub references: Vec<Reference>,
    /// Tables whose rows come first although no payload refers to them: the
    /// server fills the referencing column. Those not registered do not count.
    pub after: Vec<TableName>,
}

/// A resolved foreign key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    /// The referencing column, lower case.
    pub column: String,
    /// What it refers to.
    pub parent: Parent,
}

/// What a resolved foreign key refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The key of a registered table.
    Key(TableIx),
    /// Another column.
    Column(ColumnIx),
}

/// A column, not the key of a registered table, that foreign keys refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferencedColumn {
    /// Its table.
    pub table: TableName,
    /// Its table, where that is registered. Otherwise its rows are nobody's.
    pub registered: Option<TableIx>,
    /// As declared.
    pub name: String,
    /// As it stands in payloads: lower case.
    pub wire_name: String,
    /// How its values are the same.
    pub compared: Compared,
}

/// A host application's own way of naming parents in the payloads of a table.
/// Must be pure and quick: it is asked once per reference of every upload.
pub trait ConvertReference: Send + Sync {
    /// The row that a referencing column names. `column` is lower case, `sent` a
    /// string without quotes and escapes, or the JSON text of anything else;
    /// never null or empty. `None`: the usual spellings of a UUID apply.
    fn convert_reference(&self, column: &str, sent: &str) -> Option<RowKey>;
}

/// The conversion of one table's references.
#[derive(Clone)]
pub struct Conversion(pub Arc<dyn ConvertReference>);

impl fmt::Debug for Conversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Conversion")
    }
}

/// A registered table.
#[derive(Debug, Clone)]
pub struct Table {
    /// The table.
    pub name: TableName,
    /// Its foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
    /// How its payloads name the keys of parents, where that is not the usual way.
    pub conversion: Option<Conversion>,
    /// Its columns by which rows of the same upload count as parents; none
    /// unless [`ForeignKeys::RefColumnAware`].
    pub offered: Vec<ColumnIx>,
    /// Parents rank below their children; equal within a cycle.
    pub rank: usize,
    /// Whether its rows may refer to each other, directly or through other
    /// tables of the same rank.
    pub cyclic: bool,
}

/// Why tables cannot be registered together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// The same table twice.
    #[error("table {0} is registered twice")]
    Twice(TableName),
    /// A reference to the key of a table that is not registered.
    #[error("{child}.{column} refers to {parent}, which is not registered")]
    UnknownParent {
        /// The referring table.
        child: TableName,
        /// The referring column.
        column: String,
        /// The table that is missing.
        parent: TableName,
    },
}

/// All registered tables.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    tables: Vec<Table>,
    by_name: HashMap<TableName, TableIx>,
    columns: Vec<ReferencedColumn>,
    mode: ForeignKeys,
}

impl Catalog {
    /// Resolves the references and ranks the tables.
    pub fn new(specs: Vec<TableSpec>, mode: ForeignKeys) -> Result<Self, CatalogError> {
        let mut by_name = HashMap::new();
        for (index, spec) in specs.iter().enumerate() {
            if by_name.insert(spec.name.clone(), TableIx(index)).is_some() {
                return Err(CatalogError::Twice(spec.name.clone()));
            }
        }
        let mut catalog = Self {
            tables: Vec::with_capacity(specs.len()),
            by_name,
            columns: Vec::new(),
            mode,
        };
        // The tables that each comes after.
        let mut parents: Vec<Vec<usize>> = Vec::with_capacity(specs.len());
        for spec in specs {
            let after = spec.after.iter().filter_map(|name| catalog.find(name));
            let mut after: Vec<usize> = after.map(TableIx::index).collect();
            let mut foreign_keys = Vec::with_capacity(spec.references.len());
            for reference in spec.references {
                let registered = catalog.find(&reference.parent);
                after.extend(registered.map(TableIx::index));
                foreign_keys.push(ForeignKey {
                    parent: catalog.resolve(&spec.name, &reference, registered)?,
                    column: reference.column,
                });
            }
            parents.push(after);
            catalog.tables.push(Table {
                name: spec.name,
                foreign_keys,
                conversion: None,
                offered: Vec::new(),
                rank: 0,
                cyclic: false,
            });
        }
        if mode == ForeignKeys::RefColumnAware {
            for (index, column) in catalog.columns.iter().enumerate() {
                if let Some(table) = column.registered {
                    catalog.tables[table.0].offered.push(ColumnIx(index));
                }
            }
        }
        for (rank, group) in graph::components(&parents).into_iter().enumerate() {
            let cyclic = group.len() > 1 || parents[group[0]].contains(&group[0]);
            for index in group {
                catalog.tables[index].rank = rank;
                catalog.tables[index].cyclic = cyclic;
            }
        }
        Ok(catalog)
    }

    /// What a reference refers to; a column is numbered once.
    fn resolve(
        &mut self,
        child: &TableName,
        reference: &Reference,
        registered: Option<TableIx>,
    ) -> Result<Parent, CatalogError> {
        let (name, compared) = match (&reference.to, registered) {
            (RefersTo::Key, Some(table)) => return Ok(Parent::Key(table)),
            (RefersTo::Key, None) => {
                return Err(CatalogError::UnknownParent {
                    child: child.clone(),
                    column: reference.column.clone(),
                    parent: reference.parent.clone(),
                });
            }
            (RefersTo::Column { name, compared }, _) => (name, *compared),
        };
        let known = self
            .columns
            .iter()
            .position(|column| column.table == reference.parent && column.name == *name);
        let index = known.unwrap_or_else(|| {
            self.columns.push(ReferencedColumn {
                table: reference.parent.clone(),
                registered,
                name: name.clone(),
                wire_name: name.to_lowercase(),
                compared,
            });
            self.columns.len() - 1
        });
        Ok(Parent::Column(ColumnIx(index)))
    }

    /// Lets a table name parents in its own way.
    pub fn convert(&mut self, table: TableIx, conversion: Conversion) {
        self.tables[table.0].conversion = Some(conversion);
    }

    /// Which references are checked.
    pub const fn mode(&self) -> ForeignKeys {
        self.mode
    }

    /// The referenced column at a place of this catalog.
    pub fn column(&self, ix: ColumnIx) -> &ReferencedColumn {
        &self.columns[ix.0]
    }

    /// All columns, but the keys of registered tables, that are referred to.
    pub fn columns(&self) -> impl Iterator<Item = (ColumnIx, &ReferencedColumn)> {
        self.columns
            .iter()
            .enumerate()
            .map(|(index, column)| (ColumnIx(index), column))
    }

    /// Finds a registered table.
    pub fn find(&self, name: &TableName) -> Option<TableIx> {
        self.by_name.get(name).copied()
    }

    /// The table at a place of this catalog.
    pub fn table(&self, ix: TableIx) -> &Table {
        &self.tables[ix.0]
    }

    /// All tables with their places.
    pub fn tables(&self) -> impl Iterator<Item = (TableIx, &Table)> {
        self.tables
            .iter()
            .enumerate()
            .map(|(index, table)| (TableIx(index), table))
    }

    /// How many tables are registered.
    pub fn len(&self) -> usize {
        self.tables.len()
    }

    /// Whether no table is registered.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(table: &str) -> TableName {
        TableName::parse("business", table).expect("valid")
    }

    fn spec(table: &str, parents: &[&str]) -> TableSpec {
        let references = parents
            .iter()
            .map(|parent| Reference {
                column: format!("{parent}_id"),
                parent: name(parent),
                to: RefersTo::Key,
            })
            .collect();
        TableSpec {
            name: name(table),
            references,
            after: Vec::new(),
        }
    }

    fn by_column(column: &str, parent: &str, name_there: &str) -> Reference {
        Reference {
            column: column.to_owned(),
            parent: name(parent),
            to: RefersTo::Column {
                name: name_there.to_owned(),
                compared: Compared::AsText,
            },
        }
    }

    #[test]
    fn parents_rank_below_children_and_cycles_share_a_rank() {
        let catalog = Catalog::new(
            vec![
                spec("comments", &["posts", "comments"]),
                spec("posts", &["users"]),
                spec("users", &["teams"]),
                spec("teams", &["users"]),
            ],
            ForeignKeys::Enabled,
        )
        .expect("valid");
        let rank = |table: &str| {
            let found = catalog.table(catalog.find(&name(table)).expect("registered"));
            (found.rank, found.cyclic)
        };
        assert_eq!(rank("users"), (0, true));
        assert_eq!(rank("teams"), (0, true));
        assert_eq!(rank("posts"), (1, false));
        assert_eq!(rank("comments"), (2, true));
    }

    #[test]
    fn columns_are_numbered_once_and_rank_their_tables() {
        let mut letters = spec("letters", &[]);
        letters.references = vec![
            by_column("sender", "users", "Email"),
            by_column("receiver", "users", "Email"),
            by_column("country", "countries", "code"),
        ];
        let mut owned = spec("owned", &[]);
        owned.after = vec![name("letters"), name("countries")];
        for (mode, offered) in [
            (ForeignKeys::Enabled, 0),
            (ForeignKeys::Disabled, 0),
            (ForeignKeys::RefColumnAware, 1),
        ] {
            let specs = vec![owned.clone(), letters.clone(), spec("users", &[])];
            let catalog = Catalog::new(specs, mode).expect("valid");
            let table = |table: &str| {
                let ix = catalog.find(&name(table)).expect("registered");
                (ix, catalog.table(ix))
            };
            assert_eq!(table("users").1.rank, 0);
            assert_eq!(table("letters").1.rank, 1);
            assert_eq!(table("owned").1.rank, 2);
            assert_eq!(table("users").1.offered.len(), offered, "{mode:?}");
            let columns: Vec<_> = catalog.columns().map(|(_, column)| column).collect();
            assert_eq!(columns.len(), 2);
            assert_eq!(columns[0].registered, Some(table("users").0));
            assert_eq!(
                (columns[0].name.as_str(), columns[0].wire_name.as_str()),
                ("Email", "email")
            );
            assert_eq!(columns[1].registered, None);
        }
    }

    #[test]
    fn mistakes_are_named() {
        let twice = Catalog::new(vec![spec("a", &[]), spec("a", &[])], ForeignKeys::Enabled);
        assert_eq!(twice.err(), Some(CatalogError::Twice(name("a"))));
        let unknown =
            Catalog::new(vec![spec("a", &["b"])], ForeignKeys::Enabled).expect_err("b is missing");
        assert_eq!(
            unknown.to_string(),
            "business.a.b_id refers to business.b, which is not registered"
        );
    }
}
