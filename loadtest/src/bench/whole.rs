//! Rows that are whole scenarios with real devices: each round is a run with its
//! comparison at the end.

use super::ground::Ground;
use super::row::{Role, Row};
use crate::floor::driver::{Asked, echoes, gets};
use crate::floor::{Rounds, Served, Style, Width, empty_commits, load_rows, upload_rows};
use crate::http::Endpoint;
use crate::measure::machine::Machine;
use crate::report::{Report, StageReport};
use crate::run::{self, Plan};
use crate::scenario::Scenario;
use crate::server::{Options, Servers, Store};
use crate::target::{Target, Tokens};
use anyhow::{Context as _, ensure};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long everybody may take at the end of a round.
const PATIENCE: Duration = Duration::from_secs(60);

/// A run on the embedded store.
pub(super) async fn scenario(ground: &Ground, round: usize, toml: &str) -> anyhow::Result<Report> {
    scenario_on(ground, round, toml, None).await
}

/// On the embedded store, or on this PostgreSQL database. The server tells of itself.
pub(super) async fn scenario_on(
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
        operators: true,
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

/// What was measured of a stage.
pub(super) fn stage<'a>(report: &'a Report, name: &str) -> anyhow::Result<&'a StageReport> {
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
        probes.push(ground.look().await?);
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
        row.before.clone_from(&probes);
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
        row.before.push(ground.look().await?);
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
