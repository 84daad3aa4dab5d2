//! `oversync fold`: one pass over all users, or what it would do.

use super::devices::with_store;
use super::{FoldFlags, load};
use crate::registration::{Wanted, register};
use crate::retention::{BEFORE_ALL, Done, is_worth_it, pass};
use crate::store::Store;
use crate::store::handler::Handlers;
use crate::store::retention::Rules;
use anyhow::bail;
use std::sync::Arc;

pub(super) fn run(wanted: &FoldFlags) -> anyhow::Result<()> {
    let settings = load(&wanted.flags)?;
    let rules = settings.retention.rules();
    with_store(&wanted.flags, async |store| {
        let tables = register(Wanted::of(&settings), &Handlers::new(), &*store).await?;
        if wanted.dry_run {
            return show(&*store, rules).await;
        }
        let Some(done) = pass(&*store, &Arc::new(tables), rules).await? else {
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
