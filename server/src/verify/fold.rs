//! The fold of one user's log: what every row should be, and whether every
//! entry may stand where it stands.
//!
//! Pure: takes entries one after the other, in the order of their ids, and
//! keeps a few numbers per row and a few per device, never a payload. After a
//! fault it goes on from what is recorded, so that one fault is one finding.

use super::report::{Finding, Findings};
use super::runs::Runs;
use crate::store::DeviceKey;
use crate::store::audit::{Book, Logged, RowName};
use oversync_shared::json::{Kind, Reader};
use oversync_shared::upload::{Fingerprint, RowState};
use oversync_shared::wire::Op;
use oversync_shared::{RowVersion, ServerId};
use std::collections::{BTreeMap, HashMap};

/// From year 1 to the end of year 9999, in microseconds: what can be sent as
/// RFC 3339.
const TIMES: std::ops::Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;

/// A user's log, as far as it has been taken.
pub(super) struct Fold<'a> {
    book: &'a Book,
    last: ServerId,
    rows: BTreeMap<RowName, RowState>,
    used: HashMap<DeviceKey, Runs>,
    at_floor: AtFloor,
    scratch: Vec<u8>,
}

/// What a log gives.
pub(super) struct Expected {
    /// What every row should be.
    pub(super) rows: BTreeMap<RowName, RowState>,
    /// What stands at or below the floor.
    pub(super) at_floor: AtFloor,
}

/// The entries at or below the floor.
#[derive(Debug, Default)]
pub(super) struct AtFloor {
    /// Each row's last.
    pub(super) last: BTreeMap<RowName, RowState>,
    /// Those that a later one replaces.
    pub(super) replaced: Vec<(ServerId, RowName)>,
}

impl<'a> Fold<'a> {
    pub(super) fn new(book: &'a Book) -> Self {
        Self {
            book,
            last: ServerId::ZERO,
            rows: BTreeMap::new(),
            used: HashMap::new(),
            at_floor: AtFloor::default(),
            scratch: Vec::new(),
        }
    }

    /// Takes the next entry.
    pub(super) fn take(&mut self, entry: &Logged, findings: &mut Findings<'_>) {
        self.check_place(entry, findings);
        self.check_sender(entry, findings);
        if !entry.micros.is_some_and(|micros| TIMES.contains(&micros)) {
            let recorded = entry
                .micros
                .map_or("no time".to_owned(), |m| format!("{m} µs"));
            findings.at(
                entry,
                Finding::Time,
                recorded,
                "a time between the years 1 and 9999",
            );
        }
        self.check_content(entry, findings);
        self.check_version(entry, findings);
        let state = RowState {
            version: entry.version,
            deleted: entry.payload.is_none(),
            at: entry.server_id,
        };
        if entry.server_id <= self.book.floor
            && let Some(before) = self.at_floor.last.insert(entry.row, state)
        {
            self.at_floor.replaced.push((before.at, entry.row));
        }
        self.rows.insert(entry.row, state);
        self.last = entry.server_id;
    }

    /// The last place before the next entry: a restore may have left out some.
    fn before_next(&self) -> ServerId {
        let mut last = self.last.max(self.book.floor);
        // Each goes up.
        while let Some(through) = self.book.jumps.get(&last).filter(|to| **to > last) {
            last = *through;
        }
        last
    }

    /// Ids are dense above the floor but for jumps, ascending everywhere.
    fn check_place(&self, entry: &Logged, findings: &mut Findings<'_>) {
        let id = entry.server_id;
        let next = if id <= self.book.floor {
            id.max(self.last.next())
        } else {
            self.before_next().next()
        };
        if id > next {
            let missing = format!("no entry from {next} to {}", id.get() - 1);
            findings.at(
                entry,
                Finding::MissingEntry,
                missing,
                "an entry for every id",
            );
        } else if id < next {
            findings.at(
                entry,
                Finding::DoubledEntry,
                format!("{id} again"),
                format!("{next}"),
            );
        }
    }

