//! The table of figures, row by row: ours, the floor and the reference style
//! measured alternately in one run, medians of at least five rounds, with the
//! raw values, an fsync probe before every round, and everything else that is
//! needed to believe a ratio.

mod contender;
mod ground;
mod poison;
mod requests;
mod row;
mod sockets;
mod storage;
mod table;
mod whole;

pub use row::Row;
pub use table::{HEAD, Line, table};

use crate::floor::Rounds;
use crate::measure::machine::Machine;
use clap::ValueEnum;
use contender::Contender;
use ground::Ground;
use std::time::Duration;

/// Fewer rounds make no figure.
pub const LEAST_ROUNDS: usize = 5;

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Name {
    /// Upload of 1 change, 64 devices, PostgreSQL.
    B1,
    /// Upload of 100 changes, 16 devices, PostgreSQL.
    B2,
    /// B2 with projection into business tables.
    B3,
    /// Upload latency at half of the highest rate.
    B4,
    /// Local commit on one device to the row on another.
    B5,
    /// Download, pages of 1,000.
    B6,
    /// A new device downloads everything.
    B7,
    /// What capture costs the application.
    B8,
    /// Idle WebSocket devices.
    B9,
    /// B1, B2 and B6 on a small and on a large log.
    B10,
    /// A reconnect storm.
    B11,
    /// B1 and B2 on the embedded store.
    B12,
    /// Polls that find nothing.
    B13,
    /// Several server processes on one PostgreSQL, beside one.
    Processes,
    /// One row in a thousand that can never succeed, up and down.
    Poison,
    /// What a server that folds has on disk, beside a fresh copy of the same rows.
    Storage,
    /// Every row, one after another.
    All,
}

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Effort {
    /// Rounds per row.
    pub rounds: usize,
    /// Of one contender in one round.
    pub length: Duration,
    /// Rows of B6, B7 and STORAGE, and of the large log of B10.
    pub rows: usize,
    /// Devices of B5 (idle ones), B9 and B11.
    pub devices: usize,
    /// PostgreSQL, to make databases on.
    pub database_url: Option<String>,
    /// As it was called.
    pub command: String,
}

/// Measures one row of the table: several lines where the row has several.
pub async fn bench(name: Name, effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let mut ground = Ground::new(effort)?;
    let mut rows = match name {
        Name::B1 => vec![requests::upload_1(&mut ground).await?],
        Name::B2 => vec![requests::upload_100(&mut ground).await?],
        Name::B3 => vec![requests::projection(&mut ground).await?],
        Name::B4 => requests::latency(&mut ground).await?,
        Name::B5 => whole::realtime(&mut ground).await?,
        Name::B6 => vec![requests::pages(&mut ground).await?],
        Name::B7 => vec![whole::hydrate(&mut ground).await?],
        Name::B8 => requests::capture(&mut ground).await?,
        Name::B9 => sockets::idle(&mut ground).await?,
        Name::B10 => requests::growth(&mut ground).await?,
        Name::B11 => sockets::storm(&mut ground).await?,
        Name::B12 => requests::embedded(&mut ground).await?,
        Name::B13 => vec![requests::empty_polls(&mut ground).await?],
        Name::Processes => requests::processes(&mut ground).await?,
        Name::Storage => storage::steady(&mut ground).await?,
        Name::All => anyhow::bail!("BUG: the command line names every row"),
        Name::Poison => poison::poison(&mut ground).await?,
    };
    for row in &mut rows {
        row.judge();
    }
    ground.clear().await;
    Ok(rows)
}

/// Lets contenders work in turn, round after round.
async fn alternate(
    ground: &Ground,
    row: &mut Row,
    mut contenders: Vec<Contender>,
) -> anyhow::Result<()> {
    row.machine = Some(Machine::here());
    row.facts(ground).await;
    // Nobody is measured cold.
    for contender in &mut contenders {
        contender.round(ground.warm_up()).await?;
    }
    let mut measured = vec![Vec::new(); contenders.len()];
    for round in 1..=ground.rounds() {
        row.before.push(ground.look().await?);
        for (contender, values) in contenders.iter_mut().zip(&mut measured) {
            let value = contender.round(ground.length()).await?;
            eprintln!("{} round {round}: {} {value:.1}", row.id, contender.name);
            values.push(value);
        }
    }
    for (contender, values) in contenders.into_iter().zip(measured) {
        row.add(&contender.name, contender.role, Rounds { values });
    }
    Ok(())
}
