//! The doctor: why something is not where it should be, in words, and what to do.
//!
//! Looks at the file, then at the server, and changes neither: what it asks the
//! server cannot be applied. It needs no running client, no lease and no network;
//! what it could not find out is a finding, too. What the command line prints is
//! made here, so that an application can show or send the same.

mod explain;
mod file;
mod network;
mod row;

pub use explain::RowVerdict;
pub(crate) use file::tables;
pub use network::ServerFacts;
pub(crate) use row::name;
pub use row::{LastChange, Obstacle, RowHere, RowThere};

use crate::config::Config;
use crate::error::Error;
use crate::status::Status;
use serde::Serialize;

/// How bad it is, and who mends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gravity {
    /// Good to know; nothing is held up.
    Note,
    /// Something is held up, and goes by itself: with the next synchronisation,
    /// the next page, the end of an outage.
    Waiting,
    /// Something is held up until somebody acts.
    Trouble,
}

/// What can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Symptom {
    /// No client has opened the file yet.
    NotInitialised,
    /// The file is another user's than the configuration says.
    ForeignFile,
    /// A listed table is missing here, or cannot be synchronised.
    TableUnfit,
    /// A table has lost its triggers: edits are not captured.
    TriggersMissing,
    /// A table was altered since the client last looked.
    SchemaChanged,
    /// The triggers are switched off.
    CaptureSilenced,
    /// The first pass over the server's data, or a new one, is not complete.
    FirstPassIncomplete,
    /// The application holds uploads back.
    UploadsPaused,
    /// The application holds downloads back.
    DownloadsPaused,
    /// Another process synchronises the file.
    LeaseHeld,
    /// Something is to do, and no process synchronises the file.
    NobodySynchronises,
    /// Another file has used this device's name.
    SharedDevice,
    /// Edits were refused.
    Rejected,
    /// Edits wait for a row whose own edit was refused.
    WaitsForRejected,
    /// Edits wait for a row that is on its way.
    WaitsForRow,
    /// Edits have not been acknowledged.
    Unsent,
    /// Rows of other devices cannot be written here until somebody acts.
    ParkedForGood,
    /// Rows of other devices cannot be written here yet.
    ParkedForNow,
    /// There is hardly room on the server for more rows of this user, or none.
    QuotaNear,
    /// Something lost in a conflict, and is kept.
    ConflictsKept,
    /// The server's address cannot be used.
    BadAddress,
    /// Nobody answers at the server's address.
    Unreachable,
    /// Something answers there that is not this kind of server.
    NotTheServer,
    /// The server has trouble of its own.
    ServerFails,
    /// The server asks for patience.
    Overloaded,
    /// The clocks are more than a minute apart.
    ClockSkew,
    /// No WebSocket gets through; news come more slowly.
    NoHints,
    /// The application's provider gives no token.
    NoToken,
    /// The token is no JWT: nothing can be told from it.
    OpaqueToken,
    /// The token has ended.
    TokenExpired,
    /// The token is good only later.
    TokenNotYetValid,
    /// The token is another user's than the file.
    TokenOfAnotherUser,
    /// The token is for another device than the file.
    TokenOfAnotherDevice,
    /// The server refuses a token that looks good from here.
    TokenRefused,
    /// The server does not take the application's schema version.
    SchemaVersion,
    /// The server does not synchronise a listed table.
    TableUnregistered,
    /// The server has another history than the file knows.
    HistoryReplaced,
    /// The server ends before the place up to which the file has applied.
    ServerBehind,
    /// The server has newer change ids of this device than the file has given out.
    CopiedFile,
    /// The server has more than the file has applied.
    Behind,
}

impl Symptom {
    /// Who mends it.
    pub fn gravity(self) -> Gravity {
        match self {
            Self::LeaseHeld
            | Self::SharedDevice
            | Self::QuotaNear
            | Self::ConflictsKept
            | Self::NoHints
            | Self::OpaqueToken => Gravity::Note,
            Self::TriggersMissing
            | Self::SchemaChanged
            | Self::FirstPassIncomplete
            | Self::NobodySynchronises
            | Self::WaitsForRow
            | Self::Unsent
            | Self::ParkedForNow
            | Self::Unreachable
            | Self::Overloaded
            | Self::HistoryReplaced
            | Self::ServerBehind
            | Self::CopiedFile
            | Self::Behind => Gravity::Waiting,
            Self::NotInitialised
            | Self::ForeignFile
            | Self::TableUnfit
            | Self::CaptureSilenced
            | Self::UploadsPaused
            | Self::DownloadsPaused
            | Self::Rejected
            | Self::WaitsForRejected
            | Self::ParkedForGood
            | Self::BadAddress
            | Self::NotTheServer
            | Self::ServerFails
            | Self::ClockSkew
            | Self::NoToken
            | Self::TokenExpired
            | Self::TokenNotYetValid
            | Self::TokenOfAnotherUser
            | Self::TokenOfAnotherDevice
            | Self::TokenRefused
            | Self::SchemaVersion
            | Self::TableUnregistered => Gravity::Trouble,
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which.
    pub symptom: Symptom,
    /// How bad.
    pub gravity: Gravity,
    /// In words, with names and numbers.
    pub what: String,
    /// What to do; what happens by itself where nothing is to do.
    pub advice: String,
}

impl Finding {
    fn new(symptom: Symptom, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            symptom,
            gravity: symptom.gravity(),
            what: what.into(),
            advice: advice.into(),
        }
    }
}

/// One row, here and on the server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowDiagnosis {
    /// The table, as it was asked for.
    pub table: String,
    /// The key, as it was asked for.
    pub key: String,
    /// What is the matter with it.
    pub verdict: RowVerdict,
    /// The same in words, with the reason.
    pub what: String,
    /// What to do, or what will happen by itself.
    pub advice: String,
    /// What the file says; none when it cannot hold such a row.
    pub here: Option<RowHere>,
    /// What the server says; none when it could not be asked.
    pub there: Option<RowThere>,
}

