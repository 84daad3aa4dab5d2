//! Rows that are requests of one kind, again and again: uploads, pages, polls,
//! and the application's own statements.

use super::alternate;
use super::contender::{Contender, Edit, Work};
use super::ground::{Address, Ground};
use super::row::{Role, Row};
use crate::floor::driver::{Asked, Uploaders, gets};
use crate::floor::{Rounds, Served, Style, Width};
use crate::measure::machine::Machine;
use crate::server::Store;
use std::sync::Arc;

/// Rows per page.
const PAGE: usize = 1_000;

/// Devices that ask for pages.
const PAGERS: usize = 4;

/// Devices that poll.
const POLLERS: usize = 64;

/// Server processes of the row that compares several with one.
const PROCESSES: usize = 2;

/// Devices and changes per upload.
type Shape = (usize, usize);

const ONE: Shape = (64, 1);
const HUNDRED: Shape = (16, 100);

async fn uploads(
    name: &str,
    role: Role,
    address: &Address,
    shape: Shape,
) -> anyhow::Result<Contender> {
    let uploaders = Uploaders::open(&address.endpoint, &address.names, shape.0, shape.1).await?;
    Ok(Contender::new(name, role, Work::Uploads(uploaders)))
}

/// B1.
pub async fn upload_1(ground: &mut Ground) -> anyhow::Result<Row> {
    let ours = ground.ours(Store::Postgres, false).await?;
    let (floor, _) = ground.floor(Served::Postgres, Style::Set).await?;
    let (batched, _) = ground.floor(Served::Postgres, Style::Batched).await?;
    let (rows, _) = ground.floor(Served::Postgres, Style::Rows).await?;
    let contenders = vec![
        uploads("ours", Role::Ours, &ours, ONE).await?,
        uploads("group commit behind HTTP", Role::Floor, &floor, ONE).await?,
        uploads("batched", Role::Reference, &batched, ONE).await?,
        uploads("row by row", Role::Reference, &rows, ONE).await?,
    ];
    let mut row = Row::new(
        "B1",
        "upload of 1 change, 64 devices, PostgreSQL, HTTP",
        "changes/s",
    );
    alternate(ground, &mut row, contenders).await?;
    let ours = row.median(Role::Ours);
    row.at_least("ours/reference", ours / row.median(Role::Reference), 5.0);
    row.at_least("ours/floor", ours / row.median(Role::Floor), 0.6);
    Ok(row)
}

/// B2.
pub async fn upload_100(ground: &mut Ground) -> anyhow::Result<Row> {
    let ours = ground.ours(Store::Postgres, false).await?;
    let (floor, _) = ground.floor(Served::Postgres, Style::Set).await?;
    let (_, bare) = ground.floor(Served::Postgres, Style::Set).await?;
    let (batched, _) = ground.floor(Served::Postgres, Style::Batched).await?;
    let bare = Work::Bare {
        url: bare.unwrap_or_default(),
        style: Style::Set,
        shape: (4, 1, 100),
        heads: vec![0; 4],
    };
    let contenders = vec![
        uploads("ours", Role::Ours, &ours, HUNDRED).await?,
        Contender::new("bare set-based SQL, 4 connections", Role::Floor, bare),
        uploads("group commit behind HTTP", Role::Aside, &floor, HUNDRED).await?,
        uploads("batched", Role::Reference, &batched, HUNDRED).await?,
    ];
    let mut row = Row::new(
        "B2",
        "upload of 100 changes, 16 devices, PostgreSQL",
        "changes/s",
    );
    alternate(ground, &mut row, contenders).await?;
    let ours = row.median(Role::Ours);
    row.at_least("ours/reference", ours / row.median(Role::Reference), 4.0);
    row.at_least("ours/floor", ours / row.median(Role::Floor), 0.6);
    row.note("the floor is bare SQL without HTTP; with HTTP it stands aside below");
    Ok(row)
}

/// B3.
pub async fn projection(ground: &mut Ground) -> anyhow::Result<Row> {
    let with = ground.ours(Store::Postgres, true).await?;
    let without = ground.ours(Store::Postgres, false).await?;
    let contenders = vec![
        uploads("projected", Role::Ours, &with, HUNDRED).await?,
        uploads("not projected", Role::Floor, &without, HUNDRED).await?,
    ];
    let mut row = Row::new(
        "B3",
        "upload of 100 changes, 16 devices, with projection",
        "changes/s",
    );
    alternate(ground, &mut row, contenders).await?;
    let ratio = row.median(Role::Ours) / row.median(Role::Floor);
    row.at_least("projected/not projected", ratio, 0.7);
    Ok(row)
}

