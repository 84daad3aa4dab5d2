//! Waking the engine when the application commits.
//!
//! `wal_hook` fires after a commit is visible, but takes a bare function;
//! `commit_hook` takes a closure, but fires before. Together: the commit hook
//! leaves the waker in a thread-local, the WAL hook of the same commit, on the
//! same thread, rings it.

use rusqlite::Connection;
use rusqlite::hooks::Wal;
use std::cell::RefCell;
use std::sync::Arc;
use tokio::sync::Notify;

/// WAL pages after which to checkpoint: SQLite's own default, which a WAL hook
/// switches off.
const CHECKPOINT_PAGES: i32 = 1000;

thread_local! {
    static COMMITTING: RefCell<Option<Arc<Notify>>> = const { RefCell::new(None) };
}

/// Makes every commit of a connection ring `wake`.
pub(crate) fn watch(conn: &Connection, wake: Arc<Notify>) -> rusqlite::Result<()> {
    conn.commit_hook(Some(move || {
        COMMITTING.with_borrow_mut(|slot| *slot = Some(Arc::clone(&wake)));
        false
    }))?;
    conn.wal_hook(Some(committed));
    Ok(())
}

fn committed(wal: &Wal, pages: i32) -> rusqlite::Result<()> {
    if let Some(wake) = COMMITTING.with_borrow_mut(Option::take) {
        wake.notify_one();
    }
    if pages >= CHECKPOINT_PAGES {
        // Busy readers hold a checkpoint up; the next commit tries again. An
        // error here would become the error of a commit that has succeeded.
        let _ = wal.checkpoint();
    }
    Ok(())
}
