//! Payload columns that a business table does not have. They are ignored, but not
//! silently: counted, and each named once in the log, so that a column forgotten
//! on the server is noticed.
//!
//! Names come from devices, which could make up any number of them, so no more
//! than a bounded number is remembered and logged.

use crate::projection::Projection;
use metrics::Counter;
use oversync_shared::TableIx;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

/// Names that are remembered of one table: far more than a table has columns.
const MAX_NAMED: usize = 100;

/// The longest name that is logged, in characters.
const MAX_SHOWN: usize = 64;

/// The counter: columns of payloads that were ignored, by `table`.
const COUNTER: &str = "oversync_projection_unknown_columns_total";

/// The unknown columns of all tables.
#[derive(Debug, Default)]
pub struct UnknownColumns {
    tables: Mutex<HashMap<TableIx, OfTable>>,
}

struct OfTable {
    counter: Counter,
    named: HashSet<String>,
}

impl std::fmt::Debug for OfTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfTable")
            .field("named", &self.named)
            .finish()
    }
}

impl UnknownColumns {
    /// Looks at the column names of one payload. Without an unknown one it costs
    /// a lookup for each, and neither a lock nor memory.
    pub fn look(&self, projection: &Projection, names: impl Iterator<Item = impl AsRef<str>>) {
        let mut unknown = names
            .filter(|name| !projection.known.contains(name.as_ref()))
            .peekable();
        if unknown.peek().is_none() {
            return;
        }
        let mut tables = self.tables.lock().expect("BUG: no panic under this lock");
        let table = tables.entry(projection.table).or_insert_with(|| OfTable {
            counter: metrics::counter!(COUNTER, "table" => projection.name.to_string()),
            named: HashSet::new(),
        });
        for name in unknown {
            let name = name.as_ref();
            table.counter.increment(1);
            if table.named.len() < MAX_NAMED && !table.named.contains(name) {
                table.named.insert(name.to_owned());
                let shown: String = name.chars().take(MAX_SHOWN).collect();
                tracing::info!(table = %projection.name, column = ?shown,
                    "payloads have a column that the business table does not have: it is ignored there");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::{Column, Kind};
    use metrics::{Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
    use oversync_shared::catalog::{ForeignKeys, TableSpec};
    use oversync_shared::{Catalog, TableName};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Remembers one counter.
    #[derive(Default)]
    struct Remembering {
        count: Arc<AtomicU64>,
        keys: Mutex<Vec<String>>,
    }

    impl Recorder for Remembering {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            let labels: Vec<&str> = key.labels().map(|label| label.value()).collect();
            let text = format!("{} {}", key.name(), labels.join(" "));
            self.keys.lock().expect("no panic").push(text);
            Counter::from_arc(self.count.clone())
        }
        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    fn projection() -> Projection {
        let name = TableName::parse("shop", "notes").expect("valid");
        let spec = TableSpec {
            name: name.clone(),
            references: Vec::new(),
            after: Vec::new(),
        };
        let catalog = Catalog::new(vec![spec], ForeignKeys::Enabled).expect("valid");
        Projection {
            table: catalog.find(&name).expect("registered"),
            name,
            rank: 0,
            cyclic: false,
            key: Column {
                name: "id".to_owned(),
                kind: Kind::Uuid,
                type_name: "uuid".to_owned(),
                stored_type: "uuid".to_owned(),
                generated: false,
                unique: true,
            },
            owner: None,
            columns: Vec::new(),
            known: HashSet::from(["id".to_owned(), "title".to_owned()]),
            footings: Vec::new(),
        }
    }

    #[test]
    fn unknown_columns_are_counted_and_a_bounded_number_is_remembered() {
        let recorder = Remembering::default();
        let (unknown, projection) = (UnknownColumns::default(), projection());
        metrics::with_local_recorder(&recorder, || {
            unknown.look(&projection, ["id", "title"].iter());
            assert!(recorder.keys.lock().expect("no panic").is_empty());
            unknown.look(&projection, ["id", "colour", "title", "size"].iter());
            unknown.look(&projection, ["colour"].iter());
            for n in 0..1_000 {
                unknown.look(&projection, [format!("made_up_{n}")].iter());
            }
        });
        assert_eq!(recorder.count.load(Ordering::Relaxed), 1_003);
        let keys = recorder.keys.lock().expect("no panic");
        assert_eq!(*keys, [format!("{COUNTER} shop.notes")]);
        let tables = unknown.tables.lock().expect("no panic");
        assert_eq!(tables[&projection.table].named.len(), MAX_NAMED);
    }
}
