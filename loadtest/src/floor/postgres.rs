//! PostgreSQL: databases of our own, the floor's statement, and the reference
//! style's statements.

use super::{NewRow, Style, Upload};
use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use uuid::Uuid;

const SCHEMA_SET: &str = include_str!("sql/schema_set.sql");
const SCHEMA_REFERENCE: &str = include_str!("sql/schema_reference.sql");
const UPLOAD_SET: &str = include_str!("sql/upload_set.sql");
const KNOWN: &str = include_str!("sql/batched_known.sql");
const PARENTS: &str = include_str!("sql/batched_parents.sql");
const LOG: &str = include_str!("sql/batched_log.sql");
const LOCK: &str = include_str!("sql/batched_lock.sql");
const META: &str = include_str!("sql/batched_meta.sql");
const STATE: &str = include_str!("sql/batched_state.sql");
const VERSION: &str = include_str!("sql/batched_version.sql");
const ROW_LOG: &str = include_str!("sql/rows_log.sql");
const ROW_META: &str = include_str!("sql/rows_meta.sql");
const ROW_STATE: &str = include_str!("sql/rows_state.sql");
const ROW_VERSION: &str = include_str!("sql/rows_version.sql");

/// The device that uploads, in the reference style.
const DEVICE: &str = "device";

/// A database of its own on a server, gone when it is dropped with
/// [`Database::remove`].
pub struct Database {
    admin: String,
    name: String,
    /// Its URL.
    pub url: String,
}

impl Database {
    /// Makes one beside the database of this URL.
    pub async fn make(admin: &str) -> anyhow::Result<Self> {
        let name = format!("loadtest_{}", Uuid::new_v4().simple());
        let mut url = reqwest::Url::parse(admin).context("--database-url")?;
        url.set_path(&format!("/{name}"));
        let mut connection = PgConnection::connect(admin).await?;
        // The name is ours: letters and digits.
        let sql = format!("CREATE DATABASE {name}");
        connection.execute(AssertSqlSafe(sql)).await?;
        Ok(Self {
            admin: admin.to_owned(),
            name,
            url: url.into(),
        })
    }

    /// Ends its connections and drops it.
    pub async fn remove(self) {
        if let Ok(mut connection) = PgConnection::connect(&self.admin).await {
            let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
            // It is in nobody's way if this fails.
            let _ = connection.execute(AssertSqlSafe(sql)).await;
        }
    }
}

/// A connection that writes uploads in one style.
pub struct Postgres {
    connection: PgConnection,
    style: Style,
}

impl Postgres {
    /// Makes the tables, once per database.
    pub async fn prepare(url: &str, users: i64) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(url).await?;
        connection.execute(SCHEMA_SET).await?;
        connection.execute(SCHEMA_REFERENCE).await?;
        sqlx::query("INSERT INTO floor.users (user_key) SELECT generate_series(1, $1)")
            .bind(users)
            .execute(&mut connection)
            .await?;
        Ok(())
    }

    /// Connects.
    pub async fn connect(url: &str, style: Style) -> anyhow::Result<Self> {
        Ok(Self {
            connection: PgConnection::connect(url).await?,
            style,
        })
    }

    /// See [`write_on`].
    pub async fn write(&mut self, uploads: &[Upload]) -> sqlx::Result<()> {
        write_on(&mut self.connection, self.style, uploads).await
    }
}

/// Writes uploads of different users: in one transaction (set), or one
/// transaction each.
pub async fn write_on(
    connection: &mut PgConnection,
    style: Style,
    uploads: &[Upload],
) -> sqlx::Result<()> {
    if style == Style::Set {
        return write_set(connection, uploads).await;
    }
    for upload in uploads {
        match style {
            Style::Rows => write_rows(connection, upload).await?,
            Style::Set | Style::Batched => write_batched(connection, upload).await?,
        }
    }
    Ok(())
}

