//! Rows that are whole scenarios with real devices or with thousands of lean
//! ones: each round is a run with its comparison at the end.

use super::ground::Ground;
use super::row::{Role, Row};
use crate::floor::driver::{Asked, echoes, gets};
use crate::floor::{Rounds, Served, Style, Width, empty_commits, load_rows, upload_rows};
use crate::http::Endpoint;
use crate::measure::machine::Machine;
use crate::measure::probe::FsyncProbe;
use crate::measure::process::Watch;
use crate::report::{Report, StageReport};
use crate::run::{self, Plan};
use crate::scenario::Scenario;
use crate::server::{Options, Servers, Store};
use crate::target::{Target, Tokens};
use anyhow::{Context as _, ensure};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// How long everybody may take at the end of a round.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections per source address.
const PER_ADDRESS: usize = 5_000;

async fn scenario(ground: &Ground, round: usize, toml: &str) -> anyhow::Result<Report> {
    scenario_on(ground, round, toml, None).await
}

/// On the embedded store, or on this PostgreSQL database.
async fn scenario_on(
    ground: &Ground,
    round: usize,
    toml: &str,
    database_url: Option<&str>,
) -> anyhow::Result<Report> {
    let scenario = Scenario::parse(toml)?;
    run::make_room(&scenario)?;
    let servers = Servers::start(Options {
        database_url: database_url.map(str::to_owned),
        processes: 1,
        ..Options::default()
    })
    .await?;
    let target = Target::look(&servers.urls(), Tokens::SignIn).await?;
    let (_stop, stopped) = watch::channel(false);
    let report = run::run(Plan {
        name: "bench".to_owned(),
        scenario,
        target,
        servers: Some(servers),
        store: database_url
            .map_or(Store::Embedded, |_| Store::Postgres)
            .name()
            .to_owned(),
        database_url: database_url.map(str::to_owned),
        seed: round as u64,
        patience: PATIENCE,
        command: ground.command().to_owned(),
        stop: stopped,
    })
    .await?;
    ensure!(
        report.is_right(),
        "a round ended wrong: {:?}",
        report.convergence.differences
    );
    Ok(report)
}

fn stage<'a>(report: &'a Report, name: &str) -> anyhow::Result<&'a StageReport> {
    report
        .stage(name)
        .with_context(|| format!("nothing was measured: {name}"))
}

/// B5, on the embedded store and, where there is one, on PostgreSQL.
pub async fn realtime(ground: &mut Ground) -> anyhow::Result<Vec<Row>> {
    let mut lines = realtime_on(ground, Store::Embedded).await?;
    if ground.effort().database_url.is_some() {
        lines.extend(realtime_on(ground, Store::Postgres).await?);
    }
    Ok(lines)
}

async fn realtime_on(ground: &mut Ground, store: Store) -> anyhow::Result<Vec<Row>> {
    let database = match store {
        Store::Embedded => None,
        Store::Postgres => Some(ground.database().await?),
    };
    let database = database.as_deref();
    let idle = ground.effort().devices.min(1_000);
    let seconds = ground.length().as_secs_f64();
    let toml = format!(
        "[[phases]]\nname='devices'\nkind='hold'\nseconds={seconds}\n\
         [[fleets]]\nname='devices'\ndevice='real'\nusers=1\ndevices=2\nrate=20\n\
         [[fleets]]\nname='idle'\ndevice='lean'\nusers={idle}\nloop='idle'\nlisten='hints'\n"
    );
    let (empty, _) = ground.floor(Served::Empty, Style::Set).await?;
    let (mut p50, mut p99, mut floors, mut probes) = (vec![], vec![], vec![], vec![]);
    for round in 0..ground.rounds() {
        probes.push(FsyncProbe::run(ground.folder())?);
        floors.push(realtime_floor(ground, &empty.endpoint, &empty.names, database).await?);
        let report = scenario_on(ground, round, &toml, database).await?;
        let latency = &stage(&report, "applied elsewhere")?.latency;
        p50.push(latency.p50_ms);
        p99.push(latency.p99_ms);
        eprintln!(
            "B5 {} round {}: p50 {:.2} ms",
            store.name(),
            round + 1,
            latency.p50_ms
        );
    }
    let mut lines = Vec::new();
    for (id, values, wanted) in [("B5 p50", p50, 3.0), ("B5 p99", p99, 15.0)] {
        let what = format!(
            "local commit to the row on another device, {idle} others idle, {} store",
            store.name()
        );
        let mut row = Row::new(id, &what, "ms");
        row.machine = Some(Machine::here());
        row.facts(ground).await;
        row.fsync.clone_from(&probes);
        row.add("ours", Role::Ours, Rounds { values });
        let values = floors.clone();
        row.add("sum of the parts", Role::Floor, Rounds { values });
        row.at_most("ms", row.median(Role::Ours), wanted);
        if id == "B5 p50" {
            let ratio = row.median(Role::Ours) / row.median(Role::Floor);
            row.at_most("ours/floor", ratio, 2.0);
        }
        row.note("parts: two local transactions, two empty HTTP round trips, one durable commit (of a row on the embedded store, empty on PostgreSQL), one WebSocket echo");
        lines.push(row);
    }
    Ok(lines)
}

