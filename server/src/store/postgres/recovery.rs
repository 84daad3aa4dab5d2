//! Looking at a PostgreSQL database for its backup, and beginning a new history in one
//! that was restored.
//!
//! The rows are read by PostgreSQL's own programs; what is asked here is asked in the
//! same snapshot.

use super::{connect_options, migrate};
use crate::store::StoreError;
use crate::store::recovery::{
    Begun, Contents, Mark, NotBegun, check_room, refuse_half_moved, refuse_unfinished,
};
use sqlx::{Connection as _, PgConnection};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

/// What `pg_stat_activity` shows of programs that are no server.
const RECOVERY_NAME: &str = "oversync recovery";

/// How long the connections of a server that has ended may take to go.
const GOING: Duration = Duration::from_secs(3);

/// A database as it was at one moment, as long as this lives.
pub(crate) struct Moment {
    connection: PgConnection,
    /// For programs that are to see the same.
    pub(crate) snapshot: String,
    /// What it holds.
    pub(crate) contents: Contents,
    /// About how large it is, in bytes.
    pub(crate) bytes: u64,
    /// The server's major version.
    pub(crate) major: u32,
    /// Whether large objects are in it, which no server of this program makes.
    pub(crate) has_large_objects: bool,
}

/// One connection for this, and no pool: a server is known by its name.
pub(super) async fn connect(url: &str) -> Result<PgConnection, StoreError> {
    let options = connect_options(url)?
        .application_name(RECOVERY_NAME)
        .options([
            // What is said to be done is durable, whatever the database's default.
            ("synchronous_commit", "on"),
            // A snapshot is held for as long as a dump takes.
            ("idle_in_transaction_session_timeout", "0"),
            ("statement_timeout", "0"),
        ]);
    Ok(PgConnection::connect_with(&options).await?)
}

impl Moment {
    /// Now.
    pub(crate) async fn of(url: &str) -> Result<Self, StoreError> {
        let mut connection = connect(url).await?;
        sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .execute(&mut connection)
            .await?;
        refuse_foreign(&mut connection).await?;
        let contents = contents(&mut connection).await?;
        refuse_unfinished(&contents.epoch)?;
        let (snapshot, bytes, has_large_objects): (String, i64, bool) = sqlx::query_as(
            "SELECT pg_export_snapshot(), pg_database_size(current_database()), \
             EXISTS (SELECT FROM pg_largeobject_metadata)",
        )
        .fetch_one(&mut connection)
        .await?;
        let major = major(&mut connection).await?;
        Ok(Self {
            connection,
            snapshot,
            contents,
            bytes: bytes.unsigned_abs(),
            major,
            has_large_objects,
        })
    }

    /// It is not needed any more.
    pub(crate) async fn end(self) -> Result<(), StoreError> {
        Ok(self.connection.close().await?)
    }
}

/// Refuses a database that is not one of this program.
pub(super) async fn refuse_foreign(connection: &mut PgConnection) -> Result<(), StoreError> {
    let is_ours: bool = sqlx::query_scalar("SELECT to_regclass('oversync.meta') IS NOT NULL")
        .fetch_one(connection)
        .await?;
    match is_ours {
        true => Ok(()),
        false => Err(StoreError::Failed(
            "the database holds no data of oversync".to_owned(),
        )),
    }
}

/// The server's major version.
async fn major(connection: &mut PgConnection) -> Result<u32, StoreError> {
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int")
        .fetch_one(connection)
        .await?;
    Ok(version.unsigned_abs() / 10_000)
}

/// What a database of this program holds.
pub(super) async fn contents(connection: &mut PgConnection) -> Result<Contents, StoreError> {
    let epoch: Option<String> = sqlx::query_scalar("SELECT epoch FROM oversync.meta")
        .fetch_optional(&mut *connection)
        .await?;
    let (schema_step, users, entries): (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT coalesce(max(version), 0) FROM oversync._migrations WHERE success), \
         (SELECT count(*) FROM oversync.users), (SELECT count(*) FROM oversync.log)",
    )
    .fetch_one(&mut *connection)
    .await?;
    Ok(Contents {
        epoch: epoch.unwrap_or_default(),
        schema_step,
        users,
        entries,
    })
}

/// A database that is to be restored.
pub(crate) struct Target {
    pub(super) connection: PgConnection,
}

/// A device that may not come in: user, device, since when.
pub(crate) type Refused = (String, String, OffsetDateTime);

