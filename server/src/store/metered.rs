//! A store that counts what it is asked: how many questions of each verb, how many
//! are under way, how long they take. The service puts it around the store it opens;
//! nothing else changes.

use super::devices::{Access, DeviceRecord, Revocations, RevokedDevices};
use super::retention::{Heard, Retention};
use super::usage::Usage;
use super::view::View;
use super::{
    Ask, Bus, Commit, FailureFilter, InFold, Loaded, Outcome, Page, PageQuery, PoolUse, Reached,
    Referred, Store, StoreError, Stored, StoredRow, UserKey,
};
use crate::meters;
use crate::projection::{Business, BusinessTable, Failure, Retried};
use async_trait::async_trait;
use oversync_shared::upload::{Holder, RowAt};
use oversync_shared::{Catalog, DeviceId, ServerId, TableName, UserId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Counts, and passes on.
pub(crate) struct MeteredStore(Arc<dyn Store>);

impl MeteredStore {
    /// Around a store.
    pub(crate) fn around(store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(Self(store))
    }
}

/// One question under way; a caller who goes away ends it too.
async fn ask<T>(verb: &'static str, question: impl Future<Output = T>) -> T {
    let under_way = meters::question(verb);
    let answer = question.await;
    drop(under_way);
    answer
}

#[async_trait]
impl Store for MeteredStore {
    fn is_shared(&self) -> bool {
        self.0.is_shared()
    }

    fn bus(&self) -> Option<Arc<dyn Bus>> {
        self.0.bus()
    }

    fn lanes(&self) -> usize {
        self.0.lanes()
    }

    async fn describe(
        &self,
        tables: &[TableName],
    ) -> Result<HashMap<TableName, BusinessTable>, StoreError> {
        ask("describe", self.0.describe(tables)).await
    }

    async fn register(&self, catalog: &Catalog, business: Business) -> Result<(), StoreError> {
        ask("register", self.0.register(catalog, business)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        ask("ping", self.0.ping()).await
    }

    async fn epoch(&self) -> Result<Arc<str>, StoreError> {
        ask("epoch", self.0.epoch()).await
    }

    async fn load(&self, wanted: &Ask) -> Result<Loaded, StoreError> {
        ask("load", self.0.load(wanted)).await
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Outcome>, StoreError> {
        ask("commit", self.0.commit(commits)).await
    }

    async fn in_business(
        &self,
        user: UserKey,
        user_id: &UserId,
        rows: &[RowAt],
    ) -> Result<HashSet<RowAt>, StoreError> {
        ask("in_business", self.0.in_business(user, user_id, rows)).await
    }

    async fn holders(
        &self,
        user: UserKey,
        user_id: &UserId,
        values: Vec<Referred>,
        at_most: usize,
    ) -> Result<HashMap<Referred, Vec<Holder>>, StoreError> {
        ask("holders", self.0.holders(user, user_id, values, at_most)).await
    }

    async fn failures(
        &self,
        user: &UserId,
        only: FailureFilter,
        limit: i64,
    ) -> Result<Vec<Failure>, StoreError> {
        ask("failures", self.0.failures(user, only, limit)).await
    }

    async fn retry(&self, user: &UserId, failure: i64) -> Result<Retried, StoreError> {
        ask("retry", self.0.retry(user, failure)).await
    }

    async fn usage(&self, user: UserKey, since: Option<ServerId>) -> Result<Usage, StoreError> {
        let verb = match since {
            None => "usage",
            Some(_) => "usage_since",
        };
        ask(verb, self.0.usage(user, since)).await
    }

    async fn sizes(
        &self,
        user: UserKey,
        entries: Vec<ServerId>,
    ) -> Result<HashMap<ServerId, u64>, StoreError> {
        ask("sizes", self.0.sizes(user, entries)).await
    }

    async fn page(&self, query: PageQuery) -> Result<Page, StoreError> {
        ask("page", self.0.page(query)).await
    }

    async fn row(&self, user: &UserId, row: RowAt) -> Result<Option<StoredRow>, StoreError> {
        ask("row", self.0.row(user, row)).await
    }

    async fn heads(&self, of: &[(UserId, Option<DeviceId>)]) -> Result<Reached, StoreError> {
        ask("heads", self.0.heads(of)).await
    }

    async fn devices(&self, user: &UserId) -> Result<Vec<DeviceRecord>, StoreError> {
        ask("devices", self.0.devices(user)).await
    }

    async fn set_access(
        &self,
        user: &UserId,
        device: &DeviceId,
        access: Access,
    ) -> Result<(), StoreError> {
        ask("set_access", self.0.set_access(user, device, access)).await
    }

    async fn heard(&self, readers: Vec<Heard>) -> Result<(), StoreError> {
        ask("heard", self.0.heard(readers)).await
    }

    async fn reads_fold(
        &self,
        user: &UserId,
        device: &DeviceId,
        at: InFold,
        floor: ServerId,
    ) -> Result<(), StoreError> {
        ask("reads_fold", self.0.reads_fold(user, device, at, floor)).await
    }

    async fn retention(&self) -> Result<Option<Box<dyn Retention>>, StoreError> {
        ask("retention", self.0.retention()).await
    }

    async fn revoked(
        &self,
        known: Option<Revocations>,
    ) -> Result<Option<RevokedDevices>, StoreError> {
        ask("revoked", self.0.revoked(known)).await
    }

    fn pool(&self) -> PoolUse {
        self.0.pool()
    }

    fn view(&self) -> Arc<dyn View> {
        // People ask, and not often: what devices cost is not to be hidden among it.
        self.0.view()
    }

    async fn storage(&self) -> Result<Vec<Stored>, StoreError> {
        ask("storage", self.0.storage()).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
