//! Memory against the store: random histories and every shape of question. What is
//! answered from memory is what the store answers, entry for entry; and bounds.

use super::stretch::{ENTRY_BYTES, STRETCH_BYTES, USER_BYTES, WRITERS};
use super::*;
use crate::clock::Clock;
use crate::epoch::Epoch;
use crate::live::quiet::Quiet;
use crate::projection::Business;
use crate::store::{Ask, DeviceWrite, EmbeddedStore, NewEntry, Show, Store};
use oversync_shared::catalog::{ForeignKeys, TableSpec};
use oversync_shared::upload::{Fingerprint, RowAt, RowState, RowWrite};
use oversync_shared::wire::Op;
use oversync_shared::{ChangeId, DeviceId, RowKey, RowVersion};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use uuid::Uuid;

/// Histories; `OVERSYNC_CASES` makes more of them.
const CASES: u64 = 4;

struct Stage {
    _folder: tempfile::TempDir,
    store: Arc<dyn Store>,
    catalog: Catalog,
    heads: Heads,
    quiet: Quiet,
    newest: Newest,
    /// Rows that live, of whom, with their versions.
    rows: Vec<(UserId, RowAt, i64)>,
    ids: i64,
}

impl Stage {
    async fn set() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("server.db");
        let store = EmbeddedStore::open(&file, None, Clock::system()).expect("opens");
        let spec = |schema: &str| TableSpec {
            name: TableName::parse(schema, "things").expect("a name"),
            references: Vec::new(),
            after: Vec::new(),
        };
        let catalog = Catalog::new(vec![spec("one"), spec("two")], ForeignKeys::Enabled);
        let catalog = catalog.expect("a catalog");
        store
            .register(&catalog, Business::default())
            .await
            .expect("registers");
        let store: Arc<dyn Store> = Arc::new(store);
        let epoch = store.epoch().await.expect("an epoch");
        let heads = Heads::new(store.clone(), Epoch::new(epoch));
        Self {
            _folder: folder,
            newest: Newest::new(heads.clone(), &catalog),
            quiet: Quiet::new(heads.clone()),
            heads,
            store,
            catalog,
            rows: Vec::new(),
            ids: 0,
        }
    }

    /// One upload of a device: some new rows, some changed ones, some deletes.
    async fn commit(&mut self, user: &UserId, device: &DeviceId, random: &mut StdRng) -> Commit {
        let ask = Ask {
            user: user.clone(),
            device: device.clone(),
            rows: Vec::new(),
            ids: Vec::new(),
        };
        let loaded = self.store.load(&ask).await.expect("loads");
        let (mut entries, mut rows) = (Vec::new(), Vec::new());
        let mut head = loaded.head.head.get();
        for _ in 0..random.random_range(1..=4) {
            let mine: Vec<usize> = (0..self.rows.len())
                .filter(|place| self.rows[*place].0 == *user)
                .filter(|place| {
                    rows.iter()
                        .all(|write: &RowWrite| write.row != self.rows[*place].1)
                })
                .collect();
            let (row, base, op) = if mine.is_empty() || random.random_bool(0.6) {
                let (table, _) = self
                    .catalog
                    .tables()
                    .nth(random.random_range(0..2))
                    .expect("two");
                let key = RowKey::new(Uuid::from_u128(random.random()));
                let row = RowAt { table, key };
                self.rows.push((user.clone(), row, 1));
                (row, 0, Op::Insert)
            } else {
                let known = &mut self.rows[mine[random.random_range(0..mine.len())]];
                known.2 += 1;
                let op = if random.random_bool(0.4) {
                    Op::Delete
                } else {
                    Op::Update
                };
                (known.1, known.2 - 1, op)
            };
            head += 1;
            self.ids += random.random_range(1..3);
            let at = ServerId::new(head);
            let long = "x".repeat(if random.random_bool(0.02) {
                random.random_range(20_000..200_000)
            } else {
                random.random_range(0..300)
            });
            let payload = format!("{{ \"n\": {}.0, \"t\": \"{long}\" }}", self.ids);
            entries.push(NewEntry {
                server_id: at,
                row,
                op,
                version: RowVersion::new(base + 1),
                change_id: ChangeId::new(self.ids),
                fingerprint: Fingerprint([0; 16]),
                payload: op.is_upsert().then(|| payload.into()),
            });
            rows.push(RowWrite {
                row,
                base: RowVersion::new(base),
                state: RowState {
                    version: RowVersion::new(base + 1),
                    deleted: !op.is_upsert(),
                    at,
                },
            });
        }
        Commit {
            user: loaded.head.user,
            user_id: user.clone(),
            epoch: loaded.epoch,
            revision: loaded.head.revision,
            head: ServerId::new(head),
            device: DeviceWrite {
                key: loaded
                    .device
                    .map_or(loaded.next_device, |device| device.key),
                id: device.clone(),
                highest: ChangeId::new(self.ids),
                settled_below: None,
            },
            entries,
            rows,
            show: Show::default(),
        }
    }

    async fn write(&mut self, commit: Commit, told: Told) {
        let (user, head) = (commit.user_id.clone(), commit.head);
        let commits = vec![commit];
        let coming = self.newest.before(&commits);
        let outcomes = self.store.commit(commits).await.expect("commits");
        assert!(
            matches!(outcomes[..], [Outcome::Done { .. }]),
            "{outcomes:?}"
        );
        match told {
            Told::Yes => self.newest.after(coming, &outcomes),
            Told::ByAnother => {}
            Told::Lost => self.newest.lost(&coming),
            Told::FoldedMeanwhile => {
                self.newest.forget(&user);
                self.newest.after(coming, &outcomes);
            }
        }
        self.heads.raise(&user, head);
    }

    /// Whether it was answered from memory.
    async fn compare(&self, query: &PageQuery) -> bool {
        let seen = self.quiet.seen(query);
        let page = if self.newest.may_answer(query) {
            let now = self.heads.now_of(&query.user).await.expect("a head");
            self.newest.answer(query, &now, seen)
        } else {
            None
        };
        let mark = self.heads.mark();
        let stored = self.store.page(query.clone()).await.expect("a page");
        if let Some(page) = &page {
            let text = |page: &Page| {
                let Page {
                    epoch,
                    head,
                    entries,
                    highest_change_id,
                    has_more,
                    is_cut,
                    ..
                } = page;
                format!("{epoch} {head} {highest_change_id:?} {has_more} {is_cut} {entries:#?}")
            };
            assert_eq!(text(page), text(&stored), "{query:?}");
            assert!(!page.is_pruned_for(query.after), "{query:?}");
            assert_eq!(
                page.leaves_inside(query.after),
                stored.leaves_inside(query.after)
            );
            assert_eq!(page.stand(query), stored.stand(query));
            self.quiet.answered(query, page);
        } else {
            self.quiet.learn(mark, query, &stored);
        }
        page.is_some()
    }
}

