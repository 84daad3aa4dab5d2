//! One download: from memory where that is the truth, or read, and written down for
//! retention before the device has it.
//!
//! Long polls wait here for the notifier. The route splices what comes of it.

use super::{Inner, SyncService};
use crate::admission::{Class, DownloadError};
use crate::live::Watch;
use crate::meters;
use crate::settings::MAX_PAGE;
use crate::store::{InFold, Page, PageQuery, StoreError};
use oversync_shared::ServerId;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

impl SyncService {
    /// Reads a page. With `wait`, an empty page is answered when something for
    /// the caller arrives, the time has passed, or the device is revoked, which
    /// the route then refuses. A device that has everything, or all but a few changes
    /// that this process has just committed, is answered from memory, or with one
    /// question to the database for many such devices.
    pub async fn download(&self, query: PageQuery, wait: Duration) -> Result<Page, DownloadError> {
        let deadline = Instant::now() + wait;
        let page = self.page(query.clone()).await?;
        if !page.entries.is_empty() || wait.is_zero() || page.answers_at_once(&query) {
            return Ok(page);
        }
        let watch = Watch {
            user: query.user.clone(),
        };
        let Ok(Ok(mut heads)) = timeout_at(deadline, self.inner.notifier.send(watch)).await else {
            return Ok(page);
        };
        let _poll = meters::poll();
        let mut seen = page.head;
        let mut revoked = self.inner.revoked.subscribe();
        let (user, device) = (query.user.clone(), query.device.clone());
        let mut is_revoked = pin!(revoked.wait_for(|list| list.contains(&user, &device)));
        loop {
            let newer = heads.wait_for(|head| *head > seen);
            let newer = tokio::select! {
                newer = timeout_at(deadline, newer) => newer,
                _ = &mut is_revoked => return Ok(page),
            };
            match newer {
                Ok(Ok(head)) => seen = *head,
                // The time has passed, or the server stops: the truth as it is now.
                Ok(Err(_)) | Err(_) => return self.page(query).await,
            }
            let page = self.page(query.clone()).await?;
            // A floor may have passed it while it waited.
            if !page.entries.is_empty() || page.answers_at_once(&query) {
                return Ok(page);
            }
            seen = seen.max(page.head);
        }
    }

    async fn page(&self, query: PageQuery) -> Result<Page, DownloadError> {
        let page = match self.page_from_memory(&query).await? {
            Some(page) => page,
            None => self.read_page(query.clone(), self.class_of(&query)).await?,
        };
        self.note(&query, &page).await?;
        Ok(page)
    }

    /// Nothing, or the newest changes. The head is asked for at most once, and only
    /// where an answer may come of it.
    async fn page_from_memory(&self, query: &PageQuery) -> Result<Option<Page>, StoreError> {
        let Inner {
            heads,
            quiet,
            newest,
            ..
        } = &*self.inner;
        let seen = quiet.seen(query);
        let mut now = None;
        if quiet.may_answer(query, seen.as_ref()) {
            let read = now.insert(heads.now_of(&query.user).await?);
            if let Some(page) = quiet.answer(read, seen.as_ref()) {
                return Ok(Some(page));
            }
        }
        if !newest.may_answer(query) {
            meters::newest(false);
            return Ok(None);
        }
        let now = match now {
            Some(now) => now,
            None => heads.now_of(&query.user).await?,
        };
        let page = newest.answer(query, &now, seen);
        meters::newest(page.is_some());
        if let Some(page) = &page {
            quiet.answered(query, page);
        }
        Ok(page)
    }

    /// Before a device has a page. What it asks from next inside of a fold means
    /// something only there: that is written down at once. Who is refused has got
    /// nothing, and holds nothing up.
    async fn note(&self, query: &PageQuery, page: &Page) -> Result<(), StoreError> {
        let (user, device, after) = (&query.user, &query.device, query.after);
        let is_other = query
            .epoch
            .as_deref()
            .is_some_and(|epoch| epoch != &*page.epoch);
        if is_other || page.is_pruned_for(after) {
            return Ok(());
        }
        // Nothing is folded, nor will be: the cursor is one of the log's, as ever, and a
        // page does not wait for a write.
        let may_fold = page.floor > ServerId::ZERO || self.inner.settings.retention.enabled;
        if let Some(at) = page.leaves_inside(after).filter(|_| may_fold) {
            let store = &self.inner.store;
            store.reads_fold(user, device, at, page.floor).await?;
        }
        let (readers, stand) = (&self.inner.readers, page.stand(query));
        readers.read(user, device, after, stand);
        Ok(())
    }

    /// Reads the next piece of a page whose answer has begun: it is not cut off for
    /// those who only begin. `asked` is the cursor that the page was asked from.
    pub(crate) async fn next_piece(
        &self,
        query: PageQuery,
        asked: ServerId,
    ) -> Result<Page, DownloadError> {
        let page = self.read_page(query.clone(), Class::Download).await?;
        let (user, device, after) = (&query.user, &query.device, query.after);
        // The whole page has one end, and may be asked for again as a whole.
        if let Some(at) = page.leaves_inside(after).filter(|_| page.began.is_some()) {
            let at = InFold { asked, ..at };
            let store = &self.inner.store;
            store.reads_fold(user, device, at, page.floor).await?;
        }
        if !page.is_cut {
            let stand = page.stand(&query);
            self.inner.readers.read(user, device, asked, stand);
        }
        Ok(page)
    }

    async fn read_page(&self, query: PageQuery, class: Class) -> Result<Page, DownloadError> {
        let _in_flight = meters::download_in_flight();
        let start = Instant::now();
        let _place = self.inner.admission.enter(class).await?;
        meters::admitted(start.elapsed());
        let mark = self.inner.heads.mark();
        let start = Instant::now();
        let page = self.inner.store.page(query.clone()).await;
        meters::page(page.is_ok(), start.elapsed());
        let page = page?;
        self.inner.epoch.saw(&page.epoch);
        self.inner.quiet.learn(mark, &query, &page);
        Ok(page)
    }

    /// How far behind its reader is, as far as this process knows.
    fn class_of(&self, query: &PageQuery) -> Class {
        let is_far = match self.inner.heads.remembered(&query.user) {
            Some(head) => head.get().saturating_sub(query.after.get()) > MAX_PAGE as i64,
            None => query.after == ServerId::ZERO,
        };
        if is_far {
            Class::Hydrate
        } else {
            Class::Download
        }
    }
}
