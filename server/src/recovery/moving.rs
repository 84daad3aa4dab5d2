//! One move: from the embedded store to PostgreSQL, with the same epoch and the same
//! numbers everywhere, so that devices notice nothing.
//!
//! The file is locked and not written. The new database carries a mark under which no
//! server starts until all is there and `verify` has found it right; what fails before
//! leaves that mark.

use super::{Progress, RecoveryError};
use crate::registration::{Wanted, Writing, found, register};
use crate::settings::Settings;
use crate::store::moving::{Destination, Origin};
use crate::store::recovery::Contents;
use crate::store::{OpenError, Place, Store as _};
use crate::verify::{self, verify};
use serde::Serialize;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Pieces on their way, of a megabyte each.
const PIECES: usize = 4;

/// What was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Moved {
    /// What both databases hold.
    #[serde(flatten)]
    pub(crate) contents: Contents,
    /// Rows of business tables that were looked at.
    pub(crate) business_rows: u64,
}

/// The file behind a URL.
fn file(url: &str) -> Result<PathBuf, RecoveryError> {
    // Both spellings are common.
    let spelt = match url.strip_prefix("sqlite:") {
        Some(path) if !path.starts_with("//") => format!("sqlite://{path}"),
        _ => url.to_owned(),
    };
    match Place::of(&spelt) {
        Ok(Place::Embedded(path)) if !path.as_os_str().is_empty() => Ok(path),
        _ => Err(RecoveryError::NotMoved(
            "--from must be the embedded store's: sqlite://FILE".to_owned(),
        )),
    }
}

/// Moves the database `from` to the one that the settings name, whose tables are filled.
pub(crate) async fn migrate(
    from: &str,
    settings: &Settings,
    progress: Progress<'_>,
) -> Result<Moved, RecoveryError> {
    let path = file(from)?;
    if !path.exists() {
        return Err(RecoveryError::NoDatabase(path));
    }
    let Place::Postgres(url) = Place::of(&settings.database_url)? else {
        let problem = "--to must be a PostgreSQL database: postgres://…";
        return Err(RecoveryError::NotMoved(problem.to_owned()));
    };
    let origin = Origin::open(&path)?;
    let (contents, meta) = (origin.contents.clone(), origin.meta.clone());
    let mut target = Destination::reach(&url).await?;
    // What is wrong with the tables is said before anything is written there.
    found(Wanted::of(settings), true, async |tables| {
        target.store().describe(tables).await
    })
    .await
    .map_err(verify::VerifyError::from)?;
    target.create().await?;

    let (sender, mut pieces) = mpsc::channel(PIECES);
    let reading = tokio::task::spawn_blocking(move || origin.send(&sender));
    let taken = target
        .take(&mut pieces, contents.entries.unsigned_abs(), progress)
        .await;
    // Who reads ends when nobody takes what it has.
    drop(pieces);
    let read = reading.await.expect("BUG: reading does not panic");
    // Held to the end: no server may go on with the file.
    let _origin = read?;
    taken?;

    let store = target.store();
    let filled = async {
        register(Wanted::of(settings), Writing::Nobody, store)
            .await
            .map_err(verify::VerifyError::from)?;
        let rows = store.fill_business(progress).await;
        rows.map_err(verify::VerifyError::from)
    };
    let filled = filled.await;
    store.close().await;
    let business_rows = filled?;

    let arrived = target.contents().await?;
    if (arrived.users, arrived.entries) != (contents.users, contents.entries) {
        return Err(RecoveryError::NotMoved(format!(
            "{} users and {} changes arrived of {} and {}",
            arrived.users, arrived.entries, contents.users, contents.entries
        )));
    }
    let report = verify(settings, None, verify::Wanted::First, &mut |_| {}).await?;
    if let Some(difference) = report.differences.first() {
        return Err(RecoveryError::NotMoved(format!(
            "what arrived is not right: {difference}"
        )));
    }
    target.finish(&meta).await.map_err(OpenError::from)?;
    Ok(Moved {
        contents,
        business_rows,
    })
}
