//! Criterion benches of the pure core's hot parts: what happens to every byte
//! and every change of an upload, and to every message on the wire. They belong
//! to oversync-shared, and stand here with the other measuring.
//!
//! `cargo bench -p oversync-loadtest --bench core`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use oversync_shared::catalog::{ForeignKeys, Reference, RefersTo, TableSpec};
use oversync_shared::json::{Reader, canonicalise, members};
use oversync_shared::reconcile::{EntryAction, Held, Unsent, entry};
use oversync_shared::upload::{
    Change, Fault, RawChange, RowAt, RowState, View, check, decide, needs,
};
use oversync_shared::wire::{
    ChangeStatus, DownloadReply, Op, ServerMessage, StatusKind, UploadReply,
};
use oversync_shared::{Catalog, ChangeId, RowKey, RowVersion, ServerId, TableName};
use std::hint::black_box;

/// Changes per upload.
const SIZES: [usize; 3] = [1, 100, 1_000];

/// Far above any payload here.
const MAX_PAYLOAD: usize = 1 << 20;

/// Keys that are the same every time.
fn key(number: usize) -> String {
    format!("0190c0de-0000-7000-8000-{number:012x}")
}

/// About what a row of an application weighs.
fn payload(number: usize) -> String {
    let (id, author) = (key(number), key(number / 10));
    let text = "lorem ipsum dolor sit amet ".repeat(4);
    format!(
        "{{\"id\":\"{id}\",\"title\":\"post {number}\",\"content\":\"{text}\",\"likes\":{number},\
         \"ratio\":0.75,\"author_id\":\"{author}\",\"tags\":[\"a\",\"b\\u00e9\"],\"draft\":false}}"
    )
}

fn catalog() -> Catalog {
    let name = |table| TableName::parse("business", table).expect("a name");
    let users = TableSpec {
        name: name("users"),
        references: Vec::new(),
        after: Vec::new(),
    };
    let posts = TableSpec {
        name: name("posts"),
        references: vec![Reference {
            column: "author_id".to_owned(),
            parent: name("users"),
            to: RefersTo::Key,
        }],
        after: Vec::new(),
    };
    Catalog::new(vec![users, posts], ForeignKeys::Enabled).expect("a catalog")
}

/// Texts that raw changes are borrowed from.
struct Sent {
    keys: Vec<String>,
    payloads: Vec<String>,
}

impl Sent {
    fn new(count: usize) -> Self {
        Self {
            keys: (0..count).map(key).collect(),
            payloads: (0..count).map(payload).collect(),
        }
    }

    fn raw(&self, number: usize, version: i64) -> RawChange<'_> {
        RawChange {
            source_change_id: number as i64 + 1,
            schema: "business",
            table: "posts",
            op: if version == 0 { "INSERT" } else { "UPDATE" },
            pk: &self.keys[number],
            server_version: version,
            payload: Some(&self.payloads[number]),
        }
    }

    fn checked(&self, catalog: &Catalog, version: i64) -> Vec<Result<Change, Fault>> {
        let mut scratch = Vec::new();
        (0..self.keys.len())
            .map(|number| {
                check(
                    &self.raw(number, version),
                    catalog,
                    MAX_PAYLOAD,
                    &mut scratch,
                )
            })
            .collect()
    }
}

/// A user who has all parents, and all rows at version 1 when `known`.
fn view(catalog: &Catalog, count: usize, known: bool) -> View {
    let table = |name| {
        let name = TableName::parse("business", name).expect("a name");
        catalog.find(&name).expect("registered")
    };
    let mut view = View {
        head: ServerId::new(1_000_000),
        ..View::default()
    };
    let mut put = |table, number: usize| {
        let at = RowAt {
            table,
            key: RowKey::parse(&key(number)).expect("a key"),
        };
        let state = RowState {
            version: RowVersion::new(1),
            deleted: false,
            at: ServerId::new(number as i64 + 1),
        };
        view.rows.insert(at, state);
    };
    for parent in 0..=count / 10 {
        put(table("users"), parent);
    }
    if known {
        for row in 0..count {
            put(table("posts"), row);
        }
    }
    view
}

fn scan(c: &mut Criterion) {
    let text = payload(7);
    let large = format!("[{}]", vec![text.clone(); 200].join(","));
    let mut group = c.benchmark_group("json");
    for (name, text) in [("row", &text), ("60 KiB", &large)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::new("check", name), |b| {
            b.iter(|| Reader::new(black_box(text)).checked());
        });
        let mut out = Vec::new();
        group.bench_function(BenchmarkId::new("canonicalise", name), |b| {
            b.iter(|| {
                out.clear();
                canonicalise(black_box(text), &mut out)
            });
        });
    }
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("members/row", |b| {
        b.iter(|| members(black_box(&text)).map(|found| found.len()));
    });
    group.finish();
}

