//! The logs of the capture triggers: one a table, only appended to.
//!
//! A line says what was done to a key, with the old row where there was one. Nothing
//! in a log is indexed or looked up while the application writes; what the lines of
//! a key amount to is found when they are read (`capture.rs`). [`show`] keeps a view
//! over all logs, `_sync_touched`, for whoever asks what waits.

use crate::error::Error;
use crate::key::LocalKey;
use crate::payload::Cell;
use crate::row;
use crate::schema::{Table, Tables, fill_in, quote};
use rusqlite::{Connection, OptionalExtension as _, params};

const FOLD: &str = include_str!("../../migrations/device/fold.sql");
const OLD_LOG: &str = include_str!("../../migrations/device/old_log.sql");

/// Lines after which a log is read although nothing can be sent: each may hold an old
/// row, of any size.
const LONG: i64 = 1_000;

/// Terms of one SELECT in the view: SQLite takes 500.
const TERMS: usize = 400;

/// What was done, where it was not the triggers who saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// The row may be new.
    Inserted,
    /// Something, and there is no image of what was there before.
    Something,
}

/// The name of a table's log.
pub(crate) fn name(n: i64) -> String {
    format!("_sync_log_{n}")
}

/// A column's name in a log.
pub(crate) fn column(table: &Table, index: usize) -> String {
    match index == table.key {
        true => "key".to_owned(),
        false => quote(&format!("_{}", table.columns[index].name)),
    }
}

/// Adds a line.
pub(crate) fn note(conn: &Connection, n: i64, done: Done, key: &LocalKey) -> Result<(), Error> {
    let op = match done {
        Done::Inserted => 1,
        Done::Something => 4,
    };
    let sql = format!("INSERT INTO {} (op, key) VALUES (?1, ?2)", name(n));
    conn.prepare_cached(&sql)?.execute(params![op, key])?;
    Ok(())
}

/// What the log says about one key.
pub(crate) struct Touch {
    pub(crate) key: LocalKey,
    /// Its place in the log.
    pub(crate) seq: i64,
    /// Only noted because a REPLACE might remove it.
    pub(crate) perhaps: bool,
    /// Whether the line has the row as it was before.
    has_image: bool,
}

impl Touch {
    /// A row that is looked at without a line in the log.
    pub(crate) fn found(key: LocalKey) -> Self {
        Self {
            key,
            seq: 1,
            perhaps: false,
            has_image: false,
        }
    }
}

