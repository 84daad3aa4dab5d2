//! Every answer is true of one committed state of its user, one that stood
//! between the upload's arrival and the answer.
//!
//! The answer names that state by its head. From the state and from what the
//! upload wrote, every status follows; none is computed by the core.

use crate::checker::{Batch, Checked, Checker, holds, violation};
use crate::database::RowNow;
use crate::model::{Flaw, LinkTo, NOTES, REFERENCES, Row, Sent, Words, name_of, table_of};
use oversync_shared::upload::Fault;
use std::rc::Rc;

/// One change's answer.
#[derive(Debug, Clone)]
pub enum Status {
    Applied(Option<i64>),
    Conflict {
        row: Row,
        version: i64,
        deleted: bool,
        payload: Option<Rc<str>>,
    },
    Invalid(Fault),
}

/// An answer on the wire; `statuses` is `None` for a server error.
#[derive(Debug, Clone)]
pub struct Answer {
    pub user: usize,
    pub device: usize,
    pub serial: usize,
    pub statuses: Option<Vec<Status>>,
    pub head: i64,
    pub highest: Option<i64>,
}

impl Checker {
    pub fn answered(&self, words: &Words, visit: usize, answer: &Answer) -> Checked {
        let Some(statuses) = &answer.statuses else {
            return Ok(());
        };
        let visit = &self.visits[visit];
        let upload = &visit.upload;
        let reference = &self.users[upload.batch.user];
        let (before, after) = match visit.wrote {
            Some((first, last)) => (first - 1, last),
            None => (answer.head, answer.head),
        };
        holds(
            answer.head == after && visit.arrived <= before && after <= reference.head(),
            "TRUE-HEAD",
            || {
                format!(
                    "answered head {}, arrived at {}, now {}",
                    answer.head,
                    visit.arrived,
                    reference.head()
                )
            },
        )?;
        let highest = reference.highest(upload.batch.device, after);
        holds(answer.highest == highest, "TRUE-HEAD", || {
            format!("answered highest {:?} for {highest:?}", answer.highest)
        })?;
        let written: Vec<usize> = (before..after)
            .map(|at| reference.log[at as usize].position)
            .collect();
        let batch = Batch {
            reference,
            device: upload.batch.device,
            changes: &upload.batch.changes,
            before,
            written: &written,
        };
        let judge = Judge {
            checker: self,
            words,
            batch,
        };
        holds(
            statuses.len() == upload.batch.changes.len(),
            "STATUSES",
            || "not one status per change".to_owned(),
        )?;
        for (position, status) in statuses.iter().enumerate() {
            judge.status(position, status)?;
        }
        judge.no_ring_fell(statuses)
    }
}

struct Judge<'a> {
    checker: &'a Checker,
    words: &'a Words,
    batch: Batch<'a>,
}