/// Several server processes on one PostgreSQL beside one process on another
/// database of the same server; the devices are dealt to the processes.
pub async fn processes(ground: &mut Ground) -> anyhow::Result<Vec<Row>> {
    let alone = ground.ours(Store::Postgres, false).await?;
    let several = ground.several(PROCESSES).await?;
    let mut lines = Vec::new();
    for (id, what, shape) in [
        ("PROCESSES B1", "upload of 1 change, 64 devices", ONE),
        ("PROCESSES B2", "upload of 100 changes, 16 devices", HUNDRED),
    ] {
        let mut dealt = Vec::with_capacity(several.len());
        for (number, address) in several.iter().enumerate() {
            let share = shape.0 / several.len();
            // Other users in each row: change ids begin anew.
            let first = shape.0 * 1_000 + number * share;
            let names = &address.names;
            dealt.push(
                Uploaders::open_from(&address.endpoint, names, first, (share, shape.1)).await?,
            );
        }
        let contenders = vec![
            Contender::new(
                &format!("{PROCESSES} processes"),
                Role::Ours,
                Work::Dealt(dealt),
            ),
            uploads_of_new_users("one process", Role::Floor, &alone, shape).await?,
        ];
        let mut row = Row::new(id, &format!("{what}, one PostgreSQL"), "changes/s");
        alternate(ground, &mut row, contenders).await?;
        let ratio = row.median(Role::Ours) / row.median(Role::Floor);
        row.note(&format!(
            "{PROCESSES} processes carry {ratio:.2} times what one does; all of it, database and load test, on one machine"
        ));
        lines.push(row);
    }
    Ok(lines)
}

/// B4: at half of the highest rate, the median and the tail beside one fsync and
/// one empty round trip.
pub async fn latency(ground: &mut Ground) -> anyhow::Result<Vec<Row>> {
    let ours = ground.ours(Store::Postgres, false).await?;
    let (empty, _) = ground.floor(Served::Empty, Style::Set).await?;
    let mut uploaders = Uploaders::open(&ours.endpoint, &ours.names, ONE.0, ONE.1).await?;
    uploaders.round(ground.warm_up(), None).await?;
    let most = uploaders.round(ground.length(), None).await?.requests;
    let mut lines = [
        Row::new(
            "B4 p50",
            "upload latency at half of the highest rate, median",
            "ms",
        ),
        Row::new(
            "B4 p99",
            "upload latency at half of the highest rate, 99 of 100",
            "ms",
        ),
    ];
    let mut p50 = Vec::new();
    let mut p99 = Vec::new();
    let mut floors = Vec::new();
    for _ in 0..ground.rounds() {
        let probe = ground.look().await?;
        let asked = Asked {
            endpoint: &empty.endpoint,
            names: &empty.names,
            devices: 1,
            user: None,
            rows: 1,
        };
        let trips = gets(&asked, ground.warm_up(), |_| "/empty".to_owned()).await?;
        floors.push(probe.fsync.p50_ms + trips.ms(0.5));
        let round = uploaders.round(ground.length(), Some(most / 2.0)).await?;
        p50.push(round.ms(0.5));
        p99.push(round.ms(0.99));
        for line in &mut lines {
            line.before.push(probe);
        }
    }
    for (line, (values, times)) in lines.iter_mut().zip([(p50, 2.0), (p99, 5.0)]) {
        line.machine = Some(Machine::here());
        line.facts(ground).await;
        line.add("ours", Role::Ours, Rounds { values });
        let values = floors.clone();
        line.add(
            "one fsync and one empty HTTP round trip",
            Role::Floor,
            Rounds { values },
        );
        let ratio = line.median(Role::Ours) / line.median(Role::Floor);
        line.at_most("ours/floor", ratio, times);
        line.note(&format!(
            "highest rate {most:.0}/s, open loop at half of it, from when an upload was due"
        ));
    }
    Ok(lines.into())
}

