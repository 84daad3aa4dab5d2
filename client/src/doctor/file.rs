//! What the file says by itself: whose it is, whether its tables and triggers
//! fit, who synchronises it, and everything that waits in it.

use super::network::ServerFacts;
use super::{Finding, Symptom};
use crate::client::inspect;
use crate::config::Config;
use crate::discover;
use crate::error::Error;
use crate::key::RowRef;
use crate::lock::Lease;
use crate::parked::Why;
use crate::rejected;
use crate::schema::Tables;
use crate::state::State;
use crate::status::{self, Status};
use crate::triggers::{self, Installed};
use oversync_shared::RowKey;
use rusqlite::{Connection, OptionalExtension as _};

const WAITING: &str = include_str!("../../../migrations/device/waiting.sql");
const PARKED: &str = include_str!("../../../migrations/device/parked_reasons.sql");

/// The last part of a quota that is told of: a tenth.
const NEAR: u64 = 10;

/// How many rejected edits are named one by one.
const NAMED: usize = 5;

/// What was found in the file.
pub(super) struct File {
    pub(super) conn: Connection,
    pub(super) state: Option<State>,
    pub(super) status: Option<Status>,
    /// The listed tables, as far as they fit.
    pub(super) tables: Option<Tables>,
    pub(super) findings: Vec<Finding>,
}

/// Reads the file, and nothing but the file.
pub(super) fn examine(config: &Config) -> Result<File, Error> {
    let conn = inspect(&config.path)?.into_connection();
    let mut file = File {
        conn,
        state: None,
        status: None,
        tables: None,
        findings: Vec::new(),
    };
    if !has_own_tables(&file.conn)? {
        file.findings.push(Finding::new(
            Symptom::NotInitialised,
            "no client has opened this file yet: nothing in it is captured",
            "open it with the client, or run `oversqlite init`",
        ));
        return Ok(file);
    }
    let state = State::load(&file.conn)?;
    if state.user != config.user {
        file.findings.push(Finding::new(
            Symptom::ForeignFile,
            format!(
                "the file belongs to user \"{}\", not \"{}\"",
                state.user, config.user
            ),
            "sign that user out first, or use another file",
        ));
    }
    file.tables(config)?;
    let status = status::read(&file.conn)?;
    file.progress(config, &state, &status)?;
    file.waiting(&status)?;
    file.state = Some(state);
    file.status = Some(status);
    Ok(file)
}

fn has_own_tables(conn: &Connection) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE name = '_sync_client'";
    if !conn.prepare(sql)?.exists([])? {
        return Ok(false);
    }
    Ok(conn.prepare("SELECT 1 FROM _sync_client")?.exists([])?)
}

/// The listed tables with the numbers they have here; 0 for one without.
pub(crate) fn tables(conn: &Connection, config: &Config) -> Result<Tables, Error> {
    discover::discover(conn, &config.tables, |name| {
        let sql = "SELECT n FROM _sync_table WHERE name = ?1";
        let found = conn.query_row(sql, [name], |row| row.get(0)).optional()?;
        Ok(found.unwrap_or(0))
    })
}