    fn check_sender(&mut self, entry: &Logged, findings: &mut Findings<'_>) {
        if !self.book.devices.contains_key(&entry.device) {
            let recorded = format!("device number {}", entry.device.0);
            findings.at(
                entry,
                Finding::UnknownDevice,
                recorded,
                "a device of this user",
            );
        }
        let used = self.used.entry(entry.device).or_default();
        if !used.insert(entry.change_id.get()) {
            findings.at(
                entry,
                Finding::ChangeTwice,
                format!(
                    "change {} of device number {}",
                    entry.change_id, entry.device.0
                ),
                "every change of a device at most once",
            );
        }
    }

    fn check_content(&mut self, entry: &Logged, findings: &mut Findings<'_>) {
        let Some(op) = entry.op else {
            findings.at(
                entry,
                Finding::Op,
                "an unknown operation",
                "insert, update or delete",
            );
            return;
        };
        if op.is_upsert() != entry.payload.is_some() {
            let recorded = match op {
                Op::Delete => "a delete with a payload".to_owned(),
                _ => format!("{} without a payload", op.as_str()),
            };
            findings.at(
                entry,
                Finding::Op,
                recorded,
                "a payload for all but deletes",
            );
            return;
        }
        let payload = entry.payload.as_deref();
        if payload.is_some_and(|text| Reader::new(text).kind() != Ok(Kind::Object)) {
            findings.at(
                entry,
                Finding::Payload,
                "a payload that is no object",
                "a JSON object",
            );
            return;
        }
        let Some(table) = self.book.tables.get(&entry.row.table) else {
            let recorded = format!("table number {}", entry.row.table.0);
            findings.at(entry, Finding::UnknownTable, recorded, "a known table");
            return;
        };
        match Fingerprint::of(table, entry.row.key, op, payload, &mut self.scratch) {
            Err(fault) => {
                findings.at(entry, Finding::Payload, fault.to_string(), "a JSON object");
            }
            Ok(fingerprint) if fingerprint.0[..] != entry.fingerprint[..] => {
                findings.at(
                    entry,
                    Finding::Fingerprint,
                    hex(&entry.fingerprint),
                    hex(&fingerprint.0),
                );
            }
            Ok(_) => {}
        }
    }

    /// Versions of a row are 1, 2, 3 … along the log. Of a row whose beginning
    /// may have been folded away, the first version seen is taken as it is.
    fn check_version(&self, entry: &Logged, findings: &mut Findings<'_>) {
        let before = self.rows.get(&entry.row);
        let is_folded = entry.server_id <= self.book.floor
            || (before.is_none() && self.book.floor > ServerId::ZERO);
        let next = before.map_or(RowVersion::NEVER_SEEN, |state| state.version);
        let next = if is_folded {
            entry.version.max(next.next())
        } else {
            next.next()
        };
        if entry.version != next {
            findings.at(
                entry,
                Finding::Version,
                format!("version {}", entry.version),
                format!("version {next}"),
            );
        } else if before.is_none() && entry.op == Some(Op::Delete) && !is_folded {
            findings.at(
                entry,
                Finding::Op,
                "a delete of a row never seen",
                "no entry",
            );
        }
    }

    /// Ends the log: the head row and the devices' highest change ids. Gives
    /// what every row should be.
    pub(super) fn end(self, findings: &mut Findings<'_>) -> Expected {
        let last = self.before_next();
        if self.book.head != last {
            findings.of_user(
                Finding::Head,
                format!("head {}", self.book.head),
                format!("head {last}, the last entry of the log or of a restore's jump"),
            );
        }
        let mut used: Vec<_> = self.used.iter().collect();
        used.sort_by_key(|(device, _)| **device);
        for (device, used) in used {
            let (Some(recorded), Some(highest)) = (self.book.devices.get(device), used.highest())
            else {
                continue;
            };
            if recorded.get() < highest {
                findings.of_user(
                    Finding::Watermark,
                    format!("highest change {recorded} of device number {}", device.0),
                    format!("at least {highest}, which is in the log"),
                );
            }
        }
        Expected {
            rows: self.rows,
            at_floor: self.at_floor,
        }
    }
}

