//! A group commit: the uploads of many users in one transaction, their business rows
//! with them.

use super::columns::Columns;
use super::work::{self, Passing, Work, Writer};
use super::{PostgresStore, failures, project};
use crate::store::handler::Before;
use crate::store::{Commit, NewEntry, Outcome, StoreError, op_code};
use oversync_shared::{RowVersion, ServerId};
use sqlx::postgres::PgRow;
use sqlx::{Postgres, Row as _, Transaction};
use std::collections::HashMap;
use time::OffsetDateTime;

/// The users whose uploads a group commit has written, and when.
pub(super) type Held = HashMap<i64, OffsetDateTime>;

/// How often a group is written before a fault that should pass is the fault of the
/// row it came with. A deadlock has passed by the second time; each takes a second.
const GROUP_TRIES: usize = 3;

/// Where a group commit went wrong.
enum GroupFault {
    /// Business rows were being written: nothing is committed.
    Projecting(sqlx::Error),
    /// Anywhere else, the COMMIT included, of which nobody knows how it ended.
    Other(sqlx::Error),
}

impl From<sqlx::Error> for GroupFault {
    fn from(error: sqlx::Error) -> Self {
        Self::Other(error)
    }
}

impl PostgresStore {
    /// Writes what may be written of a group; see [`Store::commit`](crate::store::Store::commit).
    pub(super) async fn commit_group(
        &self,
        commits: Vec<Commit>,
    ) -> Result<Vec<Outcome>, StoreError> {
        // Entries never change, so what a conflict shows can be read before the
        // guard; the guard then proves that it was current.
        let shown = self.show(&commits).await?;
        let all = commits.len();
        let (to_write, places): (Vec<Commit>, Vec<usize>) = commits
            .into_iter()
            .zip(0..all)
            .filter(|(_, place)| shown[*place].is_some())
            .unzip();
        let held = match self.write_patiently(&to_write).await {
            Ok(held) => held,
            // A deadlock or the like, or somebody's head row that was not to be had
            // in time: the transaction is gone, and with it all of the group.
            // Everybody decides again and comes back.
            Err(sqlx::Error::Database(cause))
                if cause
                    .code()
                    .is_some_and(|code| code.starts_with("40") || code == "55P03") =>
            {
                tracing::warn!(%cause, "a group commit was rolled back and is decided anew");
                Held::new()
            }
            Err(error) => return Err(error.into()),
        };
        let mut outcomes: Vec<Outcome> = vec![Outcome::TooMuchToShow; all];
        let mut shown = shown;
        for (commit, place) in to_write.iter().zip(places) {
            let payloads = shown[place].take().unwrap_or_default();
            let is_complete = payloads.len() == commit.show.entries.len();
            outcomes[place] = match held.get(&commit.user.0) {
                Some(at) if is_complete => Outcome::Done {
                    shown: payloads,
                    at: *at,
                },
                _ => Outcome::LeftOut,
            };
        }
        Ok(outcomes)
    }

    /// Writes the rows of committed uploads into their business tables, in the
    /// same transaction; how many could not be.
    pub(super) async fn project(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        commits: &[Commit],
        held: &Held,
        passing: Passing,
    ) -> Result<usize, sqlx::Error> {
        let mut work = Vec::new();
        for commit in commits
            .iter()
            .filter(|commit| held.contains_key(&commit.user.0))
        {
            let payloads: HashMap<ServerId, &NewEntry> = commit
                .entries
                .iter()
                .map(|entry| (entry.server_id, entry))
                .collect();
            for write in &commit.rows {
                let Some(writer) = self.tables().writer(write.row.table.index()) else {
                    continue;
                };
                let entry = payloads[&write.state.at];
                work.push(Work {
                    user: commit.user.0,
                    user_id: &commit.user_id,
                    writer,
                    before: if write.base == RowVersion::NEVER_SEEN {
                        Before::NeverSeen
                    } else {
                        Before::Seen
                    },
                    table_key: self.table_key(write.row.table),
                    pk: write.row.key.uuid(),
                    version: write.state.version,
                    payload: entry.payload.as_deref(),
                    op: op_code(entry.op),
                    columns: match (writer, &entry.payload) {
                        (Writer::Projection(projection), Some(payload)) => {
                            work::present(projection, &commit.user_id, payload, |members| {
                                let names = members.iter().map(|(name, _)| name);
                                self.unknown.look(projection, names);
                            })
                        }
                        _ => Ok(Vec::new()),
                    },
                    cascades: &self.tables().cascades,
                    standing: &self.tables().standing,
                });
            }
        }
        if work.is_empty() {
            return Ok(0);
        }
        work.sort_by_key(Work::order);
        let done = project::project(tx, &work, passing).await?;
        failures::record(tx, &work, &done).await?;
        Ok(done.failed.len())
    }

