//! What the database does by itself when a parent's business row goes: ON DELETE
//! CASCADE, SET NULL and SET DEFAULT reach rows that are live in the stream.
//!
//! Such a row no longer equals what was synchronised, so it belongs into the
//! failure list; a retry writes it again once its parent is back. Rows are found
//! before the delete, by the tables' own references, level by level. A cascade
//! through a table that is not projected is not seen.

use super::expressions::{is_owner, key_value, owner_name, query, quoted, quoted_table};
use super::lookup::key_as_uuid;
use super::work::{Trouble, Work};
use crate::projection::Projection;
use crate::store::StoreError;
use oversync_shared::TableName;
use sqlx::{PgConnection, PgPool, Row as _};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

/// What a parent's delete does to its children in one table.
#[derive(Debug)]
pub(super) struct Cascade {
    child: Projection,
    child_key: i32,
    effect: Effect,
    /// Parent's and child's columns.
    columns: Vec<(String, String)>,
}

/// What happens to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effect {
    /// It is deleted.
    Gone,
    /// It loses its reference.
    Changed,
}

impl Effect {
    /// The text of the failure.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Gone => "the business row went with the row it refers to (ON DELETE CASCADE)",
            Self::Changed => {
                "the business row lost its reference with the row it refers to (ON DELETE SET NULL or DEFAULT)"
            }
        }
    }
}

/// Somebody's live row that a parent's delete has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reached {
    pub(super) user: i64,
    pub(super) table_key: i32,
    pub(super) pk: Uuid,
    pub(super) effect: Effect,
}

/// By the parent's number.
pub(super) type Cascades = HashMap<i32, (Projection, Vec<Cascade>)>;

/// Finds them in the catalogue; `tables` are the projected ones with their
/// numbers.
pub(super) async fn discover(
    pool: &PgPool,
    tables: &[(&Projection, i32)],
) -> Result<Cascades, StoreError> {
    let find = |schema: String, table: String| {
        let name = TableName { schema, table };
        tables
            .iter()
            .find(|(projection, _)| projection.name == name)
    };
    let names = || tables.iter().map(|(projection, _)| &projection.name);
    let rows = sqlx::query(include_str!("cascades.sql"))
        .bind(names().map(|name| name.schema.as_str()).collect::<Vec<_>>())
        .bind(names().map(|name| name.table.as_str()).collect::<Vec<_>>())
        .fetch_all(pool)
        .await?;
    let mut cascades = Cascades::new();
    for row in rows {
        let parent = find(row.try_get("parent_schema")?, row.try_get("parent_table")?);
        let child = find(row.try_get("child_schema")?, row.try_get("child_table")?);
        let (Some((parent, parent_key)), Some((child, child_key))) = (parent, child) else {
            continue;
        };
        let there: Vec<String> = row.try_get("parent_columns")?;
        let here: Vec<String> = row.try_get("child_columns")?;
        let cascade = Cascade {
            child: (*child).clone(),
            child_key: *child_key,
            effect: if row.try_get("is_delete")? {
                Effect::Gone
            } else {
                Effect::Changed
            },
            columns: there.into_iter().zip(here).collect(),
        };
        let entry = cascades.entry(*parent_key);
        let (_, of_parent) = entry.or_insert_with(|| ((*parent).clone(), Vec::new()));
        of_parent.push(cascade);
    }
    Ok(cascades)
}