impl Target {
    /// Connects to it.
    pub(crate) async fn open(url: &str) -> Result<Self, StoreError> {
        let connection = connect(url).await?;
        Ok(Self { connection })
    }

    /// How many connections of servers there are. Every server has some at all times:
    /// it looks at the list of revoked devices every two seconds. Behind a pooler
    /// that gives connections other names they are not seen.
    pub(super) async fn servers(&mut self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name = 'oversync' AND pid <> pg_backend_pid()",
        )
        .fetch_one(&mut self.connection)
        .await?)
    }

    /// Whether nobody has made anything in it.
    pub(crate) async fn is_empty(&mut self) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar(include_str!("is_empty.sql"))
            .fetch_one(&mut self.connection)
            .await?)
    }

    /// The server's major version.
    pub(crate) async fn major(&mut self) -> Result<u32, StoreError> {
        major(&mut self.connection).await
    }

    /// Extensions that are there and that this user may not drop.
    pub(crate) async fn extensions_of_others(&mut self) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT extname::text FROM pg_extension WHERE NOT pg_has_role(extowner, 'USAGE')",
        )
        .fetch_all(&mut self.connection)
        .await?)
    }

    /// The devices that it refuses; none where it has never been a server's.
    pub(crate) async fn refused(&mut self) -> Result<Vec<Refused>, StoreError> {
        let has_list: bool =
            sqlx::query_scalar("SELECT to_regclass('oversync.revoked') IS NOT NULL")
                .fetch_one(&mut self.connection)
                .await?;
        if !has_list {
            return Ok(Vec::new());
        }
        Ok(
            sqlx::query_as("SELECT user_id, device_id, revoked_at FROM oversync.revoked")
                .fetch_all(&mut self.connection)
                .await?,
        )
    }

    /// Begins a new history, in one transaction: another epoch, every stream `step`
    /// places further up, and the devices in `refused` kept out. How far devices have
    /// read stays: they are given as long as ever to come back, from now on. A server
    /// that starts at this moment waits for the end.
    pub(crate) async fn begin_new_history(
        &mut self,
        step: i64,
        refused: &[Refused],
    ) -> Result<Begun, NotBegun> {
        refuse_foreign(&mut self.connection).await?;
        self.refuse_servers().await?;
        migrate(&mut self.connection).await?;
        let mut deadline = None;
        loop {
            let error = match self.in_transaction(step, refused).await {
                Ok(begun) => return Ok(begun),
                Err(error) => error,
            };
            // The connection may be gone, and with it the transaction.
            let _ = sqlx::query("ROLLBACK").execute(&mut self.connection).await;
            match error {
                // One that has come since waits at the epoch, is refused by the mark now
                // that it may read it, and goes.
                NotBegun::ServersRun(_)
                    if Instant::now() < *deadline.get_or_insert_with(|| Instant::now() + GOING) =>
                {
                    tokio::time::sleep(GOING / 30).await;
                }
                error => return Err(error),
            }
        }
    }

    /// Begins a transaction that no server reads or writes beside.
    pub(super) async fn begin_alone(&mut self) -> Result<(), NotBegun> {
        sqlx::raw_sql(include_str!("begin_alone.sql"))
            .execute(&mut self.connection)
            .await
            .map_err(StoreError::from)?;
        // One that comes now waits for the lock.
        match self.servers().await? {
            0 => Ok(()),
            some => Err(NotBegun::ServersRun(some)),
        }
    }

    async fn in_transaction(&mut self, step: i64, refused: &[Refused]) -> Result<Begun, NotBegun> {
        self.begin_alone().await?;
        let epoch: Option<String> = sqlx::query_scalar("SELECT epoch FROM oversync.meta")
            .fetch_optional(&mut self.connection)
            .await
            .map_err(StoreError::from)?;
        refuse_half_moved(&epoch.unwrap_or_default())?;
        let highest: i64 = sqlx::query_scalar(
            "SELECT greatest(first_head, (SELECT max(head) FROM oversync.users)) FROM oversync.meta",
        )
        .fetch_one(&mut self.connection)
        .await
        .map_err(StoreError::from)?;
        check_room(highest, step)?;
        Ok(self.write_new_history(step, refused).await?)
    }

    async fn write_new_history(
        &mut self,
        step: i64,
        refused: &[Refused],
    ) -> Result<Begun, StoreError> {
        let connection = &mut self.connection;
        sqlx::query(
            "INSERT INTO oversync.jumps (user_key, after, through) SELECT user_key, head, head + $1 FROM oversync.users",
        )
        .bind(step)
        .execute(&mut *connection)
        .await?;
        let users =
            sqlx::query("UPDATE oversync.users SET head = head + $1, revision = revision + 1")
                .bind(step)
                .execute(&mut *connection)
                .await?
                .rows_affected();
        sqlx::query(
            "UPDATE oversync.readers SET read_at = now(), seen_at = now(), fold = NULL, asked = NULL, place = NULL",
        )
        .execute(&mut *connection)
        .await?;
        for (user, device, since) in refused {
            sqlx::query(
                "INSERT INTO oversync.revoked (user_id, device_id, revoked_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            )
            .bind(user)
            .bind(device)
            .bind(since)
            .execute(&mut *connection)
            .await?;
        }
        let epoch = Uuid::new_v4().to_string();
        sqlx::query(
            "UPDATE oversync.meta SET epoch = $1, first_head = first_head + $2, revocations = revocations + $2",
        )
        .bind(&epoch)
        .bind(step)
        .execute(&mut *connection)
        .await?;
        sqlx::query("COMMIT").execute(connection).await?;
        Ok(Begun { epoch, step, users })
    }

    /// Refuses a database in which servers are. The connections of one that has just
    /// ended may be there for a moment.
    pub(crate) async fn refuse_servers(&mut self) -> Result<(), NotBegun> {
        let deadline = Instant::now() + GOING;
        loop {
            match self.servers().await? {
                0 => return Ok(()),
                some if Instant::now() >= deadline => return Err(NotBegun::ServersRun(some)),
                _ => tokio::time::sleep(GOING / 30).await,
            }
        }
    }
}

