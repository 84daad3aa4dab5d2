//! Settings of what one user may have. All of them are off unless set.

use documented::DocumentedFields;
use oversync_shared::upload::Allowed;
use oversync_shared::wire::UserQuotas;
use serde::{Deserialize, Serialize};
use std::num::{NonZeroU32, NonZeroU64};

/// How much one user may have. A change that would pass a limit is answered `invalid`
/// with the reason `precheck_error`; deletes, and updates that make no row larger,
/// always pass. What back-end code writes is counted, and not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct QuotaSettings {
    /// Live rows of one user, of all tables together.
    pub user_rows: Option<NonZeroU64>,
    /// Bytes of the payloads of a user's live rows, as they were sent. The log and the
    /// indexes are not counted: `oversync_storage_bytes` has all of it.
    pub user_bytes: Option<NonZeroU64>,
    /// Devices of one user that have uploaded and are not revoked. One more can
    /// download and not upload; `oversync revoke` makes room for it.
    pub user_devices: Option<NonZeroU32>,
}

impl QuotaSettings {
    /// As devices are told.
    pub(crate) fn for_devices(&self) -> UserQuotas {
        UserQuotas {
            user_rows: self.user_rows.map(NonZeroU64::get),
            user_bytes: self.user_bytes.map(NonZeroU64::get),
            user_devices: self.user_devices.map(NonZeroU32::get),
        }
    }

    /// The limits of rows.
    pub(crate) fn allowed(&self) -> Allowed {
        Allowed {
            rows: self.user_rows.map(NonZeroU64::get),
            bytes: self.user_bytes.map(NonZeroU64::get),
        }
    }
}
