//! The foreign keys of the registered tables: those that the database declares,
//! joined with the configured ones, and what each of them refers to.
//!
//! Every single-column foreign key is checked (PROTOCOL.md section 3), also one
//! to a table that is not registered: the value must stand in that table then.
//! Nobody knows whose the rows of such a table are, so all of them count, for
//! every user.

use crate::projection::{
    BusinessTable, Column, DeclaredReference, Footing, Kind, Lookup, Projection,
};
use crate::registration::RegistrationError;
use crate::settings::{ReferenceSettings, TableSettings};
use oversync_shared::catalog::{CatalogError, Compared, ForeignKeys, Parent, Reference, RefersTo};
use oversync_shared::{Catalog, TableIx, TableName};
use std::collections::HashMap;

/// The configured tables beside what the database says of them.
pub struct Landscape<'a> {
    /// As configured.
    pub tables: &'a [TableSettings],
    /// Their names.
    pub names: &'a [TableName],
    /// Those that exist, and the existing tables outside that they refer to.
    pub described: &'a HashMap<TableName, BusinessTable>,
    /// Which references are checked.
    pub mode: ForeignKeys,
}

/// The foreign keys of one table.
pub struct TableReferences {
    /// Those that payloads fill.
    pub references: Vec<Reference>,
    /// What the others refer to.
    pub after: Vec<TableName>,
}

/// A foreign key before it is known what it refers to.
struct Wanted {
    column: String,
    parent: TableName,
    /// `None`: the parent's key.
    parent_column: Option<String>,
}

impl Landscape<'_> {
    /// Tables that are referred to and not registered; they are to be described
    /// too.
    pub fn outside(&self) -> Result<Vec<TableName>, RegistrationError> {
        let mut outside = Vec::new();
        for place in 0..self.tables.len() {
            for wanted in self.declared(place).chain(self.configured(place)?) {
                if !self.names.contains(&wanted.parent) && !outside.contains(&wanted.parent) {
                    outside.push(wanted.parent);
                }
            }
        }
        Ok(outside)
    }

    /// The foreign keys of the table at a place, each once.
    pub fn of(&self, place: usize) -> Result<TableReferences, RegistrationError> {
        let mut found = TableReferences {
            references: Vec::new(),
            after: Vec::new(),
        };
        for wanted in self.declared(place) {
            if self.is_filled_by_server(place, &wanted.column) {
                found.after.push(wanted.parent);
                continue;
            }
            self.add(place, wanted, &mut found.references)?;
        }
        for wanted in self.configured(place)? {
            self.add(place, wanted, &mut found.references)?;
        }
        Ok(found)
    }

    fn add(
        &self,
        place: usize,
        wanted: Wanted,
        references: &mut Vec<Reference>,
    ) -> Result<(), RegistrationError> {
        let is_registered = self.names.contains(&wanted.parent);
        if self.mode == ForeignKeys::Disabled && !is_registered {
            return Ok(());
        }
        let reference = Reference {
            to: self.refers_to(place, &wanted)?,
            column: wanted.column,
            parent: wanted.parent,
        };
        if !references.contains(&reference) {
            references.push(reference);
        }
        Ok(())
    }

    fn declared(&self, place: usize) -> impl Iterator<Item = Wanted> {
        let found = self.described.get(&self.names[place]);
        let wanted = |reference: &DeclaredReference| Wanted {
            column: reference.column.clone(),
            parent: reference.parent.clone(),
            parent_column: Some(reference.parent_column.clone()),
        };
        let declared = found.map_or(&[][..], |found| &found.references);
        declared.iter().map(wanted)
    }

    fn configured(&self, place: usize) -> Result<Vec<Wanted>, RegistrationError> {
        let wanted = |reference: &ReferenceSettings| {
            let (schema, table) = reference
                .table
                .split_once('.')
                .unwrap_or((&self.names[place].schema, &reference.table));
            Ok(Wanted {
                column: reference.column.to_lowercase(),
                parent: TableName::parse(schema, table)?,
                parent_column: reference.ref_column.clone(),
            })
        };
        self.tables[place].references.iter().map(wanted).collect()
    }

    /// A column that holds the owner, or that the database computes: what a
    /// payload says of it is not written, so that it cannot be checked when an
    /// upload is decided. The database's own key is checked when the row is written,
    /// as is whose the row is that it leads to.
    fn is_filled_by_server(&self, place: usize, column: &str) -> bool {
        let owner = self.tables[place].owner_column.as_deref();
        let is_owner = owner.is_some_and(|owner| owner.eq_ignore_ascii_case(column));
        let found = self.described.get(&self.names[place]);
        let is_generated =
            found.is_some_and(|found| find(found, column).is_some_and(|column| column.generated));
        is_owner || is_generated
    }

    fn refers_to(&self, place: usize, wanted: &Wanted) -> Result<RefersTo, RegistrationError> {
        let registered = self.names.iter().position(|name| *name == wanted.parent);
        // Nobody but its handler knows whose the rows of a handled table are.
        let is_handled = registered.is_some_and(|place| self.tables[place].handled);
        let there = self.described.get(&wanted.parent).filter(|_| !is_handled);
        let child = format!("{}.{}", self.names[place], wanted.column);
        let column = match (&wanted.parent_column, registered, there) {
            (None, Some(_), _) => return Ok(RefersTo::Key),
            (Some(column), Some(parent), _) => {
                if self.key_of(parent).eq_ignore_ascii_case(column) {
                    return Ok(RefersTo::Key);
                }
                column
            }
            (_, None, None) => {
                return Err(RegistrationError::Catalog(CatalogError::UnknownParent {
                    child: self.names[place].clone(),
                    column: wanted.column.clone(),
                    parent: wanted.parent.clone(),
                }));
            }
            (Some(column), None, Some(_)) => column,
            (None, None, Some(there)) => match &there.primary_key[..] {
                [column] => column,
                _ => return Err(RegistrationError::NoRefColumn(child, wanted.parent.clone())),
            },
        };
        let described = there.map(|there| find(there, column));
        match described {
            Some(Some(found)) => Ok(RefersTo::Column {
                name: found.name.clone(),
                compared: compared(found),
            }),
            Some(None) => Err(RegistrationError::RefColumn(
                child,
                column.clone(),
                wanted.parent.clone(),
            )),
            // Registered, without a business table of ours: only rows of the same upload
            // can ever be found by such a column.
            None if self.mode == ForeignKeys::Enabled => Err(RegistrationError::RefColumnNowhere(
                child,
                column.clone(),
                wanted.parent.clone(),
            )),
            None => Ok(RefersTo::Column {
                name: column.clone(),
                compared: Compared::AsText,
            }),
        }
    }

    /// The column that holds a registered table's keys; `id` where nobody says.
    fn key_of(&self, place: usize) -> &str {
        let found = self.described.get(&self.names[place]);
        match (
            &self.tables[place].key_column,
            found.map(|found| &found.primary_key[..]),
        ) {
            (Some(column), _) | (None, Some([column])) => column,
            (None, _) => "id",
        }
    }
}

