//! The words that the tests share: tables, rows as on the wire, and the server's
//! answers to one change.

use super::{Device, entry, uuid};
use crate::resolver::{Conflict, Resolution};
use oversync_shared::wire::{ChangeStatus, InvalidDetail, ServerRow, StatusKind, reason};
use oversync_shared::{ChangeId, RowVersion};
use serde_json::json;
use serde_json::value::RawValue;

pub(super) const NOTES: &str = "CREATE TABLE t (id TEXT PRIMARY KEY, v)";

pub(super) const FAMILY: &str = "
CREATE TABLE p (id TEXT PRIMARY KEY, v);
CREATE TABLE c (id TEXT PRIMARY KEY, p_id TEXT REFERENCES p (id) ON DELETE CASCADE, v);
CREATE TABLE s (id TEXT PRIMARY KEY, c_id TEXT REFERENCES c (id) ON DELETE SET NULL);
CREATE TABLE x (id TEXT PRIMARY KEY, p_id TEXT REFERENCES p (id));
";

pub(super) fn row(id: &str, v: i64) -> String {
    format!(r#"{{"id":"{id}","v":{v}}}"#)
}

pub(super) fn conflict(id: &str, version: i64, payload: Option<&str>) -> ChangeStatus {
    ChangeStatus {
        source_change_id: ChangeId::new(0),
        status: StatusKind::Conflict,
        new_server_version: None,
        server_row: Some(ServerRow {
            schema_name: "public".into(),
            table_name: "t".into(),
            id: id.to_owned(),
            server_version: RowVersion::new(version),
            deleted: payload.is_none(),
            payload: payload.map(|text| RawValue::from_string(text.to_owned()).expect("JSON")),
        }),
        message: None,
        invalid: None,
    }
}

/// Any refusal that is for good.
pub(super) fn refused() -> ChangeStatus {
    invalid(reason::PRECHECK_ERROR, json!({"error": "no"}))
}

pub(super) fn invalid(code: &str, details: serde_json::Value) -> ChangeStatus {
    ChangeStatus {
        source_change_id: ChangeId::new(0),
        status: StatusKind::Invalid,
        new_server_version: None,
        server_row: None,
        message: None,
        invalid: Some(InvalidDetail {
            reason: code.to_owned(),
            details,
        }),
    }
}

/// A device that has one row in common with the server, at version 1.
pub(super) fn in_step(resolver: Option<fn(&Conflict<'_>) -> Resolution>) -> (Device, String) {
    let mut device = Device::with(NOTES, |config| {
        let config = config.table("t");
        match resolver {
            Some(resolver) => config.resolver(resolver),
            None => config,
        }
    })
    .expect("opens");
    let id = uuid(1);
    device.apply(vec![entry("t", &id, 1, Some(&row(&id, 1)))]);
    assert!(
        device.freeze().is_empty(),
        "what was applied is not captured"
    );
    (device, id)
}
