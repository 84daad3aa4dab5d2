//! One row in a thousand that can never succeed: what it costs the others. A clean
//! and a poisoned file in turn, upwards and downwards, with real devices.
//!
//! Beside the rate by the clock stands the rate by this process's own time on the
//! processor, which a busy machine does not change.

use super::ground::Ground;
use super::row::{Role, Row};
use crate::devices::edits::SCHEMA;
use crate::floor::Rounds;
use crate::measure::machine::Machine;
use crate::measure::process::Watch;
use crate::server::{Options, Servers};
use crate::target::{Target, Tokens};
use anyhow::{Context as _, ensure};
use oversqlite::{Client, Config, DeviceId, UserId};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::Instant;
use uuid::Uuid;

/// Rows of one file.
const ROWS: usize = 5_000;

/// One of so many is poisoned.
const ONE_IN: usize = 1_000;

/// What the rates must not fall below, of the clean file's.
const WANTED: f64 = 0.9;

/// A device's view of the rows: nobody else's are refused, or the poisoned ones
/// are. Both look at every row.
const VIEWS: [&str; 2] = ["nobody", "poison"];

/// How outgoing rows are poisoned, in turn.
const KINDS: [&str; 5] = [
    "UPDATE posts SET title = x'00ff' WHERE rowid = ?1",
    "UPDATE posts SET title = CAST(x'eda080' AS TEXT) WHERE rowid = ?1",
    "UPDATE posts SET id = 'no uuid ' || rowid WHERE rowid = ?1",
    "UPDATE posts SET author_id = '00000000-0000-4000-8000-000000000000' WHERE rowid = ?1",
    "UPDATE posts SET author_id = 'no uuid' WHERE rowid = ?1",
];

/// Rows per second by the clock, and by time on the processor.
#[derive(Debug, Clone, Copy)]
struct Rates {
    clock: f64,
    processor: f64,
}

struct Place<'a> {
    folder: &'a Path,
    target: &'a Target,
}

impl Place<'_> {
    async fn client(&self, file: &Path, user: &str, device: &str) -> anyhow::Result<Client> {
        let signed_in = self.target.sign_in(user, device).await?;
        let token = signed_in.token;
        let config = Config::new(
            file,
            self.target.endpoint(0).url.clone(),
            UserId::new(signed_in.user_id)?,
            move || {
                let token = token.clone();
                async move { Ok(token) }
            },
        )
        .device(DeviceId::new(device)?)
        .schema("business")
        .table("users")
        .table("posts");
        Ok(Client::open(config).await?)
    }

    fn file(&self, name: &str, schema: &str) -> anyhow::Result<PathBuf> {
        let file = self.folder.join(format!("{name}.db"));
        Connection::open(&file)?.execute_batch(schema)?;
        Ok(file)
    }

    /// Uploads a file's rows, of which some are poisoned.
    async fn up(&self, user: &str, is_poisoned: bool) -> anyhow::Result<Rates> {
        let file = self.file(&format!("{user}-up"), SCHEMA)?;
        let mut writer = Connection::open(&file)?;
        // A missing row can only be referred to without it.
        writer.pragma_update(None, "foreign_keys", false)?;
        let tx = writer.transaction()?;
        for n in 0..ROWS {
            let title = if n % ONE_IN == ONE_IN / 2 {
                "poison"
            } else {
                "row"
            };
            tx.prepare_cached("INSERT INTO posts (id, title, content) VALUES (?1, ?2, ?3)")?
                .execute((Uuid::now_v7().to_string(), title, "x".repeat(200)))?;
        }
        let mut poisoned = 0;
        if is_poisoned {
            for (n, kind) in (ONE_IN / 2..ROWS).step_by(ONE_IN).zip(KINDS.iter().cycle()) {
                poisoned += tx.execute(kind, [n as i64 + 1])?;
            }
        }
        tx.commit()?;
        let client = self.client(&file, user, "up").await?;
        let timer = Timer::start()?;
        let done = client.sync().await?;
        let rates = timer.stop(ROWS - poisoned)?;
        let rejected = client.rejected().await?.len();
        client.stop().await;
        ensure!(
            done.uploaded.applied == ROWS - poisoned && rejected == poisoned,
            "{done:?}, {rejected} rejected"
        );
        Ok(rates)
    }

    /// Brings a user's rows into an empty file, which may refuse the poisoned ones.
    async fn down(&self, user: &str, view: usize) -> anyhow::Result<Rates> {
        let check = format!(
            "title     TEXT NOT NULL CHECK (title <> '{}'),",
            VIEWS[view]
        );
        let schema = SCHEMA.replace("title     TEXT NOT NULL,", &check);
        ensure!(schema.contains("CHECK"), "the example's schema has changed");
        let name = format!("down-{view}");
        let file = self.file(&format!("{user}-{name}"), &schema)?;
        let client = self.client(&file, user, &name).await?;
        let poisoned = if view == 1 { ROWS / ONE_IN } else { 0 };
        let timer = Timer::start()?;
        let applied = client.hydrate().await?;
        let rates = timer.stop(ROWS - poisoned)?;
        let parked = client.parked().await?.len();
        client.stop().await;
        ensure!(
            applied == ROWS - poisoned && parked == poisoned,
            "{applied} applied, {parked} parked"
        );
        Ok(rates)
    }
}