/// What a table's log says, one key after the other.
pub(crate) fn read(conn: &Connection, table: &Table) -> Result<Vec<Touch>, Error> {
    let sql = FOLD.replace("{log}", &name(table.n));
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map([], |row| {
        Ok(Touch {
            seq: row.get(0)?,
            perhaps: row.get::<_, i64>(1)? <= 0,
            has_image: matches!(row.get::<_, i64>(2)?, 0 | 2 | 3) && table.has_images(),
            key: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The row as it was before it was first touched; none when it was not there then,
/// or when nobody looked.
pub(crate) fn image(
    conn: &Connection,
    table: &Table,
    touch: &Touch,
) -> Result<Option<Vec<Cell>>, Error> {
    if !touch.has_image {
        return Ok(None);
    }
    let columns: Vec<String> = (0..table.columns.len()).map(|i| column(table, i)).collect();
    let sql = format!(
        "SELECT {} FROM {} WHERE seq = ?1",
        columns.join(", "),
        name(table.n)
    );
    Ok(conn
        .prepare_cached(&sql)?
        .query_row([touch.seq], |found| row::cells(found, columns.len()))
        .optional()?)
}

/// Whether a log is long enough to be read although nothing can be sent.
pub(crate) fn is_long(conn: &Connection, tables: &Tables) -> Result<bool, Error> {
    for table in tables.iter() {
        let sql = format!("SELECT coalesce(max(seq), 0) >= ?1 FROM {}", name(table.n));
        let mut statement = conn.prepare_cached(&sql)?;
        if statement.query_row([LONG], |row| row.get(0))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Drops all lines.
pub(crate) fn clear(conn: &Connection, table: &Table) -> Result<(), Error> {
    // Without a condition SQLite drops all rows at once.
    let sql = format!("DELETE FROM {}", name(table.n));
    conn.prepare_cached(&sql)?.execute([])?;
    Ok(())
}

/// Puts a log of today's shape (`create`) in the place of one of another shape: it
/// keeps its lines, but no image.
pub(crate) fn reshape(conn: &Connection, n: i64, create: &str) -> Result<(), Error> {
    let log = name(n);
    conn.execute_batch(&format!(
        "CREATE TABLE _sync_moved (seq INTEGER PRIMARY KEY, op, key);
         INSERT INTO _sync_moved SELECT seq, CASE WHEN op < 1 THEN -1 WHEN op > 1 THEN 4 ELSE 1 END, key
             FROM {log};
         DROP TABLE {log};
         {create};
         INSERT INTO {log} (seq, op, key) SELECT seq, op, key FROM _sync_moved;
         DROP TABLE _sync_moved;"
    ))?;
    Ok(())
}

fn is_there(conn: &Connection, table: &str) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    Ok(conn.prepare_cached(sql)?.exists([table])?)
}

/// Takes over what an earlier version has noted of a table. Nothing where there is
/// nothing of it.
pub(crate) fn take_over(conn: &Connection, table: &Table) -> Result<(), Error> {
    let images = format!("_sync_base_{}", table.n);
    let has_images = is_there(conn, &images)?;
    if is_there(conn, "_sync_log")? {
        let mut statement = conn.prepare("SELECT name FROM pragma_table_info(?1)")?;
        let found = statement.query_map([&images], |row| row.get::<_, String>(0))?;
        let found: Vec<String> = found.collect::<Result<_, _>>()?;
        let names = table.columns.iter().map(|column| &column.name);
        // Of another shape: the touches alone.
        // A column of that name would be taken for the number of a line.
        let is_number = |name: &String| name.eq_ignore_ascii_case("rowid");
        let fits = table.has_images() && names.eq(&found) && !found.iter().any(is_number);
        let others = || (0..table.columns.len()).filter(|i| fits && *i != table.key);
        let sql = fill_in(OLD_LOG, |name| match (name, fits) {
            ("n", _) => table.n.to_string(),
            ("images", true) => images.clone(),
            ("images", false) => "(SELECT NULL AS rowid, NULL AS key WHERE 0)".to_owned(),
            ("key", true) => table.quoted_key(),
            ("key", false) => "key".to_owned(),
            ("log_columns", _) => others().fold("key".to_owned(), |names, i| {
                format!("{names}, {}", column(table, i))
            }),
            ("image_columns", _) => others().fold(String::new(), |names, i| {
                format!("{names}, b.{}", quote(&table.columns[i].name))
            }),
            (other, _) => unreachable!("BUG: placeholder {other} in a template"),
        });
        conn.execute(&sql, [])?;
        conn.execute("DELETE FROM _sync_log WHERE tbl = ?1", [table.n])?;
    }
    if has_images {
        conn.execute_batch(&format!("DROP TABLE {images}"))?;
    }
    Ok(())
}

/// Brings the view over all logs up to date. Tables that are not listed keep theirs.
pub(crate) fn show(conn: &Connection) -> Result<(), Error> {
    if is_there(conn, "_sync_log")? {
        let rest = conn.query_row("SELECT EXISTS (SELECT 1 FROM _sync_log)", [], |row| {
            row.get(0)
        });
        let rest: bool = rest?;
        if !rest {
            conn.execute_batch("DROP TABLE _sync_log")?;
        }
    }
    let mut statement = conn.prepare("SELECT n FROM _sync_table ORDER BY n")?;
    let numbers = statement.query_map([], |row| row.get::<_, i64>(0))?;
    let mut parts = Vec::new();
    for n in numbers {
        let n = n?;
        if is_there(conn, &name(n))? {
            parts.push(format!("SELECT {n} AS tbl, seq, op, key FROM {}", name(n)));
        }
    }
    if is_there(conn, "_sync_log")? {
        parts.push("SELECT tbl, seq, op, key FROM _sync_log".to_owned());
    }
    let all: Vec<String> = parts
        .chunks(TERMS)
        .map(|chunk| format!("SELECT * FROM ({})", chunk.join(" UNION ALL ")))
        .collect();
    let wanted = format!("CREATE VIEW _sync_touched AS {}", all.join(" UNION ALL "));
    let found: Option<String> = conn
        .query_row(
            "SELECT sql FROM sqlite_schema WHERE type = 'view' AND name = '_sync_touched'",
            [],
            |row| row.get(0),
        )
        .optional()?;
    if found.as_deref() != Some(wanted.as_str()) {
        conn.execute_batch(&format!("DROP VIEW IF EXISTS _sync_touched; {wanted}"))?;
    }
    Ok(())
}
