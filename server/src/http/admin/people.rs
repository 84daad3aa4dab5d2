//! `GET /admin/users`, and one user: `/admin/user`, `/admin/user/devices`,
//! `/admin/user/rows`, `/admin/user/entries`. Each a page, from one question to the
//! database; who looked at whose data is logged.

use super::operator::Operator;
use super::parameters::{after_row, after_user, cut, given, limit, number, parameter, whose};
use super::times;
use crate::http::ApiError;
use crate::service::SyncService;
use crate::store::jumps::Jumps;
use crate::store::view::{Beginning, Changed, DeviceView, EntryView, KeyRange, RowFilter, RowView};
use actix_web::{HttpRequest, HttpResponse, web};
use oversync_shared::ServerId;
use serde_json::{Value, json};

/// Told at a time, unless asked otherwise …
const PAGE: i64 = 50;

/// … and at most. Rows and entries may each have a large payload to be read.
const MAX_PAGE: i64 = 100;

/// … of users and devices.
const MAX_NAMES: i64 = 500;

pub(super) async fn users(
    service: web::Data<SyncService>,
    _: Operator,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let limit = limit(&request, PAGE, MAX_NAMES)?;
    let after = after_user(&request)?;
    let prefix = parameter(&request, "prefix").unwrap_or_default();
    if prefix.contains('\0') {
        return Err(ApiError::invalid("prefix contains a control character"));
    }
    let found = service
        .view()
        .users(&prefix, after.as_ref(), limit + 1)
        .await;
    let mut found = found.map_err(ApiError::from_store)?;
    let next = cut(&mut found, limit).map(|last| last.user.clone());
    let users = found.iter().map(|found| {
        let at = found.folded_at.map(times::text);
        json!({ "user": found.user, "head": found.head, "floor": found.floor, "folded_at": at })
    });
    Ok(HttpResponse::Ok().json(json!({ "users": users.collect::<Vec<Value>>(), "next": next })))
}

pub(super) async fn one(
    service: web::Data<SyncService>,
    operator: Operator,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let user = whose(&request)?;
    operator.looks_at(&user, "the user");
    let found = service.folding(&user).await.map_err(ApiError::from_store)?;
    let found = found.ok_or(ApiError::NotFound)?;
    let head = found.user.head;
    let jumps = service.view().jumps(&user).await;
    let jumps = jumps.map_err(ApiError::from_store)?;
    let holders = found.holders.iter();
    let holders = holders.map(|holder| device(holder, head, &jumps, 0));
    let foldable = jumps.entries_between(found.user.floor, found.ceiling);
    Ok(HttpResponse::Ok().json(json!({
        "user": user,
        "head": head,
        "floor": found.user.floor,
        "folded_at": found.user.folded_at.map(times::text),
        "retention_enabled": service.settings().retention.enabled,
        "min_entries": service.settings().retention.min_entries,
        "foldable": foldable,
        "ceiling": found.ceiling,
        "holders": holders.collect::<Vec<_>>(),
        "of_the_first": found.of_the_first,
    })))
}

pub(super) async fn devices(
    service: web::Data<SyncService>,
    operator: Operator,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let (user, limit) = (whose(&request)?, limit(&request, PAGE, MAX_NAMES)?);
    let after = given(&request, "after");
    if after.as_ref().is_some_and(|after| after.contains('\0')) {
        return Err(ApiError::invalid("after contains a control character"));
    }
    operator.looks_at(&user, "devices");
    let found = service.devices_of(&user, after.as_deref(), limit + 1).await;
    let mut found = found.map_err(ApiError::from_store)?;
    let next = cut(&mut found, limit).map(|(last, _)| last.device.clone());
    let head = service.head(&user).await.map_err(ApiError::from_store)?;
    let jumps = service.view().jumps(&user).await;
    let jumps = jumps.map_err(ApiError::from_store)?;
    let devices = found
        .iter()
        .map(|(found, sessions)| device(found, head, &jumps, *sessions));
    Ok(HttpResponse::Ok().json(json!({
        "user": user, "head": head, "devices": devices.collect::<Vec<_>>(), "next": next,
    })))
}

fn device(found: &DeviceView, head: ServerId, jumps: &Jumps, sessions: usize) -> Value {
    json!({
        "device": found.device,
        "sessions": sessions,
        "cursor": found.cursor,
        "behind_by": found.behind(head, jumps),
        "counts_for_retention": found.counts,
        "highest_source_change_id": found.highest_change_id,
        "last_change_at": found.last_change_at.map(times::text),
        "read_at": found.read_at.map(times::text),
        "seen_at": found.seen_at.map(times::text),
        "revoked_at": found.revoked_at.map(times::text),
    })
}

pub(super) async fn rows(
    service: web::Data<SyncService>,
    operator: Operator,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let (user, limit) = (whose(&request)?, limit(&request, PAGE, MAX_PAGE)?);
    let prefix = parameter(&request, "key").unwrap_or_default();
    let keys = KeyRange::beginning_with(prefix.trim());
    let only = RowFilter {
        table: parameter(&request, "table").unwrap_or_default(),
        keys: keys.ok_or_else(|| ApiError::invalid("key must be the beginning of a UUID"))?,
        after: after_row(&request)?,
    };
    operator.looks_at(&user, "rows");
    let found = service.view().rows(&user, only, limit + 1).await;
    let mut found = found.map_err(ApiError::from_store)?;
    let next = cut(&mut found, limit).map(|last| format!("{}/{}", last.table, last.key));
    let rows = found.iter().map(row);
    Ok(HttpResponse::Ok().json(json!({
        "user": user, "rows": rows.collect::<Vec<Value>>(), "next": next,
    })))
}

fn row(found: &RowView) -> Value {
    let mut row = json!({
        "schema": found.table.schema, "table": found.table.table, "pk": found.key,
        "server_version": found.version, "deleted": found.deleted, "server_id": found.place,
    });
    tell(&mut row, found.changed.as_ref(), found.payload.as_ref());
    row
}

/// Who made it, and what it holds.
fn tell(into: &mut Value, changed: Option<&Changed>, payload: Option<&Beginning>) {
    into["device"] = json!(changed.map(|changed| &changed.device));
    into["source_change_id"] = json!(changed.map(|changed| changed.change_id));
    into["at"] = json!(changed.map(|changed| times::text(changed.at)));
    into["payload"] = json!(payload.map(|payload| &payload.text));
    into["payload_bytes"] = json!(payload.map(|payload| payload.bytes));
}

pub(super) async fn entries(
    service: web::Data<SyncService>,
    operator: Operator,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let (user, limit) = (whose(&request)?, limit(&request, PAGE, MAX_PAGE)?);
    let before = number(&request, "before")?.map(ServerId::new);
    operator.looks_at(&user, "entries");
    let found = service.view().entries(&user, before, limit + 1).await;
    let mut found = found.map_err(ApiError::from_store)?;
    let next = cut(&mut found, limit).map(|last| last.place);
    let entries = found.iter().map(entry);
    Ok(HttpResponse::Ok().json(json!({
        "user": user, "entries": entries.collect::<Vec<Value>>(), "next": next,
    })))
}

fn entry(found: &EntryView) -> Value {
    let mut entry = json!({
        "server_id": found.place, "schema": found.table.schema, "table": found.table.table,
        "pk": found.key, "op": found.op.as_str(), "server_version": found.version,
    });
    tell(&mut entry, Some(&found.changed), found.payload.as_ref());
    entry
}