/// Compares recorded row states, which come in the order of their names, with
/// the fold.
pub(super) struct States<'a> {
    floor: ServerId,
    expected: std::iter::Peekable<std::collections::btree_map::Iter<'a, RowName, RowState>>,
}

impl<'a> States<'a> {
    pub(super) fn new(book: &Book, expected: &'a BTreeMap<RowName, RowState>) -> Self {
        Self {
            floor: book.floor,
            expected: expected.iter().peekable(),
        }
    }

    /// Takes the next recorded state. Whether it is a tombstone whose entries are
    /// folded away.
    pub(super) fn take(
        &mut self,
        row: RowName,
        recorded: RowState,
        findings: &mut Findings<'_>,
    ) -> bool {
        while let Some((missing, state)) = self.expected.next_if(|(name, _)| **name < row) {
            report_missing(*missing, *state, findings);
        }
        match self.expected.next_if(|(name, _)| **name == row) {
            Some((_, state)) if *state != recorded => {
                let finding = if state.version != recorded.version {
                    Finding::RowVersion
                } else if state.deleted != recorded.deleted {
                    Finding::RowDeleted
                } else {
                    Finding::RowPointer
                };
                findings.of_row(row, finding, words(recorded), words(*state));
            }
            Some(_) => {}
            // A tombstone outlives its entries.
            None if recorded.deleted && recorded.at <= self.floor => return true,
            None => findings.of_row(
                row,
                Finding::RowExtra,
                words(recorded),
                "no state: the row is not in the log",
            ),
        }
        false
    }

    /// There are no more recorded states.
    pub(super) fn end(self, findings: &mut Findings<'_>) {
        for (missing, state) in self.expected {
            report_missing(*missing, *state, findings);
        }
    }
}

fn report_missing(row: RowName, state: RowState, findings: &mut Findings<'_>) {
    findings.of_row(row, Finding::RowMissing, "no state", words(state));
}

