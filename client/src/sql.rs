//! `oversqlite sql`: a small window into the file, for machines without the
//! sqlite3 program. It is one of the "any program may write to the file"; the
//! triggers capture what it does.

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, Statement};
use serde_json::{Map, Value};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// How long to wait for another writer.
const BUSY: Duration = Duration::from_secs(10);

/// Runs statements and prints the rows they give, one a line: values between
/// bars, or JSON objects.
pub(crate) fn run(file: &Path, sql: &str, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    ensure!(file.exists(), "{} does not exist", file.display());
    let connection = Connection::open(file).with_context(|| file.display().to_string())?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    let mut batch = Batch::new(&connection, sql);
    while let Some(mut statement) = batch.next()? {
        if statement.column_count() == 0 {
            statement.execute([])?;
        } else {
            print_rows(&mut statement, json, out)?;
        }
    }
    Ok(())
}

fn print_rows(
    statement: &mut Statement<'_>,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let names: Vec<String> = statement
        .column_names()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if json {
            let mut object = Map::new();
            for (index, name) in names.iter().enumerate() {
                object.insert(name.clone(), as_json(row.get_ref(index)?));
            }
            writeln!(out, "{}", Value::Object(object))?;
        } else {
            let values = (0..names.len()).map(|index| Ok(as_text(row.get_ref(index)?)));
            writeln!(
                out,
                "{}",
                values.collect::<rusqlite::Result<Vec<_>>>()?.join("|")
            )?;
        }
    }
    Ok(())
}

fn as_text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => STANDARD.encode(bytes),
    }
}

fn as_json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(_) | ValueRef::Blob(_) => as_text(value).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_run_and_rows_are_printed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.db");
        let mut out = Vec::new();
        assert!(
            run(&file, "SELECT 1", false, &mut out).is_err(),
            "a typing error makes no file"
        );
        Connection::open(&file).expect("made");
        let sql = "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (NULL, x'00ff'); SELECT * FROM t";
        run(&file, sql, false, &mut out).expect("runs");
        run(&file, "SELECT * FROM t", true, &mut out).expect("runs");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(
            text,
            "1|x\n|AP8=\n{\"a\":1,\"b\":\"x\"}\n{\"a\":null,\"b\":\"AP8=\"}\n"
        );
    }
}
