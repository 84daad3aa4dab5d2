//! What opening refuses, and that it says what to do.

use super::Device;
use crate::error::{Error, SetupError};

fn refused(sql: &str, table: &str, key: Option<&str>) -> SetupError {
    let opened = Device::with(sql, |config| match key {
        Some(key) => config.table_with_key(table, key),
        None => config.table(table),
    });
    match opened {
        Err(Error::Setup(error)) => error,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("opened: {sql}"),
    }
}

#[test]
fn what_cannot_be_synchronised_is_refused_by_name() {
    use SetupError as E;
    assert!(matches!(refused("", "notes", None), E::MissingTable { table } if table == "notes"));
    let table = |columns: &str| format!("CREATE TABLE t ({columns})");
    let of = |columns: &str| refused(&table(columns), "t", None);
    assert!(matches!(of("id INTEGER PRIMARY KEY"), E::IntegerKey { .. }));
    assert!(matches!(
        of("id INTEGER PRIMARY KEY AUTOINCREMENT"),
        E::IntegerKey { .. }
    ));
    assert!(matches!(of("id BIGINT PRIMARY KEY"), E::IntegerKey { .. }));
    assert!(matches!(
        of("a TEXT, b TEXT, PRIMARY KEY (a, b)"),
        E::CompositeKey { columns, .. } if columns == "a, b"
    ));
    assert!(matches!(of("a TEXT"), E::NoKey { .. }));
    assert!(matches!(of("id REAL PRIMARY KEY"), E::KeyType { .. }));
    assert!(matches!(of("id PRIMARY KEY"), E::KeyType { .. }));
    assert!(matches!(
        of("id TEXT PRIMARY KEY, \u{c4} TEXT, \u{e4} TEXT"),
        E::ColumnClash { .. }
    ));
    let view = "CREATE TABLE t (id TEXT PRIMARY KEY); CREATE VIEW v AS SELECT * FROM t;";
    assert!(matches!(refused(view, "v", None), E::NotATable { kind, .. } if kind == "view"));
    assert!(matches!(
        refused(
            "CREATE TABLE _sync_x (id TEXT PRIMARY KEY)",
            "_sync_x",
            None
        ),
        E::TableName { .. }
    ));
    assert!(matches!(
        refused("CREATE TABLE \"a b\" (id TEXT PRIMARY KEY)", "a b", None),
        E::TableName { .. }
    ));
    let keyed = table("id TEXT PRIMARY KEY, other TEXT, one TEXT UNIQUE");
    assert!(matches!(
        refused(&keyed, "t", Some("other")),
        E::KeyColumn { .. }
    ));
    assert!(matches!(
        refused(&keyed, "t", Some("nope")),
        E::KeyColumn { .. }
    ));
    assert!(Device::with(&keyed, |config| config.table_with_key("t", "one")).is_ok());
    let twice = Device::with(&keyed, |config| config.table("t").table("T"));
    assert!(matches!(twice, Err(Error::Setup(E::TableClash { .. }))));
    assert!(matches!(
        Device::with("", |config| config),
        Err(Error::Setup(E::NoTables))
    ));
}

#[test]
fn a_refused_file_stays_as_it_was() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("app.db");
    let app = rusqlite::Connection::open(&path).expect("opens");
    app.execute_batch(
        "CREATE TABLE a (id TEXT PRIMARY KEY); CREATE TABLE b (id INTEGER PRIMARY KEY)",
    )
    .expect("runs");
    let config = super::config(&folder).table("a").table("b");
    assert!(crate::store::Store::open(&config).is_err());
    let own: i64 = app
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_sync\\_%' ESCAPE '\\'",
            [],
            |row| row.get(0),
        )
        .expect("a count");
    assert_eq!(own, 0);
}

#[test]
fn one_owner_and_one_user_a_file() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let app = rusqlite::Connection::open(folder.path().join("app.db")).expect("opens");
    app.execute_batch("CREATE TABLE t (id TEXT PRIMARY KEY)")
        .expect("runs");
    let config = super::config(&folder).table("t");
    // Several may open it, one at a time synchronises it.
    let _open = [(); 2].map(|()| crate::store::Store::open(&config).expect("opens"));
    let (first, second) = [(); 2]
        .map(|()| crate::lock::Lease::new(&config.path))
        .into();
    let holding = first.take().expect("free");
    let in_use = |lease: &crate::lock::Lease| {
        matches!(lease.take(), Err(Error::Setup(SetupError::InUse { .. })))
    };
    assert!(in_use(&second));
    drop(holding);
    assert!(!in_use(&second), "between two steps it is free");
    first.keep().expect("free");
    drop(first.take().expect("held"));
    assert!(in_use(&second), "an engine keeps it");
    first.release();
    assert!(!in_use(&second));
    // By another way to the same file.
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&config.path, &link).expect("a link");
    let beside = folder
        .path()
        .join("..")
        .join(folder.path().file_name().expect("a name"));
    first.keep().expect("free");
    for path in [link, beside.join("app.db")] {
        assert!(
            in_use(&crate::lock::Lease::new(&path)),
            "{}",
            path.display()
        );
    }
    first.release();
    let mut other = config.clone();
    other.user = oversync_shared::UserId::new("user-bob").expect("a name");
    assert!(matches!(
        crate::store::Store::open(&other),
        Err(Error::Setup(SetupError::Foreign { what: "user", .. }))
    ));
    assert!(crate::store::Store::open(&config).is_ok());
}

#[test]
fn a_locked_file_says_what_to_do() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("app.db");
    let (one, other) = (
        rusqlite::Connection::open(&path).expect("opens"),
        rusqlite::Connection::open(&path).expect("opens"),
    );
    one.execute_batch("BEGIN IMMEDIATE").expect("begins");
    other.busy_timeout(std::time::Duration::ZERO).expect("set");
    let busy = other.execute_batch("BEGIN IMMEDIATE").expect_err("locked");
    let error = Error::from(busy);
    assert!(matches!(
        error,
        Error::Storage(crate::error::StorageError::Busy)
    ));
    assert!(error.to_string().contains("commit it"), "{error}");
}
