//! `oversync fold`: one pass over all users, or what it would do; and space given back.

use super::devices::with_store;
use super::flags::FoldFlags;
use super::load;
use crate::registration::{Wanted, Writing, register};
use crate::retention::{BEFORE_ALL, BeforeFold, Done, is_worth_it, pass_with};
use crate::settings::Settings;
use crate::store::Store;
use crate::store::retention::{Retention, Rules};
use anyhow::bail;
use oversync_shared::Catalog;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long somebody else's pass is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(wanted: &FoldFlags) -> anyhow::Result<()> {
    let settings = load(&wanted.flags)?;
    settings.check_folding()?;
    let rules = settings.retention.rules();
    with_store(&wanted.flags, async |store| {
        let tables = register(Wanted::of(&settings), Writing::Nobody, &*store).await?;
        if wanted.dry_run {
            return show(&*store, rules).await;
        }
        let refused = refuse_handled_rings(&settings, &tables.catalog);
        let mut retention = match refused {
            Err(why) if !wanted.compact => return Err(why),
            _ => retention(&*store).await?,
        };
        match refused {
            Err(why) => eprintln!("nothing is folded: {why}"),
            Ok(()) => fold_all(&mut *retention, tables.catalog, rules).await?,
        }
        if wanted.compact {
            let before = on_disk(&*store).await?;
            retention.compact().await?;
            let after = on_disk(&*store).await?;
            println!("bytes on disk: {before} before, {after} after");
        }
        Ok(())
    })
}

async fn fold_all(
    retention: &mut dyn Retention,
    catalog: Catalog,
    rules: Rules,
) -> anyhow::Result<()> {
    // No server of this process answers anybody.
    let nobody: BeforeFold = Box::new(|_| {});
    let Done {
        users,
        removed,
        forgotten,
        ..
    } = pass_with(retention, &Arc::new(catalog), rules, &nobody).await?;
    println!(
        "users folded: {users}, entries removed: {removed}, silent devices forgotten: {forgotten}"
    );
    Ok(())
}

/// Waits a little for a server that is in the middle of a pass, or for the database to
/// notice that one who folded has gone.
async fn retention(store: &dyn Store) -> anyhow::Result<Box<dyn Retention>> {
    let began = Instant::now();
    loop {
        if let Some(retention) = store.retention().await? {
            return Ok(retention);
        }
        if began.elapsed() >= PATIENCE {
            bail!("another process is folding this database now");
        }
        tokio::time::sleep(PATIENCE / 20).await;
    }
}

/// Of the server's own tables on PostgreSQL, of the file and its log on the embedded store.
async fn on_disk(store: &dyn Store) -> anyhow::Result<u64> {
    let all = store.storage().await?;
    // These are parts of others, or not ours alone.
    let counts = |kind: &str| !matches!(kind, "free" | "database");
    let all = all.iter().filter(|stored| counts(&stored.kind));
    Ok(all.map(|stored| stored.bytes).sum())
}

/// Only its host knows how the rows of a handled table refer to each other: here a child
/// could be put before its parent.
fn refuse_handled_rings(settings: &Settings, catalog: &Catalog) -> anyhow::Result<()> {
    let mut both = catalog.tables().zip(&settings.tables);
    let ring = both.find(|((_, table), wanted)| wanted.handled && table.cyclic);
    match ring {
        None => Ok(()),
        Some(((_, table), _)) => bail!(
            "{} has handled = true, and its rows may refer to each other, which only its \
             host can read: let the host's server fold (retention.enabled)",
            table.name
        ),
    }
}

async fn show(store: &dyn Store, rules: Rules) -> anyhow::Result<()> {
    let mut retention = retention(store).await?;
    println!("user\tfloor\tcould be\trows below the floor");
    let started = retention.now().await?;
    let mut after = BEFORE_ALL;
    loop {
        let users = retention.ripe(after, started, rules).await?;
        let Some(last) = users.last() else {
            return Ok(());
        };
        after = (last.folded_at, last.user);
        for ripe in users.iter().filter(|ripe| is_worth_it(ripe)) {
            let (user, floor, ceiling) = (&ripe.user_id, ripe.floor, ripe.ceiling);
            println!("{user}\t{floor}\t{ceiling}\t{}", ripe.size);
        }
    }
}
