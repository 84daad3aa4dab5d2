//! `oversync fold`: one pass over all users, or what it would do.

use super::devices::with_store;
use super::flags::FoldFlags;
use super::load;
use crate::registration::{Wanted, Writing, register};
use crate::retention::{BEFORE_ALL, BeforeFold, Done, is_worth_it, pass};
use crate::settings::Settings;
use crate::store::Store;
use crate::store::retention::Rules;
use anyhow::bail;
use oversync_shared::Catalog;
use std::sync::Arc;

pub(super) fn run(wanted: &FoldFlags) -> anyhow::Result<()> {
    let settings = load(&wanted.flags)?;
    settings.check_folding()?;
    let rules = settings.retention.rules();
    with_store(&wanted.flags, async |store| {
        let tables = register(Wanted::of(&settings), Writing::Nobody, &*store).await?;
        if wanted.dry_run {
            return show(&*store, rules).await;
        }
        refuse_handled_rings(&settings, &tables.catalog)?;
        // No server of this process answers anybody.
        let nobody: BeforeFold = Box::new(|_| {});
        let Some(done) = pass(&*store, &Arc::new(tables.catalog), rules, &nobody).await? else {
            bail!("another process is folding this database now");
        };
        let Done {
            users,
            removed,
            forgotten,
        } = done;
        println!(
            "users folded: {users}, entries removed: {removed}, silent devices forgotten: {forgotten}"
        );
        Ok(())
    })
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
    let Some(mut retention) = store.retention().await? else {
        bail!("another process is folding this database now");
    };
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
