//! STORAGE: what a server that folds has on disk while rows are updated and deleted
//! again and again, beside a fresh server that the rows that live were loaded into.
//!
//! A soak in fast motion: each row changes every twenty seconds, and entries are kept
//! for less than half a second, so that what must be kept is as small a part of all as in
//! production, where it is an hour of a log of months. The database keeps that pace when
//! `autovacuum_naptime` is a second.

use super::ground::Ground;
use super::row::{Role, Row};
use crate::check::{self, Everybody, Stream};
use crate::devices::lean::Place;
use crate::devices::{Lean, LeanUser, Surroundings};
use crate::due::wait_until;
use crate::floor::Rounds;
use crate::measure::machine::Machine;
use crate::measure::{self, Recorder};
use crate::report::mib;
use crate::scenario::{Fleet, Scenario};
use crate::server::{Folding, Options, Servers, Store, beside_us};
use crate::target::{Target, Tokens};
use anyhow::{Context as _, ensure};
use futures_util::future::join_all;
use oversync_shared::wire::{DownloadChange, Op, StatusKind, UploadReply};
use sqlx::Connection as _;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the ratio must not exceed.
const WANTED: f64 = 1.3;

/// Users, of two devices each that read what the other one writes. All work at the same
/// pace, and the last has three times the rows of the first: their logs are not all
/// folded at the same moment.
const USERS: usize = 16;
const DEVICES: usize = 2;

/// Changes of an upload.
const BATCH: usize = 20;

/// A row changes so often, on average.
const ROW: Duration = Duration::from_secs(20);

/// Warming up takes so many rounds: with `--seconds 4`, each row has changed five times. A
/// page of the log is free when nothing is left in it, not when half is gone.
const WARM_UP: u32 = 25;

const FOLDING: Folding = Folding {
    keep: Duration::from_millis(400),
    pause: Duration::from_millis(200),
    min_entries: 20,
};

/// How long a fresh copy may take to be folded, and devices to be equal at the end.
const PATIENCE: Duration = Duration::from_secs(180);

/// Rows below which the smallest user has too few for a fold.
const MIN_ROWS: usize = 1_000;

/// The devices.
const FLEET: &str = "[[phases]]\nname = 'churn'\nkind = 'hold'\n\
    [[fleets]]\nname = 'churn'\ndevice = 'lean'\nloop = 'closed'\nbatch = 20\n\
    listen = 'polls'\npoll_seconds = 0.2\n\
    mix = { insert = 1, update = 98, delete = 1 }\n";

/// On the embedded store and, where there is one, on PostgreSQL.
pub async fn steady(ground: &mut Ground) -> anyhow::Result<Vec<Row>> {
    let mut lines = vec![steady_on(ground, Store::Embedded).await?];
    if ground.effort().database_url.is_some() {
        lines.push(steady_on(ground, Store::Postgres).await?);
    }
    Ok(lines)
}

