//! The floors behind HTTP, in a process of their own as the server is in one:
//! an empty handler, an upload that only commits (in groups, or in the reference
//! style), pages, and a WebSocket that echoes.

use super::postgres::{Postgres, write_on};
use super::{NewRow, Style, Upload, sqlite};
use actix::{Actor, ActorContext as _, StreamHandler};
use actix_web::web::{self, Bytes, Data, Payload, Query};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use actix_web_actors::ws;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Row as _};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

const PAGE_BARE: &str = include_str!("sql/page_bare.sql");
const PAGE_JSON: &str = include_str!("sql/page_json.sql");

/// Signs the tokens that the reference style checks.
pub const SECRET: &[u8] = b"the secret of the floor, which keeps nothing";

/// Users that exist beforehand.
pub const USERS: i64 = 4_096;

/// Uploads in one transaction, and those waiting for one.
const GROUP: usize = 64;
const WAITING: usize = 1_024;

/// Lanes that commit: more only get in each other's way.
const LANES: usize = 2;

/// Connections of the reference style.
const POOL: u32 = 16;

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Served {
    /// `GET /empty`.
    Empty,
    /// `POST /sync/upload`, and `GET /sync/download` of what `fill` made.
    Postgres,
    /// `POST /sync/upload` into plain SQLite.
    Sqlite,
}

/// A floor behind HTTP.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// What is served; `GET /empty` and `GET /ws` always are.
    #[arg(long, value_enum, default_value_t = Served::Empty)]
    pub kind: Served,
    /// How uploads are written.
    #[arg(long, value_enum, default_value_t = Style::Set)]
    pub style: Style,
    /// PostgreSQL, with the floor's tables.
    #[arg(long, env = "FLOOR_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// The folder of plain SQLite.
    #[arg(long)]
    pub folder: Option<PathBuf>,
}

/// An upload on its way to a lane.
struct Waiting {
    user: i64,
    rows: Vec<NewRow>,
    done: oneshot::Sender<i64>,
}

struct State {
    lanes: Option<mpsc::Sender<Waiting>>,
    pool: Option<PgPool>,
    style: Style,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    changes: Vec<Change<'a>>,
}

#[derive(Deserialize)]
struct Change<'a> {
    source_change_id: i64,
    pk: Uuid,
    #[serde(borrow)]
    payload: &'a RawValue,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

#[derive(Deserialize)]
struct Page {
    after: i64,
    limit: i64,
    #[serde(default)]
    json: bool,
}

/// Serves until it is killed.
pub fn serve(wanted: Serve) -> anyhow::Result<()> {
    actix_web::rt::System::new().block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        println!("the floor listens on {}", listener.local_addr()?);
        let state = Data::new(State::open(&wanted).await?);
        HttpServer::new(move || {
            App::new()
                .app_data(state.clone())
                .app_data(web::PayloadConfig::new(16 << 20))
                .route("/empty", web::get().to(HttpResponse::Ok))
                .route("/sync/upload", web::post().to(upload))
                .route("/sync/download", web::get().to(download))
                .route("/ws", web::get().to(echo))
        })
        .listen(listener)?
        .run()
        .await?;
        Ok(())
    })
}