/// Milliseconds: what the parts take, each by itself.
async fn realtime_floor(
    ground: &Ground,
    empty: &Arc<Endpoint>,
    names: &crate::floor::driver::Names,
    database: Option<&str>,
) -> anyhow::Result<f64> {
    let length = ground.warm_up();
    let asked = Asked {
        endpoint: empty,
        names,
        devices: 1,
        user: None,
        rows: 1,
    };
    let trips = gets(&asked, length, |_| "/empty".to_owned()).await?;
    let echo = echoes(empty, length).await?;
    let folder = ground.folder();
    let edits = crate::floor::edits(folder, 200, 1, Width::Narrow, false).await?;
    let commit = match database {
        Some(url) => empty_commits(url, 1, length).await?,
        None => tokio::task::block_in_place(|| upload_rows(folder, 1, 1, length))?,
    };
    Ok(2.0 * edits.insert / 1_000.0 + 2.0 * trips.ms(0.5) + echo.ms(0.5) + 1_000.0 / commit)
}

/// B7.
pub async fn hydrate(ground: &mut Ground) -> anyhow::Result<Row> {
    let rows = ground.effort().rows;
    let toml = format!(
        "[[phases]]\nname='hydrate'\nkind='hydrate'\nseconds=3600\n\
         [[fleets]]\nname='devices'\ndevice='real'\nloop='idle'\npreload={rows}\n"
    );
    let mut row = Row::new("B7", &format!("{rows} rows into an empty device"), "rows/s");
    row.machine = Some(Machine::here());
    row.facts(ground).await;
    let (mut ours, mut floor) = (vec![], vec![]);
    for round in 0..ground.rounds() {
        row.fsync.push(FsyncProbe::run(ground.folder())?);
        let report = scenario(ground, round, &toml).await?;
        let took = stage(&report, "hydrated")?.latency.max_ms / 1_000.0;
        ours.push(rows as f64 / took);
        let folder = ground.folder();
        floor.push(tokio::task::block_in_place(|| load_rows(folder, rows))?);
        eprintln!("B7 round {}: {took:.1} s", round + 1);
    }
    row.add("ours", Role::Ours, Rounds { values: ours });
    row.add(
        "plain prepared inserts",
        Role::Floor,
        Rounds { values: floor },
    );
    let ratio = row.median(Role::Ours) / row.median(Role::Floor);
    row.at_least("ours/floor", ratio, 0.5);
    row.note("embedded store; not measured here: progress, and resuming");
    Ok(row)
}

