//! Files that an earlier version of this crate has made: the columns that have
//! been added to its own tables since.
//!
//! `migrations/device/schema.sql` makes new files as they are today; this brings
//! older ones up to it, in the transaction that opens the file.

use rusqlite::Connection;

/// Table, column, definition, and what to do once when it is added.
const ADDED: &[(&str, &str, &str, &str)] = &[
    (
        "_sync_conflicts",
        "lost",
        "TEXT",
        "UPDATE _sync_conflicts SET lost = CASE outcome
             WHEN 'mine' THEN coalesce(theirs, mine) ELSE coalesce(mine, theirs) END",
    ),
    ("_sync_conflicts", "day", "INTEGER NOT NULL DEFAULT 0", ""),
    ("_sync_client", "day", "INTEGER NOT NULL DEFAULT 0", ""),
    ("_sync_client", "day_at", "INTEGER", ""),
    (
        "_sync_client",
        "paused_uploads",
        "INTEGER NOT NULL DEFAULT 0",
        "",
    ),
    (
        "_sync_client",
        "paused_downloads",
        "INTEGER NOT NULL DEFAULT 0",
        "",
    ),
    ("_sync_client", "schema_seen", "INTEGER", ""),
    ("_sync_table", "listed", "INTEGER NOT NULL DEFAULT 1", ""),
    // Whether something waits, nobody has noted: looked at once.
    ("_sync_table", "learns", "INTEGER NOT NULL DEFAULT 1", ""),
    ("_sync_pending", "at", "INTEGER", ""),
    ("_sync_outbox", "at", "INTEGER", ""),
    // An edit of the application has a number above 0 in its log; what is offered again
    // or was put back has none.
    (
        "_sync_pending",
        "was_known",
        "INTEGER NOT NULL DEFAULT 0",
        "UPDATE _sync_pending SET was_known = 1 WHERE seq <= 0",
    ),
    // Of what is frozen nobody can tell: where it meets a delete, that wins and is told of,
    // rather than a row that others have deleted is back without a word.
    (
        "_sync_outbox",
        "was_known",
        "INTEGER NOT NULL DEFAULT 0",
        "UPDATE _sync_outbox SET was_known = 1",
    ),
];

/// Adds what is missing to the tables that are there.
pub(crate) fn run(conn: &Connection) -> rusqlite::Result<()> {
    let mut missing = conn.prepare(
        "SELECT 1 FROM pragma_table_list AS t WHERE t.schema = 'main' AND t.name = ?1
         AND NOT EXISTS (SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2)",
    )?;
    for (table, column, definition, then) in ADDED {
        if missing.exists([table, column])? {
            conn.execute_batch(&format!(
                "ALTER TABLE {table} ADD COLUMN {column} {definition}; {then}"
            ))?;
        }
    }
    Ok(())
}
