//! `GET /admin/overview`, `/admin/feed`, `/admin/storage` and `/admin/tables`: this
//! process, who is connected to it, what has just happened, what is on disk, and how
//! the synchronised tables looked when it started.

use super::operator::Operator;
use super::parameters::{after_user, given, limit, number};
use super::times;
use crate::http::ApiError;
use crate::live::{Event, Happened};
use crate::service::SyncService;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use std::time::Duration;

/// Connected users told at a time, unless asked otherwise …
const USERS: i64 = 50;

/// … and at most.
const MAX_USERS: i64 = 500;

/// Longest that the feed waits, in seconds: less than what proxies cut off.
const MAX_WAIT: u64 = 30;

pub(super) async fn overview(
    service: web::Data<SyncService>,
    _: Operator,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let after = after_user(&request)?;
    let limit = limit(&request, USERS, MAX_USERS)?;
    let found = service.connected(after, limit as usize).await;
    let settings = service.settings();
    let now = service.clock().now();
    let page = found.page.iter().map(|(user, places)| {
        json!({ "user": user, "sessions": places.sessions, "polls": places.polls })
    });
    let last = found.page.last().filter(|_| found.has_more);
    Ok(HttpResponse::Ok().json(json!({
        "app_name": settings.app_name,
        "version": env!("CARGO_PKG_VERSION"),
        "store": if service.is_shared() { "PostgreSQL" } else { "embedded SQLite" },
        "epoch": &*service.epoch(),
        "schema_version": settings.schema_version,
        "min_schema_version": settings.min_schema_version,
        "retention_enabled": settings.retention.enabled,
        "now": times::text(now),
        "started": times::text(service.started()),
        "uptime_seconds": (now - service.started()).whole_seconds().max(0),
        "sessions": found.sessions,
        "polls": found.polls,
        "users": found.users,
        "connected": page.collect::<Vec<Value>>(),
        "next": last.map(|(user, _)| user),
    })))
}

pub(super) async fn feed(
    service: web::Data<SyncService>,
    operator: Operator,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let after = number(&request, "after")?.unwrap_or(0);
    let wait = number(&request, "wait")?.unwrap_or(0);
    if wait > MAX_WAIT {
        let problem = format!("wait must be between 0 and {MAX_WAIT}");
        return Err(ApiError::Invalid(problem.into()));
    }
    let life = given(&request, "life");
    let feed = service.feed();
    // Who goes on watching has been logged.
    if !feed.goes_on(&operator.peer, after) {
        operator.looks_at_everybody("the feed");
    }
    let piece = feed
        .after(after, life.as_deref(), Duration::from_secs(wait))
        .await;
    feed.told(&operator.peer, piece.last);
    let events: Vec<Value> = piece.events.iter().map(event).collect();
    Ok(HttpResponse::Ok().json(json!({
        "events": events, "last": piece.last, "missed": piece.missed, "life": feed.life(),
    })))
}

fn event(happened: &Happened) -> Value {
    let Happened {
        number,
        at,
        user,
        event,
    } = happened;
    let at = times::text(*at);
    match event {
        Event::Commit {
            device,
            changes,
            head,
        } => json!({
            "number": number, "at": at, "user": user, "kind": "commit",
            "device": device, "changes": changes, "head": head,
        }),
        Event::Hint {
            head,
            sessions,
            polls,
        } => json!({
            "number": number, "at": at, "user": user, "kind": "hint",
            "head": head, "sessions": sessions, "polls": polls,
        }),
    }
}

pub(super) async fn storage(
    service: web::Data<SyncService>,
    _: Operator,
) -> Result<HttpResponse, ApiError> {
    let mut stored = service.stored().await.map_err(ApiError::from_store)?;
    stored.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.kind.cmp(&b.kind)));
    let stored: Vec<Value> = stored
        .iter()
        .map(|stored| json!({ "kind": stored.kind, "bytes": stored.bytes }))
        .collect();
    let retention = &service.settings().retention;
    Ok(HttpResponse::Ok().json(json!({ "stored": stored, "retention": retention })))
}

pub(super) async fn tables(service: web::Data<SyncService>, _: Operator) -> HttpResponse {
    HttpResponse::Ok().json(json!({ "tables": service.shapes() }))
}