    /// Reads what the answers show; `None` for an upload that shows too much.
    /// The sizes come first, so that what is too much is never read.
    async fn show(
        &self,
        commits: &[Commit],
    ) -> Result<Vec<Option<HashMap<ServerId, Option<String>>>>, StoreError> {
        let mut all = Vec::with_capacity(commits.len());
        for commit in commits {
            all.push(if commit.show.entries.is_empty() {
                Some(HashMap::new())
            } else {
                self.show_one(commit).await?
            });
        }
        Ok(all)
    }

    async fn show_one(
        &self,
        commit: &Commit,
    ) -> Result<Option<HashMap<ServerId, Option<String>>>, StoreError> {
        let ids: Vec<i64> = commit.show.entries.keys().map(|id| id.get()).collect();
        let times: Vec<i64> = commit.show.entries.values().map(|n| *n as i64).collect();
        let bytes: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(octet_length(l.payload) * w.times), 0)::bigint \
             FROM unnest($2::bigint[], $3::bigint[]) AS w (server_id, times) \
             JOIN oversync.log l ON l.user_key = $1 AND l.server_id = w.server_id",
        )
        .bind(commit.user.0)
        .bind(&ids)
        .bind(times)
        .fetch_one(&self.pool)
        .await?;
        if bytes as usize > commit.show.max_bytes {
            return Ok(None);
        }
        let rows = sqlx::query(
            "SELECT l.server_id, l.payload FROM oversync.log l \
             WHERE l.user_key = $1 AND l.server_id = ANY ($2::bigint[])",
        )
        .bind(commit.user.0)
        .bind(ids)
        .fetch_all(&self.pool)
        .await?;
        let shown = rows
            .iter()
            .map(|row| Ok((ServerId::new(row.try_get(0)?), row.try_get(1)?)));
        Ok(Some(shown.collect::<Result<_, sqlx::Error>>()?))
    }

    /// Writes a group in one transaction; the users whose uploads were written.
    async fn write_group(&self, commits: &[Commit], passing: Passing) -> Result<Held, GroupFault> {
        let columns = Columns::collect(commits, |table| self.table_key(table));
        let read_held = |rows: Vec<PgRow>| -> Held {
            rows.iter().map(|row| (row.get(0), row.get(1))).collect()
        };
        if !self.tables().any_written {
            // One statement is its own transaction.
            return Ok(read_held(columns.query().fetch_all(&self.pool).await?));
        }
        let mut tx = self.pool.begin().await?;
        let written = async {
            let held = read_held(columns.query().fetch_all(&mut *tx).await?);
            let failed = self.project(&mut tx, commits, &held, passing).await;
            Ok((held, failed.map_err(GroupFault::Projecting)?))
        };
        let (held, failed) = match written.await {
            Ok(written) => written,
            Err(fault) => {
                // Before the next try: it passes over head rows that are still locked. An
                // error means that the connection is gone, and so are its locks.
                let _ = tx.rollback().await;
                return Err(fault);
            }
        };
        tx.commit().await?;
        // What was taken back did not happen.
        crate::meters::projection_failures(failed);
        Ok(held)
    }

    /// The same, again while a fault of the database may pass: each time all of the
    /// group is taken back. What does not pass fails the row that it came with.
    async fn write_patiently(&self, commits: &[Commit]) -> Result<Held, sqlx::Error> {
        for left in (0..GROUP_TRIES).rev() {
            let passing = if left > 0 {
                Passing::TakesBack
            } else {
                Passing::IsTheRows
            };
            match self.write_group(commits, passing).await {
                Err(GroupFault::Projecting(sqlx::Error::Database(cause)))
                    if left > 0 && work::is_passing(&*cause) =>
                {
                    tracing::warn!(%cause, "a group commit was rolled back and is tried again");
                }
                Ok(held) => return Ok(held),
                Err(GroupFault::Projecting(error) | GroupFault::Other(error)) => return Err(error),
            }
        }
        unreachable!("BUG: the last try ends")
    }
}
