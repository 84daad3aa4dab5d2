//! What a log is folded to, against a naive model: random histories of rows that refer
//! to each other, folded again and again up to random places, and replayed by readers
//! of every kind. The model knows nothing of the fold: it applies entries to a map.
//!
//! Seeds are fixed; a failure names its own.

use oversync_shared::catalog::{ForeignKeys, Reference, RefersTo, TableSpec};
use oversync_shared::upload::{Fold, Folded, Leaves};
use oversync_shared::{Catalog, RowKey, ServerId, TableName};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

const TABLES: [&str; 4] = ["posts", "users", "notes", "loose"];
const ROWS: usize = 5;
const DEVICES: usize = 3;

type Row = (usize, usize);

#[derive(Debug, Clone)]
struct Entry {
    row: Row,
    device: usize,
    version: u64,
    /// What it refers to, and its text; none when it is deleted.
    content: Option<(Option<Row>, String)>,
}

fn catalog() -> Catalog {
    let name = |table: &str| TableName::parse("public", table).expect("plain");
    let spec = |table: &str, column: Option<(&str, &str)>| TableSpec {
        name: name(table),
        references: column
            .map(|(column, parent)| Reference {
                column: column.to_owned(),
                parent: name(parent),
                to: RefersTo::Key,
            })
            .into_iter()
            .collect(),
        after: Vec::new(),
    };
    let specs = vec![
        spec("posts", Some(("at", "users"))),
        spec("users", None),
        spec("notes", Some(("at", "notes"))),
    ];
    Catalog::new(specs, ForeignKeys::Enabled).expect("three tables")
}

fn key(row: Row) -> RowKey {
    RowKey::new(Uuid::from_u128((row.0 * 100 + row.1 + 1) as u128))
}

/// A history that a server could have taken: parents live when they are referred to.
fn history(chance: &mut Chance, length: usize) -> Vec<Entry> {
    let mut versions: HashMap<Row, u64> = HashMap::new();
    let mut live: BTreeSet<Row> = BTreeSet::new();
    let mut log = Vec::new();
    while log.len() < length {
        let row = (chance.below(TABLES.len()), chance.below(ROWS));
        let parents: Vec<Row> = match row.0 {
            0 => live.iter().copied().filter(|row| row.0 == 1).collect(),
            2 => live.iter().copied().filter(|row| row.0 == 2).collect(),
            _ => Vec::new(),
        };
        let deletes = live.contains(&row) && chance.below(3) == 0;
        let parent = (!parents.is_empty() && chance.below(4) > 0)
            .then(|| parents[chance.below(parents.len().max(1))]);
        let version = versions.entry(row).or_default();
        *version += 1;
        let version = *version;
        let content = (!deletes).then(|| {
            let at = parent.map_or("null".to_owned(), |parent| format!("\"{}\"", key(parent)));
            (parent, format!("{{\"at\":{at},\"n\":{}}}", log.len()))
        });
        if deletes {
            live.remove(&row);
        } else {
            live.insert(row);
        }
        log.push(Entry {
            row,
            device: chance.below(DEVICES),
            version,
            content,
        });
    }
    log
}

/// A reader's rows, as it was told.
#[derive(Default)]
struct Reader(BTreeMap<Row, (u64, Option<String>)>);

impl Reader {
    fn apply<'a>(&mut self, entries: impl IntoIterator<Item = &'a Entry>) {
        for entry in entries {
            let known = self.0.entry(entry.row).or_default();
            if entry.version > known.0 {
                let text = entry.content.as_ref().map(|(_, text)| text.clone());
                *known = (entry.version, text);
            }
        }
    }

    fn live(&self) -> BTreeMap<Row, (u64, String)> {
        let rows = self.0.iter();
        rows.filter_map(|(row, (version, text))| Some((*row, (*version, text.clone()?))))
            .collect()
    }
}

