//! Who holds the values that payloads refer to, in columns that are not keys.
//!
//! One statement for all columns of an upload. Each value is turned into the
//! column's type by the expression that projection writes it with, and compared
//! by that type, so that an index serves it. A value that the type cannot hold
//! is nowhere, and harms neither the statement nor its neighbours.

use super::expressions::{column_value, is_owner, query, quoted};
use crate::projection::{Kind, Lookup, Projection};
use crate::store::{Referred, StoreError};
use oversync_shared::RowKey;
use oversync_shared::UserId;
use oversync_shared::upload::{ColumnValue, Holder};
use sqlx::{PgPool, Row as _};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// A column beside what tells whose its rows are.
pub(super) struct Searched<'a> {
    pub(super) lookup: &'a Lookup,
    /// Of a synchronised table: its projection and number.
    pub(super) owned: Option<(&'a Projection, i32)>,
}

/// Asks for nothing, to learn at start whether the statement can be run at all:
/// the type may have no equality, the role may not be allowed to read.
pub(super) async fn probe(pool: &PgPool, searched: &Searched<'_>) -> Result<(), StoreError> {
    let sql = statement(&[branch(searched, Guard::Needed, 4)]);
    let asked = query(&sql)
        .persistent(false)
        .bind("")
        .bind(0_i64)
        .bind(0_i64)
        .bind(Vec::<&str>::new())
        .fetch_all(pool)
        .await;
    asked.map(|_| ()).map_err(|error| {
        let Lookup { table, column, .. } = searched.lookup;
        StoreError::Failed(format!(
            "references to {table}.{} cannot be checked: {error}; foreign_keys = \"disabled\" checks none",
            column.name
        ))
    })
}

/// The holders of these values.
pub(super) async fn holders<'a>(
    pool: &PgPool,
    user: i64,
    user_id: &UserId,
    values: Vec<Referred>,
    at_most: usize,
    searched: impl Fn(&Referred) -> Option<Searched<'a>>,
) -> Result<HashMap<Referred, Vec<Holder>>, StoreError> {
    let mut by_column: BTreeMap<usize, (Searched<'a>, Vec<Referred>)> = BTreeMap::new();
    for value in values {
        // No text of PostgreSQL has U+0000, nor does `->>` take apart what has it
        // inside.
        let (json, sent) = (value.1.json(), value.1.sent());
        let is_inside = json.starts_with(['{', '[']) && json.contains("\\u0000");
        if sent.contains('\0') || is_inside {
            continue;
        }
        let Some(column) = searched(&value) else {
            continue;
        };
        let entry = by_column.entry(value.0.index());
        entry.or_insert_with(|| (column, Vec::new())).1.push(value);
    }
    if by_column.is_empty() {
        return Ok(HashMap::new());
    }
    let by_column: Vec<(Searched<'a>, Vec<Referred>)> = by_column.into_values().collect();
    let branches: Vec<String> = by_column
        .iter()
        .enumerate()
        .map(|(place, (column, values))| branch(column, guard(column, values), place + 4))
        .collect();
    let sql = statement(&branches);
    let mut query = query(&sql)
        .bind(user_id.as_str())
        .bind(user)
        .bind(i64::try_from(at_most).unwrap_or(i64::MAX));
    for (_, values) in &by_column {
        let payloads = values
            .iter()
            .map(|(_, value)| format!("{{\"v\":{}}}", value.json()));
        query = query.bind(payloads.collect::<Vec<String>>());
    }
    let mut found: HashMap<Referred, Vec<Holder>> = HashMap::new();
    for row in query.fetch_all(pool).await? {
        let (branch, place): (i32, i64) = (row.try_get(0)?, row.try_get(1)?);
        let value = &by_column[branch as usize - 4].1[place as usize - 1];
        let key: Option<Uuid> = row.try_get(2)?;
        let holder = key.map_or(Holder::Other, |key| Holder::Row(RowKey::new(key)));
        found.entry(value.clone()).or_default().push(holder);
    }
    Ok(found)
}

/// Whether values must be tried before they are converted, which costs a
/// subtransaction each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    Needed,
    Free,
}

fn guard(column: &Searched<'_>, values: &[Referred]) -> Guard {
    let column = &column.lookup.column;
    let is_fit = |value: &ColumnValue| match (column.kind, column.stored_type.as_str()) {
        (Kind::Text, _) => true,
        (Kind::Uuid, _) => Uuid::try_parse(value.sent()).is_ok(),
        (Kind::Integer, "bigint") => value.sent().parse::<i64>().is_ok(),
        (Kind::Integer, "integer") => value.sent().parse::<i32>().is_ok(),
        (Kind::Integer, _) => value.sent().parse::<i16>().is_ok(),
        _ => false,
    };
    // A domain over one of these types may refuse what the type takes.
    let is_built_in = column.type_name.starts_with("pg_catalog.");
    if is_built_in && values.iter().all(|(_, value)| is_fit(value)) {
        Guard::Free
    } else {
        Guard::Needed
    }
}

/// $1 the user's name, $2 the user's number, $3 how many holders of one value
/// are wanted, from $4 on the values of each branch.
fn statement(branches: &[String]) -> String {
    format!(
        "SELECT found.branch, found.place, found.holder FROM ({}) AS found \
         WHERE ($1::text, $2::bigint, $3::bigint) IS NOT NULL",
        branches.join(" UNION ALL ")
    )
}

/// The holders of one column's values, each with the value's place.
fn branch(column: &Searched<'_>, guard: Guard, parameter: usize) -> String {
    let Lookup {
        table,
        column: there,
        ..
    } = column.lookup;
    let conversion = column_value("v", &there.type_name, there.kind, false);
    let value = match guard {
        Guard::Free => conversion,
        Guard::Needed => format!(
            "CASE WHEN oversync.converts('{}', w.payload) THEN {conversion} END",
            conversion.replace('\'', "''")
        ),
    };
    let (holder, mine) = match column.owned {
        None => ("NULL::uuid".to_owned(), "true".to_owned()),
        Some((projection, table_key)) => {
            let key = key_as_uuid("b", &projection.key.name, projection.key.kind);
            let mine = match &projection.owner {
                Some(owner) => is_owner(owner, "$1"),
                None => format!(
                    "NOT EXISTS (SELECT FROM oversync.owners o \
                     WHERE o.table_key = {table_key} AND o.pk = {key} AND o.user_key <> $2)"
                ),
            };
            (key, mine)
        }
    };
    format!(
        "(WITH v AS MATERIALIZED ( \
             SELECT w.place, {value} AS value FROM unnest(${parameter}::json[]) WITH ORDINALITY AS w (payload, place)) \
         SELECT {parameter} AS branch, v.place, h.holder FROM v CROSS JOIN LATERAL ( \
             SELECT {holder} AS holder FROM {schema}.{table} b WHERE b.{name} = v.value AND {mine} LIMIT $3) AS h)",
        schema = quoted(&table.schema),
        table = quoted(&table.table),
        name = quoted(&there.name),
    )
}

/// The key of a business row, called `row`, as a UUID; NULL where it is none.
pub(super) fn key_as_uuid(row: &str, column: &str, kind: Kind) -> String {
    let key = format!("{row}.{}", quoted(column));
    match kind {
        Kind::Uuid => key,
        Kind::Bytes => {
            format!("CASE WHEN octet_length({key}) = 16 THEN encode({key}, 'hex')::uuid END")
        }
        // As projection spells them.
        _ => format!(
            "CASE WHEN {key} ~ '^[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}$' THEN {key}::uuid END"
        ),
    }
}
