//! The registered tables as one database numbers them, and who writes their business
//! rows.

use super::cascade::{self, Cascades};
use super::lookup::{self, Searched};
use super::standing::Standing;
use super::work::Writer;
use super::{PostgresStore, constraints};
use crate::projection::{Business, Constraints, Handled, Lookup, Projection};
use crate::store::StoreError;
use oversync_shared::catalog::ColumnIx;
use oversync_shared::{Catalog, TableName};
use std::collections::HashMap;

/// The registered tables as this database numbers them.
pub(super) struct Tables {
    pub(super) keys: Vec<i32>,
    /// By place in the catalog.
    pub(super) projections: Vec<Option<Projection>>,
    /// By place in the catalog.
    pub(super) handled: Vec<Option<Handled>>,
    pub(super) lookups: HashMap<ColumnIx, Lookup>,
    pub(super) cascades: Cascades,
    pub(super) standing: Standing,
    pub(super) any_written: bool,
}

impl Tables {
    /// Who writes the business rows of a table.
    pub(super) fn writer(&self, place: usize) -> Option<Writer<'_>> {
        let projection = self.projections[place].as_ref().map(Writer::Projection);
        projection.or_else(|| self.handled[place].as_ref().map(Writer::Handler))
    }

    pub(super) fn searched(&self, column: ColumnIx) -> Option<Searched<'_>> {
        let lookup = self.lookups.get(&column)?;
        let owned = lookup.registered.and_then(|table| {
            let projection = self.projections[table.index()].as_ref()?;
            Some((projection, self.keys[table.index()]))
        });
        Some(Searched { lookup, owned })
    }
}

impl PostgresStore {
    /// Numbers the registered tables as this database does, and looks at what is around
    /// them.
    pub(super) async fn numbered(
        &self,
        catalog: &Catalog,
        business: Business,
    ) -> Result<Tables, StoreError> {
        let mut keys = Vec::with_capacity(catalog.len());
        for (_, table) in catalog.tables() {
            sqlx::query("INSERT INTO oversync.tables (schema_name, table_name) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(&table.name.schema)
                .bind(&table.name.table)
                .execute(&self.pool)
                .await?;
            let key = sqlx::query_scalar(
                "SELECT table_key FROM oversync.tables WHERE schema_name = $1 AND table_name = $2",
            )
            .bind(&table.name.schema)
            .bind(&table.name.table)
            .fetch_one(&self.pool)
            .await?;
            keys.push(key);
        }
        if business.constraints == Constraints::Defer {
            let names: Vec<&TableName> = catalog.tables().map(|(_, table)| &table.name).collect();
            constraints::defer(&self.pool, &names).await?;
        }
        let numbered: Vec<(&Projection, i32)> = business
            .projections
            .iter()
            .map(|projection| (projection, keys[projection.table.index()]))
            .collect();
        let cascades = cascade::discover(&self.pool, &numbered).await?;
        let standing = Standing::new(&numbered);
        let any_written = !(business.projections.is_empty() && business.handled.is_empty());
        let mut by_place: Vec<Option<Projection>> = vec![None; catalog.len()];
        for projection in business.projections {
            let place = projection.table.index();
            by_place[place] = Some(projection);
        }
        let mut handled: Vec<Option<Handled>> = vec![None; catalog.len()];
        for table in business.handled {
            let place = table.table.index();
            handled[place] = Some(table);
        }
        let lookups = business.lookups.into_iter();
        let tables = Tables {
            keys,
            projections: by_place,
            handled,
            lookups: lookups.map(|lookup| (lookup.place, lookup)).collect(),
            cascades,
            standing,
            any_written,
        };
        for searched in tables
            .lookups
            .keys()
            .filter_map(|place| tables.searched(*place))
        {
            lookup::probe(&self.pool, &searched).await?;
        }
        Ok(tables)
    }
}