/// Everything the doctor found out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnosis {
    /// The worst of the findings, and of the row.
    pub gravity: Gravity,
    /// One sentence.
    pub verdict: String,
    /// Worst first.
    pub findings: Vec<Finding>,
    /// The row that was asked about.
    pub row: Option<RowDiagnosis>,
    /// What the file says; none when no client has opened it.
    pub status: Option<Status>,
    /// What the server said of itself, as far as it could be asked.
    pub server: Option<ServerFacts>,
    /// This crate's version.
    pub client_version: &'static str,
    /// The version of SQLite it works with.
    pub sqlite_version: &'static str,
}

impl Diagnosis {
    /// Whether something of this kind was found.
    pub fn found(&self, symptom: Symptom) -> bool {
        self.findings.iter().any(|found| found.symptom == symptom)
    }

    /// Whether the server could not be reached: what is said is from the file.
    pub fn is_offline(&self) -> bool {
        self.found(Symptom::Unreachable) || self.found(Symptom::BadAddress)
    }
}

/// Looks for whatever is the matter with a file and its way to the server.
///
/// Changes nothing, in the file or on the server, and works while another
/// process synchronises the file. `row` is a table and a key to explain; its last
/// change is looked for in the server's stream, from the end and in 100 requests at
/// most, which `progress` is told of (positions looked at, head).
///
/// Fails only when the file cannot be read at all.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("notes.db");
/// # rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, text)")?;
/// use oversqlite::{Client, Config, Symptom, UserId, diagnose};
///
/// let token = || async { Ok("from your own sign-in".to_owned()) };
/// let config = Config::new(&path, "http://127.0.0.1:1", UserId::new("user-ada")?, token)
///     .table("notes");
/// let client = Client::open(config.clone()).await?;
///
/// let found = diagnose(&config, None, |_, _| {}).await?;
/// assert!(found.found(Symptom::Unreachable), "nobody listens there");
/// println!("{}", found.verdict);
/// for finding in &found.findings {
///     println!("{:?}: {} ({})", finding.gravity, finding.what, finding.advice);
/// }
/// # client.stop().await;
/// # Ok(())
/// # }
/// ```
pub async fn diagnose(
    config: &Config,
    row: Option<(&str, &str)>,
    mut progress: impl FnMut(i64, i64),
) -> Result<Diagnosis, Error> {
    let file = file::examine(config)?;
    let mut findings = file.findings;
    let network = network::examine(config, file.state.as_ref(), &mut findings).await;
    let server = network.facts;
    if let (Some(state), Some(server)) = (&file.state, &server) {
        file::compare(state, server, &mut findings);
        if let (Some(tables), Some(most)) = (&file.tables, server.quotas.and_then(|q| q.user_rows))
        {
            file::room(&file.conn, tables, most, &mut findings)?;
        }
    }
    let row = match row {
        Some((table, key)) => {
            let there = match (&network.transport, &file.state) {
                (Some(transport), Some(_)) => {
                    row::ask(transport, config, table, key, &mut progress).await
                }
                _ => None,
            };
            let here = row::look(&file.conn, &file.tables, table, key)?;
            Some(explain::explain(
                table,
                key,
                here,
                there,
                &file.state,
                &findings,
            ))
        }
        None => None,
    };
    findings.sort_by_key(|found| std::cmp::Reverse(found.gravity));
    let gravity = findings
        .iter()
        .map(|found| found.gravity)
        .chain(row.iter().map(|row| row.verdict.gravity()))
        .max()
        .unwrap_or(Gravity::Note);
    Ok(Diagnosis {
        gravity,
        verdict: verdict(gravity, &findings),
        findings,
        row,
        status: file.status,
        server,
        client_version: env!("CARGO_PKG_VERSION"),
        sqlite_version: rusqlite::version(),
    })
}

fn verdict(gravity: Gravity, findings: &[Finding]) -> String {
    let count = |wanted| {
        findings
            .iter()
            .filter(|found| found.gravity == wanted)
            .count()
    };
    let offline = findings
        .iter()
        .any(|found| found.symptom == Symptom::Unreachable);
    let away = match offline {
        true => " The server cannot be reached: this is from the file alone.",
        false => "",
    };
    match gravity {
        Gravity::Trouble => {
            let number = count(Gravity::Trouble).max(1);
            let things = if number == 1 {
                "one thing"
            } else {
                "several things"
            };
            format!("Somebody has to act: {things} will not go by itself.{away}")
        }
        Gravity::Waiting => {
            format!("Something waits, and goes by itself; nobody has to act.{away}")
        }
        Gravity::Note => format!("All is well: everything is on the server and here.{away}"),
    }
}
