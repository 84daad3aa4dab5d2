//! A program without an async runtime, with one SQLite connection: a note is
//! written, the engine sends it, and what another device writes is printed.
//!
//! Start a server with `oversync serve --dev`, then run this with the file, the
//! server's address and a name as arguments (all have defaults).

use oversqlite::blocking::{Client, sign_in, tokens};
use oversqlite::{Config, DeviceId, TokenError, UserId};
use std::time::Duration;
use uuid::Uuid;

const TABLES: &str = include_str!("quickstart.sql");

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.into());
    let (path, server, name) = (
        next("blocking.db"),
        next("http://127.0.0.1:8080"),
        next("ada"),
    );
    rusqlite::Connection::open(&path)?.execute_batch(TABLES)?;

    // A real application brings its own sign-in.
    let device = DeviceId::new(Uuid::new_v4().to_string())?;
    let user = UserId::new(sign_in(&server, &name, "", &device)?.user_id)?;
    let token = {
        let (server, device) = (server.clone(), device.clone());
        tokens(move || match sign_in(&server, &name, "", &device) {
            Ok(reply) => Ok(reply.token),
            Err(error) => Err(TokenError::unreachable(error.to_string())),
        })
    };
    let config = Config::new(&path, &server, user, token)
        .device(device)
        .schema("business")
        .table("users")
        .table("posts");
    let client = Client::open(config)?;

    // The program's one connection; its commits wake the engine.
    let db = client.connection()?;
    let mut changes = client.changes();
    let mut status = client.status_stream();
    client.start()?;
    db.execute(
        "INSERT INTO users (id, name) VALUES (?1, 'Ada')",
        [&Uuid::new_v4().to_string()],
    )?;
    // Read now: the stream need not have heard yet of what was written a moment ago.
    client.status()?;
    let sent = status.wait_until(Duration::from_secs(30), |status| {
        status.hydrated && status.unsent == 0
    });
    println!("sent: {}", sent.is_some());

    // What other devices have written while this one looked.
    while let Some(change) = changes.next_within(Duration::from_millis(500)) {
        println!("{change:?}");
    }
    let count: i64 = db.query_row("SELECT count(*) FROM users", [], |row| row.get(0))?;
    println!("{count} users");
    client.stop();
    Ok(())
}
