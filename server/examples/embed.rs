//! The sync routes inside somebody else's actix-web application: its own
//! authentication, its own routes, its own tables on PostgreSQL.
//!
//! ```sh
//! DATABASE_URL=postgres://localhost/blog cargo run -p oversync --example embed
//! ```
//!
//! Then `curl -X POST localhost:8080/login/ann/phone` gives a session key, and
//! every request to `/sync/…` takes it as `Authorization: Bearer KEY`. `curl -X POST
//! localhost:8080/welcome/ann` has the server itself write a row of ann's, which her
//! devices get like any other.

use actix_web::{App, HttpResponse, HttpServer, web};
use async_trait::async_trait;
use oversync::auth::{Authenticator, Identity, Unauthenticated, mint_token};
use oversync::settings::{ReferenceSettings, TableSettings};
use oversync::{Base, Clock, ServerChange, Settings, SyncService, routes};
use oversync_shared::{DeviceId, UserId};
use serde_json::json;
use serde_json::value::to_raw_value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// This application hands out opaque session keys and remembers whose they are.
#[derive(Default)]
struct Sessions(Mutex<HashMap<String, Identity>>);

impl Sessions {
    fn open(&self, user: UserId, device: DeviceId) -> String {
        let key = uuid::Uuid::new_v4().to_string();
        let identity = Identity {
            user,
            device,
            expires_at: None,
        };
        self.0
            .lock()
            .expect("no panic under this lock")
            .insert(key.clone(), identity);
        key
    }
}

#[async_trait]
impl Authenticator for Sessions {
    async fn authenticate(&self, token: &str) -> Result<Identity, Unauthenticated> {
        let sessions = self.0.lock().expect("no panic under this lock");
        sessions.get(token).cloned().ok_or(Unauthenticated)
    }
}

/// The application's own way to sign in; here everybody may.
async fn log_in(sessions: web::Data<Sessions>, path: web::Path<(String, String)>) -> HttpResponse {
    let (user, device) = path.into_inner();
    match (UserId::new(user), DeviceId::new(device)) {
        (Ok(user), Ok(device)) => HttpResponse::Ok().body(sessions.open(user, device)),
        (Err(error), _) | (_, Err(error)) => HttpResponse::BadRequest().body(error.to_string()),
    }
}

/// The other way: a signed token, which the default authenticator would take,
/// here or in a server on its own that shares the secret.
async fn signed_token(path: web::Path<(String, String)>) -> HttpResponse {
    let (user, device) = path.into_inner();
    let secret = b"share this with the sync server, by a file";
    match (UserId::new(user), DeviceId::new(device)) {
        (Ok(user), Ok(device)) => {
            let now = Clock::system().now();
            let lifetime = Duration::from_secs(3_600);
            HttpResponse::Ok().body(mint_token(secret, &user, &device, now, lifetime))
        }
        (Err(error), _) | (_, Err(error)) => HttpResponse::BadRequest().body(error.to_string()),
    }
}

/// Back-end code that changes a user's rows goes through the service, so that the
/// user's devices hear of it.
async fn welcome(sync: web::Data<SyncService>, path: web::Path<String>) -> HttpResponse {
    let Ok(user) = UserId::new(path.into_inner()) else {
        return HttpResponse::BadRequest().body("no name");
    };
    let id = uuid::Uuid::new_v4().to_string();
    let row = to_raw_value(&json!({ "id": id, "name": format!("welcome, {user}") }));
    let row = row.expect("JSON serialises");
    let change = ServerChange::set("business", "users", &id, Base::NEW, row);
    match sync.write(&user, &[change]).await {
        Ok(reply) => HttpResponse::Ok().json(reply),
        Err(error) => HttpResponse::ServiceUnavailable().body(error.to_string()),
    }
}

fn settings(database_url: String) -> Settings {
    let table = |name: &str, references| TableSettings {
        schema: "business".to_owned(),
        table: name.to_owned(),
        owner_column: Some("owner_id".to_owned()),
        references,
        ..TableSettings::default()
    };
    // The database declares this one too; declared or configured, it counts once.
    let author = ReferenceSettings {
        column: "author_id".to_owned(),
        table: "users".to_owned(),
        ref_column: None,
    };
    Settings {
        database_url,
        schema_file: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/embed.sql").into()),
        tables: vec![table("users", vec![]), table("posts", vec![author])],
        ..Settings::default()
    }
}

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let database_url = std::env::var("DATABASE_URL")
        .map_err(|_| anyhow::anyhow!("set DATABASE_URL=postgres://…"))?;
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let sessions = web::Data::new(Sessions::default());
    let auth: Arc<dyn Authenticator> = sessions.clone().into_inner();
    let sync = SyncService::start(settings(database_url), auth, Clock::system()).await?;

    let app_sync = sync.clone();
    let server = HttpServer::new(move || {
        App::new()
            .app_data(sessions.clone())
            .route("/", web::get().to(|| async { "a blog that syncs" }))
            .route("/login/{user}/{device}", web::post().to(log_in))
            .route("/welcome/{user}", web::post().to(welcome))
            .route("/token/{user}/{device}", web::post().to(signed_token))
            .configure(routes(&app_sync))
    })
    .bind(&address)?;
    println!("listening on http://{}", server.addrs()[0]);
    server.run().await?;
    sync.close().await;
    Ok(())
}