async fn steady_on(ground: &mut Ground, store: Store) -> anyhow::Result<Row> {
    let rows = ground.effort().rows;
    ensure!(
        rows >= MIN_ROWS,
        "--log-rows: at least {MIN_ROWS}, or the smallest user has too few to be folded"
    );
    let what = format!(
        "{rows} rows changed again and again, folded, {} store",
        store.name()
    );
    let mut row = Row::new("STORAGE", &what, "MiB");
    row.machine = Some(Machine::here());
    let disk = Disk::new(ground, store).await?;
    row.facts(ground).await;
    if let Some(naptime) = disk.naptime().await? {
        row.durability
            .insert("autovacuum_naptime".to_owned(), naptime);
    }

    let servers = disk.serve(Some(FOLDING)).await?;
    let target = Arc::new(Target::look(&servers.urls(), Tokens::SignIn).await?);
    let around = Surroundings {
        target: Arc::clone(&target),
        recorder: Arc::new(Recorder::default()),
    };
    let mut devices = open(&around, rows).await?;
    let before = acknowledged(&devices);
    work(&mut devices, rows, ground.length() * WARM_UP).await;
    let mut values = Vec::new();
    for round in 1..=ground.rounds() {
        row.before.push(ground.look().await?);
        work(&mut devices, rows, ground.length()).await;
        let size = disk.bytes().await?;
        eprintln!("STORAGE {} round {round}: {}", store.name(), mib(size));
        values.push(size);
    }
    row.add("folding, at work", Role::Ours, in_mib(values));
    let changes = acknowledged(&devices) - before;
    row.note(&format!(
        "each row was changed {:.1} times, of 100 changes one made a row and one deleted one; kept for {} ms, passes {} ms apart",
        changes as f64 / rows as f64,
        FOLDING.keep.as_millis(),
        FOLDING.pause.as_millis()
    ));

    for device in &mut devices {
        device.settle().await?;
    }
    let mut everybody = Everybody::default();
    for device in &devices {
        let name = device.user.name.as_str();
        everybody.lean.entry(name).or_default().push(device);
    }
    let found = check::converge(&target, &everybody, Stream::Folded, PATIENCE).await?;
    ensure!(found.equal, "it ended wrong: {:?}", found.differences);
    let mut live = BTreeMap::new();
    for user in 0..USERS {
        let name = name_of(user);
        let stream = check::download_all(&target, &name).await?;
        live.insert(name, live_rows(stream));
    }
    row.note(&format!("aged: {}", told(&servers).await?));
    drop(devices);
    servers.stop().await;
    disk.compact().await?;
    let compacted = vec![disk.bytes().await?; ground.rounds()];

    let (mut folded, mut unfolded) = (Vec::new(), Vec::new());
    for round in 1..=ground.rounds() {
        let fresh = Disk::new(ground, store).await?;
        let servers = fresh.serve(None).await?;
        let target = Target::look(&servers.urls(), Tokens::SignIn).await?;
        for (user, rows) in &live {
            load(&target, user, rows).await?;
        }
        servers.stop().await;
        unfolded.push(fresh.bytes().await?);
        // All of it is old enough for the first pass: a small rest would not be worth one.
        tokio::time::sleep(FOLDING.keep * 3).await;
        let servers = fresh.serve(Some(FOLDING)).await?;
        fresh.is_folded().await?;
        if round == ground.rounds() {
            row.note(&format!("fresh: {}", told(&servers).await?));
        }
        servers.stop().await;
        folded.push(fresh.bytes().await?);
    }
    row.add("after fold --compact", Role::Aside, in_mib(compacted));
    row.add("fresh copy, folded", Role::Floor, in_mib(folded));
    row.add("fresh copy, not folded", Role::Aside, in_mib(unfolded));
    let fresh = row.median(Role::Floor);
    row.at_most("at work/fresh", row.median(Role::Ours) / fresh, WANTED);
    row.at_most("compacted/fresh", row.median(Role::Aside) / fresh, WANTED);
    Ok(row)
}

fn in_mib(values: Vec<f64>) -> Rounds {
    let values = values.into_iter().map(|bytes| bytes / f64::from(1 << 20));
    Rounds {
        values: values.collect(),
    }
}

fn name_of(user: usize) -> String {
    format!("churn-{user}")
}

fn acknowledged(devices: &[Lean]) -> usize {
    devices.iter().map(|device| device.acknowledged.len()).sum()
}

/// Devices with their rows.
async fn open(around: &Surroundings, rows: usize) -> anyhow::Result<Vec<Lean>> {
    let mut scenario = Scenario::parse(FLEET).context("BUG: a constant scenario")?;
    let fleet: Arc<Fleet> = Arc::new(scenario.fleets.remove(0));
    let mut devices = Vec::with_capacity(USERS * DEVICES);
    for user in 0..USERS {
        let shared = Arc::new(LeanUser::new(name_of(user), &around.recorder));
        for index in 0..DEVICES {
            let number = devices.len();
            let place = Place {
                number,
                source: around.target.source(number),
                seed: number as u64,
            };
            let name = format!("device-{index}");
            let mut device = Lean::open(around, &fleet, &shared, name, place).await?;
            let share = 0.5 + user as f64 / (USERS - 1) as f64;
            let rows = rows as f64 / (USERS * DEVICES) as f64 * share;
            device.preload(rows as usize).await?;
            devices.push(device);
        }
    }
    Ok(devices)
}

