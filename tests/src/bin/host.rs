//! A host application whose handler behaves as badly as its payloads ask it to,
//! on either store. It writes down every call, for tests to read.
//!
//! `DATABASE_URL` names the database, which has the tables already; a line on
//! standard output says where it listens.

use actix_web::{App, HttpServer};
use async_trait::async_trait;
use oversync::auth::{Authenticator, TokenAuthenticator};
use oversync::settings::{ReferenceSettings, Secret, TableSettings};
use oversync::store::handler::{
    Before, Deleted, EmbeddedHandler, HandlerError, PostgresHandler, TableHandler, Upserted,
};
use oversync::{Clock, Handlers, Settings, SyncService, routes};
use oversync_shared::{RowKey, TableName};
use oversync_tests::server::SECRET;
use serde_json::Value;
use sqlx::Connection as _;
use std::sync::Arc;
use std::time::Duration;

/// Longer than a handler may take.
const TOO_LONG: Duration = Duration::from_secs(60);

/// What a serializable transaction is told, for no reason at all.
const CONFLICT: &str =
    "DO $$ BEGIN RAISE EXCEPTION 'could not serialize, ever' USING ERRCODE = '40001'; END $$";

struct Things;

/// What the payload asks for: `do`.
fn asked(row: &Upserted<'_>) -> Result<String, HandlerError> {
    let payload: Value = serde_json::from_str(row.payload).map_err(HandlerError::new)?;
    Ok(payload["do"].as_str().unwrap_or("write").to_owned())
}

/// One line per call: what, version, what was there before.
fn upserted(row: &Upserted<'_>) -> String {
    format!("upsert {} {:?}", row.version, row.before)
}

fn deleted(row: &Deleted<'_>) -> String {
    format!("delete {}", row.version)
}

fn refusal() -> HandlerError {
    HandlerError::new(format_args!("no,\nnever\u{0} {}", "x".repeat(2_000)))
}

impl TableHandler for Things {
    fn convert_reference(&self, column: &str, sent: &str) -> Option<RowKey> {
        assert!(sent != "panic", "asked to");
        let number = sent.strip_prefix('#').filter(|_| column == "group_id")?;
        let number = number.parse().ok()?;
        Some(RowKey::new(uuid::Uuid::from_u128(number)))
    }
}

