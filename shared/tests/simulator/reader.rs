//! Polling readers: they page through a user's stream with limits and windows
//! of every kind, while it is being written.
//!
//! What a reader has seen in the end must be exactly the visible entries of the
//! final stream, once each, ascending: nothing may appear behind its cursor.

use crate::chance::Chance;
use crate::checker::{Checked, Reference, Violated, holds};
use crate::database::{Ask, Page};
use crate::model::{NAMES, table_of};
use crate::world::{World, say};

#[derive(Debug)]
pub struct Reader {
    user: usize,
    device: usize,
    include_self: bool,
    schema: Option<&'static str>,
    /// Whether the cursor follows the window once it is read out.
    ordered: bool,
    cursor: i64,
    window: Option<i64>,
    seen: Vec<i64>,
}

impl Reader {
    pub fn new(user: usize, device: usize, chance: &mut Chance) -> Self {
        Self {
            user,
            device,
            include_self: chance.percent(30),
            schema: chance.pick(&[None, None, None, Some("public"), Some("farm")]),
            ordered: chance.percent(70),
            cursor: 0,
            window: None,
            seen: Vec::new(),
        }
    }

    pub fn user(&self) -> usize {
        self.user
    }

    /// Whether it has read out the stream.
    pub fn is_at_head(&self, reference: &Reference) -> bool {
        let next = self
            .visible(reference, self.cursor, reference.head())
            .next();
        self.window.is_none() && next.is_none()
    }

    /// The entries it should see, from the reference log alone.
    fn visible<'a>(
        &'a self,
        reference: &'a Reference,
        after: i64,
        until: i64,
    ) -> impl Iterator<Item = i64> + 'a {
        let until = until.min(reference.head());
        (after + 1..=until).filter(move |id| {
            let entry = &reference.log[*id as usize - 1];
            let schema = NAMES[table_of(entry.content.row)].0;
            (self.include_self || entry.device != self.device)
                && self.schema.is_none_or(|wanted| wanted == schema)
        })
    }

    fn page_is_right(&self, reference: &Reference, ask: &Ask, page: &Page) -> Checked {
        holds(page.head == reference.head(), "TRUE-HEAD", || {
            format!("a page says {}, not {}", page.head, reference.head())
        })?;
        let highest = reference.highest(self.device, page.head);
        holds(page.highest == highest, "TRUE-HEAD", || {
            format!("a page says highest change id {:?}", page.highest)
        })?;
        let window = ask.until.unwrap_or(page.head);
        let mut expected = self.visible(reference, ask.after, window);
        let ids: Vec<i64> = expected.by_ref().take(ask.limit).collect();
        let has_more = expected.next().is_some();
        let next_after = ids.last().copied().unwrap_or(ask.after);
        holds(page.ids == ids, "NO-MISS", || {
            format!("{ask:?} gave {:?} instead of {ids:?}", page.ids)
        })?;
        let is_right =
            (page.has_more, page.next_after, page.window) == (has_more, next_after, window);
        holds(is_right, "PAGE", || format!("{ask:?} gave {page:?}"))
    }

    /// At the end: everything, once.
    pub fn has_seen_all(&self, reference: &Reference) -> Checked {
        let all = self.visible(reference, 0, reference.head());
        holds(all.eq(self.seen.iter().copied()), "NO-MISS", || {
            format!(
                "a reader of user {} device {} saw {:?} of {} entries",
                self.user,
                self.device,
                self.seen,
                reference.head()
            )
        })
    }
}

impl World<'_> {
    pub fn reader_asks(&mut self, reader: usize) -> Result<bool, Violated> {
        let one = &self.readers[reader];
        let ask = Ask {
            user: one.user,
            device: one.device,
            include_self: one.include_self,
            schema: one.schema,
            after: one.cursor,
            until: one.window.filter(|until| *until > 0),
            limit: self.chance.between(1, 6),
        };
        let page = self.database.users[ask.user].page(&ask, self.rules);
        say!(self, "reader {reader} asks {ask:?}, gets {page:?}");
        one.page_is_right(&self.checker.users[ask.user], &ask, &page)?;
        self.tally.pages += 1;
        self.tally.pages_with_more += u64::from(page.has_more);
        self.pages.push((reader, ask, page));
        Ok(true)
    }

    /// A page arrives; one that no longer fits the cursor is dropped.
    pub fn reader_hears(&mut self, reader: usize, ask: &Ask, page: &Page) {
        let one = &mut self.readers[reader];
        if one.cursor != ask.after || one.window.filter(|until| *until > 0) != ask.until {
            self.tally.pages_out_of_date += 1;
            return;
        }
        one.seen.extend(&page.ids);
        one.cursor = page.next_after;
        one.window = page.has_more.then_some(page.window);
        if !page.has_more && one.ordered {
            one.cursor = one.cursor.max(page.window.min(page.head));
        }
        let (user, device) = (one.user, one.device);
        if !one.include_self {
            self.device_reads(user, device, &page.ids);
        }
    }
}