/// What memory hears of a commit.
#[derive(Debug, Clone, Copy)]
enum Told {
    Yes,
    /// Nothing.
    ByAnother,
    /// That nobody knows whether it stands.
    Lost,
    /// A fold is put in place while it is written.
    FoldedMeanwhile,
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}

fn device(number: usize) -> DeviceId {
    DeviceId::new(format!("device-{number}")).expect("a name")
}

fn any_query(user: &UserId, head: i64, random: &mut StdRng) -> PageQuery {
    let near = |random: &mut StdRng| (head - random.random_range(-2..40)).max(0);
    PageQuery {
        user: user.clone(),
        device: device(random.random_range(0..5)),
        include_self: random.random_bool(0.3),
        schema: match random.random_range(0..6) {
            0 => Some("one".to_owned()),
            1 => Some("nothing".to_owned()),
            _ => None,
        },
        after: ServerId::new(near(random)),
        until: random
            .random_bool(0.3)
            .then(|| ServerId::new(near(random).max(1))),
        limit: [1, 3, 100, 1_000][random.random_range(0..4)],
        max_bytes: [2 * 1024 * 1024, 100_000][usize::from(random.random_bool(0.2))],
        epoch: None,
    }
}

#[tokio::test]
async fn memory_answers_what_the_store_answers() {
    let wanted = std::env::var("OVERSYNC_CASES").ok();
    let cases = wanted.and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let (mut asked, mut found) = (0, 0);
    for case in 0..cases {
        println!("history {case}");
        let mut random = StdRng::seed_from_u64(case);
        let mut stage = Stage::set().await;
        let users = [user("ann"), user("ben")];
        for _ in 0..120 {
            let user = &users[random.random_range(0..2)];
            let writer = device(random.random_range(0..4));
            let commit = stage.commit(user, &writer, &mut random).await;
            let told = match random.random_range(0..20) {
                0 => Told::ByAnother,
                1 => Told::Lost,
                2 => Told::FoldedMeanwhile,
                _ => Told::Yes,
            };
            let head = commit.head.get();
            stage.write(commit, told).await;
            for _ in 0..4 {
                let query = any_query(user, head, &mut random);
                asked += 1;
                found += u64::from(stage.compare(&query).await);
            }
        }
        stage.store.close().await;
    }
    println!("{found} of {asked} answered from memory");
    // Enough for every shape of question, whatever begins anew.
    assert!(found * 8 > asked, "{found} of {asked}");
}

