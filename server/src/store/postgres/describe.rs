//! What the catalogue says about business tables.

use crate::projection::{BusinessTable, Column, Kind};
use crate::store::StoreError;
use oversync_shared::TableName;
use sqlx::{PgPool, Row as _};
use std::collections::HashMap;

pub(super) async fn describe(
    pool: &PgPool,
    tables: &[TableName],
) -> Result<HashMap<TableName, BusinessTable>, StoreError> {
    let schemas: Vec<&str> = tables.iter().map(|name| name.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|name| name.table.as_str()).collect();
    let mut found: HashMap<TableName, BusinessTable> = HashMap::new();
    let columns = sqlx::query(include_str!("describe.sql"))
        .bind(&schemas)
        .bind(&names)
        .fetch_all(pool)
        .await?;
    for row in columns {
        let table = TableName {
            schema: row.try_get(0)?,
            table: row.try_get(1)?,
        };
        let table = found.entry(table).or_default();
        let column = Column {
            name: row.try_get("column_name")?,
            kind: kind(row.try_get("base_type")?, row.try_get("category")?),
            type_name: row.try_get("type_name")?,
            stored_type: row.try_get("stored_type")?,
            generated: row.try_get("generated")?,
            unique: row.try_get("is_unique")?,
        };
        if row.try_get("in_primary_key")? {
            table.primary_key.push(column.name.clone());
        }
        table.columns.push(column);
    }
    let references = sqlx::query(include_str!("references.sql"))
        .bind(&schemas)
        .bind(&names)
        .fetch_all(pool)
        .await?;
    for row in references {
        let child = TableName {
            schema: row.try_get(0)?,
            table: row.try_get(1)?,
        };
        let parent = TableName {
            schema: row.try_get(2)?,
            table: row.try_get(3)?,
        };
        let (here, there): (Vec<String>, Vec<String>) = (row.try_get(4)?, row.try_get(5)?);
        if let Some(child) = found.get_mut(&child) {
            child.declare(parent, here.into_iter().zip(there).collect());
        }
    }
    Ok(found)
}

/// By the type's name and category (PostgreSQL documentation, pg_type).
fn kind(base_type: &str, category: &str) -> Kind {
    match (base_type, category) {
        (_, "A") => Kind::Array,
        ("uuid", _) => Kind::Uuid,
        ("int2" | "int4" | "int8", _) => Kind::Integer,
        ("float4" | "float8", _) => Kind::Real,
        ("numeric", _) => Kind::Numeric,
        ("bool", _) => Kind::Boolean,
        ("timestamp" | "timestamptz", _) => Kind::Timestamp,
        ("json" | "jsonb", _) => Kind::Json,
        ("bytea", _) => Kind::Bytes,
        // Not char(n), name or citext: two different keys or owners could be
        // one to them.
        ("text" | "varchar", _) => Kind::Text,
        _ => Kind::FromText,
    }
}
