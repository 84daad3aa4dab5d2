//! The database: whether it is there, of this version, and on time; whether the tables
//! fit it; and what could not be written.

use super::{Examination, compare_clocks};
use crate::clock::Clock;
use crate::drift::{Shape, Use};
use crate::projection::Projection;
use crate::registration::{self, Found};
use crate::settings::Settings;
use crate::store::audit::{self, Audit};
use crate::store::view::{self, View};
use crate::store::{OpenError, StoreError};
use oversync_shared::{TableName, UserId};
use std::sync::Arc;

/// Failures that are told one by one.
const TOLD: i64 = 5;

/// A database that can be read.
pub(super) struct Database {
    pub(super) audit: Box<dyn Audit>,
    pub(super) view: Arc<dyn View>,
    /// The configured tables as they are now; none where they do not fit.
    pub(super) shapes: Vec<Shape>,
    pub(super) projections: Vec<Projection>,
}

impl Database {
    /// Opens it; `None` where it cannot be read.
    pub(super) async fn open(
        found: &mut Examination,
        settings: &Settings,
        clock: &Clock,
    ) -> Option<Self> {
        let audit = match audit::open(&settings.database_url).await {
            Ok(audit) => audit,
            Err(error @ OpenError::Steps { .. }) => {
                let advice = "start a server of this version once: it brings the schema up to date";
                found.trouble("database", error.to_string(), advice);
                return None;
            }
            Err(error) => {
                let advice =
                    "look at database_url, and at whether the database runs and lets this user in";
                found.trouble("database", format!("it cannot be opened: {error}"), advice);
                return None;
            }
        };
        let view = match view::open(&settings.database_url).await {
            Ok(view) => view,
            Err(error) => {
                found.could_not("database", error);
                return None;
            }
        };
        let mut database = Self {
            audit,
            view,
            shapes: Vec::new(),
            projections: Vec::new(),
        };
        if let Err(error) = database.look(found, settings, clock).await {
            found.could_not("database", error);
            return None;
        }
        Some(database)
    }

    async fn look(
        &mut self,
        found: &mut Examination,
        settings: &Settings,
        clock: &Clock,
    ) -> Result<(), StoreError> {
        found.saw("database", "reached; its schema is this version's");
        let before = clock.now();
        if let Some(now) = self.view.now().await? {
            // Half of the way there and back.
            let here = before + (clock.now() - before) / 2;
            let advice = "set the clocks by NTP; times of changes, revocations and retention are the database's";
            compare_clocks(found, "the database's clock", now - here, advice);
        }
        self.tables(found, settings).await
    }

    async fn tables(
        &mut self,
        found: &mut Examination,
        settings: &Settings,
    ) -> Result<(), StoreError> {
        let wanted = registration::Wanted::of(settings);
        let fitted = registration::found(wanted, self.audit.is_shared(), async |tables| {
            self.audit.describe(tables).await
        });
        let Found {
            business, shapes, ..
        } = match fitted.await {
            Ok(fitted) => fitted,
            Err(registration::RegistrationError::Store(error)) => return Err(error),
            Err(error) => {
                let advice =
                    "no server starts with this: mend the table, or its settings under [[tables]]";
                found.trouble("tables", error.to_string(), advice);
                return Ok(());
            }
        };
        self.shapes = shapes;
        for (shape, table) in self.shapes.iter().zip(&settings.tables) {
            let is_meant = table.owner_column.is_some() || table.key_column.is_some();
            if shape.usage == Use::SynchronisedOnly && is_meant {
                let what = format!(
                    "{} does not exist, and the settings name columns of it: its rows are written nowhere",
                    shape.table
                );
                found.trouble(
                    "tables",
                    what,
                    "make the table and restart the server, or take its columns out of [[tables]]",
                );
            }
        }
        let count = |usage| {
            self.shapes
                .iter()
                .filter(|shape| shape.usage == usage)
                .count()
        };
        let (projected, only) = (count(Use::Projected), count(Use::SynchronisedOnly));
        found.saw(
            "tables",
            format!(
                "{projected} are projected, {only} have no business table and are only synchronised"
            ),
        );
        self.projections = business.projections;
        Ok(())
    }

    /// How a table is projected.
    pub(super) fn projection(&self, table: &TableName) -> Option<&Projection> {
        self.projections.iter().find(|found| found.name == *table)
    }

    /// What could not be written, of one user or of all.
    pub(super) async fn failures(
        &self,
        found: &mut Examination,
        user: Option<&UserId>,
    ) -> Result<(), StoreError> {
        let failures = self.view.failures(user, None, TOLD + 1).await?;
        if failures.is_empty() {
            found.saw("failures", "every row that could be projected is");
            return Ok(());
        }
        let told = failures.len().min(TOLD as usize);
        for failure in &failures[..told] {
            let what = format!(
                "{} {} of {} could not be written at version {}, {} times: {}",
                failure.table,
                failure.key,
                failure.user,
                failure.version,
                failure.retries + 1,
                failure.error
            );
            found.trouble("failures", what, "mend what the text names, then try again: on the console, or POST /admin/failures/retry");
        }
        if failures.len() > told {
            found.trouble(
                "failures",
                "there are more",
                "the console lists all of them",
            );
        }
        Ok(())
    }
}