fn words(state: RowState) -> String {
    let kind = if state.deleted { "deleted" } else { "live" };
    format!("version {}, {kind}, at entry {}", state.version, state.at)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::report::Wanted;
    use super::*;
    use crate::store::FoldNumber;
    use crate::store::audit::TableKey;
    use oversync_shared::{ChangeId, RowKey, TableName, UserId};
    use uuid::Uuid;

    fn book(head: i64, floor: i64) -> Book {
        let table = TableName {
            schema: "a".into(),
            table: "b".into(),
        };
        Book {
            head: ServerId::new(head),
            floor: ServerId::new(floor),
            fold: FoldNumber(1),
            is_swept: true,
            jumps: [].into(),
            devices: [(DeviceKey(1), ChangeId::new(100))].into(),
            tables: [(TableKey(1), table)].into(),
            failures: [].into(),
        }
    }

    fn row(key: u128) -> RowName {
        RowName {
            table: TableKey(1),
            key: RowKey::new(Uuid::from_u128(key)),
        }
    }

    /// An upsert, or a delete without payload.
    fn entry(id: i64, key: u128, version: i64, payload: Option<&str>) -> Logged {
        let op = payload.map_or(Op::Delete, |_| Op::Update);
        let (book, row) = (book(0, 0), row(key));
        let table = &book.tables[&row.table];
        let fingerprint = Fingerprint::of(table, row.key, op, payload, &mut Vec::new());
        Logged {
            server_id: ServerId::new(id),
            device: DeviceKey(1),
            change_id: ChangeId::new(id),
            row,
            op: Some(op),
            version: RowVersion::new(version),
            micros: Some(0),
            fingerprint: fingerprint.expect("JSON").0.to_vec(),
            payload: payload.map(str::to_owned),
        }
    }

    /// What is found in a log; the row states are those that the log gives, and
    /// `extra`.
    fn found(book: &Book, log: &[Logged], extra: Option<(RowName, RowState)>) -> Vec<Finding> {
        let user = UserId::new("ann").expect("a name");
        let mut found = Vec::new();
        let mut findings = Findings::new(&user, &book.tables, Wanted::All, &mut found);
        let mut fold = Fold::new(book);
        for entry in log {
            fold.take(entry, &mut findings);
        }
        let expected = fold.end(&mut findings).rows;
        let mut recorded = expected.clone();
        recorded.extend(extra);
        let mut states = States::new(book, &expected);
        for (row, state) in recorded {
            states.take(row, state, &mut findings);
        }
        states.end(&mut findings);
        found.iter().map(|difference| difference.finding).collect()
    }

    #[test]
    fn a_log_in_order_has_no_findings() {
        let log = [
            entry(1, 7, 1, Some("{}")),
            entry(2, 8, 1, Some("{}")),
            entry(3, 7, 2, None),
            entry(4, 7, 3, Some("{}")),
        ];
        assert_eq!(found(&book(4, 0), &log, None), []);
        assert_eq!(found(&book(0, 0), &[], None), []);
        assert_eq!(found(&book(5, 0), &log, None), [Finding::Head]);
    }

    #[test]
    fn one_fault_is_one_finding() {
        let log = [
            entry(1, 7, 1, Some("{}")),
            entry(2, 7, 3, Some("{}")),
            entry(3, 7, 4, Some("{}")),
        ];
        assert_eq!(found(&book(3, 0), &log, None), [Finding::Version]);
        let log = [entry(1, 7, 1, None)];
        assert_eq!(found(&book(1, 0), &log, None), [Finding::Op]);
        let log = [entry(1, 7, 1, Some("{}")), entry(1, 7, 2, Some("{}"))];
        assert_eq!(
            found(&book(1, 0), &log, None),
            [Finding::DoubledEntry, Finding::ChangeTwice]
        );
    }

    #[test]
    fn below_the_floor_entries_may_be_folded_away() {
        let log = [
            entry(3, 7, 2, Some("{}")),
            entry(6, 7, 5, Some("{}")),
            entry(11, 7, 6, Some("{}")),
            entry(12, 8, 4, None),
        ];
        assert_eq!(found(&book(12, 10), &log, None), []);
        let tombstone = |at| RowState {
            version: RowVersion::new(2),
            deleted: true,
            at: ServerId::new(at),
        };
        let old = Some((row(9), tombstone(4)));
        assert_eq!(found(&book(12, 10), &log, old), []);
        let new = Some((row(9), tombstone(11)));
        assert_eq!(found(&book(12, 10), &log, new), [Finding::RowExtra]);
        assert_eq!(
            found(&book(12, 9), &log, None),
            [Finding::MissingEntry],
            "10 is missing"
        );
        assert_eq!(found(&book(10, 10), &[], None), []);
    }

    #[test]
    fn only_a_restore_leaves_places_out() {
        let log = [
            entry(1, 7, 1, Some("{}")),
            entry(102, 7, 2, Some("{}")),
            entry(103, 8, 1, Some("{}")),
        ];
        let jump = |after, through| (ServerId::new(after), ServerId::new(through));
        let mut restored = book(103, 0);
        restored.devices = [(DeviceKey(1), ChangeId::new(103))].into();
        restored.jumps = [jump(1, 11), jump(11, 101)].into();
        assert_eq!(found(&restored, &log, None), []);
        // Once more, and nothing written since.
        restored.jumps.extend([jump(103, 203)]);
        assert_eq!(found(&restored, &log, None), [Finding::Head]);
        restored.head = ServerId::new(203);
        assert_eq!(found(&restored, &log, None), []);
        restored.jumps.remove(&ServerId::new(11));
        assert_eq!(found(&restored, &log, None), [Finding::MissingEntry]);
        // The floor has passed them.
        restored.floor = ServerId::new(102);
        assert_eq!(found(&restored, &log, None), []);
    }
}
