//! After the load: every device of a user equals the server.

use crate::fleet::{Fleet, UserFleet};
use crate::report::Convergence;
use oversync_shared::json::canonicalise;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Long enough for any queue to drain; GUARANTEES, CONVERGE says at most 60 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often to look.
const LOOK: Duration = Duration::from_millis(100);

/// A user's live rows: table and key to the row in one canonical form.
type Rows = BTreeMap<(String, String), Vec<u8>>;

/// Waits until all devices equal the server, and says which do not.
pub async fn converge(fleet: &Fleet) -> anyhow::Result<Convergence> {
    let started = Instant::now();
    let mut rows = 0;
    let mut differences = Vec::new();
    for user in &fleet.users {
        loop {
            match compare(user).await? {
                (count, None) => {
                    rows += count;
                    break;
                }
                (_, Some(difference)) if started.elapsed() > PATIENCE => {
                    differences.push(difference);
                    break;
                }
                (_, Some(_)) => tokio::time::sleep(LOOK).await,
            }
        }
    }
    Ok(Convergence {
        equal: differences.is_empty(),
        rows,
        seconds: started.elapsed().as_secs_f64(),
        differences,
    })
}

async fn compare(user: &UserFleet) -> anyhow::Result<(usize, Option<String>)> {
    let server = fold(user).await?;
    for (number, device) in user.devices.iter().enumerate() {
        let status = device.client.status().await?;
        let name = format!("{} device {number}", user.username);
        if status.unsent > 0 || status.rejected > 0 || status.parked > 0 {
            return Ok((0, Some(format!("{name}: {status:?}"))));
        }
        let here = read_file(&device.path)?;
        if here != server {
            let first = here
                .iter()
                .find(|(key, row)| server.get(*key) != Some(*row))
                .or_else(|| server.iter().find(|(key, _)| !here.contains_key(*key)));
            return Ok((
                0,
                Some(format!(
                    "{name}: first difference at {:?}",
                    first.map(|(key, _)| key)
                )),
            ));
        }
    }
    Ok((server.len(), None))
}

/// The live rows that the server's stream adds up to.
async fn fold(user: &UserFleet) -> anyhow::Result<Rows> {
    let mut rows = Rows::new();
    for change in user.observer.download_all().await? {
        let key = (change.table, change.pk);
        match change.payload {
            Some(payload) => rows.insert(key, canonical(payload.get())?),
            None => rows.remove(&key),
        };
    }
    Ok(rows)
}

fn read_file(path: &Path) -> anyhow::Result<Rows> {
    let connection = rusqlite::Connection::open(path)?;
    let mut rows = Rows::new();
    for (table, columns) in [
        ("users", "id, name, email"),
        ("posts", "id, title, content, author_id"),
    ] {
        let names: Vec<&str> = columns.split(", ").collect();
        let mut statement = connection.prepare(&format!("SELECT {columns} FROM {table}"))?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let mut object = serde_json::Map::new();
            for (index, name) in names.iter().enumerate() {
                object.insert(
                    (*name).to_owned(),
                    row.get::<_, Option<String>>(index)?.into(),
                );
            }
            let key = row.get::<_, String>(0)?;
            rows.insert(
                (table.to_owned(), key),
                canonical(&serde_json::to_string(&object)?)?,
            );
        }
    }
    Ok(rows)
}

fn canonical(payload: &str) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    canonicalise(payload, &mut out)?;
    Ok(out)
}