#[async_trait]
impl PostgresHandler for Things {
    async fn upsert(
        &self,
        connection: &mut sqlx::PgConnection,
        row: &Upserted<'_>,
    ) -> Result<(), HandlerError> {
        sqlx::query(
            "INSERT INTO app.calls (owner, id, what, \"groups\", parts) \
             SELECT $1, $2, $3, (SELECT count(*) FROM app.groups), (SELECT count(*) FROM app.parts)",
        )
        .bind(row.user.as_str())
        .bind(row.key.uuid())
        .bind(upserted(row))
        .execute(&mut *connection)
        .await?;
        match asked(row)?.as_str() {
            "refuse" => {
                let allowed: i64 = sqlx::query_scalar("SELECT count(*) FROM app.allowed")
                    .fetch_one(connection)
                    .await?;
                if allowed > 0 { Ok(()) } else { Err(refusal()) }
            }
            "panic" => panic!("asked to"),
            "wait" => {
                tokio::time::sleep(TOO_LONG).await;
                Ok(())
            }
            // The transaction is broken, and the handler does not say so.
            "swallow" => {
                let broken = sqlx::query("SELECT 1 / 0").execute(connection).await;
                assert!(broken.is_err(), "nothing can be divided by 0");
                Ok(())
            }
            "break" => {
                sqlx::query("SELECT 1 / 0").execute(connection).await?;
                Ok(())
            }
            // The limit of its second statement comes after the handler's own.
            "sleep" => {
                sqlx::query("SELECT nextval('app.naps'), pg_sleep(2)")
                    .execute(&mut *connection)
                    .await?;
                sqlx::query("SELECT pg_sleep(600)")
                    .execute(connection)
                    .await?;
                Ok(())
            }
            "conflict" => {
                sqlx::query(CONFLICT).execute(connection).await?;
                Ok(())
            }
            // The host's own, beside the upload's.
            "conflict elsewhere" => {
                let url = std::env::var("DATABASE_URL").map_err(HandlerError::new)?;
                let mut other = sqlx::PgConnection::connect(&url).await?;
                sqlx::query(CONFLICT).execute(&mut other).await?;
                Ok(())
            }
            "connect elsewhere" => {
                sqlx::PgConnection::connect("postgres://nobody@127.0.0.1:1/nowhere").await?;
                Ok(())
            }
            // Refused at first; then until it is allowed.
            "hold" if row.before == Before::Unknown => {
                sqlx::query(
                    "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM app.allowed) \
                     LOOP PERFORM pg_sleep(0.02); END LOOP; END $$",
                )
                .execute(connection)
                .await?;
                Ok(())
            }
            "hold" => Err(refusal()),
            // Looked at in the end, and wrong then.
            "defer" => {
                sqlx::query("INSERT INTO app.chain (id, after) VALUES (1, 2)")
                    .execute(connection)
                    .await?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn delete(
        &self,
        connection: &mut sqlx::PgConnection,
        row: &Deleted<'_>,
    ) -> Result<(), HandlerError> {
        sqlx::query(
            "INSERT INTO app.calls (owner, id, what, \"groups\", parts) \
             SELECT $1, $2, $3, (SELECT count(*) FROM app.groups), (SELECT count(*) FROM app.parts)",
        )
        .bind(row.user.as_str())
        .bind(row.key.uuid())
        .bind(deleted(row))
        .execute(connection)
        .await?;
        Ok(())
    }
}

fn write_down(
    connection: &rusqlite::Connection,
    user: &str,
    key: RowKey,
    what: String,
) -> Result<(), HandlerError> {
    connection.execute(
        "INSERT INTO calls (owner, id, what, \"groups\", parts) \
         SELECT ?1, ?2, ?3, (SELECT count(*) FROM \"groups\"), (SELECT count(*) FROM parts)",
        (user, key.to_string(), what),
    )?;
    Ok(())
}

impl EmbeddedHandler for Things {
    fn upsert(
        &self,
        connection: &rusqlite::Connection,
        row: &Upserted<'_>,
    ) -> Result<(), HandlerError> {
        write_down(connection, row.user.as_str(), row.key, upserted(row))?;
        match asked(row)?.as_str() {
            "refuse" => {
                let allowed: i64 =
                    connection.query_row("SELECT count(*) FROM allowed", [], |row| row.get(0))?;
                if allowed > 0 { Ok(()) } else { Err(refusal()) }
            }
            "panic" => panic!("asked to"),
            "break" => {
                connection.execute_batch("SELECT 1 FROM nowhere")?;
                Ok(())
            }
            // The upload's own transaction is in its way.
            "write elsewhere" => {
                let path = connection.path().unwrap_or_default();
                rusqlite::Connection::open(path)?.execute("INSERT INTO allowed VALUES (1)", [])?;
                Ok(())
            }
            // It must not, and does.
            "commit" => {
                connection.execute_batch("COMMIT")?;
                Ok(())
            }
            "roll back" => {
                connection.execute_batch("ROLLBACK")?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn delete(
        &self,
        connection: &rusqlite::Connection,
        row: &Deleted<'_>,
    ) -> Result<(), HandlerError> {
        write_down(connection, row.user.as_str(), row.key, deleted(row))
    }
}

fn settings(database_url: String) -> Settings {
    let table = |name: &str, parent: Option<(&str, &str)>| TableSettings {
        schema: "app".to_owned(),
        table: name.to_owned(),
        owner_column: (name != "things").then(|| "owner".to_owned()),
        handled: name == "things",
        references: parent
            .map(|(column, table)| ReferenceSettings {
                column: column.to_owned(),
                table: table.to_owned(),
                ref_column: None,
            })
            .into_iter()
            .collect(),
        ..TableSettings::default()
    };
    Settings {
        database_url,
        jwt_secret: Some(Secret::new(SECRET)),
        strict_tables: true,
        tables: vec![
            table("parts", Some(("thing_id", "things"))),
            table("things", Some(("group_id", "groups"))),
            table("groups", None),
        ],
        ..Settings::default()
    }
}

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let settings = settings(std::env::var("DATABASE_URL")?);
    let auth: Arc<dyn Authenticator> = Arc::new(TokenAuthenticator::from_settings(&settings)?);
    let things = TableName::parse("app", "things")?;
    let handlers = Handlers::new()
        .postgres(things.clone(), Things)
        .embedded(things, Things);
    let sync = SyncService::start_with(settings, handlers, auth, Clock::system()).await?;
    let app_sync = sync.clone();
    let server = HttpServer::new(move || App::new().configure(routes(&app_sync)))
        .workers(2)
        .bind("127.0.0.1:0")?;
    println!("listening on http://{}", server.addrs()[0]);
    server.run().await?;
    sync.close().await;
    Ok(())
}