/// B6.
pub async fn pages(ground: &mut Ground) -> anyhow::Result<Row> {
    let rows = ground.effort().rows;
    let ours = ground.ours(Store::Postgres, false).await?;
    Uploaders::open(&ours.endpoint, &ours.names, 1, 1)
        .await?
        .fill(rows)
        .await?;
    let (floor, database) = ground.floor(Served::Postgres, Style::Set).await?;
    fill(&database.unwrap_or_default(), rows).await?;
    let count = rows.div_ceil(PAGE).max(1);
    let path = move |json: &'static str| {
        Arc::new(move |number: usize| {
            let after = number % count * PAGE;
            format!("/sync/download?after={after}&limit={PAGE}{json}")
        })
    };
    let pager = |address: &Address, json| Work::Gets {
        endpoint: Arc::clone(&address.endpoint),
        names: address.names.clone(),
        devices: PAGERS,
        user: Some(1),
        rows: PAGE,
        path: path(json),
    };
    let contenders = vec![
        Contender::new("ours", Role::Ours, pager(&ours, "&include_self=true")),
        Contender::new("bare SELECT, spliced", Role::Floor, pager(&floor, "")),
        Contender::new(
            "JSON built by the database",
            Role::Reference,
            pager(&floor, "&json=true"),
        ),
    ];
    let mut row = Row::new(
        "B6",
        "download, pages of 1,000, 4 devices, PostgreSQL",
        "rows/s",
    );
    alternate(ground, &mut row, contenders).await?;
    let ours = row.median(Role::Ours);
    row.at_least("ours/reference", ours / row.median(Role::Reference), 4.0);
    row.at_least("ours/floor", ours / row.median(Role::Floor), 0.6);
    row.note(&format!("a log of {rows} rows"));
    Ok(row)
}

async fn fill(url: &str, rows: usize) -> anyhow::Result<()> {
    use sqlx::Connection as _;
    let mut connection = sqlx::PgConnection::connect(url).await?;
    sqlx::query(include_str!("../floor/sql/fill.sql"))
        .bind(1_i64)
        .bind(rows as i64)
        .execute(&mut connection)
        .await?;
    sqlx::query("VACUUM ANALYZE floor.log")
        .execute(&mut connection)
        .await?;
    Ok(())
}

/// B8.
pub async fn capture(ground: &mut Ground) -> anyhow::Result<Vec<Row>> {
    let mut lines = Vec::new();
    let edits = [
        ("insert", Edit::Insert),
        ("update", Edit::Update),
        ("delete", Edit::Delete),
    ];
    let shapes = [
        ("", "", Width::Narrow),
        (" wide", ", 20 columns", Width::Wide),
    ];
    let all = shapes
        .into_iter()
        .flat_map(|shape| edits.map(|edit| (shape, edit)));
    for ((wide, columns, shape), (name, edit)) in all {
        let (id, what) = (
            &format!("B8 {name}{wide}"),
            &format!("an application's {name}s{columns}"),
        );
        let work = |captured| Work::Edits {
            folder: ground.folder().to_owned(),
            captured,
            shape,
            edit,
        };
        let contenders = vec![
            Contender::new("with triggers", Role::Ours, work(true)),
            Contender::new("without", Role::Floor, work(false)),
        ];
        let mut row = Row::new(id, what, "µs each, 100 in a transaction");
        alternate(ground, &mut row, contenders).await?;
        let ratio = row.median(Role::Ours) / row.median(Role::Floor);
        row.at_most("with/without", ratio, 2.0);
        lines.push(row);
    }
    Ok(lines)
}

