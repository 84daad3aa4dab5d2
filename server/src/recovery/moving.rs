//! One move: from the embedded store to PostgreSQL, with the same epoch and the same
//! numbers everywhere, so that devices notice nothing.
//!
//! The new database carries a mark under which no server starts until all is there and
//! `verify` has found it right; what fails before leaves that mark. Then the file gets
//! one: it is locked, and not written before. So at no moment may servers start on both.

use super::{Progress, RecoveryError};
use crate::clock::Clock;
use crate::registration::{Wanted, Writing, found, register};
use crate::settings::Settings;
use crate::store::moving::{Destination, MovedAway, Origin};
use crate::store::recovery::{Contents, postgres};
use crate::store::{Place, Store as _};
use crate::verify::{self, verify};
use serde::Serialize;
use std::path::PathBuf;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use url::Url;

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

/// Where the settings say that it goes.
fn destination(settings: &Settings) -> Result<String, RecoveryError> {
    match Place::of(&settings.database_url)? {
        Place::Postgres(url) => Ok(url),
        Place::Embedded(_) => {
            let problem = "--to must be a PostgreSQL database: postgres://…";
            Err(RecoveryError::NotMoved(problem.to_owned()))
        }
    }
}

/// A database as people name it; never its user or password.
fn shown(url: &str) -> String {
    let Ok(url) = Url::parse(url) else {
        return "PostgreSQL".to_owned();
    };
    let mut hosts = url.query_pairs().filter(|(name, _)| name == "host");
    let host = match hosts.next() {
        Some((_, host)) => host.into_owned(),
        None => url.host_str().unwrap_or("localhost").to_owned(),
    };
    let port = url.port().map(|port| format!(":{port}"));
    let name = url.path().trim_start_matches('/');
    format!(
        "the PostgreSQL database {name} on {host}{}",
        port.unwrap_or_default()
    )
}

/// What was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TakenBack {
    /// The file that servers may start on again.
    pub(crate) file: PathBuf,
    /// Where it had been moved to.
    pub(crate) moved_to: String,
    /// When, RFC 3339.
    pub(crate) moved_at: String,
}

/// Takes back a move: the history goes on in the file `from` again, and no server starts
/// on the database that the settings name. Refused where anything was written there.
pub(crate) async fn undo(from: &str, settings: &Settings) -> Result<TakenBack, RecoveryError> {
    let path = file(from)?;
    if !path.exists() {
        return Err(RecoveryError::NoDatabase(path));
    }
    let url = destination(settings)?;
    let (origin, gone) = Origin::open_moved(&path)?;
    let mut target = postgres::Target::open(&url).await?;
    // That one first: servers may start on neither in between.
    target
        .give_back(&origin.contents.epoch, origin.standing()?, &gone)
        .await?;
    origin.unmark()?;
    Ok(TakenBack {
        file: path,
        moved_to: gone.to,
        moved_at: gone.at,
    })
}

/// Moves the database `from` to the one that the settings name, whose tables are filled.
pub(crate) async fn migrate(
    from: &str,
    settings: &Settings,
    clock: &Clock,
    progress: Progress<'_>,
) -> Result<Moved, RecoveryError> {
    let path = file(from)?;
    if !path.exists() {
        return Err(RecoveryError::NoDatabase(path));
    }
    let url = destination(settings)?;
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
    let origin = read?;
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
    let at = clock.now().format(&Rfc3339);
    let marked = origin.mark(&MovedAway {
        to: shown(&url),
        at: at.unwrap_or_default(),
        unfinished: target.unfinished.clone(),
    });
    // Held to the end: no server may go on with the file.
    let _lock = marked.map_err(|error| {
        RecoveryError::NotMoved(format!(
            "{} cannot be marked as moved: {error}; see to it that it can be written, then migrate again into \
             an empty database",
            path.display()
        ))
    })?;
    let finished = target.finish(&meta).await;
    finished.map_err(|error| {
        RecoveryError::NotMoved(format!(
            "{error}; {} is marked as moved, and whether servers may start on the database is not known: \
             run `oversync migrate --undo`, then migrate again into an empty database",
            path.display()
        ))
    })?;
    Ok(Moved {
        contents,
        business_rows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_without_who_enters_it() {
        for (url, name) in [
            (
                "postgres://ann:secret@db.example:5433/app",
                "app on db.example:5433",
            ),
            (
                "postgres://ann@localhost/app?host=%2Frun%2Fpg",
                "app on /run/pg",
            ),
            ("postgres:///app", "app on localhost"),
        ] {
            let found = shown(url);
            assert_eq!(found, format!("the PostgreSQL database {name}"));
        }
    }
}
