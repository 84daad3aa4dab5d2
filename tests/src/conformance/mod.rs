//! The conformance suite: PROTOCOL.md sections 1–5 as plain HTTP, one case per
//! rule, named after it.
//!
//! A case knows nothing but a [`Target`] and makes its own users, so the suite
//! runs against any server that has the tables of `tables.toml` registered, for
//! section 5 with the business tables that [`business_tables`] makes:
//!
//! ```text
//! cargo run -p oversync-tests --bin conformance -- --url URL --secret-file FILE
//! ```

mod authentication;
mod checks;
mod download;
mod explained;
mod gate;
mod idempotency;
mod information;
mod limits;
mod order;
mod projected;
mod references;
mod replies;
mod requests;
mod statuses;

use crate::backend::Backend;
use crate::target::Target;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};

/// Cases that run at a time.
const AT_ONCE: usize = 6;

/// What a case is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Sections 1–5: every v1 server.
    V1,
    /// Section 7: servers that have our extensions.
    Extension,
    /// Section 5: servers whose database has the tables of [`business_tables`].
    Projection,
}

/// One rule of the protocol.
#[derive(Clone, Copy)]
pub struct Case {
    /// Module and rule.
    pub name: &'static str,
    /// Which servers it is for.
    pub part: Part,
    run: fn(Target) -> BoxFuture<'static, ()>,
}

impl Part {
    /// What a server under test must have, in words.
    pub const fn needs(self) -> &'static str {
        match self {
            Self::V1 => "the tables of tables.toml registered",
            Self::Extension => "the tables of tables.toml registered, and section 7",
            Self::Projection => {
                "shelf.books and shelf.chapters as business tables: business.postgres.sql or business.sqlite.sql"
            }
        }
    }
}

/// The SQL of the business tables that section 5 needs; to be run before the
/// server starts.
pub const fn business_tables(backend: Backend) -> &'static str {
    match backend {
        Backend::Postgres => include_str!("business.postgres.sql"),
        Backend::Embedded => include_str!("business.sqlite.sql"),
    }
}

/// Lists the cases of a module: `case_list![V1: a, b; Extension: c]`.
macro_rules! case_list {
    ($($part:ident: $($case:ident),+ $(,)?);+ $(;)?) => {
        /// The cases of this module.
        pub(super) const CASES: &[super::Case] = &[$($(super::Case {
            name: concat!(module_path!(), "::", stringify!($case)),
            part: super::Part::$part,
            run: |target| Box::pin($case(target)),
        }),+),+];
    };
}
use case_list;

/// All cases.
pub fn cases() -> impl Iterator<Item = Case> {
    [
        authentication::CASES,
        requests::CASES,
        information::CASES,
        checks::CASES,
        limits::CASES,
        explained::CASES,
        replies::CASES,
        projected::CASES,
        idempotency::CASES,
        gate::CASES,
        order::CASES,
        references::CASES,
        download::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
    .map(|case| Case {
        name: case
            .name
            .trim_start_matches("oversync_tests::conformance::"),
        ..case
    })
}

/// Runs cases and returns what failed, with the reason.
pub async fn run(target: &Target, cases: impl IntoIterator<Item = Case>) -> Vec<String> {
    let runs = cases.into_iter().map(|case| {
        let target = target.clone();
        async move {
            let error = tokio::spawn((case.run)(target)).await.err()?;
            let panic = error.into_panic();
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without text");
            Some(format!("{}: {text}", case.name))
        }
    });
    stream::iter(runs)
        .buffer_unordered(AT_ONCE)
        .filter_map(|failure| async move { failure })
        .collect()
        .await
}
