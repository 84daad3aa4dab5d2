//! Runs SQL, as it comes on standard input, on a file, in SQLite 3.17.0.
//!
//! `old-sqlite FILE`: rows go to standard output, one a line, values with a `|`
//! between them. The first statement that fails ends it: SQLite's words go to standard
//! error, and the exit code is 1. For `tests/it/old_sqlite.rs`.

use libsqlite3_sys as sqlite;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::Read as _;
use std::process::ExitCode;
use std::ptr::null_mut;

/// How long to wait for another process's write, in milliseconds.
const BUSY_MS: c_int = 10_000;

/// A connection, closed with it.
struct File(*mut sqlite::sqlite3);

impl File {
    fn open(path: &CStr) -> Result<Self, String> {
        let mut db = null_mut();
        // SAFETY: the path ends with a NUL, `db` is a place for one pointer.
        let code = unsafe { sqlite::sqlite3_open(path.as_ptr(), &mut db) };
        let file = Self(db);
        if code != sqlite::SQLITE_OK {
            return Err(file.error());
        }
        // SAFETY: the connection is open until `file` is dropped.
        unsafe { sqlite::sqlite3_busy_timeout(file.0, BUSY_MS) };
        Ok(file)
    }

    fn run(&self, sql: &CStr) -> Result<(), String> {
        // SAFETY: connection and text live longer than the call; `print` takes what
        // SQLite gives to such a function, and nothing of ours.
        let code = unsafe {
            sqlite::sqlite3_exec(self.0, sql.as_ptr(), Some(print), null_mut(), null_mut())
        };
        match code {
            sqlite::SQLITE_OK => Ok(()),
            _ => Err(self.error()),
        }
    }

    fn error(&self) -> String {
        // SAFETY: also of a connection that did not open SQLite says what was wrong,
        // in a text of its own that stays until the next call.
        let text = unsafe { CStr::from_ptr(sqlite::sqlite3_errmsg(self.0)) };
        text.to_string_lossy().into_owned()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: nothing of the connection is used any more.
        unsafe { sqlite::sqlite3_close(self.0) };
    }
}

/// Called by SQLite for each row.
unsafe extern "C" fn print(
    _: *mut c_void,
    count: c_int,
    values: *mut *mut c_char,
    _: *mut *mut c_char,
) -> c_int {
    let count = usize::try_from(count).expect("BUG: less than no columns");
    let texts = (0..count).map(|index| {
        // SAFETY: SQLite gives `count` pointers, each to a text or null.
        let value = unsafe { *values.add(index) };
        match value.is_null() {
            true => "NULL".into(),
            // SAFETY: a text that ends with a NUL and stays as long as this call.
            false => unsafe { CStr::from_ptr(value) }.to_string_lossy(),
        }
    });
    println!("{}", texts.collect::<Vec<_>>().join("|"));
    0
}

fn run() -> Result<(), String> {
    let path = std::env::args().nth(1).ok_or("which file?")?;
    let path = CString::new(path).map_err(|error| error.to_string())?;
    let mut sql = Vec::new();
    let read = std::io::stdin().read_to_end(&mut sql);
    read.map_err(|error| error.to_string())?;
    let sql = CString::new(sql).map_err(|error| error.to_string())?;
    File::open(&path)?.run(&sql)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
