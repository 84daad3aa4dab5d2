//! Whether projected rows refer to business rows of other users.
//!
//! Such a row would hold its parent: the owner's delete of that would fail, and
//! tell of the other user. One statement for all tables, built at start from the
//! catalogue's names. It is run once the database has checked its own foreign
//! keys, which has locked the parents: what it sees then, stays.

use super::expressions::{key_value, query, quoted, quoted_table};
use super::work::{Trouble, Work, Writer};
use crate::projection::{Column, Kind, Projection, STANDS_ON_ANOTHERS};
use sqlx::PgConnection;
use std::collections::HashSet;
use uuid::Uuid;

/// What is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Numbers of the tables with references to the keys of projected ones.
    children: HashSet<i32>,
    sql: String,
}

impl Standing {
    /// `tables` are the projected ones with their numbers.
    pub(super) fn new(tables: &[(&Projection, i32)]) -> Self {
        let mut children = HashSet::new();
        let mut branches = Vec::new();
        for (child, number) in tables {
            for column in &child.columns {
                for parent in &column.refers_to {
                    let parent = tables.iter().find(|(table, _)| table.table == *parent);
                    if let Some((parent, parent_key)) = parent {
                        children.insert(*number);
                        branches.push(branch(child, *number, &column.column, parent, *parent_key));
                    }
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
        let names = || written.iter().map(|work| work.user_id.as_str());
        let is_anothers: bool = query(&self.sql)
            .bind(written.iter().map(|w| w.table_key).collect::<Vec<_>>())
            .bind(written.iter().map(|w| w.pk).collect::<Vec<_>>())
            .bind(written.iter().map(|w| w.user).collect::<Vec<_>>())
            .bind(names().collect::<Vec<_>>())
            .bind(names().map(|n| Uuid::try_parse(n).ok()).collect::<Vec<_>>())
            .fetch_one(connection)
            .await
            .and_then(|row| sqlx::Row::try_get(&row, 0))?;
        if is_anothers {
            return Err(Trouble::Data(STANDS_ON_ANOTHERS.to_owned()));
        }
        Ok(())
    }
}

/// Whether a row of one table refers to somebody else's by one column. $1–$5 the
/// written rows: table, key, user's number, user's name, and that as a UUID. What
/// in_business calls visible counts here.
fn branch(
    child: &Projection,
    number: i32,
    column: &Column,
    parent: &Projection,
    parent_key: i32,
) -> String {
    let key = reference_as_uuid(column);
    let is_anothers = match &parent.owner {
        Some(owner) if owner.kind == Kind::Uuid => {
            format!("(p.{} = w.uuid) IS NOT TRUE", quoted(&owner.name))
        }
        Some(owner) => format!("(p.{}::text = w.name) IS NOT TRUE", quoted(&owner.name)),
        None => format!(
            "EXISTS (SELECT FROM oversync.owners o \
             WHERE o.table_key = {parent_key} AND o.pk = {key} AND o.user_key <> w.user_key)"
        ),
    };
    format!(
        "EXISTS (SELECT FROM unnest($1::integer[], $2::uuid[], $3::bigint[], $4::text[], $5::uuid[]) \
             AS w (table_key, pk, user_key, name, uuid) \
         JOIN {child_table} b ON b.{child_key} = {child_value} \
         JOIN {parent_table} p ON p.{parent_key_name} = {parent_value} \
         WHERE w.table_key = {number} AND {is_anothers})",
        child_table = quoted_table(child),
        child_key = quoted(&child.key.name),
        child_value = key_value("w.pk", child.key.kind),
        parent_table = quoted_table(parent),
        parent_key_name = quoted(&parent.key.name),
        parent_value = key_value(&format!("({key})"), parent.key.kind),
    )
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
