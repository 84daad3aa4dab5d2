//! Whether projected rows refer to business rows of other users.
//!
//! Such a row would hold its parent: the owner's delete of that would fail, and
//! tell of the other user. One statement for all tables, built at start from the
//! catalogue's names. It is run once the database has checked its own foreign
//! keys, which has locked the parents: what it sees then, stays.

use super::expressions::{key_value, owner_name, query, quoted, quoted_table};
use super::lookup::key_as_uuid;
use super::work::{Trouble, Work, Writer};
use crate::projection::{Column, Footing, Kind, Projection, STANDS_ON_ANOTHERS};
use oversync_shared::TableIx;
use sqlx::PgConnection;
use std::collections::HashSet;

/// What is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Numbers of the tables that refer to projected ones.
    children: HashSet<i32>,
    sql: String,
}

impl Standing {
    /// `tables` are the projected ones with their numbers.
    pub(super) fn new(tables: &[(&Projection, i32)]) -> Self {
        let mut children = HashSet::new();
        let mut branches = Vec::new();
        for (child, number) in tables {
            let find = |parent: TableIx| tables.iter().find(|(table, _)| table.table == parent);
            for column in &child.columns {
                for (parent, parent_number) in column.refers_to.iter().filter_map(|ix| find(*ix)) {
                    let on = by_key(&column.column, parent);
                    branches.push(branch((child, *number), &on, (parent, *parent_number)));
                    children.insert(*number);
                }
            }
            for footing in &child.footings {
                if let Some((parent, parent_number)) = find(footing.parent) {
                    let on = by_columns(footing);
                    branches.push(branch((child, *number), &on, (parent, *parent_number)));
                    children.insert(*number);
                }
            }
        }
        Self {
            children,
            sql: format!("SELECT {}", branches.join(" OR ")),
        }
    }

    /// Fails where one of these rows, which are written, refers to somebody
    /// else's.
    pub(super) async fn check(
        &self,
        connection: &mut PgConnection,
        work: &[Work<'_>],
        indexes: &[usize],
    ) -> Result<(), Trouble> {
        let written: Vec<&Work<'_>> = indexes
            .iter()
            .map(|index| &work[*index])
            .filter(|work| matches!(work.writer, Writer::Projection(_)) && work.payload.is_some())
            .filter(|work| self.children.contains(&work.table_key))
            .collect();
        if written.is_empty() {
            return Ok(());
        }
        let is_anothers: bool = query(&self.sql)
            .bind(written.iter().map(|w| w.table_key).collect::<Vec<_>>())
            .bind(written.iter().map(|w| w.pk).collect::<Vec<_>>())
            .bind(written.iter().map(|w| w.user).collect::<Vec<_>>())
            .bind(
                written
                    .iter()
                    .map(|w| w.user_id.as_str())
                    .collect::<Vec<_>>(),
            )
            .fetch_one(connection)
            .await
            .and_then(|row| sqlx::Row::try_get(&row, 0))?;
        if is_anothers {
            return Err(Trouble::Data(STANDS_ON_ANOTHERS.to_owned()));
        }
        Ok(())
    }
}

/// Whether a row of one table refers to somebody else's of another. $1–$4 the
/// written rows: table, key, user's number, user's name. `b` is the row, `p` what it
/// refers to. What in_business calls visible counts here.
fn branch(
    (child, number): (&Projection, i32),
    on: &str,
    (parent, parent_number): (&Projection, i32),
) -> String {
    let is_anothers = match &parent.owner {
        Some(owner) => format!("({} = w.name) IS NOT TRUE", owner_name("p", owner)),
        None => format!(
            "EXISTS (SELECT FROM oversync.owners o \
             WHERE o.table_key = {parent_number} AND o.pk = {key} AND o.user_key <> w.user_key)",
            key = key_as_uuid("p", &parent.key.name, parent.key.kind)
        ),
    };
    format!(
        "EXISTS (SELECT FROM unnest($1::integer[], $2::uuid[], $3::bigint[], $4::text[]) \
             AS w (table_key, pk, user_key, name) \
         JOIN {child_table} b ON b.{child_key} = {child_value} \
         JOIN {parent_table} p ON {on} \
         WHERE w.table_key = {number} AND {is_anothers})",
        child_table = quoted_table(child),
        child_key = quoted(&child.key.name),
        child_value = key_value("w.pk", child.key.kind),
        parent_table = quoted_table(parent),
    )
}

/// By the parent's key, in whatever form the column holds it.
fn by_key(column: &Column, parent: &Projection) -> String {
    let key = reference_as_uuid(column);
    format!(
        "p.{} = {}",
        quoted(&parent.key.name),
        key_value(&format!("({key})"), parent.key.kind)
    )
}

/// As the database compares them itself.
fn by_columns(footing: &Footing) -> String {
    let columns = footing.columns.iter();
    let equal = columns.map(|(here, there)| format!("p.{} = b.{}", quoted(there), quoted(here)));
    equal.collect::<Vec<_>>().join(" AND ")
}

/// A column of references as a UUID; NULL where it holds none.
fn reference_as_uuid(column: &Column) -> String {
    let value = format!("b.{}", quoted(&column.name));
    match column.kind {
        Kind::Uuid => value,
        Kind::Bytes => {
            format!("CASE WHEN octet_length({value}) = 16 THEN encode({value}, 'hex')::uuid END")
        }
        _ => format!(
            "CASE WHEN {value}::text ~* '^[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}$' THEN {value}::text::uuid END"
        ),
    }
}