/// Each row changes once in [`ROW`], on average.
async fn work(devices: &mut [Lean], rows: usize, length: Duration) {
    let uploads = rows as f64 / BATCH as f64 / ROW.as_secs_f64();
    let gap = Duration::from_secs_f64(devices.len() as f64 / uploads);
    let began = Instant::now();
    let all = devices
        .iter_mut()
        .enumerate()
        .map(|(index, device)| async move {
            let mut due = began + gap.mul_f64(index as f64 / (USERS * DEVICES) as f64);
            while due < began + length {
                wait_until(due).await;
                device.operate(due).await;
                due += gap;
            }
        });
    join_all(all).await;
}

/// The last state of each row that lives, parents as they came before children.
fn live_rows(stream: Vec<DownloadChange>) -> Vec<DownloadChange> {
    let mut last = BTreeMap::new();
    for change in stream {
        last.insert((change.table.clone(), change.pk.clone()), change);
    }
    let mut rows: Vec<_> = last
        .into_values()
        .filter(|change| change.op != Op::Delete)
        .collect();
    rows.sort_by_key(|change| change.server_id);
    rows
}

/// Writes rows to a server that has none.
async fn load(target: &Target, user: &str, rows: &[DownloadChange]) -> anyhow::Result<()> {
    const AT_A_TIME: usize = 500;
    let token = target.sign_in(user, "loader").await?.token;
    let mut http = target.http(0);
    for (step, rows) in rows.chunks(AT_A_TIME).enumerate() {
        let first = step * AT_A_TIME + 1;
        let changes: Vec<_> = (first..)
            .zip(rows)
            .map(|(id, row)| {
                serde_json::json!({
                    "source_change_id": id, "schema": row.schema, "table": row.table,
                    "op": Op::Insert, "pk": row.pk, "server_version": 0, "payload": row.payload,
                })
            })
            .collect();
        let body = serde_json::json!({ "settled_below": first, "changes": changes });
        let answer = http
            .post("/sync/upload", &token, &serde_json::to_vec(&body)?)
            .await?;
        ensure!(answer.is_success(), "upload: HTTP {}", answer.status);
        let reply: UploadReply = serde_json::from_slice(&answer.body).context("a reply")?;
        let refused = reply
            .statuses
            .iter()
            .find(|status| status.status != StatusKind::Applied);
        ensure!(refused.is_none(), "a row was not taken: {refused:?}");
    }
    Ok(())
}

/// What the server itself says of its storage. It has not been asked before: later
/// answers are up to a minute old.
async fn told(servers: &Servers) -> anyhow::Result<String> {
    let http = measure::told::beside_us()?;
    let began = Instant::now();
    let mut kinds = asked(&http, servers).await?;
    // A busy server says so later: it does not let the page wait for it.
    while kinds.is_empty() {
        ensure!(
            began.elapsed() < PATIENCE,
            "the server does not tell its storage"
        );
        tokio::time::sleep(FOLDING.pause).await;
        kinds = asked(&http, servers).await?;
    }
    kinds.sort_by(|a, b| b.1.total_cmp(&a.1));
    // Below a tenth of a MiB there is nothing to be found.
    kinds.retain(|(_, bytes)| *bytes > f64::from(1 << 20) / 10.0);
    let kinds = kinds
        .into_iter()
        .map(|(kind, bytes)| format!("{kind} {}", mib(bytes)));
    Ok(kinds.collect::<Vec<_>>().join(", "))
}

/// Bytes by kind, as `/metrics` has them now.
async fn asked(http: &reqwest::Client, servers: &Servers) -> anyhow::Result<Vec<(String, f64)>> {
    let operators = servers.operators();
    let address = {
        let addresses = operators.addresses.lock();
        addresses.expect("BUG: no panic under this lock")[0]
    };
    let request = operators.request(http, address).timeout(PATIENCE);
    let answer = request.send().await?;
    let text = answer.error_for_status()?.text().await?;
    let mut kinds = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("oversync_storage_bytes{kind=\"") else {
            continue;
        };
        let (kind, bytes) = rest.split_once("\"} ").context("a metric")?;
        let bytes: f64 = bytes.parse().context("bytes")?;
        kinds.push((kind.to_owned(), bytes));
    }
    Ok(kinds)
}