/// A stretch that this process knows of, told commit by commit.
fn fresh(name: &str, first: i64, bytes: usize) -> Fresh {
    let entry = Entry {
        server_id: ServerId::new(first),
        table: Arc::new(TableName::parse("one", "things").expect("a name")),
        op: Op::Insert,
        key: RowKey::new(Uuid::from_u128(1)),
        version: RowVersion::new(1),
        source: "device-0".into(),
        change_id: ChangeId::new(first),
        ts: OffsetDateTime::UNIX_EPOCH,
        payload: Some("x".repeat(bytes)),
    };
    Fresh {
        user: user(name),
        epoch: "epoch".into(),
        before: ServerId::new(first - 1),
        from: ServerId::new(first - 1),
        to: entry.server_id,
        source: entry.source.clone(),
        highest: entry.change_id,
        entries: vec![Arc::new(entry)],
    }
}

#[test]
fn memory_is_bounded() {
    let mut stretches = Stretches::new(HALF_BYTES);
    for at in 1..2_000 {
        stretches.extend(fresh("ann", at, 1_000));
        let ann = stretches.get(&user("ann")).expect("held");
        assert_eq!(ann.to, ServerId::new(at));
        assert!(ann.bytes <= USER_BYTES, "{}", ann.bytes);
        assert_eq!(ann.entries.len() as i64, ann.to.get() - ann.from.get());
    }
    // One that is too large by itself leaves a stretch without entries.
    stretches.extend(fresh("ann", 2_000, USER_BYTES));
    let ann = stretches.get(&user("ann")).expect("held");
    assert_eq!((ann.from, ann.entries.len()), (ann.to, 0));
    let mut most = 0;
    for n in 0..1_000 {
        stretches.extend(fresh(&format!("user-{n}"), 1, 100_000));
        most = stretches.bytes().max(most);
        let all = stretches.newer.values().chain(stretches.older.values());
        assert_eq!(
            stretches.bytes(),
            all.map(|stretch| stretch.bytes).sum::<usize>()
        );
    }
    assert!(
        (HALF_BYTES..2 * HALF_BYTES + USER_BYTES).contains(&most),
        "{most}"
    );
    assert!(stretches.get(&user("ann")).is_none());
    assert!(stretches.get(&user("user-999")).is_some());
}

#[test]
fn a_commit_that_does_not_join_begins_anew() {
    let mut stretches = Stretches::new(HALF_BYTES);
    let range = |stretches: &Stretches| {
        let ann = stretches.get(&user("ann"))?;
        Some((ann.from.get(), ann.to.get(), ann.entries.len()))
    };
    for at in 1..=3 {
        stretches.extend(fresh("ann", at, 1));
    }
    assert_eq!(range(&stretches), Some((0, 3, 3)));
    stretches.extend(fresh("ann", 6, 1));
    assert_eq!(range(&stretches), Some((5, 6, 1)));
    // One that comes late, and a history that was put back, are not guessed about.
    stretches.extend(fresh("ann", 5, 1));
    assert_eq!(range(&stretches), None);
    assert_eq!(stretches.bytes(), 0);
    stretches.extend(fresh("ann", 7, 1));
    let other = Fresh {
        epoch: "another".into(),
        ..fresh("ann", 8, 1)
    };
    stretches.extend(other);
    assert_eq!(range(&stretches), Some((7, 8, 1)));
    assert_eq!(
        &*stretches.get(&user("ann")).expect("held").epoch,
        "another"
    );
}

