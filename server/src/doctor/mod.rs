//! `oversync doctor`: says what is wrong with a server, its database, or one user's
//! data, in words, and what to do.
//!
//! It reads the settings and the database by itself, whether a server runs or not, and
//! asks the running one where it can be reached. It changes nothing. What is known
//! only to a device is said by `oversqlite doctor` there.

mod database;
mod keys;
mod person;
mod row;
mod running;

use crate::clock::Clock;
use crate::settings::Settings;
use crate::store::StoreError;
use database::Database;
use oversync_shared::UserId;
use serde::Serialize;
use time::Duration;
use url::Url;

pub use row::WantedRow;

/// Clocks that differ by more than this are wrong: tokens are judged by one, entries
/// are dated by the other.
const MAX_SKEW: Duration = Duration::seconds(5);

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Gravity {
    /// Good to know.
    Note,
    /// Somebody has to do something.
    Trouble,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it weighs.
    pub gravity: Gravity,
    /// What it is about, in a word: `settings`, `keys`, `certificate`, `database`,
    /// `tables`, `clock`, `server`, `failures`, `user`, `device`, `retention`, `row`.
    pub about: &'static str,
    /// What is so.
    pub what: String,
    /// What to do.
    pub advice: String,
}

/// What was found, and in short.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Examination {
    /// What could be looked at: a word, and what was seen.
    pub looked_at: Vec<(&'static str, String)>,
    /// What was found there.
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why.
    pub not_looked_at: Vec<(&'static str, String)>,
}

/// What is to be examined.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// One user's data too.
    pub user: Option<UserId>,
    /// One row of that user.
    pub row: Option<WantedRow>,
    /// Where the server is asked; where the settings say it listens, unless given.
    pub server: Option<Url>,
    /// Where operators ask it, likewise.
    pub operators: Option<Url>,
}

impl Examination {
    fn saw(&mut self, about: &'static str, what: impl Into<String>) {
        self.looked_at.push((about, what.into()));
    }

    fn could_not(&mut self, about: &'static str, why: impl ToString) {
        self.not_looked_at.push((about, why.to_string()));
    }

    fn trouble(&mut self, about: &'static str, what: impl Into<String>, advice: impl Into<String>) {
        self.find(Gravity::Trouble, about, what.into(), advice.into());
    }

    fn note(&mut self, about: &'static str, what: impl Into<String>, advice: impl Into<String>) {
        self.find(Gravity::Note, about, what.into(), advice.into());
    }

    fn find(&mut self, gravity: Gravity, about: &'static str, what: String, advice: String) {
        self.findings.push(Finding {
            gravity,
            about,
            what,
            advice,
        });
    }

    /// How many of the findings are trouble.
    pub fn troubles(&self) -> usize {
        let grave = |finding: &&Finding| finding.gravity == Gravity::Trouble;
        self.findings.iter().filter(grave).count()
    }

    /// All of it in a sentence.
    pub fn verdict(&self) -> String {
        let first = self.not_looked_at.first();
        match (self.troubles(), first) {
            (0, None) => "all is well, as far as can be seen from here".to_owned(),
            (0, Some((about, why))) => format!(
                "nothing is wrong where it could look; it could not look at the {about}: {why}"
            ),
            (1, _) => "one thing is wrong; see above what to do".to_owned(),
            (several, _) => format!("{several} things are wrong; the first may explain the others"),
        }
    }

    /// Settings that cannot be used; nothing else can be looked at.
    pub fn of_unusable_settings(problem: impl ToString) -> Self {
        let mut found = Self::default();
        found.trouble(
            "settings",
            problem.to_string(),
            "mend the setting that is named; no server starts with these",
        );
        found
    }
}

/// Examines what the settings are about.
pub async fn examine(settings: &Settings, wanted: &Wanted) -> Examination {
    let (mut found, clock) = (Examination::default(), Clock::system());
    let tables = settings.tables.len();
    found.saw(
        "settings",
        format!("usable; {tables} tables are synchronised"),
    );
    keys::look(&mut found, settings, &clock).await;
    let database = Database::open(&mut found, settings, &clock).await;
    running::look(&mut found, settings, wanted, database.as_ref(), &clock).await;
    let Some(mut database) = database else {
        return found;
    };
    if let Err(error) = data(&mut found, settings, wanted, &mut database, &clock).await {
        found.could_not("data", error);
    }
    found
}

async fn data(
    found: &mut Examination,
    settings: &Settings,
    wanted: &Wanted,
    database: &mut Database,
    clock: &Clock,
) -> Result<(), StoreError> {
    database.failures(found, wanted.user.as_ref()).await?;
    let Some(user) = &wanted.user else {
        return Ok(());
    };
    let known = person::look(found, settings, &*database.view, user, clock).await?;
    if let Some(row) = &wanted.row {
        row::look(found, settings, database, (user, known.as_ref()), row).await?;
    }
    Ok(())
}

/// Says whether two clocks agree.
fn compare_clocks(found: &mut Examination, whose: &str, ahead: Duration, advice: &str) {
    if ahead.abs() <= MAX_SKEW {
        found.saw("clock", format!("{whose} agrees with this machine's"));
        return;
    }
    let word = if ahead.is_positive() {
        "ahead of"
    } else {
        "behind"
    };
    let by = ahead.abs().whole_seconds();
    found.trouble(
        "clock",
        format!("{whose} is {by} s {word} this machine's"),
        advice,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(seconds: i64) -> Examination {
        let mut found = Examination::default();
        compare_clocks(&mut found, "a clock", Duration::seconds(seconds), "set it");
        found
    }

    #[test]
    fn clocks_may_differ_by_a_little() {
        assert_eq!(clocks(-5).troubles() + clocks(5).troubles(), 0);
        let behind = &clocks(-6).findings[0];
        assert_eq!(behind.what, "a clock is 6 s behind this machine's");
        assert_eq!((clocks(61).troubles(), behind.about), (1, "clock"));
    }

    #[test]
    fn a_verdict_is_about_the_worst() {
        let mut found = Examination::default();
        found.note("user", "a note", "nothing");
        assert!(found.verdict().starts_with("all is well"));
        found.could_not("server", "nobody answers");
        assert!(
            found
                .verdict()
                .contains("could not look at the server: nobody answers")
        );
        found.trouble("row", "gone", "look");
        assert!(found.verdict().starts_with("one thing is wrong"));
        found.trouble("row", "gone", "look");
        assert!(found.verdict().starts_with("2 things are wrong"));
    }
}
