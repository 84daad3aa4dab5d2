//! Which devices may come in: listed, revoked, reinstated.

use super::SyncService;
use crate::store::{Access, DeviceRecord, StoreError};
use oversync_shared::{DeviceId, UserId};

impl SyncService {
    /// Revokes a device: from now on it gets the refusal of a bad token here,
    /// its sockets close, and within 5 seconds the same at all other processes
    /// of the database. What it has uploaded stays. A device that was never seen
    /// can be revoked too; twice is once.
    pub async fn revoke(&self, user: &UserId, device: &DeviceId) -> Result<(), StoreError> {
        self.set_access(user, device, Access::Revoked).await
    }

    /// Lets a revoked device in again.
    pub async fn reinstate(&self, user: &UserId, device: &DeviceId) -> Result<(), StoreError> {
        self.set_access(user, device, Access::Admitted).await
    }

    /// One or the other.
    pub(crate) async fn set_access(
        &self,
        user: &UserId,
        device: &DeviceId,
        access: Access,
    ) -> Result<(), StoreError> {
        self.inner.store.set_access(user, device, access).await?;
        if let Err(error) = self.inner.revoked.read_again().await {
            tracing::warn!(%error, "revoked devices could not be read; they are in a moment");
        }
        Ok(())
    }

    /// A user's devices, by name: those that have uploaded, and those that are
    /// revoked.
    pub async fn devices(&self, user: &UserId) -> Result<Vec<DeviceRecord>, StoreError> {
        self.inner.store.devices(user).await
    }
}
