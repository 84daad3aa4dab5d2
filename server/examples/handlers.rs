//! A host application that writes the rows of one table itself: a ledger in
//! cents, in a table of its own, from payloads that speak of euros and name
//! accounts by number.
//!
//! ```sh
//! DATABASE_URL=postgres://localhost/ledger cargo run -p oversync --example handlers
//! DATABASE_URL=sqlite://ledger.db          cargo run -p oversync --example handlers
//! ```
//!
//! `app.accounts` is projected as usual, for comparison. Tokens are signed with
//! the secret below (`oversync::auth::mint_token`).

use actix_web::{App, HttpServer};
use async_trait::async_trait;
use oversync::auth::{Authenticator, TokenAuthenticator};
use oversync::settings::{ReferenceSettings, Secret, TableSettings};
use oversync::store::handler::{
    Deleted, EmbeddedHandler, HandlerError, PostgresHandler, TableHandler, Upserted, rusqlite, sqlx,
};
use oversync::{Clock, Handlers, Settings, SyncService, routes};
use oversync_shared::{RowKey, TableName};
use serde::Deserialize;
use std::sync::Arc;

const SECRET: &str = "a secret of the example, not for anybody else";

/// A ledger entry as devices send it.
#[derive(Deserialize)]
struct Entry {
    /// `no-7`
    account: Option<String>,
    /// `12.34`
    amount: String,
}

impl Entry {
    fn read(payload: &str) -> Result<Self, HandlerError> {
        serde_json::from_str(payload)
            .map_err(|error| HandlerError::new(format_args!("not a ledger entry: {error}")))
    }

    fn cents(&self) -> Result<i64, HandlerError> {
        let cents = || {
            let (euros, cents) = self.amount.split_once('.')?;
            let euros: i64 = euros.parse().ok().filter(|euros| *euros >= 0)?;
            let cents: i64 = cents
                .parse()
                .ok()
                .filter(|cents| (0..100).contains(cents))?;
            euros.checked_mul(100)?.checked_add(cents)
        };
        cents().ok_or_else(|| HandlerError::new(format_args!("{} is no amount", self.amount)))
    }

    fn account(&self) -> Option<uuid::Uuid> {
        self.account.as_deref().and_then(key_of).map(RowKey::uuid)
    }
}

/// Accounts have numbers; their keys are made of them.
fn key_of(account: &str) -> Option<RowKey> {
    let number = account.strip_prefix("no-")?.parse().ok()?;
    Some(RowKey::new(uuid::Uuid::from_u128(number)))
}

/// Every statement below names the user as well as the key: keys are unique for
/// a user, and nobody may reach another one's rows.
struct Ledger;

impl TableHandler for Ledger {
    fn convert_reference(&self, column: &str, sent: &str) -> Option<RowKey> {
        (column == "account").then(|| key_of(sent)).flatten()
    }
}

#[async_trait]
impl PostgresHandler for Ledger {
    async fn upsert(
        &self,
        connection: &mut sqlx::PgConnection,
        row: &Upserted<'_>,
    ) -> Result<(), HandlerError> {
        let entry = Entry::read(row.payload)?;
        sqlx::query(
            "INSERT INTO app.ledger (owner_id, id, account_id, cents) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (owner_id, id) DO UPDATE SET account_id = excluded.account_id, cents = excluded.cents",
        )
        .bind(row.user.as_str())
        .bind(row.key.uuid())
        .bind(entry.account())
        .bind(entry.cents()?)
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn delete(
        &self,
        connection: &mut sqlx::PgConnection,
        row: &Deleted<'_>,
    ) -> Result<(), HandlerError> {
        sqlx::query("DELETE FROM app.ledger WHERE owner_id = $1 AND id = $2")
            .bind(row.user.as_str())
            .bind(row.key.uuid())
            .execute(connection)
            .await?;
        Ok(())
    }
}

impl EmbeddedHandler for Ledger {
    fn upsert(
        &self,
        connection: &rusqlite::Connection,
        row: &Upserted<'_>,
    ) -> Result<(), HandlerError> {
        let entry = Entry::read(row.payload)?;
        let account = entry.account().map(|account| account.to_string());
        connection.execute(
            "INSERT INTO ledger (owner_id, id, account_id, cents) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (owner_id, id) DO UPDATE SET account_id = excluded.account_id, cents = excluded.cents",
            (row.user.as_str(), row.key.to_string(), account, entry.cents()?),
        )?;
        Ok(())
    }

    fn delete(
        &self,
        connection: &rusqlite::Connection,
        row: &Deleted<'_>,
    ) -> Result<(), HandlerError> {
        connection.execute(
            "DELETE FROM ledger WHERE owner_id = ?1 AND id = ?2",
            (row.user.as_str(), row.key.to_string()),
        )?;
        Ok(())
    }
}

fn settings(database_url: String) -> Settings {
    let store = if database_url.starts_with("postgres") {
        "postgres"
    } else {
        "sqlite"
    };
    let folder = env!("CARGO_MANIFEST_DIR");
    Settings {
        database_url,
        jwt_secret: Some(Secret::new(SECRET)),
        schema_file: Some(format!("{folder}/examples/handlers.{store}.sql").into()),
        tables: vec![
            TableSettings {
                schema: "app".to_owned(),
                table: "accounts".to_owned(),
                owner_column: Some("owner_id".to_owned()),
                ..TableSettings::default()
            },
            TableSettings {
                schema: "app".to_owned(),
                table: "entries".to_owned(),
                handled: true,
                references: vec![ReferenceSettings {
                    column: "account".to_owned(),
                    table: "accounts".to_owned(),
                    ref_column: None,
                }],
                ..TableSettings::default()
            },
        ],
        ..Settings::default()
    }
}

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let database_url = std::env::var("DATABASE_URL")
        .map_err(|_| anyhow::anyhow!("set DATABASE_URL=postgres://… or sqlite://…"))?;
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let settings = settings(database_url);
    let auth: Arc<dyn Authenticator> = Arc::new(TokenAuthenticator::from_settings(&settings)?);
    let entries = TableName::parse("app", "entries")?;
    let handlers = Handlers::new()
        .postgres(entries.clone(), Ledger)
        .embedded(entries, Ledger);
    let sync = SyncService::start_with(settings, handlers, auth, Clock::system()).await?;

    let app_sync = sync.clone();
    let server = HttpServer::new(move || App::new().configure(routes(&app_sync))).bind(&address)?;
    println!("listening on http://{}", server.addrs()[0]);
    server.run().await?;
    sync.close().await;
    Ok(())
}
