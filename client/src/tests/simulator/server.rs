//! A server in memory: the real decision, one log, no HTTP.

use crate::outbox::Frozen;
use oversync_shared::catalog::{ForeignKeys, Reference, RefersTo, TableSpec};
use oversync_shared::upload::{
    Change, Fault, RawChange, Recorded, RowAt, RowState, Verdict, View, check, decide,
};
use oversync_shared::wire::{
    ChangeStatus, DownloadChange, DownloadReply, Op, ServerRow, StatusKind, UploadReply,
};
use oversync_shared::{Catalog, ChangeId, RowKey, RowVersion, ServerId, TableName};
use serde_json::value::RawValue;
use std::collections::{HashMap, HashSet};

pub(super) const SCHEMA: &str = "public";

/// One entry of the stream.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) row: RowAt,
    pub(super) op: Op,
    pub(super) version: RowVersion,
    pub(super) payload: Option<String>,
    pub(super) device: usize,
    id: ChangeId,
    recorded: Recorded,
}

/// The server, and everything it has ever acknowledged.
pub(super) struct Server {
    catalog: Catalog,
    pub(super) log: Vec<Entry>,
    /// Also what a restore has taken back.
    pub(super) ever: Vec<Entry>,
    rows: HashMap<RowAt, RowState>,
    recorded: HashMap<(usize, ChangeId), Recorded>,
    /// The highest change id of each device, also where its record is forgotten.
    highest: HashMap<usize, ChangeId>,
    pub(super) restores: u32,
    /// Rows of which a restore has left nothing.
    pub(super) lost: HashSet<RowAt>,
}

fn name(table: &str) -> TableName {
    TableName::parse(SCHEMA, table).expect("plain")
}

impl Server {
    pub(super) fn new() -> Self {
        let to_p = Reference {
            column: "p_id".to_owned(),
            parent: name("p"),
            to: RefersTo::Key,
        };
        let spec = |table: &str, references| TableSpec {
            name: name(table),
            references,
            after: Vec::new(),
        };
        Self {
            catalog: Catalog::new(
                vec![spec("p", vec![]), spec("c", vec![to_p])],
                ForeignKeys::Enabled,
            )
            .expect("two tables"),
            log: Vec::new(),
            ever: Vec::new(),
            rows: HashMap::new(),
            recorded: HashMap::new(),
            highest: HashMap::new(),
            restores: 0,
            lost: HashSet::new(),
        }
    }

    pub(super) fn head(&self) -> ServerId {
        ServerId::new(self.log.len() as i64)
    }

    pub(super) fn epoch(&self) -> String {
        format!("epoch-{}", self.restores)
    }

    fn highest(&self, device: usize) -> Option<ChangeId> {
        self.highest.get(&device).copied()
    }

    /// What the stream says of a row, up to now.
    pub(super) fn newest(&self, row: RowAt) -> Option<&Entry> {
        self.log.iter().rev().find(|entry| entry.row == row)
    }

    pub(super) fn row_at(&self, table: &str, key: &str) -> RowAt {
        RowAt {
            table: self.catalog.find(&name(table)).expect("registered"),
            key: RowKey::parse(key).expect("a key"),
        }
    }

    pub(super) fn table_of(&self, row: RowAt) -> &str {
        &self.catalog.table(row.table).name.table
    }

    /// A backup is put back: everything above `head` never was.
    pub(super) fn restore(&mut self, head: usize) {
        self.restores += 1;
        let mut kept: Vec<Entry> = self.log.drain(..).collect();
        let gone = kept.split_off(head);
        let is_left = |row: &RowAt| kept.iter().any(|entry| entry.row == *row);
        let gone = gone.into_iter().map(|entry| entry.row);
        self.lost.extend(gone.filter(|row| !is_left(row)));
        self.rows.clear();
        self.recorded.clear();
        self.highest.clear();
        for entry in kept {
            self.append(entry);
        }
    }

    fn append(&mut self, entry: Entry) {
        let state = RowState {
            version: entry.version,
            deleted: entry.op == Op::Delete,
            at: ServerId::new(self.log.len() as i64 + 1),
        };
        self.rows.insert(entry.row, state);
        self.recorded
            .insert((entry.device, entry.id), entry.recorded);
        let highest = self.highest.entry(entry.device).or_insert(entry.id);
        *highest = entry.id.max(*highest);
        self.log.push(entry);
    }

