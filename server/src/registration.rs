//! From configured tables to the catalog: names checked, business tables and
//! foreign keys discovered.

use crate::drift::{self, Shape};
use crate::projection::{
    Business, BusinessTable, Constraints, Handled, Projection, ProjectionError,
};
use crate::references::{self, Landscape};
use crate::settings::{Settings, TableSettings};
use crate::store::handler::{Converting, Handlers, HandlersOfTable};
use crate::store::{Store, StoreError};
use oversync_shared::catalog::{
    CatalogError, Conversion, ConvertReference, ForeignKey, ForeignKeys, Parent, TableSpec,
};
use oversync_shared::names::TableNameError;
use oversync_shared::{Catalog, TableIx, TableName};
use std::collections::HashMap;
use std::sync::Arc;

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
    /// A reference to a column that the table does not have.
    #[error("tables: {0} has ref_column = \"{1}\", and {2} has no such column")]
    RefColumn(String, String, TableName),
    /// A reference to a table of which nobody says what its key is.
    #[error(
        "tables: {0} refers to {1}, which has no primary key of one column: name a column with ref_column"
    )]
    NoRefColumn(String, TableName),
    /// A reference to another column than the key of a table that is nowhere to
    /// be looked at.
    #[error(
        "tables: {0} has ref_column = \"{1}\", which is not the key of {2}, and {2} does not exist in the database: nothing could ever be found there, unless foreign_keys = \"ref_column_aware\""
    )]
    RefColumnNowhere(String, String, TableName),
    /// A handler for a table that is not registered for one.
    #[error("tables: a handler is given for {0}, which is not registered with handled = true")]
    NotHandled(TableName),
    /// A table for a handler that is not given.
    #[error("tables: {0} has handled = true, and there is no handler of it for this database")]
    NoHandler(TableName),
    /// Asked for, and not there.
    #[error("tables: {0} does not exist in the database, and strict_tables is set")]
    Missing(TableName),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is to be registered.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The tables.
    pub tables: &'a [TableSettings],
    /// Whether every one of them must have a business table.
    pub strict: bool,
    /// Which references are checked.
    pub foreign_keys: ForeignKeys,
    /// What happens to the foreign keys of business tables.
    pub constraints: Constraints,
}

impl<'a> Wanted<'a> {
    /// What the settings ask for.
    pub fn of(settings: &'a Settings) -> Self {
        Self {
            tables: &settings.tables,
            strict: settings.strict_tables,
            foreign_keys: settings.foreign_keys,
            constraints: if settings.leave_constraints_alone {
                Constraints::LeaveAlone
            } else {
                Constraints::Defer
            },
        }
    }
}

/// Tables that are registered.
#[derive(Debug)]
pub struct Registered {
    /// All of them.
    pub catalog: Catalog,
    /// How they look in the database.
    pub(crate) shapes: Vec<Shape>,
}

/// Who writes the rows of the tables with `handled = true`.
#[derive(Debug, Clone, Copy)]
pub enum Writing<'a> {
    /// These: every such table must have one for the store at hand.
    Handlers(&'a Handlers),
    /// Nobody: this program takes no uploads, and is no host application.
    Nobody,
}

/// The configured tables as a database has them.
#[derive(Debug)]
pub struct Found {
    /// All of them.
    pub catalog: Catalog,
    /// What is written where; no handlers yet.
    pub business: Business,
    /// How they look in the database.
    pub(crate) shapes: Vec<Shape>,
}

/// Fits the configured tables to what a database says of them: all that can be found
/// wrong without writing anything. `is_shared` says that it is no embedded store, and
/// `describe` asks the database.
pub async fn found(
    wanted: Wanted<'_>,
    is_shared: bool,
    describe: impl AsyncFn(&[TableName]) -> Result<HashMap<TableName, BusinessTable>, StoreError>,
) -> Result<Found, RegistrationError> {
    let names = names(wanted.tables)?;
    let mut described = describe(&names).await?;
    let outside = outside(wanted, &names, &described)?;
    described.extend(describe(&outside).await?);
    let (catalog, business) = fit(wanted, &names, &described)?;
    if !is_shared {
        refuse_same_tables(&business.projections)?;
    }
    let shapes = drift::shapes(&names, wanted.tables, &described, &business.projections);
    Ok(Found {
        catalog,
        business,
        shapes,
    })
}

/// Builds the catalog of the configured tables, finds out which of them have a
/// business table, and registers all with the store.
pub async fn register(
    wanted: Wanted<'_>,
    writing: Writing<'_>,
    store: &dyn Store,
) -> Result<Registered, RegistrationError> {
    let found = found(wanted, store.is_shared(), async |tables| {
        store.describe(tables).await
    });
    let Found {
        mut catalog,
        mut business,
        shapes,
    } = found.await?;
    match writing {
        Writing::Handlers(handlers) => {
            business.handled = handled(wanted, &mut catalog, handlers, store.is_shared())?;
        }
        Writing::Nobody => {}
    }
    for projection in &business.projections {
        tracing::info!(table = %projection.name, key = projection.key.name, "rows are projected");
    }
    for lookup in business
        .lookups
        .iter()
        .filter(|lookup| lookup.registered.is_none())
    {
        tracing::info!(table = %lookup.table, column = lookup.column.name,
            "references to a table that is not synchronised: its rows count for every user");
    }
    store.register(&catalog, business).await?;
    Ok(Registered { catalog, shapes })
}

