//! What a status must look like, field by field and with nothing else.

use serde_json::{Value, json};

/// Applied, now or before, with this version; 0 for the delete of a row never
/// seen, which has none.
#[track_caller]
pub(super) fn applied(status: &Value, id: i64, version: i64) {
    let mut expected = json!({"source_change_id": id, "status": "applied"});
    if version != 0 {
        expected["new_server_version"] = version.into();
    }
    assert_eq!(*status, expected);
}

/// In conflict with this row; `None` for a tombstone.
#[track_caller]
pub(super) fn conflict(
    status: &Value,
    id: i64,
    table: &str,
    pk: &str,
    version: i64,
    payload: Option<Value>,
) {
    let (schema, table) = table.split_once('.').expect("schema.table");
    let mut status = status.clone();
    // A text for people may come along.
    status.as_object_mut().expect("an object").remove("message");
    assert_eq!(
        status,
        json!({
            "source_change_id": id,
            "status": "conflict",
            "server_row": {
                "schema_name": schema, "table_name": table, "id": pk, "server_version": version,
                "deleted": payload.is_none(), "payload": payload,
            },
        })
    );
}

/// Invalid, with a text that is in the details too.
#[track_caller]
pub(super) fn invalid(status: &Value, id: i64, reason: &str, message: &str) {
    invalid_with(status, id, reason, message, json!({"error": message}));
}

/// Invalid, with details of its own.
#[track_caller]
pub(super) fn invalid_with(status: &Value, id: i64, reason: &str, message: &str, details: Value) {
    assert_eq!(
        *status,
        json!({
            "source_change_id": id, "status": "invalid", "message": message,
            "invalid": {"reason": reason, "details": details},
        })
    );
}

/// A reference without its row; each missing one as `schema.table:value`.
#[track_caller]
pub(super) fn missing(status: &Value, id: i64, missing: &[String]) {
    assert_eq!(
        *status,
        json!({
            "source_change_id": id, "status": "invalid",
            "invalid": {"reason": "fk_missing", "details": {"missing": missing}},
        })
    );
}

/// The kinds of statuses, for orders and batches.
pub(super) fn kinds(statuses: &[Value]) -> Vec<&str> {
    statuses
        .iter()
        .map(|status| status["status"].as_str().expect("a status"))
        .collect()
}