/// B9.
pub async fn idle(ground: &mut Ground) -> anyhow::Result<Vec<Row>> {
    let devices = ground.effort().devices;
    let users = devices;
    let toml = format!(
        "[[phases]]\nname='idle'\nkind='hold'\nseconds={}\n\
         [[fleets]]\nname='idle'\ndevice='lean'\nusers={users}\nloop='idle'\nlisten='hints'\n\
         [[fleets]]\nname='busy'\ndevice='lean'\nusers=1\ndevices=10\nrate=20\nlisten='hints'\n",
        ground.length().as_secs_f64()
    );
    let what = format!("{devices} idle WebSocket devices");
    let mut memory = Row::new("B9 memory", &what, "KiB of the server's RSS each");
    let mut hints = Row::new("B9 hints", &format!("hint while {what}"), "ms, 99 of 100");
    let (mut ours, mut floor, mut p99) = (vec![], vec![], vec![]);
    for round in 0..ground.rounds() {
        let probe = FsyncProbe::run(ground.folder())?;
        let without = scenario(
            ground,
            round,
            &toml.replace(&format!("users={users}\n"), "users=1\n"),
        )
        .await?;
        let with = scenario(ground, round, &toml).await?;
        let most = |report: &Report| {
            let all = report.timeline.iter().filter_map(|second| second.server);
            all.map(|usage| usage.rss).max().unwrap_or_default() as f64
        };
        ours.push((most(&with) - most(&without)) / 1_024.0 / devices as f64);
        p99.push(stage(&with, "hint received")?.latency.p99_ms);
        let (empty, _) = ground.floor(Served::Empty, Style::Set).await?;
        floor.push(bare_sockets(&empty.endpoint, empty.pid, devices).await?);
        for row in [&mut memory, &mut hints] {
            row.fsync.push(probe);
        }
        eprintln!("B9 round {}: {:.1} KiB each", round + 1, ours[round]);
    }
    for row in [&mut memory, &mut hints] {
        row.machine = Some(Machine::here());
        row.facts(ground).await;
    }
    memory.add("ours", Role::Ours, Rounds { values: ours });
    memory.add(
        "the bare actor stack",
        Role::Floor,
        Rounds { values: floor },
    );
    memory.at_most("KiB", memory.median(Role::Ours), 16.0);
    hints.add("ours", Role::Ours, Rounds { values: p99 });
    hints.at_most("ms", hints.median(Role::Ours), 25.0);
    Ok(vec![memory, hints])
}

/// KiB of resident memory per socket of a server that only echoes.
async fn bare_sockets(endpoint: &Endpoint, pid: u32, count: usize) -> anyhow::Result<f64> {
    let mut watch = Watch::default();
    let mut rss = || watch.sample(&[pid]).map(|usage| usage.rss as f64);
    // The first connections make room for others.
    let mut sockets = Vec::with_capacity(count);
    let mut before = 0.0;
    for number in 0..count {
        if number == 8 {
            before = rss().context("the floor is gone")?;
        }
        let host = 1 + number / PER_ADDRESS;
        let source = std::net::Ipv4Addr::new(127, 0, 0, host.min(254) as u8);
        let stream = match endpoint.connect(Some(source)).await {
            Some(stream) => stream?,
            None => TcpStream::connect(&endpoint.authority).await?,
        };
        let url = endpoint.url.replacen("http", "ws", 1) + "/ws";
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await?;
        sockets.push(socket);
    }
    let after = rss().context("the floor is gone")?;
    Ok((after - before) / 1_024.0 / (count.saturating_sub(8)).max(1) as f64)
}

/// B11.
pub async fn storm(ground: &mut Ground) -> anyhow::Result<Row> {
    let devices = ground.effort().devices.min(5_000);
    let users = devices.div_ceil(5);
    let toml = format!(
        "[[phases]]\nname='before'\nkind='hold'\nseconds=2\n\
         [[phases]]\nname='storm'\nkind='storm'\nseconds=60\nrestart=true\n\
         [[fleets]]\nname='devices'\ndevice='lean'\nusers={users}\ndevices=5\nrate=50\nlisten='downloads'\n"
    );
    let what = format!("{} devices at once after the server was killed", users * 5);
    let mut row = Row::new("B11", &what, "s until the last has caught up");
    row.machine = Some(Machine::here());
    row.facts(ground).await;
    let mut values = Vec::new();
    let mut errors = std::collections::BTreeMap::new();
    for round in 0..ground.rounds() {
        row.fsync.push(FsyncProbe::run(ground.folder())?);
        let report = scenario(ground, round, &toml).await?;
        let took = stage(&report, "caught up")?.latency.max_ms / 1_000.0;
        values.push(took);
        for (kind, count) in report.errors {
            *errors.entry(kind).or_insert(0) += count;
        }
        eprintln!("B11 round {}: {took:.2} s", round + 1);
    }
    row.add("ours", Role::Ours, Rounds { values });
    row.at_most("s", row.median(Role::Ours), 15.0);
    for (kind, count) in errors {
        row.note(&format!("{count} × {kind}"));
    }
    row.note("embedded store; not measured here: database queries");
    Ok(row)
}