/// Has the database notice within two seconds that its client was killed, also while it
/// waits for somebody's lock: it would hold what it has locked until then. PostgreSQL knows
/// this from version 14 on, and not on every system.
pub(super) const LET_GO: &str = "DO $$ BEGIN SET client_connection_check_interval = '2s'; \
    EXCEPTION WHEN OTHERS THEN NULL; END $$;";

/// SQL before a dump is played into a database.
pub(crate) fn before_replay(replaces: bool) -> String {
    let drop = match replaces {
        // Also what a later version has made there, which the dump does not name.
        true => "DROP SCHEMA IF EXISTS oversync CASCADE;\n",
        false => "",
    };
    format!("{LET_GO}\nBEGIN;\n{drop}")
}

/// SQL after it, for psql: from its first moment on no server starts on the database
/// until the new history has begun; and the devices in `refused`, of the database that
/// is replaced, stay out however this ends.
pub(crate) fn after_replay(refused: &[Refused]) -> String {
    let mark = Mark::Restore.epoch();
    let kept = match refused {
        [] => String::new(),
        refused => kept_out(refused),
    };
    format!("\n{kept}UPDATE oversync.meta SET epoch = '{mark}';\nCOMMIT;\n")
}

/// Where the backup is older than the list, there is none yet.
fn kept_out(refused: &[Refused]) -> String {
    let row = |(user, device, since): &Refused| {
        let micros = since.unix_timestamp_nanos() / 1_000;
        let (user, device) = (text(user), text(device));
        format!("({user}, {device}, timestamptz 'epoch' + {micros} * interval '1 microsecond')")
    };
    let rows: Vec<String> = refused.iter().map(row).collect();
    let rows = rows.join(",\n");
    format!(
        "SELECT to_regclass('oversync.revoked') IS NOT NULL AS has_list \\gset\n\\if :has_list\n\
         INSERT INTO oversync.revoked (user_id, device_id, revoked_at) VALUES\n{rows}\nON CONFLICT DO NOTHING;\n\
         \\endif\n"
    )
}

/// A text as SQL that means the same to whoever reads it, whatever it holds.
fn text(text: &str) -> String {
    let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("convert_from(decode('{digits}', 'hex'), 'UTF8')")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_not_read_as_sql() {
        let odd = "'); DROP TABLE x; \n\\! rm :'x".to_owned();
        let script = after_replay(&[(odd, "d".to_owned(), OffsetDateTime::UNIX_EPOCH)]);
        assert!(
            !script.contains("DROP") && !script.contains("\\!"),
            "{script}"
        );
        assert!(script.contains("decode('64', 'hex')"), "{script}");
        assert!(!after_replay(&[]).contains("revoked"));
    }
}
