//! The service as a writer: back-end code changes and reads a user's rows.

use super::SyncService;
use crate::store::StoreError;
use crate::upload::{self, NotAWrite, ServerChange, Upload, UploadError};
use bytestring::ByteString;
use oversync_shared::upload::{Fault, RowAt};
use oversync_shared::wire::{ServerRow, UploadReply};
use oversync_shared::{RowKey, TableName, UserId};
use serde_json::value::RawValue;

/// Why a row cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// There is no such table, or it could have no such key.
    #[error("{}", .0.message().unwrap_or_default())]
    Invalid(Fault),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Fault> for RowError {
    fn from(fault: Fault) -> Self {
        Self::Invalid(fault)
    }
}

impl SyncService {
    /// Changes a user's rows on the server's own behalf, as the device `server`:
    /// the same checks, foreign keys, version gate, limits and projection as for
    /// a device's upload, and the same answer, one status per change in order.
    /// The user's devices download the changes like any others, and are told of
    /// them at once. A user never seen before is created.
    ///
    /// A change that names a version is applied when the row has it, otherwise
    /// answered `conflict` with the row as it is: read it ([`Self::row`]), decide
    /// again. One with [`Base::Current`](crate::Base::Current) is applied
    /// whatever the version is; several of one row in one call build on each
    /// other. A status's `source_change_id` is the number given to the change, 0
    /// where nothing was written.
    ///
    /// Call it from wherever there is a Tokio runtime. The payloads take room in
    /// `max_in_flight_bytes` beside the bodies of devices; where there is none the
    /// error is [`StoreError::Overloaded`], also for a write that is larger than all
    /// of it.
    ///
    /// After an error it may or may not have been written. Written again with
    /// the same versions, it is answered `conflict` where it was, and never
    /// doubled; with `Base::Current` the row is set again, one version on.
    pub async fn write(
        &self,
        user: &UserId,
        changes: &[ServerChange],
    ) -> Result<UploadReply, UploadError> {
        let limits = self.limits().for_devices();
        let bytes = changes.iter().filter_map(|change| change.payload.as_ref());
        let bytes: usize = bytes.map(|payload| payload.get().len()).sum();
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = self.in_flight().clone().try_acquire_many_owned(permits);
        let room = room.map_err(|_| StoreError::Overloaded)?;
        let mut upload = upload::write_of(user, changes, &self.inner.catalog, &limits);
        upload.room = Some(room);
        self.upload(upload).await
    }

    /// Reads the body of a write of the server itself.
    pub(crate) fn read_write(&self, body: &ByteString) -> Result<Upload, NotAWrite> {
        let limits = self.limits().for_devices();
        upload::read_write(body, &self.inner.catalog, &limits)
    }

    /// A user's row as it stands, a tombstone included; `None` when it has never
    /// been synchronised. Its version is what [`Self::write`] compares with.
    pub async fn row(
        &self,
        user: &UserId,
        schema: &str,
        table: &str,
        pk: &str,
    ) -> Result<Option<ServerRow>, RowError> {
        let name = TableName::parse(schema, table).map_err(Fault::Name)?;
        let table = self.inner.catalog.find(&name);
        let table = table.ok_or_else(|| Fault::Unregistered(name.clone()))?;
        let key = RowKey::parse(pk).ok_or_else(|| Fault::Key(pk.to_owned()))?;
        let found = self.inner.store.row(user, RowAt { table, key }).await?;
        Ok(found.map(|row| ServerRow {
            schema_name: name.schema,
            table_name: name.table,
            id: key.to_string(),
            server_version: row.version,
            deleted: row.deleted,
            payload: row
                .payload
                .map(|text| RawValue::from_string(text).expect("BUG: stored payloads are JSON")),
        }))
    }
}
