//! Large pages: what is done once for many rows must not show in any of them.

use super::{Device, entry, uuid};
use crate::status;
use crate::triggers;
use oversync_shared::wire::DownloadChange;

/// Enough for every short cut, and no multiple of a block.
const ROWS: u32 = 203;

fn rows(table: &str, range: std::ops::Range<u32>, version: i64) -> Vec<DownloadChange> {
    let row = |n: u32| {
        let payload = format!("{{\"id\":\"{}\",\"v\":{n}}}", uuid(n));
        entry(table, &uuid(n), version, Some(&payload))
    };
    range.map(row).collect()
}

#[test]
fn every_version_of_a_large_page_is_held() {
    let mut device = Device::new("CREATE TABLE t (id TEXT PRIMARY KEY, v)", &["t"]);
    let mut page = rows("t", 0..ROWS, 1);
    // Rows that come again in the same page, while their version is not written yet.
    let again = format!("{{\"id\":\"{}\",\"v\":\"again\"}}", uuid(ROWS - 1));
    page.push(entry("t", &uuid(ROWS - 1), 2, Some(&again)));
    page.push(entry("t", &uuid(ROWS - 2), 2, None));
    // Older than what is held: passed over.
    page.push(entry("t", &uuid(ROWS - 1), 1, Some("{\"v\":\"old\"}")));
    assert_eq!(device.apply(page).written.len(), ROWS as usize + 2);
    assert_eq!(device.count("SELECT count(*) FROM t"), i64::from(ROWS) - 1);
    assert_eq!(
        device
            .text("SELECT v FROM t ORDER BY id DESC LIMIT 1")
            .as_deref(),
        Some("again")
    );
    let held = "SELECT count(*) FROM _sync_row WHERE version = 1 AND deleted = 0";
    assert_eq!(device.count(held), i64::from(ROWS) - 2);
    assert_eq!(device.count("SELECT sum(deleted) FROM _sync_row"), 1);
    // The same page once more says nothing new.
    assert!(device.apply(rows("t", 0..ROWS, 1)).written.is_empty());
    // Newer ones are updates, of rows and of their versions.
    assert_eq!(
        device.apply(rows("t", 0..ROWS, 3)).written.len(),
        ROWS as usize
    );
    let newest = "SELECT count(*) FROM _sync_row WHERE version = 3 AND deleted = 0";
    assert_eq!(device.count(newest), i64::from(ROWS));
    assert!(device.freeze().is_empty(), "nothing of it is an edit");
}

#[test]
fn an_unsent_edit_stands_in_a_large_page() {
    let mut device = Device::new("CREATE TABLE t (id TEXT PRIMARY KEY, v)", &["t"]);
    device.apply(rows("t", 0..ROWS, 1));
    device.run(&format!("UPDATE t SET v = 'mine' WHERE id = '{}'", uuid(7)));
    let done = device.apply_page(rows("t", 0..ROWS, 2), true);
    assert_eq!(done.written.len(), ROWS as usize - 1);
    let mine = format!("SELECT v FROM t WHERE id = '{}'", uuid(7));
    assert_eq!(device.text(&mine).as_deref(), Some("mine"));
}

#[test]
fn columns_of_others_are_kept_and_forgotten_row_by_row() {
    let mut device = Device::new("CREATE TABLE t (id TEXT PRIMARY KEY, v)", &["t"]);
    let mut page = rows("t", 0..ROWS, 1);
    let more = format!("{{\"id\":\"{}\",\"v\":1,\"colour\":\"red\"}}", uuid(5));
    page[5] = entry("t", &uuid(5), 1, Some(&more));
    device.apply(page);
    assert_eq!(device.count("SELECT count(*) FROM _sync_extra"), 1);
    device.apply(rows("t", 0..ROWS, 2));
    assert_eq!(device.count("SELECT count(*) FROM _sync_extra"), 0);
}

#[test]
fn triggers_of_the_application_fire_in_a_large_page() {
    let mut device = Device::new(
        "CREATE TABLE t (id TEXT PRIMARY KEY, v);
         CREATE TABLE quiet (id TEXT PRIMARY KEY, v);
         CREATE TABLE seen (id TEXT);
         CREATE TRIGGER t_seen AFTER INSERT ON t BEGIN INSERT INTO seen VALUES (NEW.id); END;",
        &["t", "quiet"],
    );
    device.apply(rows("t", 0..ROWS, 1));
    assert_eq!(device.count("SELECT count(*) FROM seen"), i64::from(ROWS));
    let mut mixed = rows("quiet", 0..ROWS, 1);
    mixed.extend(rows("t", ROWS..ROWS + 1, 1));
    device.apply(mixed);
    assert_eq!(
        device.count("SELECT count(*) FROM seen"),
        i64::from(ROWS) + 1
    );
    // One that the application adds later is found, too.
    device.run("CREATE TRIGGER late AFTER INSERT ON quiet BEGIN DELETE FROM seen; END");
    device.apply(rows("quiet", ROWS..ROWS + 100, 1));
    assert_eq!(device.count("SELECT count(*) FROM seen"), 0);
    assert!(device.freeze().is_empty(), "nothing of it is an edit");
}