async fn write_set(connection: &mut PgConnection, uploads: &[Upload]) -> sqlx::Result<()> {
    let mut users = Vec::with_capacity(uploads.len());
    let (mut heads, mut highest) = (users.clone(), users.clone());
    let rows: usize = uploads.iter().map(|upload| upload.rows.len()).sum();
    let mut owners = Vec::with_capacity(rows);
    let (mut places, mut changes) = (owners.clone(), owners.clone());
    let mut keys = Vec::with_capacity(rows);
    let mut fingerprints = Vec::with_capacity(rows);
    let mut payloads = Vec::with_capacity(rows);
    for upload in uploads {
        users.push(upload.user);
        heads.push(upload.head + upload.rows.len() as i64);
        highest.push(upload.rows.last().map_or(0, |row| row.change_id));
        for (place, row) in (upload.head + 1..).zip(&upload.rows) {
            owners.push(upload.user);
            places.push(place);
            changes.push(row.change_id);
            keys.push(row.key);
            fingerprints.push(row.key.as_bytes().to_vec());
            payloads.push(row.payload.as_str());
        }
    }
    sqlx::query(UPLOAD_SET)
        .bind(users)
        .bind(heads)
        .bind(highest)
        .bind(owners)
        .bind(places)
        .bind(changes)
        .bind(keys)
        .bind(fingerprints)
        .bind(payloads)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

async fn write_batched(connection: &mut PgConnection, upload: &Upload) -> sqlx::Result<()> {
    let user = format!("user-{}", upload.user);
    let ids: Vec<i64> = upload.rows.iter().map(|row| row.change_id).collect();
    let keys: Vec<Uuid> = upload.rows.iter().map(|row| row.key).collect();
    let payloads: Vec<&str> = upload.rows.iter().map(|row| row.payload.as_str()).collect();
    let versions = vec![1_i64; ids.len()];
    let mut tx = connection.begin().await?;
    sqlx::query("SET CONSTRAINTS ALL DEFERRED")
        .execute(&mut *tx)
        .await?;
    sqlx::query(KNOWN)
        .bind(&user)
        .bind(DEVICE)
        .bind(&ids)
        .fetch_all(&mut *tx)
        .await?;
    sqlx::query(PARENTS)
        .bind(&user)
        .bind(&keys)
        .fetch_all(&mut *tx)
        .await?;
    sqlx::query(LOG)
        .bind(&user)
        .bind(DEVICE)
        .bind(&ids)
        .bind(&keys)
        .bind(&payloads)
        .fetch_all(&mut *tx)
        .await?;
    sqlx::query(LOCK)
        .bind(&user)
        .bind(&keys)
        .fetch_all(&mut *tx)
        .await?;
    sqlx::query(META)
        .bind(&user)
        .bind(&keys)
        .fetch_all(&mut *tx)
        .await?;
    sqlx::query(STATE)
        .bind(&user)
        .bind(&keys)
        .bind(&payloads)
        .execute(&mut *tx)
        .await?;
    sqlx::query(VERSION)
        .bind(&user)
        .bind(DEVICE)
        .bind(&ids)
        .bind(&versions)
        .execute(&mut *tx)
        .await?;
    sqlx::query("SELECT max(server_id) FROM reference.log WHERE user_id = $1")
        .bind(&user)
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await
}

async fn write_rows(connection: &mut PgConnection, upload: &Upload) -> sqlx::Result<()> {
    let user = format!("user-{}", upload.user);
    let mut tx = connection.begin().await?;
    for row in &upload.rows {
        tx.execute("SAVEPOINT one").await?;
        sqlx::query(ROW_LOG)
            .bind(&user)
            .bind(DEVICE)
            .bind(row.change_id)
            .bind(row.key)
            .bind(&row.payload)
            .execute(&mut *tx)
            .await?;
        sqlx::query(ROW_META)
            .bind(&user)
            .bind(row.key)
            .execute(&mut *tx)
            .await?;
        sqlx::query(ROW_STATE)
            .bind(&user)
            .bind(row.key)
            .bind(&row.payload)
            .execute(&mut *tx)
            .await?;
        sqlx::query(ROW_VERSION)
            .bind(&user)
            .bind(DEVICE)
            .bind(row.change_id)
            .execute(&mut *tx)
            .await?;
        tx.execute("RELEASE SAVEPOINT one").await?;
    }
    tx.commit().await
}

/// Empty durable commits per second.
pub async fn empty_commits(url: &str, connections: usize, length: Duration) -> anyhow::Result<f64> {
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(PgConnection::connect(url).await?);
    }
    let began = Instant::now();
    let end = began + length;
    let mut tasks = JoinSet::new();
    for mut connection in open {
        tasks.spawn(async move {
            let mut done = 0_u64;
            while done == 0 || Instant::now() < end {
                // Writes nothing but the fact: a record in the log that must be
                // durable.
                sqlx::query("SELECT pg_logical_emit_message(true, 'floor', '')")
                    .execute(&mut connection)
                    .await?;
                done += 1;
            }
            anyhow::Ok(done)
        });
    }
    let mut total = 0;
    while let Some(done) = tasks.join_next().await {
        total += done??;
    }
    Ok(total as f64 / began.elapsed().as_secs_f64())
}

/// Changes per second, bare: this many connections, users per transaction and
/// changes per user. `heads` are the users' heads, kept from round to round.
pub async fn uploads(
    url: &str,
    style: Style,
    shape: (usize, usize, usize),
    length: Duration,
    heads: &mut [i64],
) -> anyhow::Result<f64> {
    let (connections, users, changes) = shape;
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(Postgres::connect(url, style).await?);
    }
    let began = Instant::now();
    let end = began + length;
    let mut tasks = JoinSet::new();
    for (connection, mut postgres) in open.into_iter().enumerate() {
        let mine = connection * users;
        let mut heads: Vec<i64> = heads[mine..mine + users].to_vec();
        tasks.spawn(async move {
            let mut done = 0;
            while done == 0 || Instant::now() < end {
                let batch: Vec<Upload> = heads
                    .iter()
                    .enumerate()
                    .map(|(user, head)| Upload {
                        user: (mine + user + 1) as i64,
                        head: *head,
                        rows: (1..=changes as i64)
                            .map(|n| NewRow::make(head + n))
                            .collect(),
                    })
                    .collect();
                postgres.write(&batch).await?;
                for head in &mut heads {
                    *head += changes as i64;
                }
                done += users * changes;
            }
            anyhow::Ok((mine, heads, done))
        });
    }
    let mut total = 0;
    while let Some(done) = tasks.join_next().await {
        let (mine, reached, count) = done??;
        heads[mine..mine + users].copy_from_slice(&reached);
        total += count;
    }
    Ok(total as f64 / began.elapsed().as_secs_f64())
}