impl State {
    async fn open(wanted: &Serve) -> anyhow::Result<Self> {
        let mut state = Self {
            lanes: None,
            pool: None,
            style: wanted.style,
            key: DecodingKey::from_secret(SECRET),
        };
        let url = || {
            wanted
                .database_url
                .as_deref()
                .context("--database-url is needed")
        };
        match wanted.kind {
            Served::Empty => {}
            Served::Sqlite => {
                let folder = wanted.folder.as_ref().context("--folder is needed")?;
                let mut connection = sqlite::open(&folder.join("floor.db"))?;
                let (lanes, mut waiting) = mpsc::channel(WAITING);
                let mut heads = HashMap::new();
                std::thread::spawn(move || {
                    let mut group = Vec::new();
                    while waiting.blocking_recv_many(&mut group, GROUP) > 0 {
                        let (uploads, done) = take(&mut group, &mut heads);
                        sqlite::write(&mut connection, &uploads)
                            .expect("BUG: the floor's own file can be written");
                        answer(&uploads, done);
                    }
                });
                state.lanes = Some(lanes);
            }
            Served::Postgres if wanted.style == Style::Set => {
                let (lanes, waiting) = mpsc::channel(WAITING);
                let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
                let heads = Arc::new(Mutex::new(HashMap::new()));
                for _ in 0..LANES {
                    let mut postgres = Postgres::connect(url()?, Style::Set).await?;
                    let (waiting, heads) = (Arc::clone(&waiting), Arc::clone(&heads));
                    actix_web::rt::spawn(async move {
                        let mut group = Vec::new();
                        loop {
                            if waiting.lock().await.recv_many(&mut group, GROUP).await == 0 {
                                return;
                            }
                            let (uploads, done) = {
                                let mut heads =
                                    heads.lock().expect("BUG: no panic under this lock");
                                take(&mut group, &mut heads)
                            };
                            postgres
                                .write(&uploads)
                                .await
                                .expect("the floor's database can be written");
                            answer(&uploads, done);
                        }
                    });
                }
                state.lanes = Some(lanes);
                state.pool = Some(
                    PgPoolOptions::new()
                        .max_connections(8)
                        .connect(url()?)
                        .await?,
                );
            }
            Served::Postgres => {
                let pool = PgPoolOptions::new().max_connections(POOL);
                state.pool = Some(pool.connect(url()?).await?);
            }
        }
        Ok(state)
    }
}

/// Gives every upload its places. A device has one upload under way at a time,
/// so no user is in a group, or in two, twice.
fn take(
    group: &mut Vec<Waiting>,
    heads: &mut HashMap<i64, i64>,
) -> (Vec<Upload>, Vec<oneshot::Sender<i64>>) {
    let mut done = Vec::with_capacity(group.len());
    let uploads = group
        .drain(..)
        .map(|waiting| {
            let head = heads.entry(waiting.user).or_default();
            let upload = Upload {
                user: waiting.user,
                head: *head,
                rows: waiting.rows,
            };
            *head += upload.rows.len() as i64;
            done.push(waiting.done);
            upload
        })
        .collect();
    (uploads, done)
}

fn answer(uploads: &[Upload], done: Vec<oneshot::Sender<i64>>) {
    for (upload, done) in uploads.iter().zip(done) {
        // Who is gone needs no answer.
        let _ = done.send(upload.head + upload.rows.len() as i64);
    }
}

/// The floor takes the token as the user's number; the reference checks it.
fn user_of(request: &HttpRequest, state: &State) -> Option<i64> {
    let token = request
        .headers()
        .get("authorization")?
        .to_str()
        .ok()?
        .strip_prefix("Bearer ")?;
    if state.lanes.is_some() {
        return token.parse().ok();
    }
    let claims = decode::<Claims>(token, &state.key, &Validation::new(Algorithm::HS256)).ok()?;
    claims.claims.sub.parse().ok()
}