/// The places (from 0) of the entries that stay, when what `part` gives is folded.
fn fold(catalog: &Catalog, log: &[Entry], part: &[usize], unmoved: &[usize]) -> Vec<usize> {
    let mut fold = Fold::new(catalog);
    for at in part {
        let entry = &log[*at];
        let name = TableName::parse("public", TABLES[entry.row.0]).expect("plain");
        let leaves = match &entry.content {
            Some(_) => Leaves::Row,
            None if unmoved.iter().any(|device| *device != entry.device) => Leaves::Tombstone,
            None => Leaves::Nothing,
        };
        fold.take(Folded {
            // As the server has it: entries keep their ids, in whatever order.
            at: ServerId::new(*at as i64),
            number: entry.row.0 as i64,
            table: catalog.find(&name),
            key: key(entry.row),
            leaves,
            payload: entry.content.as_ref().map(|(_, text)| &**text),
        });
    }
    fold.end().into_iter().map(|at| at.get() as usize).collect()
}

/// No row before one that it refers to and that lives, unless they need each other.
fn assert_parents_first(log: &[Entry], order: &[usize]) {
    let place: HashMap<Row, usize> = order
        .iter()
        .enumerate()
        .filter(|(_, at)| log[**at].content.is_some())
        .map(|(place, at)| (log[*at].row, place))
        .collect();
    let parent = |row: Row| {
        let entry = &log[order[place[&row]]];
        let parent = entry.content.as_ref().and_then(|(parent, _)| *parent);
        parent.filter(|parent| place.contains_key(parent))
    };
    for row in place.keys() {
        let Some(above) = parent(*row) else { continue };
        let mut at = Some(above);
        let mut steps = 0;
        let is_ring = loop {
            match at {
                Some(next) if next == *row => break true,
                Some(next) if steps < 2 * ROWS => at = parent(next),
                _ => break false,
            }
            steps += 1;
        };
        assert!(
            is_ring || place[&above] < place[row],
            "{row:?} before its parent {above:?}"
        );
    }
}

fn play(seed: u64) {
    let catalog = catalog();
    let chance = &mut Chance(seed);
    let length = 1 + chance.below(60);
    let log = history(chance, length);
    let mut full = Reader::default();
    full.apply(&log);
    let (mut order, mut floor): (Vec<usize>, usize) = (Vec::new(), 0);
    // Devices that have never moved; each may move at some time, and none comes back.
    let mut unmoved: Vec<usize> = (0..DEVICES).filter(|_| chance.below(2) == 0).collect();
    while floor < length {
        let ceiling = floor + 1 + chance.below(length - floor);
        if chance.below(4) == 0 {
            unmoved.pop();
        }
        let part: Vec<usize> = order.iter().copied().chain(floor..ceiling).collect();
        order = fold(&catalog, &log, &part, &unmoved);
        floor = ceiling;

        let mut at_floor = Reader::default();
        at_floor.apply(&log[..floor]);
        // Every row that lives once, and what was deleted behind.
        let lives = |at: &&usize| log[**at].content.is_some();
        let live: Vec<Row> = order.iter().filter(lives).map(|at| log[*at].row).collect();
        assert_eq!(live.len(), at_floor.live().len());
        assert!(order[..live.len()].iter().all(|at| lives(&at)));
        assert!(order.len() <= floor, "there is a place for each");
        assert_parents_first(&log, &order);

        // From the start: what lives; and with the rest, everything.
        let mut fresh = Reader::default();
        fresh.apply(order.iter().map(|at| &log[*at]));
        assert_eq!(fresh.live(), at_floor.live());
        fresh.apply(&log[floor..]);
        assert_eq!(fresh.live(), full.live());
        // A device that never moved: what it wrote until some time, and then all that
        // is not its own.
        for device in &unmoved {
            let mut reader = Reader::default();
            let own = |entry: &&Entry| entry.device == *device;
            let others = |entry: &&Entry| entry.device != *device;
            reader.apply(log.iter().filter(own));
            reader.apply(order.iter().map(|at| &log[*at]).filter(others));
            reader.apply(log[floor..].iter().filter(others));
            assert_eq!(reader.live(), full.live(), "device {device}");
        }
    }
}

#[test]
fn a_fold_and_the_rest_are_the_log() {
    for seed in 0..4_000 {
        let played = std::panic::catch_unwind(|| play(seed));
        assert!(played.is_ok(), "seed {seed}");
    }
}