/// The columns that the stores look values up in; none when nothing is checked.
pub fn lookups(
    catalog: &Catalog,
    described: &HashMap<TableName, BusinessTable>,
    projections: &[Projection],
) -> Vec<Lookup> {
    if catalog.mode() == ForeignKeys::Disabled {
        return Vec::new();
    }
    let lookup = |(place, column): (_, &oversync_shared::catalog::ReferencedColumn)| {
        let is_looked_at = |table: TableIx| projections.iter().any(|one| one.table == table);
        if !column.registered.is_none_or(is_looked_at) {
            return None;
        }
        let found = described.get(&column.table)?;
        Some(Lookup {
            place,
            table: column.table.clone(),
            registered: column.registered,
            column: find(found, &column.name)?.clone(),
        })
    };
    catalog.columns().filter_map(lookup).collect()
}

/// Finds what the rows of each table stand on: by the foreign keys that the
/// database declares, whatever their columns, and by configured references to
/// columns of the same type. In every mode: they are not looked at when an upload
/// is decided, but when its rows are written.
pub fn find_footings(
    projections: &mut [Projection],
    catalog: &Catalog,
    described: &HashMap<TableName, BusinessTable>,
) {
    let keys: HashMap<TableIx, String> = projections
        .iter()
        .map(|table| (table.table, table.key.name.clone()))
        .collect();
    for projection in projections {
        let here = &described[&projection.name];
        let declared = here.foreign_keys.iter().filter_map(|key| {
            let parent = catalog.find(&key.parent)?;
            let columns = key.columns.clone();
            Some(Footing { parent, columns })
        });
        let configured = catalog.table(projection.table).foreign_keys.iter();
        let configured = configured.filter_map(|key| {
            let Parent::Column(column) = key.parent else {
                return None;
            };
            let there = catalog.column(column);
            let from = find(here, &key.column)?;
            let to = find(described.get(&there.table)?, &there.name)?;
            let parent = there.registered?;
            (from.type_name == to.type_name).then(|| Footing {
                parent,
                columns: vec![(from.name.clone(), to.name.clone())],
            })
        });
        let mut footings: Vec<Footing> = Vec::new();
        for footing in declared.chain(configured) {
            let Some(key) = keys.get(&footing.parent) else {
                continue;
            };
            let is_known = footings.contains(&footing)
                || matches!(&footing.columns[..], [(from, to)] if to == key
                && projection.columns.iter().any(|column| {
                    column.column.name == *from && column.refers_to.contains(&footing.parent)
                }));
            if !is_known {
                footings.push(footing);
            }
        }
        projection.footings = footings;
    }
}

fn find<'a>(table: &'a BusinessTable, column: &str) -> Option<&'a Column> {
    let exact = table.columns.iter().find(|found| found.name == column);
    exact.or_else(|| {
        let mut columns = table.columns.iter();
        columns.find(|found| found.name.eq_ignore_ascii_case(column))
    })
}

fn compared(column: &Column) -> Compared {
    // SQLite has no such type; a column declared so holds them all the same.
    if column.kind == Kind::Uuid || column.type_name.eq_ignore_ascii_case("uuid") {
        Compared::AsKey
    } else {
        Compared::AsText
    }
}
