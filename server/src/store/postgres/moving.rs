//! Taking in a moved database: the server's own tables by COPY, then the business
//! tables by the statements that uploads use.
//!
//! From the first row on the epoch is marked as unfinished: no server starts on it
//! before everything is there and found right.

use super::recovery::{Target, connect, contents, refuse_foreign};
use super::work::Passing;
use super::{Held, PostgresStore, run_steps};
use crate::projection::{Projection, Retried};
use crate::store::moving::{MOVED, Meta, MovedAway, Piece, Standing};
use crate::store::recovery::{Contents, Far, Mark, NotBegun};
use crate::store::{
    Commit, DeviceKey, DeviceWrite, NewEntry, Revision, Show, Store as _, StoreError, UserKey,
    op_from_code, stored_user,
};
use bytestring::ByteString;
use oversync_shared::upload::{Fingerprint, RowAt, RowState, RowWrite};
use oversync_shared::{ChangeId, DeviceId, RowKey, RowVersion, ServerId, UserId};
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row as _};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Rows that are projected in one transaction.
const CHUNK: i64 = 500;

/// Where a database is moved to.
pub(crate) struct Destination {
    connection: PgConnection,
    store: PostgresStore,
    /// The epoch that it has until it is finished.
    pub(crate) unfinished: String,
}

fn failed(problem: &str) -> StoreError {
    StoreError::Failed(problem.to_owned())
}

impl Destination {
    /// Reaches a database that has none of the server's own tables. Business tables may
    /// be there. Nothing is written yet.
    pub(crate) async fn reach(url: &str) -> Result<Self, StoreError> {
        let mut connection = connect(url).await?;
        let is_free: bool = sqlx::query_scalar("SELECT to_regnamespace('oversync') IS NULL")
            .fetch_one(&mut connection)
            .await?;
        if !is_free {
            return Err(failed(
                "the database has the schema oversync already: move into one without it, and with empty business tables",
            ));
        }
        Ok(Self {
            connection,
            store: PostgresStore::connect(url).await?,
            unfinished: Mark::Move.epoch(),
        })
    }

    /// Makes the server's own tables there, empty and marked.
    pub(crate) async fn create(&mut self) -> Result<(), StoreError> {
        run_steps(&mut self.connection).await?;
        let marked =
            sqlx::query("INSERT INTO oversync.meta (epoch) VALUES ($1) ON CONFLICT DO NOTHING")
                .bind(&self.unfinished)
                .execute(&mut self.connection)
                .await?;
        if marked.rows_affected() == 0 {
            return Err(failed("a server has started on the database"));
        }
        Ok(())
    }

    /// Takes all rows, in one transaction.
    pub(crate) async fn take(
        &mut self,
        pieces: &mut mpsc::Receiver<Piece>,
        expected: u64,
        progress: &mut (dyn FnMut(Far) + Send),
    ) -> Result<(), StoreError> {
        let mut tx = self.connection.begin().await?;
        let mut far = Far {
            done: 0,
            of: expected,
        };
        while let Some(piece) = pieces.recv().await {
            let moved = &MOVED[piece.table];
            let sql = format!(
                "COPY oversync.{} ({}) FROM STDIN",
                moved.name,
                moved.names()
            );
            let mut copy = tx.copy_in_raw(&sql).await?;
            copy.send(piece.lines.as_bytes()).await?;
            let taken = copy.finish().await?;
            if taken != piece.rows {
                return Err(failed("rows were lost on their way"));
            }
            far.done += taken;
            progress(far);
        }
        // New users and tables are numbered above those.
        for (table, column) in [("users", "user_key"), ("tables", "table_key")] {
            let sql = format!(
                "SELECT setval(pg_get_serial_sequence('oversync.{table}', '{column}'), max({column})) \
                 FROM oversync.{table} HAVING max({column}) IS NOT NULL"
            );
            sqlx::query(sqlx::AssertSqlSafe(sql))
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        // Nobody has looked at them: without this, the first hours have plans for nothing.
        sqlx::raw_sql("ANALYZE oversync.users, oversync.devices, oversync.rows, oversync.log")
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// The server's way to it, for business rows.
    pub(crate) fn store(&self) -> &PostgresStore {
        &self.store
    }

    /// What it holds now.
    pub(crate) async fn contents(&mut self) -> Result<Contents, StoreError> {
        contents(&mut self.connection).await
    }

    /// Lets servers start: the history goes on here.
    pub(crate) async fn finish(mut self, meta: &Meta) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE oversync.meta SET epoch = $1, revocations = $2, first_head = $3 WHERE epoch = $4",
        )
        .bind(&meta.epoch)
        .bind(meta.revocations)
        .bind(meta.first_head)
        .bind(&self.unfinished)
        .execute(&mut self.connection)
        .await?;
        if done.rows_affected() != 1 {
            return Err(failed("somebody else has begun a history in the database"));
        }
        Ok(self.connection.close().await?)
    }
}