#[test]
fn of_too_many_writers_none_is_known() {
    let mut stretches = Stretches::new(HALF_BYTES);
    for at in 1..=WRITERS as i64 + 1 {
        let source: Arc<str> = format!("device-{at}").into();
        stretches.extend(Fresh {
            source,
            ..fresh("ann", at, 1)
        });
    }
    let ann = stretches.get(&user("ann")).expect("held");
    assert_eq!((ann.writers.len(), ann.began), (0, ann.to));
    assert_eq!(
        ann.bytes,
        STRETCH_BYTES + ann.entries.len() * (ENTRY_BYTES + 1)
    );
}

/// What a stretch of two changes, by device-0, says when the world is this.
fn told(after: i64, by: usize, now: (&str, i64, Option<i64>)) -> Option<(Vec<i64>, Option<i64>)> {
    let mut stretches = Stretches::new(HALF_BYTES);
    for at in 5..=6 {
        stretches.extend(fresh("ann", at, 1));
    }
    let query = PageQuery {
        after: ServerId::new(after),
        device: device(by),
        limit: 10,
        include_self: true,
        until: None,
        schema: None,
        ..any_query(&user("ann"), 0, &mut StdRng::seed_from_u64(0))
    };
    let now = Now {
        epoch: now.0.into(),
        head: ServerId::new(now.1),
        floor: now.2.map(ServerId::new),
    };
    let seen = Seen {
        epoch: "epoch".into(),
        head: ServerId::new(4),
        highest_change_id: Some(ChangeId::new(77)),
    };
    let stretch = stretches.get(&user("ann")).expect("held");
    let found = stretch.page(&query, &now, Some(seen))?;
    let ids = found.entries.iter().map(|entry| entry.server_id.get());
    Some((ids.collect(), found.highest.map(ChangeId::get)))
}

#[test]
fn it_answers_for_the_head_that_is_and_for_no_other() {
    let all = Some((vec![5, 6], Some(77)));
    assert_eq!(told(4, 1, ("epoch", 6, None)), all);
    assert_eq!(told(4, 1, ("epoch", 6, Some(4))), all);
    assert_eq!(told(6, 1, ("epoch", 6, None)), Some((vec![], Some(77))));
    assert_eq!(told(4, 0, ("epoch", 6, None)), Some((vec![5, 6], Some(6))));
    // A commit that has not been told of yet: not its change, and not its number.
    assert_eq!(told(4, 1, ("epoch", 5, None)), Some((vec![5], Some(77))));
    assert_eq!(told(4, 0, ("epoch", 5, None)), None);
    // Another process has written, has folded, or the database was put back.
    assert_eq!(told(4, 1, ("epoch", 7, None)), None);
    assert_eq!(told(4, 1, ("epoch", 6, Some(5))), None);
    assert_eq!(told(4, 1, ("another", 6, None)), None);
    // Below it, and above the head.
    assert_eq!(told(3, 1, ("epoch", 6, None)), None);
    assert_eq!(told(6, 1, ("epoch", 5, None)), None);
}

#[tokio::test]
async fn what_was_on_its_way_when_a_fold_came_is_not_held() {
    let mut stage = Stage::set().await;
    let mut random = StdRng::seed_from_u64(1);
    let ann = user("ann");
    stage.newest.asks(&ann);
    for (told, is_held) in [
        (Told::Yes, true),
        (Told::FoldedMeanwhile, false),
        (Told::Yes, true),
        (Told::Lost, false),
    ] {
        let commit = stage.commit(&ann, &device(0), &mut random).await;
        stage.write(commit, told).await;
        let held = stage.newest.memory().stretches.get(&ann).is_some();
        assert_eq!(held, is_held, "{told:?}");
    }
    stage.store.close().await;
}
