//! Devices that may not come in any more, whatever their tokens say.
//!
//! The list is the database's; this process keeps the one it read last, looks
//! every two seconds whether it has changed, and at once when it has changed it
//! itself. While the database cannot be asked, the last list stands.

use crate::store::{RevokedDevices, Store, StoreError};
use oversync_shared::{DeviceId, UserId};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// How often the database is asked. A session ends within 5 seconds of its
/// device's revocation at any process (PROTOCOL.md section 7).
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The revoked devices, as this process knows them.
#[derive(Clone)]
pub(crate) struct Revoked {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    list: watch::Sender<Arc<RevokedDevices>>,
    /// One reading at a time, so that an older list never replaces a newer one.
    reading: Mutex<()>,
}

impl Revoked {
    /// Reads the list, and goes on looking while anybody holds it.
    pub(crate) async fn start(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let list = store.revoked(None).await?.ok_or_else(|| {
            StoreError::Failed("the database says nothing of revoked devices".to_owned())
        })?;
        let inner = Arc::new(Inner {
            store,
            list: watch::Sender::new(Arc::new(list)),
            reading: Mutex::default(),
        });
        tokio::spawn(look(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// Whether this device is revoked.
    pub(crate) fn contains(&self, user: &UserId, device: &DeviceId) -> bool {
        self.inner.list.borrow().contains(user, device)
    }

    /// Hears of every new list.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<RevokedDevices>> {
        self.inner.list.subscribe()
    }

    /// Reads the list again, if it has changed.
    pub(crate) async fn read_again(&self) -> Result<(), StoreError> {
        self.inner.read_again().await
    }
}

impl Inner {
    async fn read_again(&self) -> Result<(), StoreError> {
        let _turn = self.reading.lock().await;
        let known = self.list.borrow().at;
        if let Some(list) = self.store.revoked(Some(known)).await? {
            self.list.send_replace(Arc::new(list));
        }
        Ok(())
    }
}

async fn look(revoked: Weak<Inner>) {
    let mut is_lost = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(revoked) = revoked.upgrade() else {
            return;
        };
        let read = revoked.read_again().await;
        match &read {
            Ok(()) if is_lost => tracing::info!("revoked devices are read again"),
            Err(error) if !is_lost => {
                tracing::warn!(%error, "revoked devices cannot be read; the last list stands");
            }
            Ok(()) | Err(_) => {}
        }
        is_lost = read.is_err();
    }
}
