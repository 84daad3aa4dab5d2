//! The embedded store: one SQLite file, one writer thread, a few readers.
//!
//! The default for development and for a single server process. WAL with
//! `synchronous=FULL`: an acknowledged upload survives power loss. Business
//! tables may share the file; `business.users` is then the table `users`.

mod file;
mod read;
mod threads;
mod write;

use super::{Ask, Commit, Loaded, Outcome, Page, PageQuery, Store, StoreError};
use crate::clock::Clock;
use async_trait::async_trait;
use oversync_shared::catalog::{Catalog, Reference};
use oversync_shared::{ServerId, TableName, UserId};
use rusqlite::{Connection, OptionalExtension as _, params};
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use threads::Threads;

/// Connections that read. Reads are short and mostly from memory; more threads
/// than cores only wait for each other.
const READERS: usize = 4;

/// Reads that may wait for a thread before callers are told to come back.
const READS_WAITING: usize = 4_096;

/// Writes that may wait. Uploads come grouped through one lane; the rest are
/// first sights of a user.
const WRITES_WAITING: usize = 1_024;

/// A store in one SQLite file, owned by one process.
pub struct EmbeddedStore {
    writer: Threads,
    readers: Threads,
    table_keys: OnceLock<Arc<[i64]>>,
    clock: Clock,
    lock: File,
}

