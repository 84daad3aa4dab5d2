//! Sign in, insert a user, upload, insert that user's post, upload, download,
//! count.
//!
//! Start a server with `oversync serve --dev`, then run this with the file and
//! the server's address as arguments (both have defaults).

use oversqlite::{Client, Config, DeviceId, TokenError, UserId, sign_in};
use uuid::Uuid;

const TABLES: &str = include_str!("quickstart.sql");

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| "quickstart.db".into());
    let server = arguments
        .next()
        .unwrap_or_else(|| "http://127.0.0.1:8080".into());

    // The application's own tables, in its own file.
    let db = rusqlite::Connection::open(&path)?;
    db.execute_batch(TABLES)?;

    // Sign in. A real application brings its own; here the development server's.
    let device = DeviceId::new("quickstart")?;
    let user = sign_in(&server, "ada", "", &device).await?.user_id;
    let token = {
        let (server, device) = (server.clone(), device.clone());
        move || {
            let (server, device) = (server.clone(), device.clone());
            async move {
                let reply = sign_in(&server, "ada", "", &device).await;
                reply
                    .map(|reply| reply.token)
                    .map_err(|error| TokenError::new(error.to_string()))
            }
        }
    };
    let config = Config::new(&path, &server, UserId::new(user)?, token)
        .device(device)
        .schema("business")
        .table("users")
        .table("posts");
    let client = Client::open(config).await?;

    // Insert a user and upload it. Any connection will do.
    let author = Uuid::new_v4().to_string();
    db.execute(
        "INSERT INTO users (id, name, email) VALUES (?1, 'Ada', 'ada@example.org')",
        [&author],
    )?;
    println!("user: {:?}", client.upload_once().await?);

    // That user's post.
    db.execute(
        "INSERT INTO posts (id, title, content, author_id) VALUES (?1, 'Hello', 'World', ?2)",
        [&Uuid::new_v4().to_string(), &author],
    )?;
    println!("post: {:?}", client.upload_once().await?);

    // What other devices have done, 100 changes at a time.
    loop {
        let page = client.download_once(100).await?;
        println!("page: {page:?}");
        if !page.has_more {
            break;
        }
    }

    let count = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        db.query_row(&sql, [], |row| row.get::<_, i64>(0))
    };
    println!("{} users, {} posts", count("users")?, count("posts")?);
    client.stop().await;
    Ok(())
}
