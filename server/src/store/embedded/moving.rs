//! Reading the embedded store's file for a move: all of it at one moment, while no
//! server has it. Nothing is written there but the mark that it has moved.

pub(crate) use super::moved::MovedAway;
use super::recovery::{contents, not_ours};
use super::{file, moved};
use crate::store::moving::{MOVED, Meta, Moved, Piece, Spelling, Standing};
use crate::store::recovery::Contents;
use crate::store::{OpenError, StoreError, moment};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use time::macros::format_description;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Bytes in a piece, about.
const PIECE: usize = 1024 * 1024;

/// A file that is to be moved. Servers are kept away from it as long as this lives.
pub(crate) struct Origin {
    connection: Connection,
    path: PathBuf,
    lock: File,
    /// What it holds.
    pub(crate) contents: Contents,
    /// What is carried over of the database as a whole.
    pub(crate) meta: Meta,
}

impl Origin {
    /// Takes the file's lock and looks at it. Its schema must be this program's, and its
    /// history must not go on elsewhere.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let origin = Self::open_any(path)?;
        moved::refuse(&origin.connection, path)?;
        Ok(origin)
    }

    /// The same for one that has been moved, and where to.
    pub(crate) fn open_moved(path: &Path) -> Result<(Self, MovedAway), OpenError> {
        let origin = Self::open_any(path)?;
        match moved::read(&origin.connection)? {
            Some(gone) => Ok((origin, gone)),
            None => {
                let problem = format!("{} has not been moved", path.display());
                Err(StoreError::Failed(problem).into())
            }
        }
    }

    fn open_any(path: &Path) -> Result<Self, OpenError> {
        let lock = file::lock(path)?;
        let connection = file::open_reader(path)?;
        let contents = contents(&connection)?.ok_or_else(|| not_ours(path))?;
        file::refuse_backup(&connection, path)?;
        file::check_steps(&connection)?;
        let sql = "SELECT epoch, revocations, first_head FROM _oversync_meta";
        let meta = connection.query_row(sql, [], |row| {
            Ok(Meta {
                epoch: row.get(0)?,
                revocations: row.get(1)?,
                first_head: row.get(2)?,
            })
        });
        Ok(Self {
            meta: meta.map_err(StoreError::from)?,
            connection,
            path: path.to_owned(),
            lock,
            contents,
        })
    }

    /// Says in the file that it has moved: no server starts on it from now on. Gives back
    /// its lock.
    pub(crate) fn mark(self, gone: &MovedAway) -> Result<File, StoreError> {
        // Who closes last puts all into the one file: a log that is left is whose this is.
        self.connection.close().map_err(|(_, error)| error)?;
        moved::write(&self.path, gone)?;
        Ok(self.lock)
    }

    /// Takes that back.
    pub(crate) fn unmark(self) -> Result<(), StoreError> {
        self.connection.close().map_err(|(_, error)| error)?;
        moved::remove(&self.path)
    }

    /// How far its streams are.
    pub(crate) fn standing(&self) -> Result<Standing, StoreError> {
        let sql = Standing::sql("_oversync_users", "_oversync_meta");
        let numbers = self.connection.query_row(&sql, [], |row| {
            let mut numbers = Standing::default();
            for (place, number) in numbers.0.iter_mut().enumerate() {
                *number = row.get(place)?;
            }
            Ok(numbers)
        });
        Ok(numbers?)
    }

    /// Sends all rows, table by table; ends early when nobody takes them. Gives the file
    /// back, still locked.
    pub(crate) fn send(self, pieces: &mpsc::Sender<Piece>) -> Result<Self, StoreError> {
        for (table, moved) in MOVED.iter().enumerate() {
            let sql = format!("SELECT {} FROM _oversync_{}", moved.names(), moved.name);
            let mut statement = self.connection.prepare(&sql)?;
            let mut found = statement.query([])?;
            let mut piece = empty(table);
            while let Some(row) = found.next()? {
                line(&mut piece.lines, moved, row)?;
                piece.rows += 1;
                if piece.lines.len() >= PIECE {
                    let full = std::mem::replace(&mut piece, empty(table));
                    if pieces.blocking_send(full).is_err() {
                        drop(found);
                        drop(statement);
                        return Ok(self);
                    }
                }
            }
            if piece.rows > 0 {
                // Nobody may be there any more, who says why.
                let _ = pieces.blocking_send(piece);
            }
        }
        Ok(self)
    }
}

