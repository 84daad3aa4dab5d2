//! From configured tables to the catalog: names checked, foreign keys
//! discovered and joined with the configured ones.

use crate::settings::TableSettings;
use crate::store::{Store, StoreError};
use oversync_shared::catalog::{CatalogError, Reference, TableSpec};
use oversync_shared::names::TableNameError;
use oversync_shared::{Catalog, TableName};

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
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Builds the catalog of the configured tables and registers it with the store.
pub async fn register(
    tables: &[TableSettings],
    store: &dyn Store,
) -> Result<Catalog, RegistrationError> {
    if tables.is_empty() {
        return Err(RegistrationError::NoTables);
    }
    let names = tables
        .iter()
        .map(|table| checked_name(&table.schema, &table.table))
        .collect::<Result<Vec<_>, _>>()?;
    let declared = store.declared_references(&names).await?;
    let mut specs = Vec::with_capacity(tables.len());
    for (settings, name) in tables.iter().zip(&names) {
        let mut references = Vec::new();
        for reference in declared.get(name).into_iter().flatten() {
            // A parent that is not synchronised is the database's own affair.
            if names.contains(&reference.parent) {
                references.push(reference.clone());
            } else {
                tracing::info!(table = %name, column = reference.column, parent = %reference.parent,
                    "foreign key to a table that is not registered: not checked");
            }
        }
        for reference in &settings.references {
            let (schema, table) = reference
                .table
                .split_once('.')
                .unwrap_or((&name.schema, &reference.table));
            let reference = Reference {
                column: reference.column.to_lowercase(),
                parent: TableName::parse(schema, table)?,
            };
            if !references.contains(&reference) {
                references.push(reference);
            }
        }
        specs.push(TableSpec {
            name: name.clone(),
            references,
        });
    }
    let catalog = Catalog::new(specs)?;
    store.register(&catalog).await?;
    Ok(catalog)
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
