//! Known faults, planted from outside: SQL on the client's tables at the moments
//! where a wrong client would have done the same. Each must be found.

use super::phone::{Phone, Request};

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Mutant { $($(#[$doc])* $name,)* }
        impl Mutant {
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

mutants! {
    /// An acknowledgement settles the row, and with it the edit made in flight.
    AcknowledgedByRow,
    /// What is sent again is read from the table again, under the same id.
    IdKeptWhenContentChanged,
    /// What is frozen is forgotten when the process ends.
    OutboxForgotten,
    /// Change ids start again with the process.
    IdsReused,
    /// The cursor moves before the page is applied.
    CursorBeforeApply,
    /// The cursor moves with an upload's reply.
    CursorFromReply,
    /// A server row that meets an unsent edit is passed over.
    ShadowForgotten,
    /// A page is written over unsent edits.
    UnsentOverwritten,
    /// The version that an acknowledgement told is not held.
    VersionNotHeld,
    /// The version of a downloaded row is not held.
    PageVersionNotHeld,
    /// Deletes are not uploaded.
    DeleteForgotten,
    /// What loses in a conflict is kept nowhere.
    LoserForgotten,
    /// What the server refuses for good is kept nowhere.
    RejectedForgotten,
    /// Incoming rows without their parent are passed over.
    ParkedForgotten,
    /// A first pass over everything counts as done when it begins.
    HydratedTooSoon,
}

/// The moments at which something can go wrong.
#[derive(Debug, Clone, Copy)]
pub(super) enum Moment<'a> {
    /// A request is about to be sent.
    Sending,
    /// … and was acknowledged; what stood unsent beside it before.
    Acknowledged(&'a Request, i64),
    /// A page is about to be applied.
    Applying,
    /// … and the process ends before it is; where the page would have ended.
    Killed(i64),
    /// … and was applied.
    Applied,
    /// The process starts again.
    Restarted,
}

fn rows_of(request: &Request) -> String {
    let rows: Vec<String> = request
        .sent
        .iter()
        .map(|(_, one)| {
            let key = one.row.key.to_string().replace('-', "");
            format!("({}, x'{key}')", one.row.tbl)
        })
        .collect();
    rows.join(", ")
}

impl Mutant {
    /// Does its harm, if this is its moment.
    pub(super) fn strike(self, phone: &Phone, moment: Moment<'_>) {
        let sql = match (self, moment) {
            (Self::AcknowledgedByRow, Moment::Acknowledged(request, _)) => format!(
                "DELETE FROM _sync_pending WHERE (tbl, pk) IN (VALUES {})",
                rows_of(request)
            ),
            (Self::IdKeptWhenContentChanged, Moment::Sending) => {
                "UPDATE _sync_outbox SET payload = coalesce((SELECT json_object('id', id, 'a', a, 'b', b)
                     FROM p WHERE unhex(replace(id, '-', '')) = pk), payload)
                 WHERE op <> 'DELETE' AND tbl = (SELECT n FROM _sync_table WHERE name = 'p')"
                    .to_owned()
            }
            (Self::OutboxForgotten, Moment::Restarted) => "DELETE FROM _sync_outbox".to_owned(),
            (Self::IdsReused, Moment::Restarted) => {
                "UPDATE _sync_client SET next_change_id = 1 WHERE NOT EXISTS (SELECT 1 FROM _sync_outbox)".to_owned()
            }
            (Self::CursorBeforeApply, Moment::Killed(end)) => {
                format!("UPDATE _sync_client SET cursor = max(cursor, {end})")
            }
            (Self::CursorFromReply, Moment::Acknowledged(_, head)) => {
                format!("UPDATE _sync_client SET cursor = max(cursor, {head})")
            }
            (Self::ShadowForgotten, Moment::Applied) => {
                "UPDATE _sync_row SET version = s.version FROM _sync_shadow s
                     WHERE s.tbl = _sync_row.tbl AND s.pk = _sync_row.pk;
                 DELETE FROM _sync_shadow"
                    .to_owned()
            }
            (Self::UnsentOverwritten, Moment::Applying) => {
                "DELETE FROM _sync_log_1; DELETE FROM _sync_log_2; DELETE FROM _sync_pending".to_owned()
            }
            (Self::VersionNotHeld, Moment::Acknowledged(request, _)) => format!(
                "UPDATE _sync_row SET version = max(version - 1, 0) WHERE (tbl, pk) IN (VALUES {})",
                rows_of(request)
            ),
            (Self::PageVersionNotHeld, Moment::Applied) => {
                "UPDATE _sync_row SET version = 1 WHERE version > 1".to_owned()
            }
            (Self::DeleteForgotten, Moment::Sending) => {
                "DELETE FROM _sync_outbox WHERE op = 'DELETE'".to_owned()
            }
            (Self::LoserForgotten, _) => "DELETE FROM _sync_conflicts".to_owned(),
            (Self::RejectedForgotten, _) => "DELETE FROM _sync_rejected".to_owned(),
            (Self::ParkedForgotten, Moment::Applied) => "DELETE FROM _sync_parked".to_owned(),
            (Self::HydratedTooSoon, Moment::Restarted) => {
                "UPDATE _sync_client SET hydrated = 1".to_owned()
            }
            _ => return,
        };
        phone
            .app
            .execute_batch(&sql)
            .unwrap_or_else(|error| panic!("{self:?}: {error}"));
    }
}