#[test]
fn triggers_that_a_cascade_reaches_fire_in_a_large_page() {
    let mut device = Device::new(
        "CREATE TABLE p (id TEXT PRIMARY KEY, v);
         CREATE TABLE c (id TEXT PRIMARY KEY, p_id TEXT REFERENCES p (id) ON DELETE CASCADE);
         CREATE TABLE seen (id TEXT);
         CREATE TRIGGER c_gone AFTER DELETE ON c BEGIN INSERT INTO seen VALUES (OLD.id); END;",
        &["p"],
    );
    device.apply(rows("p", 0..ROWS, 1));
    device.run(&format!("INSERT INTO c VALUES ('child', '{}')", uuid(3)));
    let mut page = rows("p", 0..ROWS, 2);
    page[3] = entry("p", &uuid(3), 2, None);
    device.apply(page);
    assert_eq!(device.count("SELECT count(*) FROM p"), i64::from(ROWS) - 1);
    assert_eq!(device.count("SELECT count(*) FROM c"), 0);
    assert_eq!(device.text("SELECT id FROM seen").as_deref(), Some("child"));
}

#[test]
fn a_parked_row_of_a_table_with_triggers_fires_them_behind_a_quiet_page() {
    let mut device = Device::new(
        "CREATE TABLE p (id TEXT PRIMARY KEY, v);
         CREATE TABLE c (id TEXT PRIMARY KEY, v, p_id TEXT REFERENCES p (id));
         CREATE TABLE seen (id TEXT);
         CREATE TRIGGER c_seen AFTER INSERT ON c BEGIN INSERT INTO seen VALUES (NEW.id); END;",
        &["p", "c"],
    );
    let child = format!("{{\"id\":\"{}\",\"p_id\":\"{}\"}}", uuid(900), uuid(0));
    device.apply(vec![entry("c", &uuid(900), 1, Some(&child))]);
    assert_eq!(device.count("SELECT count(*) FROM _sync_parked"), 1);
    device.apply(rows("p", 0..ROWS, 1));
    assert_eq!(device.count("SELECT count(*) FROM _sync_parked"), 0);
    assert_eq!(device.count("SELECT count(*) FROM seen"), 1);
}

#[test]
fn behind_a_large_page_this_connection_captures_and_syncs_as_before() {
    let mut device = Device::new("CREATE TABLE t (id TEXT PRIMARY KEY, v)", &["t"]);
    device.apply_page(rows("t", 0..ROWS, 1), true);
    let synchronous = device
        .store
        .read(|conn| Ok(conn.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0))?));
    assert_eq!(synchronous.expect("a number"), 2, "FULL");
    // What the client writes for the application (a conflict restored) is an edit.
    let insert = format!("INSERT INTO t VALUES ('{}', 'new')", uuid(999));
    device.write(|txn| Ok(txn.conn.execute(&insert, [])?));
    assert_eq!(device.write(|txn| status::read(txn.conn)).unsent, 1);
}

#[test]
fn only_the_clients_own_names_are_its_triggers() {
    for ours in ["_sync_1_after_insert", "_sync_12_before_rowid"] {
        assert!(triggers::is_ours(ours), "{ours}");
    }
    for other in [
        "_sync_",
        "_sync_x_after_insert",
        "_sync_1_mine",
        "after_insert",
    ] {
        assert!(!triggers::is_ours(other), "{other}");
    }
}

/// Found by reading: a page with any row of such a table failed, and again.
#[test]
fn a_parent_table_that_is_not_there_stops_no_page() {
    let tables = "CREATE TABLE t (id TEXT PRIMARY KEY, v, p TEXT REFERENCES nowhere(id));
                  CREATE TABLE q (id TEXT PRIMARY KEY, v)";
    let mut device = Device::new(tables, &["t", "q"]);
    for (n, p) in [(1, "null".to_owned()), (2, format!("\"{}\"", uuid(9)))] {
        let payload = format!("{{\"id\":\"{}\",\"v\":1,\"p\":{p}}}", uuid(n));
        let mut page = vec![entry("t", &uuid(n), 1, Some(&payload))];
        page.extend(rows("q", n * 100..n * 100 + 3, 1));
        device.apply(page);
    }
    assert_eq!(device.count("SELECT count(*) FROM q"), 6);
    let there = device.count("SELECT count(*) FROM t");
    let parked = device.count("SELECT count(*) FROM _sync_parked");
    assert_eq!(there + parked, 2);
}

/// Found by reading: what a page's update did to other rows through a foreign key was
/// sent by nobody.
#[test]
fn rows_that_follow_an_update_are_this_devices_edits() {
    for (action, expected) in [("CASCADE", Some("y")), ("SET NULL", None)] {
        let tables = format!(
            "CREATE TABLE p (id TEXT PRIMARY KEY, code TEXT UNIQUE);
             CREATE TABLE c (id TEXT PRIMARY KEY, code TEXT REFERENCES p (code) ON UPDATE {action})"
        );
        let mut device = Device::new(&tables, &["p", "c"]);
        let parent = |code: &str| format!("{{\"id\":\"{}\",\"code\":\"{code}\"}}", uuid(1));
        let child = format!("{{\"id\":\"{}\",\"code\":\"x\"}}", uuid(2));
        device.apply(vec![entry("p", &uuid(1), 1, Some(&parent("x")))]);
        device.apply(vec![entry("c", &uuid(2), 1, Some(&child))]);
        assert!(device.freeze().is_empty());
        // The same value once more changes nothing.
        device.apply(vec![entry("p", &uuid(1), 2, Some(&parent("x")))]);
        assert!(device.freeze().is_empty());
        device.apply(vec![entry("p", &uuid(1), 3, Some(&parent("y")))]);
        assert_eq!(device.text("SELECT code FROM c").as_deref(), expected);
        let sent = device.freeze();
        assert_eq!(sent.len(), 1, "{action}: {sent:?}");
        let code = expected.map_or("null".to_owned(), |code| format!("\"{code}\""));
        let payload = format!("{{\"id\":\"{}\",\"code\":{code}}}", uuid(2));
        assert_eq!(sent[0].payload.as_deref(), Some(&*payload));
    }
}
