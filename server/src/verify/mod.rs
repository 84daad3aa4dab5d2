//! `oversync verify`: everything that can be recomputed from the log is, and
//! compared with what is recorded.
//!
//! User by user, each from one snapshot, while servers write. `fold.rs` is the
//! pure part; the stores read ([`crate::store::audit`]) and compare business
//! rows with the expressions that wrote them. Changes nothing, ever.

mod fold;
mod places;
mod report;
mod runs;

pub use report::{Checked, Difference, Finding, Report, Wanted};

use crate::projection::Projection;
use crate::registration::{self, Found, RegistrationError};
use crate::settings::Settings;
use crate::store::audit::{self, Audit, Book, BusinessFault, RowName, Snapshot, TableKey};
use crate::store::{OpenError, StoreError};
use fold::{Expected, Fold, States};
use oversync_shared::upload::RowState;
use oversync_shared::{Catalog, RowKey, ServerId, TableName, UserId};
use places::Places;
use report::Findings;
use std::collections::HashMap;

/// Business rows compared at a time.
const BUSINESS_CHUNK: usize = 500;

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The database.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The tables.
    #[error("{0}")]
    Registration(#[from] RegistrationError),
    /// The user asked for.
    #[error("there is no user {0}")]
    NoUser(UserId),
}

impl From<StoreError> for VerifyError {
    fn from(error: StoreError) -> Self {
        Self::Open(error.into())
    }
}

/// Verifies one user, or all. `progress` is told again and again how much has
/// been looked at.
pub async fn verify(
    settings: &Settings,
    user: Option<&UserId>,
    wanted: Wanted,
    progress: &mut (dyn FnMut(&Checked) + Send),
) -> Result<Report, VerifyError> {
    let mut audit = audit::open(&settings.database_url).await?;
    let wanted_tables = registration::Wanted::of(settings);
    let Found {
        catalog, business, ..
    } = registration::found(wanted_tables, audit.is_shared(), async |tables| {
        audit.describe(tables).await
    })
    .await?;
    let projections = business
        .projections
        .into_iter()
        .map(|projection| (projection.name.clone(), projection))
        .collect();
    let mut run = Run {
        catalog,
        projections,
        wanted,
        report: Report::default(),
        progress,
    };
    let handled = settings.tables.iter().filter(|table| table.handled);
    run.report.checked.handled_tables = handled.count() as u64;
    match user {
        Some(user) => {
            if !run.user(&mut *audit, user).await? {
                return Err(VerifyError::NoUser(user.clone()));
            }
        }
        None => run.everybody(&mut *audit).await?,
    }
    Ok(run.report)
}

struct Run<'a> {
    catalog: Catalog,
    projections: HashMap<TableName, Projection>,
    wanted: Wanted,
    report: Report,
    progress: &'a mut (dyn FnMut(&Checked) + Send),
}