impl Judge<'_> {
    fn sent(&self, position: usize) -> &Sent {
        &self.batch.changes[position]
    }

    /// The server id under which a change was written, if it was.
    fn entry(&self, position: usize) -> Option<i64> {
        let place = self.batch.written.iter().position(|p| *p == position)?;
        Some(self.batch.before + place as i64 + 1)
    }

    /// Whether the first change is executed before the second; `None` where the
    /// protocol leaves it open.
    fn is_before(&self, first: usize, second: usize) -> Option<bool> {
        let (a, b) = (&self.sent(first).content, &self.sent(second).content);
        if a.op.is_upsert() != b.op.is_upsert() {
            return Some(a.op.is_upsert());
        }
        (a.row == b.row).then_some(first < second)
    }

    /// The row as a change finds it: changes of one row take effect one after
    /// the other.
    fn row_met(&self, position: usize) -> Option<RowNow> {
        let row = self.sent(position).content.row;
        let latest = self
            .batch
            .written
            .iter()
            .filter(|&&earlier| {
                self.sent(earlier).content.row == row
                    && self.is_before(earlier, position) == Some(true)
            })
            .filter_map(|&earlier| self.entry(earlier))
            .max();
        match latest {
            Some(at) => self.batch.reference.row(row, at),
            None => self.batch.row_before(row),
        }
    }

    fn status(&self, position: usize, status: &Status) -> Checked {
        let sent = self.sent(position);
        if self.entry(position).is_some() && !matches!(status, Status::Applied(_)) {
            return violation("BATCH-CLEAN", || {
                format!("change {position} is in the stream, answered {status:?}")
            });
        }
        if let Some(flaw) = sent.flaw {
            return self.flawed(position, flaw, status);
        }
        if let Some(recorded) = self.batch.recorded(position) {
            let is_same = recorded.content == sent.content;
            return self.repeated(position, is_same, recorded.version, status);
        }
        if let Some((other, at)) = self.same_id_written(position) {
            let is_same = self.sent(other).content == sent.content;
            let version = self.batch.reference.log[at as usize - 1].version;
            match self.is_before(other, position) {
                Some(true) => return self.repeated(position, is_same, version, status),
                // The order is open: either answer is right.
                None if self.repeated(position, is_same, version, status).is_ok() => return Ok(()),
                _ => {}
            }
        }
        self.first_time(position, status)
    }

    fn flawed(&self, position: usize, flaw: Flaw, status: &Status) -> Checked {
        let reason = match flaw {
            Flaw::UnknownTable => "unregistered_table",
            Flaw::BadKey | Flaw::BadOperation | Flaw::BadPayload => "bad_payload",
        };
        let is_right = matches!(status, Status::Invalid(fault) if fault.reason() == reason);
        holds(is_right, "OWN-FAULT", || {
            format!("change {position} with {flaw:?} answered {status:?}")
        })
    }

    /// Another change of the batch with the same id that was written.
    fn same_id_written(&self, position: usize) -> Option<(usize, i64)> {
        let id = self.sent(position).id;
        let mut written = self.batch.written.iter();
        let other = *written.find(|&&other| other != position && self.sent(other).id == id)?;
        Some((other, self.entry(other)?))
    }

    /// An id that was applied before, with the same content or with another.
    fn repeated(&self, position: usize, is_same: bool, version: i64, status: &Status) -> Checked {
        let rule = if is_same {
            "SAME-ANSWER"
        } else {
            "ID-INTEGRITY"
        };
        let is_right = match status {
            Status::Applied(answered) => is_same && *answered == Some(version),
            Status::Conflict { .. } if !is_same => {
                return self.shows_current(position, status, rule);
            }
            Status::Invalid(Fault::ReusedId(_)) => !is_same && self.row_met(position).is_none(),
            _ => false,
        };
        holds(is_right, rule, || {
            format!(
                "change {position} (id {}, applied before with version {version}, same content: \
                 {is_same}) answered {status:?}",
                self.sent(position).id
            )
        })
    }

    /// Foreign keys, then the version gate.
    fn first_time(&self, position: usize, status: &Status) -> Checked {
        let sent = self.sent(position);
        let wrong = |rule| {
            violation(rule, || {
                format!("change {position} ({sent:?}) answered {status:?}")
            })
        };
        let columns = REFERENCES[table_of(sent.content.row)];
        if (0..2)
            .any(|place| columns[place].is_some() && sent.content.links[place] == LinkTo::Nonsense)
        {
            return match status {
                Status::Invalid(Fault::ReferenceNotKey { .. }) => Ok(()),
                _ => wrong("FOREIGN-KEY"),
            };
        }
        let passes = |version: i64| sent.current || sent.base == version;
        let missing = self.batch.missing_parents(position);
        if let Status::Invalid(Fault::ForeignKeyMissing(named)) = status {
            let expected = missing
                .iter()
                .map(|(_, place)| self.words.missing(&sent.content, *place));
            let is_right = !missing.is_empty() && expected.eq(named.iter().cloned());
            return if is_right || self.rings_share_an_id(position) {
                Ok(())
            } else {
                wrong("FOREIGN-KEY")
            };
        }
        if !missing.is_empty() && !self.may_keep_its_reason(position, status) {
            return wrong("FOREIGN-KEY");
        }
        match (self.row_met(position), status) {
            (None, Status::Invalid(Fault::NoServerRow { .. })) if !passes(0) => Ok(()),
            (None, Status::Applied(None)) if passes(0) && !sent.content.op.is_upsert() => Ok(()),
            (Some(now), Status::Conflict { .. }) if !passes(now.version) => {
                self.shows_current(position, status, "CONFLICT-JUSTIFIED")
            }
            (now, Status::Applied(Some(version)))
                if passes(*version - 1)
                    && now.map_or(0, |now| now.version) + 1 == *version
                    && self.entry(position).is_some() =>
            {
                Ok(())
            }
            (_, Status::Applied(_)) => wrong("APPLIED-JUSTIFIED"),
            (_, Status::Conflict { .. }) => wrong("CONFLICT-JUSTIFIED"),
            (_, Status::Invalid(_)) => wrong("INVALID-JUSTIFIED"),
        }
    }

    /// A member of a ring that fell is told what is wrong with its own version,
    /// not that the rows it fell with are missing; a parent that is no member is
    /// missing before everything else.
    fn may_keep_its_reason(&self, position: usize, status: &Status) -> bool {
        let is_own = matches!(
            status,
            Status::Conflict { .. } | Status::Invalid(Fault::NoServerRow { .. })
        );
        let row = self.sent(position).content.row;
        let missing = self.batch.missing_parents(position);
        is_own
            && missing
                .iter()
                .all(|(parent, _)| self.batch.are_a_ring(row, *parent))
    }

    /// Two members of a possible ring that bear one id cannot both be applied,
    /// and neither alone: which one is refused for want of which is open.
    fn rings_share_an_id(&self, position: usize) -> bool {
        let is_member = |sent: &&Sent| {
            let table = table_of(sent.content.row);
            let own = table_of(self.sent(position).content.row);
            sent.content.op.is_upsert() && table >= NOTES && (table == NOTES) == (own == NOTES)
        };
        let members: Vec<&Sent> = self.batch.changes.iter().filter(is_member).collect();
        members
            .iter()
            .enumerate()
            .any(|(place, sent)| members[..place].iter().any(|other| other.id == sent.id))
    }

    /// A conflict shows the row as the change met it.
    fn shows_current(&self, position: usize, status: &Status, rule: &'static str) -> Checked {
        let Status::Conflict {
            row,
            version,
            deleted,
            payload,
        } = status
        else {
            return violation(rule, || format!("change {position} shows no row"));
        };
        let is_current = self.row_met(position).is_some_and(|now| {
            let entry = &self.batch.reference.log[now.at as usize - 1];
            let stored = &self.checker.visits[entry.visit].upload.payloads[entry.position];
            *row == self.sent(position).content.row
                && now.version == *version
                && now.deleted == *deleted
                && payload == stored
        });
        holds(is_current, rule, || {
            format!(
                "change {position} was shown {} version {version} deleted {deleted} \
                 payload {payload:?}, which is not its current state",
                name_of(*row)
            )
        })
    }

    /// A ring of rows stands or falls together: rows that could all have stood
    /// must not each be refused for want of the others.
    fn no_ring_fell(&self, statuses: &[Status]) -> Checked {
        let changes = self.batch.changes;
        let is_alone = |position: usize| {
            let (row, id) = (self.sent(position).content.row, self.sent(position).id);
            let same = |sent: &&Sent| sent.content.row == row || sent.id == id;
            changes.iter().filter(same).count() == 1
        };
        let gate = |position: usize| {
            let version = self.row_met(position).map_or(0, |now| now.version);
            self.sent(position).current || version == self.sent(position).base
        };
        let mut refused: Vec<usize> = (0..statuses.len())
            .filter(|&position| {
                matches!(
                    &statuses[position],
                    Status::Invalid(Fault::ForeignKeyMissing(_))
                ) && is_alone(position)
                    && gate(position)
            })
            .collect();
        loop {
            let could = |position: &usize| {
                self.batch
                    .missing_parents(*position)
                    .iter()
                    .all(|(parent, _)| {
                        refused
                            .iter()
                            .any(|&other| self.sent(other).content.row == *parent)
                    })
            };
            let kept: Vec<usize> = refused.iter().copied().filter(could).collect();
            if kept.len() == refused.len() {
                break;
            }
            refused = kept;
        }
        holds(refused.is_empty(), "RING", || {
            format!("changes {refused:?} could have stood together")
        })
    }
}