impl Target {
    /// Gives a history back to the file that it was moved from: no server starts here
    /// from now on. Refused where the streams are not as they came, whoever has written.
    pub(crate) async fn give_back(
        &mut self,
        epoch: &str,
        came: Standing,
        gone: &MovedAway,
    ) -> Result<(), NotBegun> {
        refuse_foreign(&mut self.connection).await?;
        self.refuse_servers().await?;
        self.begin_alone().await?;
        Ok(self.given_back(epoch, came, gone).await?)
    }

    /// Ends the transaction in which it is alone.
    async fn given_back(
        &mut self,
        epoch: &str,
        came: Standing,
        gone: &MovedAway,
    ) -> Result<(), StoreError> {
        let now: String = sqlx::query_scalar("SELECT epoch FROM oversync.meta")
            .fetch_one(&mut self.connection)
            .await?;
        // It was not finished, or has been given back and the file not heard of it.
        if now == gone.unfinished {
            return Ok(());
        }
        if now != epoch {
            return Err(failed(
                "the database holds another history than the file: name the one that the file was moved to, \
                 or begin a new history in the file: oversync restore --in-place --database-url sqlite://FILE",
            ));
        }
        let sql = Standing::sql("oversync.users", "oversync.meta");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .fetch_one(&mut self.connection)
            .await?;
        let mut numbers = Standing::default();
        for (place, number) in numbers.0.iter_mut().enumerate() {
            *number = row.try_get(place)?;
        }
        if numbers != came {
            return Err(failed(
                "something was written into the database, folded or revoked there since the move: going back as if \
                 it had not been would lose that without a word; begin a new history in the file instead, and devices \
                 send again what they have: oversync restore --in-place --database-url sqlite://FILE",
            ));
        }
        sqlx::query("UPDATE oversync.meta SET epoch = $1")
            .bind(&gone.unfinished)
            .execute(&mut self.connection)
            .await?;
        sqlx::query("COMMIT").execute(&mut self.connection).await?;
        Ok(())
    }
}

impl PostgresStore {
    /// Writes all live rows into their business tables, user by user, parents first.
    /// What cannot be written stands in the failure list, as ever. How many rows.
    pub(crate) async fn fill_business(
        &self,
        progress: &mut (dyn FnMut(Far) + Send),
    ) -> Result<u64, StoreError> {
        let tables = self.tables();
        let mut projections: Vec<&Projection> = tables.projections.iter().flatten().collect();
        projections.sort_by_key(|projection| projection.rank);
        let mut far = Far { done: 0, of: 0 };
        let mut failures = 0;
        let mut after = i64::MIN;
        loop {
            let users: Vec<(i64, String)> = sqlx::query_as(
                "SELECT user_key, user_id FROM oversync.users WHERE user_key > $1 ORDER BY user_key LIMIT $2",
            )
            .bind(after)
            .bind(CHUNK)
            .fetch_all(&self.pool)
            .await?;
            let Some((last, _)) = users.last() else {
                break;
            };
            after = *last;
            for (user, name) in users {
                let name = stored_user(name)?;
                for projection in &projections {
                    failures += self
                        .fill(user, &name, projection, &mut far, progress)
                        .await?;
                }
            }
        }
        if failures > 0 {
            self.fill_again().await?;
        }
        Ok(far.done)
    }