impl Run<'_> {
    async fn everybody(&mut self, audit: &mut dyn Audit) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let users = audit.users(after.as_ref()).await?;
            let Some(last) = users.last().cloned() else {
                break;
            };
            for user in &users {
                self.user(audit, user).await?;
                if self.is_over() {
                    return Ok(());
                }
            }
            after = Some(last);
        }
        self.strays(audit).await
    }

    fn is_over(&self) -> bool {
        report::are_enough(&self.report.differences, self.wanted)
    }

    /// `false` for a user never seen.
    async fn user(&mut self, audit: &mut dyn Audit, user: &UserId) -> Result<bool, StoreError> {
        let Some((book, mut snapshot)) = audit.snapshot(user).await? else {
            return Ok(false);
        };
        let mut findings = Findings::new(
            user,
            &book.tables,
            self.wanted,
            &mut self.report.differences,
        );
        let checked = &mut self.report.checked;
        checked.users += 1;

        let mut fold = Fold::new(&book);
        let mut after = ServerId::new(i64::MIN);
        loop {
            let entries = snapshot.log(after).await?;
            let Some(last) = entries.last() else {
                break;
            };
            after = last.server_id;
            for entry in &entries {
                fold.take(entry, &mut findings);
                checked.entries += 1;
            }
            (self.progress)(checked);
            if findings.are_enough() {
                return Ok(true);
            }
        }
        let Expected { rows, at_floor } = fold.end(&mut findings);

        let mut places = Places::new(&book, &self.catalog, &at_floor);
        let mut after = ServerId::new(i64::MIN);
        loop {
            let step = snapshot.folded(book.fold, after).await?;
            let Some(last) = step.last() else {
                break;
            };
            after = last.place;
            for placed in &step {
                places.take(placed, &mut findings);
            }
        }
        places.end(&mut findings);
        if findings.are_enough() {
            return Ok(true);
        }

        let business = Business {
            projections: &self.projections,
            book: &book,
        };
        let expected = rows;
        let mut states = States::new(&book, &expected);
        let mut after = None;
        loop {
            let rows = snapshot.rows(after).await?;
            let Some((last, _)) = rows.last() else {
                break;
            };
            after = Some(*last);
            let mut gone = Vec::new();
            for (row, state) in rows {
                if states.take(row, state, &mut findings) {
                    gone.push((row, state));
                }
                checked.rows += 1;
            }
            let gone = gone.iter().map(|(row, state)| (row, state));
            business
                .compare(&mut *snapshot, gone, &mut findings, checked, self.progress)
                .await?;
            (self.progress)(checked);
            if findings.are_enough() {
                return Ok(true);
            }
        }
        states.end(&mut findings);
        if findings.are_enough() {
            return Ok(true);
        }

        business
            .compare(
                &mut *snapshot,
                expected.iter(),
                &mut findings,
                checked,
                self.progress,
            )
            .await?;
        Ok(true)
    }

    async fn strays(&mut self, audit: &mut dyn Audit) -> Result<(), StoreError> {
        let owned: Vec<TableName> = self
            .projections
            .values()
            .filter(|projection| projection.owner.is_none())
            .map(|projection| projection.name.clone())
            .collect();
        for stray in audit.strays(&owned).await? {
            let difference = Difference {
                finding: Finding::Stray,
                user: stray.user,
                table: stray.table.map(|table| table.to_string()),
                key: stray.key,
                server_id: None,
                recorded: stray.what.to_owned(),
                recomputed: "nothing".to_owned(),
            };
            report::push(&mut self.report.differences, self.wanted, difference);
        }
        Ok(())
    }
}

/// The comparison of one user's business rows.
struct Business<'a> {
    projections: &'a HashMap<TableName, Projection>,
    book: &'a Book,
}

impl Business<'_> {
    /// Rows come in the order of their names.
    async fn compare<'r>(
        &self,
        snapshot: &mut dyn Snapshot,
        rows: impl Iterator<Item = (&'r RowName, &'r RowState)> + Send,
        findings: &mut Findings<'_>,
        checked: &mut Checked,
        progress: &mut (dyn FnMut(&Checked) + Send),
    ) -> Result<(), StoreError> {
        let mut chunk: Vec<(RowKey, RowState)> = Vec::new();
        let mut rows = rows.peekable();
        while let Some((row, state)) = rows.next() {
            let table = row.table;
            let Some(projection) = self.projection(table) else {
                continue;
            };
            if !self.book.failures.contains(&(*row, state.version)) {
                chunk.push((row.key, *state));
                checked.business_rows += 1;
            }
            let is_last = rows.peek().is_none_or(|(next, _)| next.table != table);
            if is_last || chunk.len() == BUSINESS_CHUNK {
                let faults = snapshot.business(projection, table, &chunk).await?;
                for (key, fault) in faults {
                    report_business(RowName { table, key }, fault, findings);
                }
                chunk.clear();
                progress(checked);
                if findings.are_enough() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn projection(&self, table: TableKey) -> Option<&Projection> {
        self.projections.get(self.book.tables.get(&table)?)
    }
}

fn report_business(row: RowName, fault: BusinessFault, findings: &mut Findings<'_>) {
    let null = || "null".to_owned();
    match fault {
        BusinessFault::Missing => {
            findings.of_row(row, Finding::BusinessMissing, "no row", "a row");
        }
        BusinessFault::NotOwned => {
            findings.of_row(
                row,
                Finding::BusinessOwner,
                "another owner or none",
                "this user",
            );
        }
        BusinessFault::NotGone => {
            findings.of_row(
                row,
                Finding::BusinessExtra,
                "a row or owner record",
                "none: the row is deleted",
            );
        }
        BusinessFault::Value {
            column,
            recorded,
            recomputed,
        } => findings.of_row(
            row,
            Finding::BusinessValue,
            format!("{column} = {}", recorded.unwrap_or_else(null)),
            format!("{column} = {}", recomputed.unwrap_or_else(null)),
        ),
        BusinessFault::Unprojectable(error) => {
            findings.of_row(
                row,
                Finding::BusinessFailure,
                "no failure",
                format!("the failure: {error}"),
            );
        }
    }
}