/// Where a server's data lies.
enum Disk {
    File(PathBuf),
    Postgres(String),
}

impl Disk {
    async fn new(ground: &mut Ground, store: Store) -> anyhow::Result<Self> {
        match store {
            Store::Embedded => {
                let name = format!("{}.db", uuid::Uuid::new_v4().simple());
                Ok(Self::File(ground.folder().join(name)))
            }
            Store::Postgres => Ok(Self::Postgres(ground.database().await?)),
        }
    }

    async fn serve(&self, folding: Option<Folding>) -> anyhow::Result<Servers> {
        Servers::start(Options {
            database_url: Some(self.url()),
            processes: 1,
            operators: true,
            folding,
            ..Options::default()
        })
        .await
    }

    /// `oversync fold --compact`, by the settings of the server.
    async fn compact(&self) -> anyhow::Result<()> {
        let mut command = tokio::process::Command::new(beside_us("oversync")?);
        command
            .args(["fold", "--dev", "--compact"])
            .env("OVERSYNC_DATABASE_URL", self.url());
        FOLDING.set(&mut command);
        let began = Instant::now();
        loop {
            let output = command.output().await?;
            if output.status.success() {
                return Ok(());
            }
            // PostgreSQL may not have noticed yet that the server is gone that folded last.
            ensure!(began.elapsed() < PATIENCE, "fold --compact: {output:?}");
            tokio::time::sleep(FOLDING.pause).await;
        }
    }

    fn url(&self) -> String {
        match self {
            Self::File(path) => format!("sqlite://{}", path.display()),
            Self::Postgres(url) => url.clone(),
        }
    }

    /// As the operating system and PostgreSQL count them: the file and its log, or all
    /// our tables with their indexes.
    async fn bytes(&self) -> anyhow::Result<f64> {
        match self {
            Self::File(path) => {
                let log = PathBuf::from(format!("{}-wal", path.display()));
                let log = std::fs::metadata(log).map_or(0, |log| log.len());
                Ok((std::fs::metadata(path)?.len() + log) as f64)
            }
            Self::Postgres(url) => {
                let sql = "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c \
                           WHERE c.relnamespace = 'oversync'::regnamespace AND c.relkind = 'r'";
                let mut connection = sqlx::PgConnection::connect(url).await?;
                let bytes: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
                Ok(bytes as f64)
            }
        }
    }

    /// Waits until all is folded.
    async fn is_folded(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let left = self.unfolded().await?;
            if left.is_empty() {
                return Ok(());
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "a fresh copy is not folded in time; head, floor, fold, swept of users: {left:?}"
            );
            tokio::time::sleep(FOLDING.pause).await;
        }
    }

    /// Users with something left to fold or to remove: head, floor, fold, swept.
    async fn unfolded(&self) -> anyhow::Result<Vec<(i64, i64, i64, i64)>> {
        const LEFT: &str = "floor < head OR swept < fold";
        match self {
            Self::File(path) => {
                let sql =
                    format!("SELECT head, floor, fold, swept FROM _oversync_users WHERE {LEFT}");
                let file = rusqlite::Connection::open(path)?;
                let mut statement = file.prepare(&sql)?;
                let left = statement.query_map([], |row| row.try_into())?;
                Ok(left.collect::<Result<_, _>>()?)
            }
            Self::Postgres(url) => {
                let sql = format!(
                    "SELECT head, floor, fold::bigint, swept::bigint FROM oversync.users WHERE {LEFT}"
                );
                let mut connection = sqlx::PgConnection::connect(url).await?;
                let left = sqlx::query_as(sqlx::AssertSqlSafe(sql));
                Ok(left.fetch_all(&mut connection).await?)
            }
        }
    }

    async fn naptime(&self) -> anyhow::Result<Option<String>> {
        let Self::Postgres(url) = self else {
            return Ok(None);
        };
        let mut connection = sqlx::PgConnection::connect(url).await?;
        let naptime = sqlx::query_scalar("SELECT current_setting('autovacuum_naptime')");
        Ok(Some(naptime.fetch_one(&mut connection).await?))
    }
}