impl File {
    fn add(&mut self, symptom: Symptom, what: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding::new(symptom, what, advice));
    }

    /// Whether the tables fit, and their triggers are in place.
    fn tables(&mut self, config: &Config) -> Result<(), Error> {
        let tables = match tables(&self.conn, config) {
            Ok(tables) => tables,
            Err(Error::Setup(error)) => {
                let advice =
                    "mend the schema or the list of tables; nothing can be synchronised before";
                self.add(Symptom::TableUnfit, error.to_string(), advice);
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        for table in tables.iter() {
            let name = &table.name;
            match triggers::look(&self.conn, table)? {
                Installed::Current => {}
                Installed::Incomplete => self.add(
                    Symptom::TriggersMissing,
                    format!("table \"{name}\" has lost its triggers (it was rebuilt, or they were dropped): edits made since are not captured"),
                    "the next opening or synchronisation puts them back and looks at every row of the table",
                ),
                Installed::Outdated => self.add(
                    Symptom::SchemaChanged,
                    format!("table \"{name}\" was altered since the client last looked, or an older version of it was the last to look: new columns are not captured yet"),
                    "the next opening or synchronisation renews its triggers",
                ),
            }
        }
        let silenced = "SELECT 1 FROM _sync_guard WHERE applying <> 0";
        if self.conn.prepare(silenced)?.exists([])? {
            self.add(
                Symptom::CaptureSilenced,
                "the triggers are switched off (_sync_guard.applying is set): nothing is captured",
                "something other than the client has written to _sync_guard; set `applying` back to 0, and touch the rows written meanwhile",
            );
        }
        self.tables = Some(tables);
        Ok(())
    }

    /// Who synchronises the file, and how far it has come.
    fn progress(&mut self, config: &Config, state: &State, status: &Status) -> Result<(), Error> {
        if !state.hydrated {
            let what = match state.resync {
                Some(_) => format!(
                    "the file is passing over everything on the server again (position {}): uploads wait for the end of it",
                    state.cursor
                ),
                None => format!(
                    "the first pass over the server's data is not complete (position {}): uploads wait for the end of it",
                    state.cursor
                ),
            };
            self.add(
                Symptom::FirstPassIncomplete,
                what,
                "synchronise; it goes on where it was cut off",
            );
        }
        if state.shares_device {
            self.add(
                Symptom::SharedDevice,
                format!(
                    "another file has used the device name \"{}\" (a copy, or a backup put back)",
                    state.device
                ),
                "nothing is lost by it; give each installation a name of its own",
            );
        }
        if status.paused.uploads {
            self.add(
                Symptom::UploadsPaused,
                format!(
                    "uploads are paused: {} unsent edits stay here",
                    status.unsent
                ),
                "Client::resume, or `oversqlite resume`",
            );
        }
        if status.paused.downloads {
            self.add(
                Symptom::DownloadsPaused,
                "downloads are paused: what other devices write does not come",
                "Client::resume, or `oversqlite resume`",
            );
        }
        if Lease::new(&config.path).is_taken()? {
            self.add(
                Symptom::LeaseHeld,
                "another process synchronises this file now, and sends what is written by any program",
                "nothing to do; `sync` works again when that process has ended",
            );
        } else if status.unsent > 0 || !state.hydrated {
            self.add(
                Symptom::NobodySynchronises,
                "no process synchronises this file now",
                "start the application, `oversqlite watch`, or `oversqlite sync`",
            );
        }
        Ok(())
    }

    /// Everything that has not gone where it should.
    fn waiting(&mut self, status: &Status) -> Result<(), Error> {
        if status.unsent > 0 {
            let age = status.oldest_unsent_age.unwrap_or(0);
            self.add(
                Symptom::Unsent,
                format!("{} rows have edits that the server has not acknowledged, the oldest for {age} s", status.unsent),
                "they go with the next upload",
            );
        }
        let rejected = rejected::list(&self.conn)?;
        if !rejected.is_empty() {
            let named: Vec<String> = rejected
                .iter()
                .take(NAMED)
                .map(|x| format!("{}/{}: {} {}", x.table, x.key, x.reason, x.detail))
                .collect();
            let more = rejected.len().saturating_sub(NAMED);
            let more = if more > 0 {
                format!("; and {more} more")
            } else {
                String::new()
            };
            self.add(
                Symptom::Rejected,
                format!(
                    "{} edits were refused and will not go as they are: {}{more}",
                    rejected.len(),
                    named.join("; ")
                ),
                "edit the row, or see `oversqlite rejected` to retry or drop each",
            );
        }
        for (row, count, is_rejected) in self.waited_for()? {
            let name = self.name(row)?;
            if is_rejected {
                self.add(
                    Symptom::WaitsForRejected,
                    format!("{count} edits wait for {name}, which is in the rejected list"),
                    "mend or drop that one; the others go with it",
                );
            } else {
                self.add(
                    Symptom::WaitsForRow,
                    format!("{count} edits wait for {name}, which is on its way"),
                    "they go when it has arrived",
                );
            }
        }
        let parked: Vec<(String, i64, String, String)> = {
            let mut statement = self.conn.prepare(PARKED)?;
            let rows = statement.query_map([], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
            rows.collect::<Result<_, _>>()?
        };
        for (reason, count, example, detail) in parked {
            let (symptom, advice) = parked_for(&reason);
            let detail = if detail.is_empty() {
                String::new()
            } else {
                format!(": {detail}")
            };
            self.add(
                symptom,
                format!("{count} rows of other devices cannot be written here ({reason}), for example {example}{detail}"),
                advice,
            );
        }
        if status.conflicts > 0 {
            self.add(
                Symptom::ConflictsKept,
                format!(
                    "{} conflicts were decided, and what lost is kept",
                    status.conflicts
                ),
                "see `oversqlite conflicts` to get something back",
            );
        }
        Ok(())
    }

    fn waited_for(&self) -> Result<Vec<(RowRef, i64, bool)>, Error> {
        let mut statement = self.conn.prepare(WAITING)?;
        let rows = statement.query_map([], |row| {
            let found = RowRef {
                tbl: row.get(0)?,
                key: RowKey::new(row.get(1)?),
            };
            Ok((found, row.get(2)?, row.get(3)?))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn name(&self, row: RowRef) -> Result<String, Error> {
        super::row::name(&self.conn, row)
    }
}

/// Whether an entry that is parked for this reason goes by itself.
fn parked_for(reason: &str) -> (Symptom, &'static str) {
    match Why::parse(reason) {
        Some(Why::MissingParent) => (
            Symptom::ParkedForNow,
            "they are written when the row they refer to arrives",
        ),
        Some(Why::Blocked) => (
            Symptom::ParkedForNow,
            "they are written when the rows that refer to them are gone or sent",
        ),
        Some(Why::UnknownTable) => (
            Symptom::ParkedForGood,
            "a newer version of the application has written them: update this one, and list the table",
        ),
        Some(Why::BadKey) => (
            Symptom::ParkedForGood,
            "the server holds a key that is no UUID; somebody has to mend it there",
        ),
        Some(Why::Refused | Why::ForeignKeys) | None => (
            Symptom::ParkedForGood,
            "a constraint of this file refuses them: compare the schemas, or change the row on another device",
        ),
    }
}

/// Says when there is hardly room for more rows. What other applications of the user
/// keep in tables that are not here counts at the server too: there may be less.
pub(super) fn room(
    conn: &Connection,
    tables: &Tables,
    most: u64,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let mut rows = 0;
    for table in tables.iter() {
        let sql = format!("SELECT count(*) FROM {}", table.quoted());
        rows += conn
            .query_row(&sql, [], |row| row.get::<_, i64>(0))?
            .unsigned_abs();
    }
    if rows < most - most / NEAR {
        return Ok(());
    }
    let (what, advice) = match rows.cmp(&most) {
        std::cmp::Ordering::Less => ("nearly as many as", "beyond that, new rows are refused"),
        std::cmp::Ordering::Equal => ("as many as", "new rows are refused"),
        std::cmp::Ordering::Greater => ("more than", "new rows are refused"),
    };
    findings.push(Finding::new(
        Symptom::QuotaNear,
        format!("{rows} rows are here, {what} the server takes of one user ({most})"),
        format!(
            "{advice}: delete some, or have the operator raise user_rows; edits and deletes go on"
        ),
    ));
    Ok(())
}

/// What the file and the server say of each other.
pub(super) fn compare(state: &State, server: &ServerFacts, findings: &mut Vec<Finding>) {
    let mut add =
        |symptom, what: String, advice: &str| findings.push(Finding::new(symptom, what, advice));
    let cursor = state.cursor.get();
    match (&state.epoch, &server.epoch) {
        (Some(here), Some(there)) if here != there => {
            add(
                Symptom::HistoryReplaced,
                format!(
                    "the server has another history ({there}) than this file knows ({here}): it was restored, or it is another one"
                ),
                "the next synchronisation passes over everything again and loses no local row; is it the right server?",
            );
            return;
        }
        _ => {}
    }
    let Some(head) = server.head else { return };
    if head < cursor {
        add(
            Symptom::ServerBehind,
            format!(
                "the server ends at {head}, this file has applied up to {cursor}: the server has lost its newest changes (an old backup?)"
            ),
            "the next synchronisation passes over everything again and sends back what the server lost; tell the operator",
        );
    } else if head > cursor {
        add(
            Symptom::Behind,
            format!(
                "this file is behind by {} (position {cursor} of {head})",
                head - cursor
            ),
            "it comes with the next download",
        );
    }
    if let Some(highest) = server.highest_change_id
        && highest >= state.next_change_id.get()
        && !state.shares_device
    {
        add(
            Symptom::CopiedFile,
            format!(
                "the server has change {highest} of this device, the file has given out fewer: it is a copy, or a backup that was put back"
            ),
            "the next synchronisation notices and continues above; no edit is lost",
        );
    }
}