    /// The first number of a request says what its device has settled: those records are
    /// forgotten at once.
    pub(super) fn upload(&mut self, device: usize, sent: &[(String, Frozen)]) -> UploadReply {
        if let Some((_, first)) = sent.first() {
            let is_kept = |of: usize, id: ChangeId| of != device || id >= first.id;
            self.recorded.retain(|(of, id), _| is_kept(*of, *id));
        }
        let keys: Vec<String> = sent
            .iter()
            .map(|(_, one)| one.row.key.to_string())
            .collect();
        let changes: Vec<Result<Change, Fault>> = sent
            .iter()
            .zip(&keys)
            .map(|((table, one), key)| {
                let raw = RawChange {
                    source_change_id: one.id.get(),
                    schema: SCHEMA,
                    table,
                    op: one.op.as_str(),
                    pk: key,
                    server_version: one.version.get(),
                    payload: one.payload.as_deref(),
                };
                check(&raw, &self.catalog, 1 << 20, &mut Vec::new())
            })
            .collect();
        let own = self.recorded.iter().filter(|((of, _), _)| *of == device);
        let view = View {
            head: self.head(),
            rows: self.rows.clone(),
            recorded: own.map(|((_, id), known)| (*id, *known)).collect(),
            ..View::default()
        };
        let decision = decide(&self.catalog, &view, &changes);
        for planned in &decision.plan.log {
            let entry = Entry {
                row: planned.row,
                op: planned.op,
                version: planned.version,
                payload: sent[planned.position].1.payload.clone(),
                device,
                id: planned.change_id,
                recorded: Recorded {
                    fingerprint: planned.fingerprint,
                    version: planned.version,
                },
            };
            self.ever.push(entry.clone());
            self.append(entry);
        }
        let statuses = sent.iter().zip(&decision.verdicts);
        UploadReply {
            accepted: true,
            highest_server_seq: self.head(),
            statuses: statuses
                .map(|((_, one), verdict)| self.status(one.id, verdict))
                .collect(),
            epoch: Some(self.epoch()),
            head: Some(self.head()),
            highest_source_change_id: self.highest(device),
        }
    }

    fn status(&self, id: ChangeId, verdict: &Verdict) -> ChangeStatus {
        let mut status = ChangeStatus {
            source_change_id: id,
            status: StatusKind::Applied,
            new_server_version: None,
            server_row: None,
            message: None,
            invalid: None,
        };
        match verdict {
            Verdict::Applied(version) => status.new_server_version = *version,
            Verdict::Conflict(current) => {
                let entry = &self.log[current.state.at.get() as usize - 1];
                status.status = StatusKind::Conflict;
                status.server_row = Some(ServerRow {
                    schema_name: SCHEMA.to_owned(),
                    table_name: self.table_of(current.row).to_owned(),
                    id: current.row.key.to_string(),
                    server_version: current.state.version,
                    deleted: current.state.deleted,
                    payload: entry.payload.as_deref().map(raw),
                });
            }
            Verdict::Invalid(fault) => {
                status.status = StatusKind::Invalid;
                status.message = fault.message();
                status.invalid = Some(fault.detail());
            }
        }
        status
    }

    pub(super) fn page(
        &self,
        device: usize,
        after: ServerId,
        limit: usize,
        include_self: bool,
        until: Option<ServerId>,
    ) -> DownloadReply {
        let window = until.unwrap_or(self.head());
        let visible = |place: &usize| include_self || self.log[*place].device != device;
        let from = after.get().clamp(0, self.log.len() as i64) as usize;
        let to = window.get().clamp(0, self.log.len() as i64) as usize;
        let places: Vec<usize> = (from..to.max(from)).filter(visible).collect();
        let changes: Vec<DownloadChange> =
            places.iter().take(limit).map(|p| self.change(*p)).collect();
        DownloadReply {
            next_after: changes.last().map_or(after, |change| change.server_id),
            has_more: places.len() > limit,
            changes,
            window_until: window,
            epoch: Some(self.epoch()),
            head: Some(self.head()),
            highest_source_change_id: self.highest(device),
        }
    }

    fn change(&self, place: usize) -> DownloadChange {
        let entry = &self.log[place];
        DownloadChange {
            server_id: ServerId::new(place as i64 + 1),
            schema: SCHEMA.to_owned(),
            table: self.table_of(entry.row).to_owned(),
            op: entry.op,
            pk: entry.row.key.to_string(),
            payload: entry.payload.as_deref().map(raw),
            server_version: entry.version,
            deleted: entry.op == Op::Delete,
            source_id: format!("device-{}", entry.device),
            source_change_id: entry.id,
            ts: String::new(),
        }
    }
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("JSON")
}