struct Timer {
    began: Instant,
    watch: Watch,
}

impl Timer {
    fn start() -> anyhow::Result<Self> {
        let mut watch = Watch::default();
        watch.sample(&[std::process::id()]).context("own process")?;
        Ok(Self {
            began: Instant::now(),
            watch,
        })
    }

    fn stop(mut self, rows: usize) -> anyhow::Result<Rates> {
        let took = self.began.elapsed().as_secs_f64();
        let usage = self.watch.sample(&[std::process::id()]);
        let cores = usage.context("own process")?.cores;
        Ok(Rates {
            clock: rows as f64 / took,
            processor: rows as f64 / (took * cores),
        })
    }
}

/// Clean and poisoned files in turn.
pub async fn poison(ground: &mut Ground) -> anyhow::Result<Vec<Row>> {
    let servers = Servers::start(Options {
        processes: 1,
        ..Options::default()
    })
    .await?;
    let target = Target::look(&servers.urls(), Tokens::SignIn).await?;
    let place = Place {
        folder: ground.folder(),
        target: &target,
    };
    let mut probes = Vec::new();
    // Upwards and downwards: clean, poisoned.
    let mut rates: [[Vec<Rates>; 2]; 2] = Default::default();
    // The first round warms up.
    for round in 0..=ground.rounds() {
        let probe = ground.look().await?;
        let clean = format!("clean-{round}");
        let up = [
            place.up(&clean, false).await?,
            place.up(&format!("poisoned-{round}"), true).await?,
        ];
        let down = [place.down(&clean, 0).await?, place.down(&clean, 1).await?];
        eprintln!("POISON round {round}: up {up:.0?}, down {down:.0?}");
        if round > 0 {
            probes.push(probe);
            for (all, new) in rates.iter_mut().zip([up, down]) {
                for (all, new) in all.iter_mut().zip(new) {
                    all.push(new);
                }
            }
        }
    }
    servers.stop().await;
    let mut rows = Vec::new();
    for (id, rates) in ["POISON up", "POISON down"].into_iter().zip(rates) {
        let what = format!("{ROWS} rows, one in {ONE_IN} poisoned");
        let mut row = Row::new(id, &what, "good rows/s");
        row.machine = Some(Machine::here());
        row.facts(ground).await;
        row.before.clone_from(&probes);
        let [clean, poisoned] = rates;
        let mut ratios = Vec::new();
        for (name, of) in [
            ("by the clock", (|rates| rates.clock) as fn(&Rates) -> f64),
            ("by time on the processor", |rates| rates.processor),
        ] {
            let values = |all: &[Rates]| Rounds {
                values: all.iter().map(of).collect(),
            };
            let (ours, floor) = (values(&poisoned), values(&clean));
            ratios.push((name, ours.median() / floor.median()));
            row.add(&format!("poisoned, {name}"), Role::Ours, ours);
            row.add(&format!("clean, {name}"), Role::Floor, floor);
        }
        for (name, ratio) in ratios {
            row.at_least(&format!("poisoned/clean {name}"), ratio, WANTED);
        }
        row.note("embedded store; upwards bytes in a text, no UTF-8, a bad key, a missing row, a bad reference; downwards a CHECK");
        rows.push(row);
    }
    Ok(rows)
}
