//! The registered tables and how they refer to each other.
//!
//! Plain data that the server discovers once at start. Tables are ranked by
//! their references: a parent ranks below its children, tables that refer to
//! each other in a cycle share a rank.

use crate::graph;
use crate::names::TableName;
use std::collections::HashMap;

/// The place of a table in its [`Catalog`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableIx(usize);

impl TableIx {
    /// As an index into [`Catalog::tables`].
    pub const fn index(self) -> usize {
        self.0
    }
}

/// One single-column foreign key of a registered table to another (or to
/// itself), before it is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The referencing column, lower case, as it stands in payloads.
    pub column: String,
    /// The table it refers to; must be registered.
    pub parent: TableName,
}

/// A table to register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    /// The table.
    pub name: TableName,
    /// Its foreign keys to the keys of registered tables.
    pub references: Vec<Reference>,
}

/// A resolved foreign key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    /// The referencing column, lower case.
    pub column: String,
    /// The table it refers to.
    pub parent: TableIx,
}

/// A registered table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The table.
    pub name: TableName,
    /// Its foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
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
    /// A reference to a table that is not registered.
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
}

impl Catalog {
    /// Resolves the references and ranks the tables.
    pub fn new(specs: Vec<TableSpec>) -> Result<Self, CatalogError> {
        let mut by_name = HashMap::new();
        for (index, spec) in specs.iter().enumerate() {
            if by_name.insert(spec.name.clone(), TableIx(index)).is_some() {
                return Err(CatalogError::Twice(spec.name.clone()));
            }
        }
        let mut tables = Vec::with_capacity(specs.len());
        for spec in specs {
            let mut foreign_keys = Vec::with_capacity(spec.references.len());
            for reference in spec.references {
                let Some(&parent) = by_name.get(&reference.parent) else {
                    return Err(CatalogError::UnknownParent {
                        child: spec.name,
                        column: reference.column,
                        parent: reference.parent,
                    });
                };
                foreign_keys.push(ForeignKey {
                    column: reference.column,
                    parent,
                });
            }
            tables.push(Table {
                name: spec.name,
                foreign_keys,
                rank: 0,
                cyclic: false,
            });
        }
        let parents: Vec<Vec<usize>> = tables
            .iter()
            .map(|table| table.foreign_keys.iter().map(|key| key.parent.0).collect())
            .collect();
        for (rank, group) in graph::components(&parents).into_iter().enumerate() {
            let cyclic = group.len() > 1 || parents[group[0]].contains(&group[0]);
            for index in group {
                tables[index].rank = rank;
                tables[index].cyclic = cyclic;
            }
        }
        Ok(Self { tables, by_name })
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
            })
            .collect();
        TableSpec {
            name: name(table),
            references,
        }
    }

    #[test]
    fn parents_rank_below_children_and_cycles_share_a_rank() {
        let catalog = Catalog::new(vec![
            spec("comments", &["posts", "comments"]),
            spec("posts", &["users"]),
            spec("users", &["teams"]),
            spec("teams", &["users"]),
        ])
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
    fn mistakes_are_named() {
        let twice = Catalog::new(vec![spec("a", &[]), spec("a", &[])]);
        assert_eq!(twice.err(), Some(CatalogError::Twice(name("a"))));
        let unknown = Catalog::new(vec![spec("a", &["b"])]).expect_err("b is missing");
        assert_eq!(
            unknown.to_string(),
            "business.a.b_id refers to business.b, which is not registered"
        );
    }
}
