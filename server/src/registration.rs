//! From configured tables to the catalog: names checked, foreign keys
//! discovered and joined with the configured ones.

use crate::projection::{BusinessTable, DeclaredReference, Projection, ProjectionError};
use crate::settings::TableSettings;
use crate::store::{Store, StoreError};
use oversync_shared::catalog::{CatalogError, Reference, TableSpec};
use oversync_shared::names::TableNameError;
use oversync_shared::{Catalog, TableName};
use std::collections::HashMap;

/// Schemas that the server keeps for itself.
const RESERVED_SCHEMAS: &[&str] = &["oversync", "pg_catalog", "information_schema"];

/// Prefixes of tables that the server and SQLite keep for themselves.
const RESERVED_PREFIXES: &[&str] = &["_oversync_", "sqlite_"];

/// Why tables cannot be registered; names the table.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// No table at all.
    #[error(
        "no tables are registered: add [[tables]] to the configuration, or start with --dev for the example"
    )]
    NoTables,
    /// A malformed name.
    #[error("tables: {0}")]
    Name(#[from] TableNameError),
    /// A name that the server keeps for itself.
    #[error("tables: {0} belongs to the server or the database and cannot be synchronised")]
    Reserved(TableName),
    /// They do not fit together.
    #[error("tables: {0}")]
    Catalog(#[from] CatalogError),
    /// A business table cannot be projected into.
    #[error("tables: {0}")]
    Projection(#[from] ProjectionError),
    /// Two business tables that are one in the embedded store.
    #[error("tables: {0} and {1} would be the same table of the embedded store")]
    SameTable(TableName, TableName),
    /// A configured reference to something that is not a synchronised row's key.
    #[error(
        "tables: {0} has ref_column = \"{1}\", which is not the key of {2}; only references to keys are checked, leave the others to the database"
    )]
    RefColumn(String, String, TableName),
    /// Asked for, and not there.
    #[error("tables: {0} does not exist in the database, and strict_tables is set")]
    Missing(TableName),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Builds the catalog of the configured tables, finds out which of them have a
/// business table, and registers all with the store. With `strict`, every table
/// must have one.
pub async fn register(
    tables: &[TableSettings],
    strict: bool,
    store: &dyn Store,
) -> Result<Catalog, RegistrationError> {
    let names = names(tables)?;
    let described = store.describe(&names).await?;
    let (catalog, projections) = fit(tables, strict, &names, &described)?;
    if !store.is_shared() {
        refuse_same_tables(&projections)?;
    }
    for projection in &projections {
        tracing::info!(table = %projection.name, key = projection.key.name, "rows are projected");
    }
    store.register(&catalog, projections).await?;
    Ok(catalog)
}

/// The names of the configured tables, checked.
pub fn names(tables: &[TableSettings]) -> Result<Vec<TableName>, RegistrationError> {
    if tables.is_empty() {
        return Err(RegistrationError::NoTables);
    }
    tables
        .iter()
        .map(|table| checked_name(&table.schema, &table.table))
        .collect()
}

/// Fits the configured tables, called `names`, to what the database describes.
pub fn fit(
    tables: &[TableSettings],
    strict: bool,
    names: &[TableName],
    described: &HashMap<TableName, BusinessTable>,
) -> Result<(Catalog, Vec<Projection>), RegistrationError> {
    let mut specs = Vec::with_capacity(tables.len());
    for (settings, name) in tables.iter().zip(names) {
        let found = described.get(name);
        if strict && found.is_none() {
            return Err(RegistrationError::Missing(name.clone()));
        }
        let declared = found.map_or(&[][..], |found| &found.references);
        let key_of = |parent: &TableName| {
            let place = names.iter().position(|name| name == parent)?;
            key_column(&tables[place], described.get(parent))
        };
        specs.push(TableSpec {
            name: name.clone(),
            references: references(settings, name, key_of, declared)?,
        });
    }
    let catalog = Catalog::new(specs)?;
    let projections = projections(tables, &catalog, described)?;
    Ok((catalog, projections))
}

/// The column that holds a synchronised table's keys.
fn key_column(settings: &TableSettings, found: Option<&BusinessTable>) -> Option<String> {
    match (
        &settings.key_column,
        found.map(|found| &found.primary_key[..]),
    ) {
        (Some(column), _) | (None, Some([column])) => Some(column.clone()),
        (None, _) => None,
    }
}

/// Declared foreign keys and configured ones, each once.
fn references(
    settings: &TableSettings,
    name: &TableName,
    key_of: impl Fn(&TableName) -> Option<String>,
    declared: &[DeclaredReference],
) -> Result<Vec<Reference>, RegistrationError> {
    let mut references = Vec::new();
    for reference in declared {
        // A reference to anything but a synchronised row's key is the database's
        // own affair.
        if key_of(&reference.parent)
            .is_some_and(|key| key.eq_ignore_ascii_case(&reference.parent_column))
        {
            references.push(Reference {
                column: reference.column.clone(),
                parent: reference.parent.clone(),
            });
        } else {
            tracing::info!(table = %name, column = reference.column, parent = %reference.parent,
                "foreign key to something that is not a synchronised row: left to the database");
        }
    }
    for reference in &settings.references {
        let described = format!("{name}.{}", reference.column);
        let (schema, table) = reference
            .table
            .split_once('.')
            .unwrap_or((&name.schema, &reference.table));
        let parent = TableName::parse(schema, table)?;
        if let (Some(column), Some(key)) = (&reference.ref_column, key_of(&parent))
            && !key.eq_ignore_ascii_case(column)
        {
            return Err(RegistrationError::RefColumn(
                described,
                column.clone(),
                parent,
            ));
        }
        let reference = Reference {
            column: reference.column.to_lowercase(),
            parent,
        };
        if !references.contains(&reference) {
            references.push(reference);
        }
    }
    Ok(references)
}

fn projections(
    tables: &[TableSettings],
    catalog: &Catalog,
    described: &HashMap<TableName, BusinessTable>,
) -> Result<Vec<Projection>, ProjectionError> {
    catalog
        .tables()
        .zip(tables)
        .filter_map(|((ix, table), settings)| {
            let found = described.get(&table.name)?;
            let columns: Vec<String> = table
                .foreign_keys
                .iter()
                .map(|key| key.column.clone())
                .collect();
            Some(Projection::new(
                ix,
                &table.name,
                table.rank,
                table.cyclic,
                settings,
                found,
                &columns,
            ))
        })
        .collect()
}

/// The embedded store has no schemas: `a.users` and `b.users` are one table.
fn refuse_same_tables(projections: &[Projection]) -> Result<(), RegistrationError> {
    let mut by_table: HashMap<&str, &TableName> = HashMap::new();
    for projection in projections {
        if let Some(other) = by_table.insert(&projection.name.table, &projection.name) {
            return Err(RegistrationError::SameTable(
                other.clone(),
                projection.name.clone(),
            ));
        }
    }
    Ok(())
}

fn checked_name(schema: &str, table: &str) -> Result<TableName, RegistrationError> {
    let name = TableName::parse(schema, table)?;
    let is_reserved = RESERVED_SCHEMAS.contains(&name.schema.as_str())
        || RESERVED_PREFIXES
            .iter()
            .any(|prefix| name.table.starts_with(prefix));
    if is_reserved {
        Err(RegistrationError::Reserved(name))
    } else {
        Ok(name)
    }
}
