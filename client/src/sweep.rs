//! Finding deletes that fired no trigger.
//!
//! SQLite removes some rows without a word: by a REPLACE through an index over
//! expressions or a part of the rows, and by anything while a table has no
//! triggers, because it was rebuilt or another program took them off. Such rows
//! are looked for, in one statement a table, before the log is read: always in
//! tables with such an index or whose triggers were gone; when the schema has changed,
//! in all tables that no trigger of the application names.
//!
//! What a trigger of the application deletes while a page is applied is never sent,
//! and looks the same afterwards: any change of the schema, a VACUUM too, would send it
//! for everyone. So in a table that such a trigger names, a delete is missed that was
//! made while ours were off and put back as they were. Still sent at such a time is
//! what it deleted without naming the table, through a foreign key, and what a trigger
//! deleted that is gone since.

use crate::error::Error;
use crate::log;
use crate::schema::{KeyKind, Table};
use rusqlite::{Connection, params};

const MISSING: &str = include_str!("../../migrations/device/missing.sql");

/// A key's 16 bytes as the usual text.
const DASHED: &str = "lower(substr(hex(r.pk), 1, 8) || '-' || substr(hex(r.pk), 9, 4) || '-' || \
     substr(hex(r.pk), 13, 4) || '-' || substr(hex(r.pk), 17, 4) || '-' || substr(hex(r.pk), 21))";

/// Whether rows that are gone without a word can only have been deleted by somebody
/// whose deletes are sent: no trigger of the application stands on the table or names
/// it.
pub(crate) fn is_unambiguous(conn: &Connection, table: &Table) -> Result<bool, Error> {
    let named = "SELECT 1 FROM sqlite_schema \
         WHERE type = 'trigger' AND name NOT LIKE '\\_sync\\_%' ESCAPE '\\' \
         AND (tbl_name = ?1 COLLATE NOCASE OR instr(lower(sql), lower(?1)) > 0)";
    Ok(!conn.prepare_cached(named)?.exists([&table.name])?)
}

/// Notes the rows of a table that the server has and that are gone, as if a
/// trigger had. Costs one look at each row the server has.
pub(crate) fn note_missing(conn: &Connection, table: &Table) -> Result<(), Error> {
    let usual = match table.key_kind {
        KeyKind::Text => DASHED,
        KeyKind::Blob => "r.pk",
    };
    // The names last: a table may be called "{key}".
    let sql = MISSING
        .replace("{log}", &log::name(table.n))
        .replace("{spelling}", &format!("coalesce(r.local_key, {usual})"))
        .replace("{dashed}", DASHED)
        .replace("{key}", &table.quoted_key())
        .replace("{table}", &table.quoted());
    conn.prepare_cached(&sql)?
        .execute(params![table.n, table.wire])?;
    Ok(())
}