/// B10: the same requests to a server with a small and to one with a large log.
pub async fn growth(ground: &mut Ground) -> anyhow::Result<Vec<Row>> {
    let large_rows = ground.effort().rows;
    let small_rows = (large_rows / 1_000).max(10_000).min(large_rows);
    let mut addresses = Vec::new();
    for rows in [large_rows, small_rows] {
        let address = ground.ours(Store::Postgres, false).await?;
        // Other users' rows, and one user's for the pages.
        Uploaders::open(&address.endpoint, &address.names, 16, 1)
            .await?
            .fill(rows)
            .await?;
        addresses.push(address);
    }
    let [large, small] = &addresses[..] else {
        anyhow::bail!("BUG: two servers");
    };
    let mut lines = Vec::new();
    for (id, what, shape) in [
        ("B10 B1", "upload of 1 change, 64 devices", ONE),
        ("B10 B2", "upload of 100 changes, 16 devices", HUNDRED),
    ] {
        // Other users than those who filled the log: their change ids begin anew.
        let mut contenders = vec![
            uploads_of_new_users("large log", Role::Ours, large, shape).await?,
            uploads_of_new_users("small log", Role::Floor, small, shape).await?,
        ];
        if shape == HUNDRED {
            // The other way of working, on logs that it has filled itself.
            for (name, rows) in [("large log", large_rows), ("small log", small_rows)] {
                let (address, _) = ground.floor(Served::Postgres, Style::Batched).await?;
                let mut fillers = Uploaders::open(&address.endpoint, &address.names, 16, 1).await?;
                fillers.fill(rows).await?;
                let name = format!("batched, {name}");
                let one = uploads_of_new_users(&name, Role::Reference, &address, shape).await?;
                contenders.push(one);
            }
        }
        let mut row = Row::new(id, what, "changes/s");
        alternate(ground, &mut row, contenders).await?;
        let ratio = row.median(Role::Floor) / row.median(Role::Ours);
        row.at_most("small/large", ratio, 1.2);
        row.note(&format!(
            "logs of {small_rows} and {large_rows} rows before the first round"
        ));
        lines.push(row);
    }
    let pager = |address: &Address, rows: usize| Work::Gets {
        endpoint: Arc::clone(&address.endpoint),
        names: address.names.clone(),
        devices: PAGERS,
        user: Some(1),
        rows: PAGE.min(rows / 16),
        path: Arc::new(move |number: usize| {
            let count = (rows / 16 / PAGE).max(1);
            let after = number % count * PAGE;
            format!("/sync/download?after={after}&limit={PAGE}&include_self=true")
        }),
    };
    let contenders = vec![
        Contender::new("large log", Role::Ours, pager(large, large_rows)),
        Contender::new("small log", Role::Floor, pager(small, small_rows)),
    ];
    let mut row = Row::new("B10 B6", "download, pages of 1,000, 4 devices", "rows/s");
    alternate(ground, &mut row, contenders).await?;
    let ratio = row.median(Role::Floor) / row.median(Role::Ours);
    row.at_most("small/large", ratio, 1.2);
    if small_rows / 16 < PAGE {
        row.note("the small log has pages of fewer rows than 1,000: requests cost more per row");
    }
    lines.push(row);
    Ok(lines)
}

async fn uploads_of_new_users(
    name: &str,
    role: Role,
    address: &Address,
    shape: Shape,
) -> anyhow::Result<Contender> {
    let uploaders =
        Uploaders::open_from(&address.endpoint, &address.names, shape.0 * 1_000, shape).await?;
    Ok(Contender::new(name, role, Work::Uploads(uploaders)))
}

/// B12.
pub async fn embedded(ground: &mut Ground) -> anyhow::Result<Vec<Row>> {
    let mut lines = Vec::new();
    for (id, what, shape) in [
        (
            "B12 B1",
            "upload of 1 change, 64 devices, embedded store",
            ONE,
        ),
        (
            "B12 B2",
            "upload of 100 changes, 16 devices, embedded store",
            HUNDRED,
        ),
    ] {
        let ours = ground.ours(Store::Embedded, false).await?;
        let (floor, _) = ground.floor(Served::Sqlite, Style::Set).await?;
        let contenders = vec![
            uploads("ours", Role::Ours, &ours, shape).await?,
            uploads(
                "plain SQLite, group commit, behind HTTP",
                Role::Floor,
                &floor,
                shape,
            )
            .await?,
        ];
        let mut row = Row::new(id, what, "changes/s");
        alternate(ground, &mut row, contenders).await?;
        let ratio = row.median(Role::Ours) / row.median(Role::Floor);
        row.at_least("ours/floor", ratio, 0.6);
        lines.push(row);
    }
    Ok(lines)
}

/// B13.
pub async fn empty_polls(ground: &mut Ground) -> anyhow::Result<Row> {
    let ours = ground.ours(Store::Embedded, false).await?;
    let (floor, _) = ground.floor(Served::Empty, Style::Set).await?;
    // Every device has a user with one row, and asks for what is after it: its
    // cursor stands at the head, as that of a device which has everything does.
    Uploaders::open(&ours.endpoint, &ours.names, POLLERS, 1)
        .await?
        .fill(POLLERS)
        .await?;
    let poll = |address: &Address, path: &'static str| Work::Gets {
        endpoint: Arc::clone(&address.endpoint),
        names: address.names.clone(),
        devices: POLLERS,
        user: None,
        rows: 0,
        path: Arc::new(move |_| path.to_owned()),
    };
    let contenders = vec![
        Contender::new(
            "ours",
            Role::Ours,
            poll(&ours, "/sync/download?after=1&limit=1000"),
        ),
        Contender::new("an empty handler", Role::Floor, poll(&floor, "/empty")),
    ];
    let mut row = Row::new(
        "B13",
        "poll that finds nothing, 64 devices, embedded store",
        "polls/s",
    );
    alternate(ground, &mut row, contenders).await?;
    let ratio = row.median(Role::Ours) / row.median(Role::Floor);
    row.at_least("ours/floor", ratio, 0.7);
    row.note("not measured here: that no database query is made, and waiting polls");
    Ok(row)
}