fn uploads(c: &mut Criterion) {
    let catalog = catalog();
    let mut group = c.benchmark_group("upload");
    for count in SIZES {
        let sent = Sent::new(count);
        group.throughput(Throughput::Elements(count as u64));
        let mut scratch = Vec::new();
        group.bench_function(BenchmarkId::new("check", count), |b| {
            b.iter(|| {
                (0..count)
                    .filter(|number| {
                        let raw = sent.raw(*number, 0);
                        check(&raw, &catalog, MAX_PAYLOAD, &mut scratch).is_ok()
                    })
                    .count()
            });
        });
        for (name, version) in [("decide new", 0), ("decide known", 1)] {
            let changes = sent.checked(&catalog, version);
            let view = view(&catalog, count, version > 0);
            let applied = decide(&catalog, &view, &changes).plan.log.len();
            assert_eq!(applied, count, "what is measured is applied");
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| decide(&catalog, black_box(&view), black_box(&changes)));
            });
        }
        let changes = sent.checked(&catalog, 0);
        group.bench_function(BenchmarkId::new("needs", count), |b| {
            b.iter(|| needs(black_box(&changes)));
        });
    }
    group.finish();
}

/// Rows that refer to each other in one ring, which falls because of the last: the
/// dearest upload there is. Its cost should grow as its rows do.
fn rings(c: &mut Criterion) {
    let name = TableName::parse("business", "nodes").expect("a name");
    let nodes = TableSpec {
        name: name.clone(),
        references: vec![Reference {
            column: "parent".to_owned(),
            parent: name,
            to: RefersTo::Key,
        }],
        after: Vec::new(),
    };
    let catalog = Catalog::new(vec![nodes], ForeignKeys::Enabled).expect("a catalog");
    let mut group = c.benchmark_group("ring");
    for count in [1_000, 4_000] {
        let mut scratch = Vec::new();
        let changes: Vec<_> = (0..count)
            .map(|number| {
                let raw = RawChange {
                    source_change_id: number as i64 + 1,
                    schema: "business",
                    table: "nodes",
                    op: "INSERT",
                    pk: &key(number),
                    server_version: i64::from(number + 1 == count),
                    payload: Some(&format!("{{\"parent\":\"{}\"}}", key((number + 1) % count))),
                };
                check(&raw, &catalog, MAX_PAYLOAD, &mut scratch)
            })
            .collect();
        let view = View::default();
        assert_eq!(decide(&catalog, &view, &changes).plan.log.len(), 0);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("falls", count), |b| {
            b.iter(|| decide(&catalog, black_box(&view), black_box(&changes)));
        });
    }
    group.finish();
}

fn page(count: usize) -> String {
    let mut text = String::from("{\"changes\":[");
    for number in 0..count {
        let comma = if number == 0 { "" } else { "," };
        text += &format!(
            "{comma}{{\"server_id\":{},\"schema\":\"business\",\"table\":\"posts\",\"op\":\"{}\",\
             \"pk\":\"{}\",\"payload\":{},\"server_version\":1,\"deleted\":false,\
             \"source_id\":\"device\",\"source_change_id\":{},\"ts\":\"2026-01-01T00:00:00Z\"}}",
            number + 1,
            Op::Insert.as_str(),
            key(number),
            payload(number),
            number + 1
        );
    }
    text + &format!("],\"has_more\":false,\"next_after\":{count},\"window_until\":{count}}}")
}

fn wire(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire");
    for count in SIZES {
        let text = page(count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("decode page", count), |b| {
            b.iter(|| serde_json::from_str::<DownloadReply>(black_box(&text)));
        });
        let decoded: DownloadReply = serde_json::from_str(&text).expect("a page");
        group.bench_function(BenchmarkId::new("encode page", count), |b| {
            b.iter(|| serde_json::to_vec(black_box(&decoded)));
        });
        let reply = UploadReply {
            accepted: true,
            highest_server_seq: ServerId::new(7),
            statuses: (0..count)
                .map(|number| ChangeStatus {
                    source_change_id: ChangeId::new(number as i64),
                    status: StatusKind::Applied,
                    new_server_version: Some(RowVersion::new(1)),
                    server_row: None,
                    message: None,
                    invalid: None,
                })
                .collect(),
            epoch: Some("epoch".to_owned()),
            head: Some(ServerId::new(7)),
            highest_source_change_id: Some(ChangeId::new(count as i64)),
        };
        group.bench_function(BenchmarkId::new("encode reply", count), |b| {
            b.iter(|| serde_json::to_vec(black_box(&reply)));
        });
    }
    group.throughput(Throughput::Elements(1));
    let hint = ServerMessage::Changes {
        after: ServerId::new(1),
        head: ServerId::new(2),
    };
    group.bench_function("encode hint", |b| {
        b.iter(|| serde_json::to_string(black_box(&hint)));
    });
    group.finish();
}

/// What a device decides about a page before it writes anything: which entries it
/// takes, and which columns each of them carries.
fn planning(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    for count in SIZES {
        let text = page(count);
        let decoded: DownloadReply = serde_json::from_str(&text).expect("a page");
        let plan = || {
            let taken = decoded.changes.iter().filter(|change| {
                let held = black_box(Held::NOTHING);
                entry(change.server_version, held, Unsent::None) == EntryAction::Apply
            });
            taken
                .filter_map(|change| members(change.payload.as_ref()?.get()).ok())
                .map(|columns| columns.len())
                .sum::<usize>()
        };
        assert!(plan() > count, "what is measured is taken");
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("plan page", count), |b| b.iter(plan));
    }
    group.finish();
}

criterion_group!(benches, scan, uploads, rings, wire, planning);
criterion_main!(benches);
