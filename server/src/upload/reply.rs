//! The answer to an upload, one status per change in request order.

use super::Applied;
use oversync_shared::Catalog;
use oversync_shared::upload::{CurrentRow, Fault, Verdict};
use oversync_shared::wire::{ChangeStatus, ServerRow, StatusKind, UploadReply};
use serde_json::value::RawValue;

/// Writes the answer of an upload that was decided.
pub fn reply(applied: &Applied, catalog: &Catalog) -> UploadReply {
    let accepted = !applied.verdicts.iter().any(|verdict| {
        matches!(
            verdict,
            Verdict::Invalid(Fault::Unregistered(_) | Fault::BatchTooLarge { .. })
        )
    });
    let statuses = applied
        .ids
        .iter()
        .zip(&applied.verdicts)
        .map(|(id, verdict)| {
            let mut status = ChangeStatus {
                source_change_id: *id,
                status: StatusKind::Applied,
                new_server_version: None,
                server_row: None,
                message: None,
                invalid: None,
            };
            match verdict {
                Verdict::Applied(version) => status.new_server_version = *version,
                Verdict::Conflict(current) => {
                    status.status = StatusKind::Conflict;
                    status.server_row = Some(server_row(current, applied, catalog));
                }
                Verdict::Invalid(fault) => {
                    status.status = StatusKind::Invalid;
                    status.message = fault.message();
                    status.invalid = Some(fault.detail());
                }
            }
            status
        })
        .collect();
    UploadReply {
        accepted,
        highest_server_seq: applied.head,
        statuses,
        epoch: Some(applied.epoch.to_string()),
        head: Some(applied.head),
        highest_source_change_id: applied.highest,
    }
}

fn server_row(current: &CurrentRow, applied: &Applied, catalog: &Catalog) -> ServerRow {
    let name = &catalog.table(current.row.table).name;
    let payload = if current.state.deleted {
        None
    } else {
        applied.shown.get(&current.state.at).cloned().flatten()
    };
    ServerRow {
        schema_name: name.schema.clone(),
        table_name: name.table.clone(),
        id: current.row.key.to_string(),
        server_version: current.state.version,
        deleted: current.state.deleted,
        payload: payload
            .map(|text| RawValue::from_string(text).expect("BUG: stored payloads are JSON")),
    }
}