fn empty(table: usize) -> Piece {
    Piece {
        table,
        lines: String::new(),
        rows: 0,
    }
}

/// Writes a row as COPY reads it.
fn line(lines: &mut String, moved: &Moved, row: &Row<'_>) -> Result<(), StoreError> {
    for (place, (name, spelling)) in moved.columns.iter().enumerate() {
        if place > 0 {
            lines.push('\t');
        }
        let value = row.get_ref(place)?;
        if field(lines, *spelling, value).is_none() {
            return Err(StoreError::Failed(format!(
                "a value of {}.{name} that cannot be carried over",
                moved.name
            )));
        }
    }
    lines.push('\n');
    Ok(())
}

/// `None` for what is not what it should be.
fn field(lines: &mut String, spelling: Spelling, value: ValueRef<'_>) -> Option<()> {
    match (spelling, value) {
        (_, ValueRef::Null) => lines.push_str("\\N"),
        (Spelling::Number, ValueRef::Integer(number)) => write!(lines, "{number}").ok()?,
        (Spelling::Flag, ValueRef::Integer(flag @ (0 | 1))) => write!(lines, "{flag}").ok()?,
        (Spelling::Text, ValueRef::Text(bytes)) => {
            for c in std::str::from_utf8(bytes).ok()?.chars() {
                match c {
                    '\\' => lines.push_str("\\\\"),
                    '\n' => lines.push_str("\\n"),
                    '\r' => lines.push_str("\\r"),
                    '\t' => lines.push_str("\\t"),
                    '\0' => return None,
                    c => lines.push(c),
                }
            }
        }
        (Spelling::Key, ValueRef::Blob(bytes)) => {
            write!(lines, "{}", Uuid::from_slice(bytes).ok()?).ok()?;
        }
        (Spelling::Bytes, ValueRef::Blob(bytes)) => {
            lines.push_str("\\\\x");
            for byte in bytes {
                write!(lines, "{byte:02x}").ok()?;
            }
        }
        (Spelling::Time, ValueRef::Integer(micros)) => {
            let time = moment(micros).ok()?;
            let format = format_description!(
                "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]+00"
            );
            lines.push_str(&time.format(format).ok()?);
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The one row of it is [`Meta`]; what schema steps were run the other side knows of
    /// itself; the owners of business rows are written when those are.
    const LEFT_OUT: [&str; 3] = ["meta", "migrations", "owners"];

    #[test]
    fn nothing_that_a_server_keeps_is_forgotten() {
        let mut file = Connection::open_in_memory().expect("it opens");
        file::migrate(&mut file).expect("the schema is made");
        let asked = |sql: &str| -> BTreeSet<String> {
            let mut statement = file.prepare(sql).expect("it is SQL");
            let names = statement.query_map([], |row| row.get(0));
            names.and_then(Iterator::collect).expect("names")
        };
        let kept = asked(
            "SELECT substr(name, 11) FROM sqlite_schema WHERE type = 'table' AND name LIKE '\\_oversync\\_%' ESCAPE '\\'",
        );
        let named = MOVED.iter().map(|moved| moved.name).chain(LEFT_OUT);
        assert_eq!(kept, named.map(str::to_owned).collect());
        for moved in MOVED {
            let columns = asked(&format!(
                "SELECT name FROM pragma_table_info('_oversync_{}')",
                moved.name
            ));
            let named = moved.columns.iter().map(|(name, _)| (*name).to_owned());
            assert_eq!(columns, named.collect(), "{}", moved.name);
        }
    }
}
