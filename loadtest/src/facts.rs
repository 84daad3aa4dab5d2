//! Versions and durability settings, asked where they are known: from the
//! database itself, from the programs themselves. Every figure stands beside
//! them.

use crate::measure::process::parent_of;
use sqlx::{Connection as _, PgConnection};
use std::collections::BTreeMap;

/// Settings that decide what a commit costs.
const DURABILITY: [&str; 5] = [
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "shared_buffers",
];

/// What is known.
#[derive(Debug, Default)]
pub struct Facts {
    /// Programs and their versions.
    pub versions: BTreeMap<String, String>,
    /// Durability settings.
    pub durability: BTreeMap<String, String>,
    /// The database's first process, when it is on this machine.
    pub database_process: Option<u32>,
}

/// Asks. What cannot be asked is left out.
pub async fn gather(database_url: Option<&str>, own_server: bool) -> Facts {
    let mut facts = Facts::default();
    let mut say = |name: &str, value: &str| {
        facts.versions.insert(name.to_owned(), value.to_owned());
    };
    say("loadtest", env!("CARGO_PKG_VERSION"));
    say(
        "build",
        if cfg!(debug_assertions) {
            "debug: no figures for anybody"
        } else {
            "optimised"
        },
    );
    match database_url {
        Some(url) => {
            if let Err(error) = ask_postgres(url, &mut facts).await {
                facts
                    .durability
                    .insert("PostgreSQL".to_owned(), format!("not asked: {error}"));
            }
        }
        None if own_server => {
            facts
                .versions
                .insert("SQLite".to_owned(), rusqlite::version().to_owned());
            facts.durability.insert(
                "SQLite".to_owned(),
                "journal_mode=WAL, synchronous=FULL".to_owned(),
            );
        }
        None => {}
    }
    facts
}

async fn ask_postgres(url: &str, facts: &mut Facts) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    for name in DURABILITY {
        let value: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(name)
            .fetch_one(&mut connection)
            .await?;
        facts.durability.insert(name.to_owned(), value);
    }
    let version: String = sqlx::query_scalar("SELECT current_setting('server_version')")
        .fetch_one(&mut connection)
        .await?;
    facts.versions.insert("PostgreSQL".to_owned(), version);
    let back_end: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut connection)
        .await?;
    facts.database_process = u32::try_from(back_end)
        .ok()
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.starts_with("postgres"))
        })
        .and_then(parent_of);
    connection.close().await
}
