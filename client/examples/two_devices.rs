//! Two devices of one user in one program: the engine on both, changes as they
//! arrive, one row edited on both sides at once, and what lost in it got back.
//!
//! Start a server with `oversync serve --dev`, then run this with a folder and the
//! server's address as arguments (both have defaults).

use oversqlite::{
    Changed, Client, ColumnPolicy, Config, DeviceId, Direction, TokenError, UserId, sign_in,
};
use rusqlite::Connection;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;
use uuid::Uuid;

const TABLES: &str = include_str!("quickstart.sql");

async fn device(folder: &str, server: &str, name: &str) -> anyhow::Result<Client> {
    let path = Path::new(folder).join(format!("{name}.db"));
    Connection::open(&path)?.execute_batch(TABLES)?;
    let device = DeviceId::new(format!("{name}-{}", Uuid::new_v4()))?;
    let user = sign_in(server, "eve", "", &device).await?.user_id;
    let token = {
        let (server, device) = (server.to_owned(), device.clone());
        // Asked again before each token ends; the socket stays open.
        move || {
            let (server, device) = (server.clone(), device.clone());
            async move {
                match sign_in(&server, "eve", "", &device).await {
                    Ok(reply) => Ok(reply.token),
                    Err(error) => Err(TokenError::unreachable(error.to_string())),
                }
            }
        }
    };
    let config = Config::new(&path, server, UserId::new(user)?, token)
        .device(device)
        .schema("business")
        .table("users")
        .table("posts")
        // Where both sides have changed a name, the server's stands; longer e-mail
        // addresses win over shorter ones.
        .merge_column("users", "email", ColumnPolicy::Max);
    let client = Client::open(config).await?;
    client.start()?;
    Ok(client)
}

async fn settled(client: &Client) -> anyhow::Result<()> {
    // Read now: the stream need not have heard yet of what was written a moment ago.
    client.status().await?;
    let mut status = client.status_stream();
    let settled = status.wait_for(|s| s.hydrated && s.unsent == 0 && s.behind_by == Some(0));
    timeout(Duration::from_secs(30), settled).await??;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| ".".into());
    let server = arguments
        .next()
        .unwrap_or_else(|| "http://127.0.0.1:8080".into());
    let phone = device(&folder, &server, "phone").await?;
    let laptop = device(&folder, &server, "laptop").await?;
    settled(&laptop).await?;

    // Written on the one, heard of on the other.
    let mut heard = laptop.changes();
    let (on_phone, on_laptop) = (phone.connection()?, laptop.connection()?);
    let key = Uuid::new_v4().to_string();
    on_phone.execute("INSERT INTO users (id, name) VALUES (?1, 'Eve')", [&key])?;
    if let Ok(Some(Changed::Rows { table, .. })) =
        timeout(Duration::from_secs(30), heard.next()).await
    {
        println!("the laptop hears of {table}");
    }

    // Both edit the row while the phone is held back.
    phone.pause(Direction::Both).await?;
    let rename = "UPDATE users SET name = ?2 WHERE id = ?1";
    on_laptop.execute(rename, [key.as_str(), "Eva"])?;
    settled(&laptop).await?;
    on_phone.execute(rename, [key.as_str(), "Evi"])?;
    phone.resume(Direction::Both).await?;
    settled(&phone).await?;
    for conflict in phone.conflicts().await? {
        println!(
            "lost on the phone: {}",
            conflict.lost.as_deref().unwrap_or("a delete")
        );
        phone.restore_conflict(conflict.id).await?;
    }
    settled(&phone).await?;
    let mut name = String::new();
    for _ in 0..300 {
        let sql = "SELECT name FROM users WHERE id = ?1";
        name = on_laptop.query_row(sql, [&key], |row| row.get(0))?;
        if name == "Evi" {
            break;
        }
        let _ = timeout(Duration::from_millis(100), heard.next()).await;
    }
    println!("restored, and on the laptop: {name}");
    phone.stop().await;
    laptop.stop().await;
    Ok(())
}
