//! Who takes part in a row, and what one round of it is.

use super::row::Role;
use crate::floor::driver::{Asked, Names, Uploaders, gets};
use crate::floor::{self, Style, Width};
use crate::http::Endpoint;
use futures_util::future::try_join_all;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Somebody who is measured.
pub struct Contender {
    /// In the table.
    pub name: String,
    /// Its part.
    pub role: Role,
    /// What it does.
    pub work: Work,
}

/// What is done in a round, and which figure counts.
pub enum Work {
    /// Uploads; changes per second.
    Uploads(Uploaders),
    /// Uploads to several processes at the same time; changes per second of all.
    Dealt(Vec<Uploaders>),
    /// The same GET; rows per second, or requests where there are no rows.
    Gets {
        /// Where.
        endpoint: Arc<Endpoint>,
        /// Who.
        names: Names,
        /// How many ask.
        devices: usize,
        /// The user of all; each its own when `None`.
        user: Option<usize>,
        /// Rows in an answer.
        rows: usize,
        /// What is asked: told the number of the request.
        path: Arc<dyn Fn(usize) -> String + Send + Sync>,
    },
    /// Bare SQL; changes per second.
    Bare {
        /// The database.
        url: String,
        /// How.
        style: Style,
        /// Connections, users per transaction, changes per user.
        shape: (usize, usize, usize),
        /// Of the users.
        heads: Vec<i64>,
    },
    /// The application's own statements; microseconds per row.
    Edits {
        /// Where files may be made.
        folder: PathBuf,
        /// With the triggers.
        captured: bool,
        /// Of which table.
        shape: Width,
        /// Which figure counts.
        edit: Edit,
    },
}

/// What an application does to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// A new one.
    Insert,
    /// Another value in it.
    Update,
    /// No row any more.
    Delete,
}

/// Rows per round of [`Work::Edits`], and in a transaction: long enough to be
/// measured, and little of it is the commit.
const EDITS: (usize, usize) = (20_000, 100);

impl Contender {
    /// One.
    pub fn new(name: &str, role: Role, work: Work) -> Self {
        Self {
            name: name.to_owned(),
            role,
            work,
        }
    }

    /// One round.
    pub async fn round(&mut self, length: Duration) -> anyhow::Result<f64> {
        match &mut self.work {
            Work::Uploads(uploaders) => Ok(uploaders.round(length, None).await?.changes),
            Work::Dealt(all) => {
                let rounds = all.iter_mut().map(|some| some.round(length, None));
                let rounds = try_join_all(rounds).await?;
                Ok(rounds.iter().map(|round| round.changes).sum())
            }
            Work::Gets {
                endpoint,
                names,
                devices,
                user,
                rows,
                path,
            } => {
                let asked = Asked {
                    endpoint,
                    names,
                    devices: *devices,
                    user: *user,
                    rows: (*rows).max(1),
                };
                let path = Arc::clone(path);
                let round = gets(&asked, length, move |number| path(number)).await?;
                Ok(round.changes)
            }
            Work::Bare {
                url,
                style,
                shape,
                heads,
            } => floor::uploads(url, *style, *shape, length, heads).await,
            Work::Edits {
                folder,
                captured,
                shape,
                edit,
            } => {
                let times = floor::edits(folder, EDITS.0, EDITS.1, *shape, *captured).await?;
                Ok(match edit {
                    Edit::Insert => times.insert,
                    Edit::Update => times.update,
                    Edit::Delete => times.delete,
                })
            }
        }
    }
}
