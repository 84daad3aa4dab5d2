//! The uploads of a group commit, turned into the arrays that `commit.sql`
//! takes.

use crate::store::{Commit, op_code};
use oversync_shared::{ChangeId, RowVersion, TableIx};
use uuid::Uuid;

/// The uploads of a group commit, column by column, as `commit.sql` takes them.
#[derive(Default)]
pub(super) struct Columns<'a> {
    users: Vec<i64>,
    user_ids: Vec<&'a str>,
    epochs: Vec<&'a str>,
    revisions: Vec<i64>,
    heads: Vec<i64>,
    writes: Vec<bool>,
    device_users: Vec<i64>,
    device_keys: Vec<i32>,
    device_ids: Vec<&'a str>,
    device_highest: Vec<i64>,
    device_settled: Vec<Option<i64>>,
    entry_users: Vec<i64>,
    entry_server_ids: Vec<i64>,
    entry_change_ids: Vec<i64>,
    entry_versions: Vec<i64>,
    entry_devices: Vec<i32>,
    entry_tables: Vec<i32>,
    entry_ops: Vec<i16>,
    entry_keys: Vec<Uuid>,
    entry_fingerprints: Vec<&'a [u8]>,
    entry_payloads: Vec<Option<&'a str>>,
    fresh: RowColumns,
    changed: RowColumns,
}

#[derive(Default)]
struct RowColumns {
    users: Vec<i64>,
    tables: Vec<i32>,
    keys: Vec<Uuid>,
    versions: Vec<i64>,
    server_ids: Vec<i64>,
    deleted: Vec<bool>,
}

impl<'a> Columns<'a> {
    pub(super) fn collect(commits: &'a [Commit], table_key: impl Fn(TableIx) -> i32) -> Self {
        let mut all = Self::default();
        for commit in commits {
            let user = commit.user.0;
            all.users.push(user);
            all.user_ids.push(commit.user_id.as_str());
            all.epochs.push(&commit.epoch);
            all.revisions.push(commit.revision.0);
            all.heads.push(commit.head.get());
            all.writes.push(!commit.entries.is_empty());
            if !commit.entries.is_empty() {
                all.device_users.push(user);
                all.device_keys.push(commit.device.key.0);
                all.device_ids.push(commit.device.id.as_str());
                all.device_highest.push(commit.device.highest.get());
                all.device_settled
                    .push(commit.device.settled_below.map(ChangeId::get));
            }
            for entry in &commit.entries {
                all.entry_users.push(user);
                all.entry_server_ids.push(entry.server_id.get());
                all.entry_change_ids.push(entry.change_id.get());
                all.entry_versions.push(entry.version.get());
                all.entry_devices.push(commit.device.key.0);
                all.entry_tables.push(table_key(entry.row.table));
                all.entry_ops.push(op_code(entry.op));
                all.entry_keys.push(entry.row.key.uuid());
                all.entry_fingerprints.push(&entry.fingerprint.0);
                all.entry_payloads.push(entry.payload.as_deref());
            }
            for write in &commit.rows {
                let columns = if write.base == RowVersion::NEVER_SEEN {
                    &mut all.fresh
                } else {
                    &mut all.changed
                };
                columns.users.push(user);
                columns.tables.push(table_key(write.row.table));
                columns.keys.push(write.row.key.uuid());
                columns.versions.push(write.state.version.get());
                columns.server_ids.push(write.state.at.get());
                columns.deleted.push(write.state.deleted);
            }
        }
        all
    }

    pub(super) fn query(
        &'a self,
    ) -> sqlx::query::Query<'a, sqlx::Postgres, sqlx::postgres::PgArguments> {
        let mut query = sqlx::query(include_str!("commit.sql"))
            .bind(&self.users)
            .bind(&self.revisions)
            .bind(&self.heads)
            .bind(&self.writes)
            .bind(&self.device_users)
            .bind(&self.device_keys)
            .bind(&self.device_ids)
            .bind(&self.device_highest)
            .bind(&self.entry_users)
            .bind(&self.entry_server_ids)
            .bind(&self.entry_change_ids)
            .bind(&self.entry_versions)
            .bind(&self.entry_devices)
            .bind(&self.entry_tables)
            .bind(&self.entry_ops)
            .bind(&self.entry_keys)
            .bind(&self.entry_fingerprints)
            .bind(&self.entry_payloads);
        for rows in [&self.fresh, &self.changed] {
            query = query
                .bind(&rows.users)
                .bind(&rows.tables)
                .bind(&rows.keys)
                .bind(&rows.versions)
                .bind(&rows.server_ids)
                .bind(&rows.deleted);
        }
        query
            .bind(&self.user_ids)
            .bind(&self.epochs)
            .bind(&self.device_settled)
    }
}
