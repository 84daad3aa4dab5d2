//! How a story ended, in a form in which two endings can be compared: what the
//! file shows, what stands in its lists, and the server's whole log. Numbers that
//! depend on how often something was tried are left out: change ids, places in the
//! log and times.

use super::play::{connect, is_bare};
use super::{DEVICE, SYNCHRONISED};
use crate::target::Target;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tempfile::TempDir;

/// A page of the smaller server.
const PAGE: usize = 4;

/// Rows of the tables by table and key.
pub type Rows = BTreeMap<(String, String), String>;

/// How a story ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// What the application sees.
    pub rows: Rows,
    /// The rejected list.
    pub rejected: Vec<String>,
    /// The conflict list.
    pub conflicts: Vec<String>,
    /// Entries of others that cannot be written here.
    pub parked: Vec<String>,
    /// What is neither on the server nor in a list; child rows that wait for a
    /// rejected one may be.
    pub waiting: Vec<String>,
    /// The server's log, in its order: row, version, who, what.
    pub log: Vec<String>,
    /// What a device that starts with nothing sees.
    pub elsewhere: Rows,
    /// What such a device cannot write.
    pub parked_elsewhere: Vec<String>,
    /// The user has left, and nothing of the client is in the file.
    pub is_bare: bool,
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => format!("x{bytes:02x?}"),
    }
}

/// Every row a query gives, as one text each.
fn lines(file: &Connection, sql: &str) -> Vec<String> {
    let mut statement = file.prepare(sql).expect("a query");
    let count = statement.column_count();
    let rows = statement.query_map([], |row| {
        let cells = (0..count).map(|index| row.get_ref(index).map(text));
        Ok(cells.collect::<Result<Vec<_>, _>>()?.join(" "))
    });
    let mut lines: Vec<String> = rows
        .expect("rows")
        .collect::<Result<_, _>>()
        .expect("values");
    lines.sort();
    lines
}

fn rows(file: &Connection) -> Rows {
    let mut rows = Rows::new();
    for table in SYNCHRONISED {
        for line in lines(file, &format!("SELECT * FROM {table}")) {
            let key = line.split(' ').next().unwrap_or_default();
            rows.insert((table.to_owned(), key.to_owned()), line);
        }
    }
    rows
}

const REJECTED: &str = "SELECT local_key, tbl, op, payload, reason, detail FROM _sync_rejected";
const CONFLICTS: &str =
    "SELECT hex(pk), tbl, base, mine, theirs, theirs_version, outcome, lost FROM _sync_conflicts";
const PARKED: &str = "SELECT pk, wire_table, version, payload, reason FROM _sync_parked";
const WAITING: &str = "SELECT local_key, tbl, 'pending' FROM _sync_pending
    UNION ALL SELECT local_key, tbl, 'frozen' FROM _sync_outbox
    UNION ALL SELECT hex(pk), tbl, 'remembered' FROM _sync_shadow
    UNION ALL SELECT key, tbl, 'captured' FROM _sync_touched WHERE op > 0";

impl Ending {
    /// Reads the file and the server's log.
    pub async fn read(file: &Path, target: &Target, user: &str) -> Self {
        let conn = connect(file);
        let list = |sql: &str| match is_bare(file) {
            true => Vec::new(),
            false => lines(&conn, sql),
        };
        let observer = target.device(user, "observer");
        let (changes, _) = observer.download_all(0, PAGE, "").await;
        let log = changes.iter().map(|change| {
            [
                "table",
                "pk",
                "server_version",
                "op",
                "source_id",
                "payload",
            ]
            .map(|name| change[name].to_string())
            .join(" ")
        });
        Self {
            rows: rows(&conn),
            rejected: list(REJECTED),
            conflicts: list(CONFLICTS),
            parked: list(PARKED),
            waiting: list(WAITING),
            log: log.collect(),
            elsewhere: Rows::new(),
            parked_elsewhere: Vec::new(),
            is_bare: is_bare(file),
        }
    }

    /// Adds what the file of another device of the user shows, which has started
    /// with nothing.
    #[must_use]
    pub fn and_elsewhere(self, other: &Path) -> Self {
        let other = connect(other);
        Self {
            elsewhere: rows(&other),
            parked_elsewhere: lines(&other, PARKED),
            ..self
        }
    }

    /// Both devices show the same, but for rows that stand in a list; the file of
    /// a user who has left shows nothing.
    pub fn devices_are_equal(&self) {
        if self.is_bare {
            assert!(self.rows.is_empty(), "{self:#?}");
            return;
        }
        let listed: BTreeSet<&str> = self
            .rejected
            .iter()
            .chain(&self.waiting)
            .chain(&self.parked)
            .chain(&self.parked_elsewhere)
            .filter_map(|line| line.split(' ').next())
            .collect();
        let unlisted = |rows: &Rows| -> Rows {
            let mut rows = rows.clone();
            rows.retain(|(_, key), _| !listed.contains(key.as_str()));
            rows
        };
        assert_eq!(unlisted(&self.rows), unlisted(&self.elsewhere), "{self:#?}");
    }

    /// No content of the device's stands twice in the log.
    pub fn nothing_is_doubled(&self) {
        let mut seen = BTreeSet::new();
        for line in self.log.iter().filter(|line| line.contains(DEVICE)) {
            let mut parts = line.splitn(4, ' ');
            let (table, key, _, what) = (parts.next(), parts.next(), parts.next(), parts.next());
            assert!(seen.insert((table, key, what)), "twice: {line}\n{self:#?}");
        }
    }
}

/// A folder in memory, where the system has a place for that: a kill loses
/// nothing that the system holds.
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => TempDir::with_prefix_in("oversync-story.", memory),
        false => TempDir::with_prefix("oversync-story."),
    };
    folder.expect("a temporary folder")
}