/// Gives the tables with `handled = true` to their handlers.
fn handled(
    wanted: Wanted<'_>,
    catalog: &mut Catalog,
    handlers: &Handlers,
    is_shared: bool,
) -> Result<Vec<Handled>, RegistrationError> {
    let is_handled = |table: TableIx| wanted.tables[table.index()].handled;
    for name in handlers.tables() {
        if !catalog.find(name).is_some_and(is_handled) {
            return Err(RegistrationError::NotHandled(name.clone()));
        }
    }
    let tables: Vec<(TableIx, TableName)> = catalog
        .tables()
        .filter(|(table, _)| is_handled(*table))
        .map(|(table, registered)| (table, registered.name.clone()))
        .collect();
    let mut all = Vec::with_capacity(tables.len());
    for (table, name) in tables {
        let given = handlers
            .of(&name)
            .and_then(|handlers| Some((handlers, conversion(handlers, is_shared)?)));
        let Some((handlers, conversion)) = given else {
            return Err(RegistrationError::NoHandler(name));
        };
        all.push(handle(catalog, table, handlers, conversion));
    }
    Ok(all)
}

/// How the handler for this store converts references; `None` without one.
fn conversion(handlers: &HandlersOfTable, is_shared: bool) -> Option<Conversion> {
    let own: Arc<dyn ConvertReference> = if is_shared {
        Arc::new(Converting(handlers.postgres.clone()?))
    } else {
        Arc::new(Converting(handlers.embedded.clone()?))
    };
    Some(Conversion(own))
}

/// Gives a table to its handlers.
fn handle(
    catalog: &mut Catalog,
    ix: TableIx,
    handlers: &HandlersOfTable,
    conversion: Conversion,
) -> Handled {
    catalog.convert(ix, conversion);
    let table = catalog.table(ix);
    tracing::info!(table = %table.name, "rows are written by the host's handler");
    Handled {
        table: ix,
        name: table.name.clone(),
        rank: table.rank,
        cyclic: table.cyclic,
        handlers: handlers.clone(),
    }
}

/// The tables that are referred to and not registered, to be described beside
/// those that are.
fn outside(
    wanted: Wanted<'_>,
    names: &[TableName],
    described: &HashMap<TableName, BusinessTable>,
) -> Result<Vec<TableName>, RegistrationError> {
    landscape(wanted, names, described).outside()
}

fn landscape<'a>(
    wanted: Wanted<'a>,
    names: &'a [TableName],
    described: &'a HashMap<TableName, BusinessTable>,
) -> Landscape<'a> {
    Landscape {
        tables: wanted.tables,
        names,
        described,
        mode: wanted.foreign_keys,
    }
}

/// The names of the configured tables, checked.
fn names(tables: &[TableSettings]) -> Result<Vec<TableName>, RegistrationError> {
    if tables.is_empty() {
        return Err(RegistrationError::NoTables);
    }
    tables
        .iter()
        .map(|table| checked_name(&table.schema, &table.table))
        .collect()
}

/// Fits the configured tables, called `names`, to what the database describes
/// of them and of the tables [`outside`].
fn fit(
    wanted: Wanted<'_>,
    names: &[TableName],
    described: &HashMap<TableName, BusinessTable>,
) -> Result<(Catalog, Business), RegistrationError> {
    let landscape = landscape(wanted, names, described);
    let mut specs = Vec::with_capacity(names.len());
    for (place, name) in names.iter().enumerate() {
        let is_missing = !described.contains_key(name) && !wanted.tables[place].handled;
        if wanted.strict && is_missing {
            return Err(RegistrationError::Missing(name.clone()));
        }
        let found = landscape.of(place)?;
        specs.push(TableSpec {
            name: name.clone(),
            references: found.references,
            after: found.after,
        });
    }
    let catalog = Catalog::new(specs, wanted.foreign_keys)?;
    let mut projections = projections(wanted.tables, &catalog, described)?;
    references::find_footings(&mut projections, &catalog, described);
    let business = Business {
        lookups: references::lookups(&catalog, described, &projections),
        projections,
        handled: Vec::new(),
        constraints: wanted.constraints,
    };
    Ok((catalog, business))
}

fn projections(
    tables: &[TableSettings],
    catalog: &Catalog,
    described: &HashMap<TableName, BusinessTable>,
) -> Result<Vec<Projection>, ProjectionError> {
    catalog
        .tables()
        .zip(tables)
        .filter(|(_, settings)| !settings.handled)
        .filter_map(|((ix, table), settings)| {
            let found = described.get(&table.name)?;
            let to_key = |key: &'_ ForeignKey| match key.parent {
                Parent::Key(parent) => Some(parent),
                Parent::Column(_) => None,
            };
            let references: Vec<_> = table
                .foreign_keys
                .iter()
                .filter_map(|key| Some((key.column.as_str(), to_key(key)?)))
                .collect();
            Some(Projection::new(
                ix,
                &table.name,
                table.rank,
                table.cyclic,
                settings,
                found,
                &references,
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