/// The rows that deleting these will reach.
pub(super) async fn reached(
    connection: &mut PgConnection,
    cascades: &Cascades,
    work: &[Work<'_>],
    set: &[usize],
) -> Result<Vec<Reached>, Trouble> {
    let table_key = work[set[0]].table_key;
    if !cascades.contains_key(&table_key) {
        return Ok(Vec::new());
    }
    let first: Vec<&Work<'_>> = set.iter().map(|index| &work[*index]).collect();
    let mut going: BTreeMap<i32, BTreeSet<Uuid>> = BTreeMap::new();
    going.insert(
        table_key,
        mine(connection, &cascades[&table_key].0, &first).await?,
    );
    let mut seen: BTreeSet<(i32, Uuid)> = BTreeSet::new();
    let mut reached = BTreeSet::new();
    while let Some((table_key, keys)) = going.pop_first() {
        let keys: Vec<Uuid> = keys
            .into_iter()
            .filter(|key| seen.insert((table_key, *key)))
            .collect();
        let Some((parent, of_parent)) = cascades.get(&table_key).filter(|_| !keys.is_empty())
        else {
            continue;
        };
        for cascade in of_parent {
            let sql = children_sql(parent, cascade);
            for row in query(&sql).bind(&keys).fetch_all(&mut *connection).await? {
                let Some(pk) = row.try_get::<Option<Uuid>, _>(0)? else {
                    continue;
                };
                if cascade.effect == Effect::Gone {
                    going.entry(cascade.child_key).or_default().insert(pk);
                }
                if let Some(user) = row.try_get::<Option<i64>, _>(1)? {
                    reached.insert(Reached {
                        user,
                        table_key: cascade.child_key,
                        pk,
                        effect: cascade.effect,
                    });
                }
            }
        }
    }
    Ok(reached.into_iter().collect())
}

/// Of the rows to be deleted, those that are there and their users' own.
async fn mine(
    connection: &mut PgConnection,
    projection: &Projection,
    work: &[&Work<'_>],
) -> Result<BTreeSet<Uuid>, Trouble> {
    let own = match &projection.owner {
        Some(owner) => is_owner(owner, "w.owner"),
        None => {
            "EXISTS (SELECT FROM oversync.owners o WHERE o.table_key = $4 AND o.pk = w.pk AND o.user_key = w.user_key)"
                .to_owned()
        }
    };
    let sql = format!(
        "SELECT w.pk FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS w (pk, owner, user_key) \
         JOIN {table} b ON b.{key} = {value} WHERE $4::integer IS NOT NULL AND {own}",
        table = quoted_table(projection),
        key = quoted(&projection.key.name),
        value = key_value("w.pk", projection.key.kind),
    );
    let rows = query(&sql)
        .bind(work.iter().map(|work| work.pk).collect::<Vec<_>>())
        .bind(
            work.iter()
                .map(|work| work.user_id.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(work.iter().map(|work| work.user).collect::<Vec<_>>())
        .bind(work[0].table_key)
        .fetch_all(connection)
        .await?;
    let keys = rows.iter().map(|row| row.try_get(0));
    Ok(keys.collect::<Result<_, sqlx::Error>>()?)
}

/// The children of rows with the keys $1: key and user, where there are such.
fn children_sql(parent: &Projection, cascade: &Cascade) -> String {
    let child = &cascade.child;
    let key = key_as_uuid("b", &child.key.name, child.key.kind);
    let refer: Vec<String> = cascade
        .columns
        .iter()
        .map(|(there, here)| format!("b.{} = p.{}", quoted(here), quoted(there)))
        .collect();
    let owner = match &child.owner {
        Some(owner) => format!(
            "LEFT JOIN oversync.users u ON u.user_id = {}",
            owner_name("b", owner)
        ),
        None => format!(
            "LEFT JOIN oversync.owners u ON u.table_key = {} AND u.pk = {key}",
            cascade.child_key
        ),
    };
    format!(
        "SELECT {key}, u.user_key FROM unnest($1::uuid[]) AS w (pk) \
         JOIN {parent_table} p ON p.{parent_key} = {value} JOIN {child_table} b ON {refer} {owner}",
        parent_table = quoted_table(parent),
        parent_key = quoted(&parent.key.name),
        value = key_value("w.pk", parent.key.kind),
        child_table = quoted_table(child),
        refer = refer.join(" AND "),
    )
}
