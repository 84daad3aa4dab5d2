//! What happened in the histories: a checker that is never asked proves nothing.

use crate::answers::{Answer, Status};
use crate::database::SERVER;
use oversync_shared::upload::Fault;

macro_rules! tally {
    ($($name:ident,)*) => {
        /// How often something happened.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Tally { $(pub $name: u64,)* }
        impl Tally {
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
            /// What never happened.
            pub fn missing(&self) -> Vec<&'static str> {
                let all = [$((stringify!($name), self.$name)),*];
                all.iter().filter(|(_, count)| *count == 0).map(|(name, _)| *name).collect()
            }
        }
    };
}

tally! {
    answers,
    entries,
    applied_of_server,
    conflicts_of_server,
    parents_in_business,
    parents_asked_for_again,
    entries_of_rings,
    repeated,
    applied_without_version,
    conflicts,
    conflicts_with_tombstones,
    parents_missing,
    references_not_keys,
    ids_reused,
    rows_unknown,
    own_faults,
    proven_without_writing,
    answered_without_guard,
    assumptions_withdrawn,
    decided_again,
    left_out,
    commits_of_two_users,
    outcomes_unknown,
    executed_unheard,
    crashes,
    pages,
    pages_with_more,
    pages_out_of_date,
}

impl Tally {
    pub fn answer(&mut self, answer: &Answer) {
        let Some(statuses) = &answer.statuses else {
            return;
        };
        self.answers += 1;
        for status in statuses {
            if answer.device == SERVER {
                self.applied_of_server += u64::from(matches!(status, Status::Applied(Some(_))));
                self.conflicts_of_server += u64::from(matches!(status, Status::Conflict { .. }));
            }
            match status {
                Status::Applied(Some(_)) => {}
                Status::Applied(None) => self.applied_without_version += 1,
                Status::Conflict { deleted: false, .. } => self.conflicts += 1,
                Status::Conflict { deleted: true, .. } => self.conflicts_with_tombstones += 1,
                Status::Invalid(Fault::ForeignKeyMissing(_)) => self.parents_missing += 1,
                Status::Invalid(Fault::ReferenceNotKey { .. }) => self.references_not_keys += 1,
                Status::Invalid(Fault::ReusedId(_)) => self.ids_reused += 1,
                Status::Invalid(Fault::NoServerRow { .. }) => self.rows_unknown += 1,
                Status::Invalid(_) => self.own_faults += 1,
            }
        }
    }
}