impl EmbeddedStore {
    /// Creates or opens the file (and its folder), locks it against a second
    /// process, runs `schema_sql`, and brings the schema up to date.
    pub fn open(path: &Path, schema_sql: Option<&str>, clock: Clock) -> Result<Self, StoreError> {
        if path.as_os_str().is_empty() {
            return Err(StoreError::Failed(
                "database_url names no file: write sqlite://data/oversync.db".to_owned(),
            ));
        }
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::create_dir_all(folder)
                .map_err(|error| StoreError::Failed(format!("{}: {error}", folder.display())))?;
        }
        let lock = file::lock(path)?;
        let mut connection = file::open_writer(path)?;
        if let Some(sql) = schema_sql {
            connection.execute_batch(sql)?;
        }
        file::migrate(&mut connection)?;
        let readers = (0..READERS)
            .map(|_| file::open_reader(path))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            writer: Threads::start("store-write", vec![connection], WRITES_WAITING)?,
            readers: Threads::start("store-read", readers, READS_WAITING)?,
            table_keys: OnceLock::new(),
            clock,
            lock,
        })
    }

    fn table_keys(&self) -> Arc<[i64]> {
        self.table_keys
            .get()
            .expect("BUG: register comes first")
            .clone()
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    fn is_shared(&self) -> bool {
        false
    }

    fn lanes(&self) -> usize {
        1
    }

    async fn declared_references(
        &self,
        tables: &[TableName],
    ) -> Result<HashMap<TableName, Vec<Reference>>, StoreError> {
        let tables = tables.to_vec();
        self.readers
            .run(move |connection| declared_references(connection, &tables))
            .await
    }

    async fn register(&self, catalog: &Catalog) -> Result<(), StoreError> {
        let names: Vec<TableName> = catalog
            .tables()
            .map(|(_, table)| table.name.clone())
            .collect();
        let keys = self
            .writer
            .run(move |connection| register(connection, &names))
            .await?;
        self.table_keys
            .set(keys.into())
            .map_err(|_| StoreError::Failed("tables are registered already".to_owned()))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.readers
            .run(|connection| {
                Ok(connection.query_row("SELECT 1 FROM _oversync_meta", [], |_| Ok(()))?)
            })
            .await
    }

    async fn epoch(&self) -> Result<Arc<str>, StoreError> {
        let epoch: String = self
            .readers
            .run(|connection| {
                Ok(connection
                    .query_row("SELECT epoch FROM _oversync_meta", [], |row| row.get(0))?)
            })
            .await?;
        Ok(epoch.into())
    }

    async fn load(&self, ask: &Ask) -> Result<Loaded, StoreError> {
        let keys = self.table_keys();
        loop {
            let (keys, question) = (keys.clone(), ask.clone());
            if let Some(loaded) = self
                .readers
                .run(move |connection| read::load(connection, &question, &keys))
                .await?
            {
                return Ok(loaded);
            }
            let user = ask.user.clone();
            self.writer
                .run(move |connection| {
                    let sql =
                        "INSERT INTO _oversync_users (user_id) VALUES (?1) ON CONFLICT DO NOTHING";
                    connection.execute(sql, [user.as_str()])?;
                    Ok(())
                })
                .await?;
        }
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Outcome>, StoreError> {
        let keys = self.table_keys();
        let now = self.clock.now();
        let ts = (now.unix_timestamp_nanos() / 1_000) as i64;
        self.writer
            .run(move |connection| write::commit(connection, &commits, &keys, ts))
            .await
    }

    async fn page(&self, query: PageQuery) -> Result<Page, StoreError> {
        self.readers
            .run(move |connection| read::page(connection, &query))
            .await
    }

    async fn heads(&self, users: &[UserId]) -> Result<HashMap<UserId, ServerId>, StoreError> {
        let users = users.to_vec();
        self.readers
            .run(move |connection| {
                let mut statement = connection
                    .prepare_cached("SELECT head FROM _oversync_users WHERE user_id = ?1")?;
                let mut heads = HashMap::with_capacity(users.len());
                for user in users {
                    let head: Option<i64> = statement
                        .query_row([user.as_str()], |row| row.get(0))
                        .optional()?;
                    heads.extend(head.map(|head| (user, ServerId::new(head))));
                }
                Ok(heads)
            })
            .await
    }

    async fn close(&self) {
        self.readers.stop();
        self.writer.stop();
        if let Err(error) = self.lock.unlock() {
            // It ends with the process at the latest.
            tracing::warn!(%error, "the lock on the database file stays");
        }
    }
}

fn register(connection: &mut Connection, names: &[TableName]) -> Result<Vec<i64>, StoreError> {
    let tx = connection.transaction()?;
    let mut keys = Vec::with_capacity(names.len());
    for name in names {
        let pair = params![name.schema, name.table];
        tx.execute(
            "INSERT INTO _oversync_tables (schema_name, table_name) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            pair,
        )?;
        keys.push(tx.query_row(
            "SELECT table_key FROM _oversync_tables WHERE schema_name = ?1 AND table_name = ?2",
            pair,
            |row| row.get(0),
        )?);
    }
    tx.commit()?;
    Ok(keys)
}

/// SQLite has one name space: a parent has the schema of its child.
fn declared_references(
    connection: &mut Connection,
    tables: &[TableName],
) -> Result<HashMap<TableName, Vec<Reference>>, StoreError> {
    let mut foreign_keys = connection.prepare(
        "SELECT lower(k.\"from\"), lower(k.\"table\") FROM pragma_foreign_key_list(?1) k \
         WHERE (SELECT count(*) FROM pragma_foreign_key_list(?1) o WHERE o.id = k.id) = 1 \
           AND (k.\"to\" IS NULL OR lower(k.\"to\") = \
                (SELECT lower(max(name)) FROM pragma_table_info(k.\"table\") WHERE pk > 0 HAVING count(*) = 1)) \
         ORDER BY k.id DESC",
    )?;
    let mut found = HashMap::new();
    for child in tables {
        let references = foreign_keys
            .query_map([&child.table], |row| {
                let parent = TableName {
                    schema: child.schema.clone(),
                    table: row.get(1)?,
                };
                Ok(Reference {
                    column: row.get(0)?,
                    parent,
                })
            })?
            .collect::<Result<Vec<_>, _>>()?;
        if !references.is_empty() {
            found.insert(child.clone(), references);
        }
    }
    Ok(found)
}