    /// One table of one user; how many rows could not be written.
    async fn fill(
        &self,
        user: i64,
        name: &UserId,
        projection: &Projection,
        far: &mut Far,
        progress: &mut (dyn FnMut(Far) + Send),
    ) -> Result<usize, StoreError> {
        let mut failures = 0;
        let mut after: Option<Uuid> = None;
        loop {
            let rows = sqlx::query(
                "SELECT r.pk, r.version, r.server_id, l.op, l.payload FROM oversync.rows r \
                 JOIN oversync.log l ON l.user_key = r.user_key AND l.server_id = r.server_id \
                 WHERE r.user_key = $1 AND r.table_key = $2 AND ($3::uuid IS NULL OR r.pk > $3) AND NOT r.deleted \
                 ORDER BY r.pk LIMIT $4",
            )
            .bind(user)
            .bind(self.table_key(projection.table))
            .bind(after)
            .bind(CHUNK)
            .fetch_all(&self.pool)
            .await?;
            let Some(last) = rows.last() else {
                return Ok(failures);
            };
            after = Some(last.try_get(0)?);
            let commit = as_written(UserKey(user), name, projection, &rows)?;
            // Nobody asks when it was taken.
            let held = Held::from([(user, OffsetDateTime::UNIX_EPOCH)]);
            let mut tx = self.pool.begin().await?;
            failures += self
                .project(&mut tx, &[commit], &held, Passing::IsTheRows)
                .await?;
            tx.commit().await?;
            far.done += rows.len() as u64;
            progress(*far);
        }
    }

    /// Rows that need one another, and came before what they need. Those that nobody
    /// writes here, a handler's among them, keep the failures that they came with.
    async fn fill_again(&self) -> Result<(), StoreError> {
        let projections = self.tables().projections.iter().flatten();
        let written: Vec<i32> = projections
            .map(|projection| self.table_key(projection.table))
            .collect();
        loop {
            let listed: Vec<(String, i64)> = sqlx::query_as(
                "SELECT u.user_id, f.id FROM oversync.failures f JOIN oversync.users u USING (user_key) \
                 WHERE f.table_key = ANY ($1) ORDER BY u.user_key, f.id",
            )
            .bind(&written)
            .fetch_all(&self.pool)
            .await?;
            let mut has_moved = false;
            for (user, failure) in listed {
                let user = stored_user(user)?;
                let retried = self.retry(&user, failure).await?;
                has_moved |= matches!(retried, Retried::Projected(_));
            }
            if !has_moved {
                return Ok(());
            }
        }
    }
}

/// Rows as if they were written just now. Only their business rows are.
fn as_written(
    user: UserKey,
    user_id: &UserId,
    projection: &Projection,
    rows: &[PgRow],
) -> Result<Commit, StoreError> {
    let mut commit = Commit {
        user,
        user_id: user_id.clone(),
        epoch: "".into(),
        revision: Revision(0),
        head: ServerId::ZERO,
        device: DeviceWrite {
            key: DeviceKey::SERVER,
            id: DeviceId::server(),
            highest: ChangeId::new(0),
            settled_below: None,
        },
        entries: Vec::with_capacity(rows.len()),
        rows: Vec::with_capacity(rows.len()),
        show: Show::default(),
    };
    for row in rows {
        let at = RowAt {
            table: projection.table,
            key: RowKey::new(row.try_get(0)?),
        };
        let version = RowVersion::new(row.try_get(1)?);
        let server_id = ServerId::new(row.try_get(2)?);
        let payload: Option<String> = row.try_get(4)?;
        commit.entries.push(NewEntry {
            server_id,
            row: at,
            op: op_from_code(row.try_get::<i16, _>(3)?.into())?,
            version,
            change_id: ChangeId::new(0),
            fingerprint: Fingerprint([0; 16]),
            payload: payload.map(ByteString::from),
        });
        commit.rows.push(RowWrite {
            row: at,
            base: RowVersion::NEVER_SEEN,
            state: RowState {
                version,
                deleted: false,
                at: server_id,
            },
        });
    }
    Ok(commit)
}