async fn upload(request: HttpRequest, state: Data<State>, body: Bytes) -> HttpResponse {
    let Some(user) = user_of(&request, &state) else {
        return HttpResponse::Unauthorized().finish();
    };
    let Ok(Body { changes }) = serde_json::from_slice(&body) else {
        return HttpResponse::BadRequest().finish();
    };
    let rows: Vec<NewRow> = changes
        .into_iter()
        .map(|change| NewRow {
            change_id: change.source_change_id,
            key: change.pk,
            payload: change.payload.get().to_owned(),
        })
        .collect();
    let mut statuses = String::with_capacity(rows.len() * 72);
    for (index, row) in rows.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(
            statuses,
            "{comma}{{\"source_change_id\":{},\"status\":\"applied\",\"new_server_version\":1}}",
            row.change_id
        )
        .expect("BUG: a String takes any text");
    }
    let head = match &state.lanes {
        Some(lanes) => {
            let (done, head) = oneshot::channel();
            let sent = lanes.send(Waiting { user, rows, done }).await;
            match (sent, head.await) {
                (Ok(()), Ok(head)) => head,
                _ => return HttpResponse::InternalServerError().finish(),
            }
        }
        None => match write_alone(&state, user, rows).await {
            Ok(()) => 0,
            Err(_) => return HttpResponse::InternalServerError().finish(),
        },
    };
    HttpResponse::Ok()
        .content_type("application/json")
        .body(format!(
            "{{\"accepted\":true,\"highest_server_seq\":{head},\"statuses\":[{statuses}]}}"
        ))
}

async fn write_alone(state: &State, user: i64, rows: Vec<NewRow>) -> anyhow::Result<()> {
    let pool = state.pool.as_ref().context("no database")?;
    let mut connection = pool.acquire().await?;
    let upload = Upload {
        user,
        head: 0,
        rows,
    };
    write_on(&mut connection, state.style, &[upload]).await?;
    Ok(())
}

async fn download(state: Data<State>, page: Query<Page>) -> HttpResponse {
    let Some(pool) = &state.pool else {
        return HttpResponse::NotFound().finish();
    };
    let text = if page.json {
        built_by_the_database(pool, &page).await
    } else {
        spliced(pool, &page).await
    };
    match text {
        Ok(text) => HttpResponse::Ok()
            .content_type("application/json")
            .body(text),
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}

async fn built_by_the_database(pool: &PgPool, page: &Page) -> sqlx::Result<String> {
    let changes: String = sqlx::query_scalar(PAGE_JSON)
        .bind(1_i64)
        .bind(page.after)
        .bind(page.limit)
        .fetch_one(pool)
        .await?;
    Ok(format!("{{\"changes\":{changes},\"has_more\":true}}"))
}

async fn spliced(pool: &PgPool, page: &Page) -> sqlx::Result<String> {
    let rows = sqlx::query(PAGE_BARE)
        .bind(1_i64)
        .bind(page.after)
        .bind(page.limit)
        .fetch_all(pool)
        .await?;
    let mut text = String::with_capacity(rows.len() * 420);
    text.push_str("{\"changes\":[");
    for (index, row) in rows.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(
            text,
            "{comma}{{\"server_id\":{},\"schema\":\"business\",\"table\":\"users\",\"op\":\"INSERT\",\
             \"pk\":\"{}\",\"payload\":{},\"server_version\":{},\"deleted\":false,\
             \"source_id\":\"device\",\"source_change_id\":{},\"ts\":\"{}\"}}",
            row.get::<i64, _>(0),
            row.get::<Uuid, _>(1),
            row.get::<&str, _>(5),
            row.get::<i64, _>(2),
            row.get::<i64, _>(3),
            row.get::<&str, _>(4),
        )
        .expect("BUG: a String takes any text");
    }
    text.push_str("],\"has_more\":true}");
    Ok(text)
}

/// A WebSocket that sends back what comes: the bare actor stack.
struct Echo;

impl Actor for Echo {
    type Context = ws::WebsocketContext<Self>;
}

impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for Echo {
    fn handle(&mut self, message: Result<ws::Message, ws::ProtocolError>, ctx: &mut Self::Context) {
        match message {
            Ok(ws::Message::Text(text)) => ctx.text(text),
            Ok(ws::Message::Ping(bytes)) => ctx.pong(&bytes),
            Ok(ws::Message::Close(_)) | Err(_) => ctx.stop(),
            Ok(_) => {}
        }
    }
}

async fn echo(request: HttpRequest, body: Payload) -> actix_web::Result<HttpResponse> {
    ws::start(Echo, &request, body)
}
