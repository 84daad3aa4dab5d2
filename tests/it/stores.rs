//! One story about the storage contract, told to every store through its public
//! interface: no server, no HTTP.

use oversync::Clock;
use oversync::projection::Business;
use oversync::store::{
    Ask, Commit, DeviceWrite, Head, Loaded, NewEntry, Outcome, Page, PageQuery, Reach, Show, Store,
    open,
};
use oversync_shared::catalog::{ForeignKeys, TableSpec};
use oversync_shared::upload::{Fingerprint, RowAt, RowState, RowWrite};
use oversync_shared::wire::Op;
use oversync_shared::{
    Catalog, ChangeId, DeviceId, RowKey, RowVersion, ServerId, TableName, UserId,
};
use oversync_tests::target::fresh_user;
use oversync_tests::{Backend, Database, on_both_stores};
use std::sync::Arc;
use uuid::Uuid;

on_both_stores!(
    an_upload_is_written_and_read_back,
    a_stale_revision_is_left_out,
    a_row_taken_for_new_that_exists_is_left_out,
    a_guard_without_entries_writes_nothing,
    many_users_share_a_commit_and_one_left_out_harms_none,
    a_change_id_cannot_be_written_twice,
    everything_is_there_after_reopening,
);

/// A store with two tables, and the row keys of a story.
struct Stage {
    store: Arc<dyn Store>,
    catalog: Catalog,
    user: UserId,
}

impl Stage {
    async fn set(database: &Database) -> Self {
        let spec = |table: &str| TableSpec {
            name: TableName::parse("business", table).expect("a valid name"),
            references: Vec::new(),
            after: Vec::new(),
        };
        let catalog = Catalog::new(vec![spec("users"), spec("posts")], ForeignKeys::Enabled)
            .expect("a valid catalog");
        let store = open(database.url(), None, Clock::system())
            .await
            .expect("the store opens");
        store
            .register(&catalog, Business::default())
            .await
            .expect("tables register");
        Self {
            store,
            catalog,
            user: UserId::new(fresh_user()).expect("a valid user"),
        }
    }

    fn row(&self, table: &str, key: Uuid) -> RowAt {
        let name = TableName::parse("business", table).expect("a valid name");
        RowAt {
            table: self.catalog.find(&name).expect("registered"),
            key: RowKey::new(key),
        }
    }

    async fn load(&self, device: &str, rows: &[RowAt], ids: &[i64]) -> Loaded {
        self.load_as(&self.user, device, rows, ids).await
    }

    async fn load_as(&self, user: &UserId, device: &str, rows: &[RowAt], ids: &[i64]) -> Loaded {
        let ask = Ask {
            user: user.clone(),
            device: DeviceId::new(device).expect("a valid device"),
            rows: rows.to_vec(),
            ids: ids.iter().copied().map(ChangeId::new).collect(),
        };
        self.store.load(&ask).await.expect("loads")
    }

    async fn commit(&self, commit: Commit) -> Outcome {
        let mut outcomes = self.store.commit(vec![commit]).await.expect("commits");
        assert_eq!(outcomes.len(), 1);
        outcomes.remove(0)
    }

    async fn page(&self, device: &str, after: i64, limit: usize, include_self: bool) -> Page {
        let query = PageQuery {
            user: self.user.clone(),
            device: DeviceId::new(device).expect("a valid device"),
            include_self,
            schema: None,
            after: ServerId::new(after),
            until: None,
            limit,
            epoch: None,
            max_bytes: usize::MAX,
        };
        self.store.page(query).await.expect("a page")
    }
}

/// One change, to be put on top of what was loaded.
#[derive(Clone, Copy)]
struct Write {
    id: i64,
    row: RowAt,
    op: Op,
    base: i64,
}

fn write(id: i64, row: RowAt, op: Op, base: i64) -> Write {
    Write { id, row, op, base }
}

fn fingerprint(id: i64) -> Fingerprint {
    Fingerprint([id as u8; 16])
}

fn payload(id: i64) -> String {
    format!("{{ \"n\": {id}.0 }}")
}

fn commit(loaded: &Loaded, device: &str, writes: &[Write]) -> Commit {
    let Head {
        user,
        head,
        revision,
        ref user_id,
    } = loaded.head;
    let entries: Vec<NewEntry> = writes
        .iter()
        .zip(head.get() + 1..)
        .map(|(write, server_id)| NewEntry {
            server_id: ServerId::new(server_id),
            row: write.row,
            op: write.op,
            version: RowVersion::new(write.base + 1),
            change_id: ChangeId::new(write.id),
            fingerprint: fingerprint(write.id),
            payload: write.op.is_upsert().then(|| payload(write.id).into()),
        })
        .collect();
    let rows = writes
        .iter()
        .zip(&entries)
        .map(|(write, entry)| RowWrite {
            row: write.row,
            base: RowVersion::new(write.base),
            state: RowState {
                version: entry.version,
                deleted: !write.op.is_upsert(),
                at: entry.server_id,
            },
        })
        .collect();
    let before = loaded.device.map(|device| device.highest);
    let highest = writes.iter().map(|write| ChangeId::new(write.id)).max();
    Commit {
        user,
        user_id: user_id.clone(),
        epoch: loaded.epoch.clone(),
        revision,
        head: ServerId::new(head.get() + writes.len() as i64),
        device: DeviceWrite {
            key: loaded
                .device
                .map_or(loaded.next_device, |device| device.key),
            id: DeviceId::new(device).expect("a valid device"),
            highest: highest.max(before).unwrap_or_default(),
            settled_below: None,
        },
        entries,
        rows,
        show: Show::default(),
    }
}

/// Done, with nothing to show.
#[track_caller]
fn is_done(outcome: &Outcome) {
    let is_done = matches!(outcome, Outcome::Done { shown, .. } if shown.is_empty());
    assert!(is_done, "{outcome:?}");
}

fn ids(page: &Page) -> Vec<i64> {
    page.entries.iter().map(|e| e.server_id.get()).collect()
}

async fn an_upload_is_written_and_read_back(backend: Backend) {
    let database = backend.database().await;
    let stage = Stage::set(&database).await;
    let (user, post) = (
        stage.row("users", Uuid::new_v4()),
        stage.row("posts", Uuid::new_v4()),
    );

    let empty = stage.load("ada", &[user, post], &[1, 2]).await;
    assert_eq!(empty.head.head, ServerId::ZERO);
    assert!(empty.rows.is_empty() && empty.recorded.is_empty() && empty.device.is_none());

    let writes = [write(7, user, Op::Insert, 0), write(9, post, Op::Update, 0)];
    let outcome = stage.commit(commit(&empty, "ada", &writes)).await;
    is_done(&outcome);

    let loaded = stage.load("ada", &[user, post], &[7, 8, 9]).await;
    assert_eq!(loaded.head.head, ServerId::new(2));
    assert_ne!(loaded.head.revision, empty.head.revision);
    assert_eq!(loaded.epoch, empty.epoch);
    assert_eq!(loaded.device.expect("known now").highest, ChangeId::new(9));
    assert_eq!(
        loaded.rows[&post],
        RowState {
            version: RowVersion::new(1),
            deleted: false,
            at: ServerId::new(2)
        }
    );
    assert_eq!(loaded.recorded.len(), 2);
    assert_eq!(
        loaded.recorded[&ChangeId::new(7)].fingerprint,
        fingerprint(7)
    );

    // Another device deletes the post; its change ids are its own.
    let bob = stage.load("bob", &[post], &[7]).await;
    assert!(bob.device.is_none() && bob.recorded.is_empty());
    let deleted = commit(&bob, "bob", &[write(7, post, Op::Delete, 1)]);
    is_done(&stage.commit(deleted).await);

    assert_eq!(ids(&stage.page("ada", 0, 10, false).await), [3]);
    assert_eq!(ids(&stage.page("bob", 0, 10, false).await), [1, 2]);
    let page = stage.page("cid", 0, 2, false).await;
    assert_eq!(
        (ids(&page), page.has_more, page.head),
        (vec![1, 2], true, ServerId::new(3))
    );
    let page = stage.page("ada", 1, 2, true).await;
    assert_eq!((ids(&page), page.has_more), (vec![2, 3], false));
    assert_eq!(page.highest_change_id, Some(ChangeId::new(9)));
    let (second, third) = (&page.entries[0], &page.entries[1]);
    assert_eq!(second.payload.as_deref(), Some(payload(9).as_str()));
    assert_eq!(
        (second.op, &*second.source, second.table.table.as_str()),
        (Op::Update, "ada", "posts")
    );
    assert_eq!(
        (third.op, third.payload.as_deref(), third.version),
        (Op::Delete, None, RowVersion::new(2))
    );

    // The entries are stamped with the moment that the commit told of.
    let Outcome::Done { at, .. } = outcome else {
        unreachable!("BUG: it is done");
    };
    assert_eq!(second.ts, at);

    let device = |name: &str| Some(DeviceId::new(name).expect("valid"));
    let of = [
        (stage.user.clone(), None),
        (UserId::new("nobody").expect("valid"), device("ada")),
        (stage.user.clone(), device("ada")),
        (stage.user.clone(), device("nobody")),
    ];
    let heads = stage.store.heads(&of).await.expect("heads");
    let known = |highest: Option<i64>| {
        Some(Reach {
            head: ServerId::new(3),
            floor: ServerId::ZERO,
            highest_change_id: highest.map(ChangeId::new),
        })
    };
    assert_eq!(
        heads.reaches,
        [known(None), None, known(Some(9)), known(None)]
    );
    assert_eq!(heads.epoch, empty.epoch);
    let nobody = stage.store.heads(&[]).await.expect("heads");
    assert_eq!((nobody.epoch, nobody.reaches), (empty.epoch, Vec::new()));
    stage.store.close().await;
}

async fn a_stale_revision_is_left_out(backend: Backend) {
    let database = backend.database().await;
    let stage = Stage::set(&database).await;
    let (one, two) = (
        stage.row("users", Uuid::new_v4()),
        stage.row("users", Uuid::new_v4()),
    );
    let loaded = stage.load("ada", &[one, two], &[]).await;
    let first = commit(&loaded, "ada", &[write(1, one, Op::Insert, 0)]);
    is_done(&stage.commit(first.clone()).await);
    // Decided before the first: whatever it is about.
    let second = commit(&loaded, "bob", &[write(1, two, Op::Insert, 0)]);
    assert_eq!(stage.commit(second).await, Outcome::LeftOut);
    assert_eq!(stage.commit(first).await, Outcome::LeftOut);
    assert_eq!(ids(&stage.page("cid", 0, 10, false).await), [1]);
    stage.store.close().await;
}

async fn a_row_taken_for_new_that_exists_is_left_out(backend: Backend) {
    let database = backend.database().await;
    let stage = Stage::set(&database).await;
    let row = stage.row("users", Uuid::new_v4());
    let loaded = stage.load("ada", &[], &[]).await;
    stage
        .commit(commit(&loaded, "ada", &[write(1, row, Op::Insert, 0)]))
        .await;
    let other = stage.row("users", Uuid::new_v4());
    let now = stage.load("ada", &[], &[]).await;
    let clash = commit(
        &now,
        "ada",
        &[write(2, other, Op::Insert, 0), write(3, row, Op::Insert, 0)],
    );
    assert_eq!(stage.commit(clash).await, Outcome::LeftOut);
    let after = stage.load("ada", &[other, row], &[2, 3]).await;
    assert_eq!(after.head, now.head);
    assert!(after.recorded.is_empty() && !after.rows.contains_key(&other));
    stage.store.close().await;
}

async fn a_guard_without_entries_writes_nothing(backend: Backend) {
    let database = backend.database().await;
    let stage = Stage::set(&database).await;
    let row = stage.row("users", Uuid::new_v4());
    let before = stage.load("ada", &[row], &[]).await;
    stage
        .commit(commit(&before, "ada", &[write(1, row, Op::Insert, 0)]))
        .await;
    let now = stage.load("ada", &[row], &[]).await;
    let mut guard = commit(&now, "bob", &[]);
    guard.show = Show {
        entries: [(ServerId::new(1), 2)].into(),
        max_bytes: 2 * payload(1).len(),
    };
    let mut too_much = guard.clone();
    too_much.show.max_bytes -= 1;
    assert_eq!(stage.commit(too_much).await, Outcome::TooMuchToShow);
    let Outcome::Done { shown, .. } = stage.commit(guard.clone()).await else {
        panic!("the revision is current");
    };
    assert_eq!(
        shown[&ServerId::new(1)].as_deref(),
        Some(payload(1).as_str())
    );
    guard.revision = before.head.revision;
    assert_eq!(stage.commit(guard).await, Outcome::LeftOut);
    assert_eq!(stage.load("ada", &[row], &[]).await.head, now.head);
    assert!(stage.load("bob", &[], &[]).await.device.is_none());
    stage.store.close().await;
}

async fn many_users_share_a_commit_and_one_left_out_harms_none(backend: Backend) {
    let database = backend.database().await;
    let stage = Stage::set(&database).await;
    let key = Uuid::new_v4();
    let row = stage.row("users", key);
    let users: Vec<UserId> = (0..20)
        .map(|_| UserId::new(fresh_user()).expect("a valid user"))
        .collect();
    let mut commits = Vec::new();
    for user in &users {
        let loaded = stage.load_as(user, "ada", &[row], &[]).await;
        commits.push(commit(&loaded, "ada", &[write(1, row, Op::Insert, 0)]));
    }
    // The seventh user has moved on since.
    stage.commit(commits[7].clone()).await;
    let outcomes = stage.store.commit(commits).await.expect("commits");
    for (index, outcome) in outcomes.iter().enumerate() {
        match index {
            7 => assert_eq!(*outcome, Outcome::LeftOut),
            _ => is_done(outcome),
        }
    }
    let of: Vec<_> = users.iter().map(|user| (user.clone(), None)).collect();
    let heads = stage.store.heads(&of).await.expect("heads");
    let is_one = |reach: &Option<Reach>| reach.expect("known").head == ServerId::new(1);
    assert_eq!(heads.reaches.len(), users.len());
    assert!(heads.reaches.iter().all(is_one));
    stage.store.close().await;
}

async fn a_change_id_cannot_be_written_twice(backend: Backend) {
    let database = backend.database().await;
    let stage = Stage::set(&database).await;
    let rows = [0, 1, 2].map(|_| stage.row("users", Uuid::new_v4()));
    let loaded = stage.load("ada", &[], &[]).await;
    stage
        .commit(commit(&loaded, "ada", &[write(1, rows[0], Op::Insert, 0)]))
        .await;
    // Whoever decides wrongly is stopped by the database: nothing of it remains.
    let now = stage.load("ada", &[], &[]).await;
    let wrong = commit(
        &now,
        "ada",
        &[
            write(2, rows[1], Op::Insert, 0),
            write(1, rows[2], Op::Insert, 0),
        ],
    );
    assert!(stage.store.commit(vec![wrong]).await.is_err());
    assert_eq!(stage.load("ada", &[], &[]).await.head, now.head);
    assert_eq!(ids(&stage.page("bob", 0, 10, false).await), [1]);
    stage.store.close().await;
}

async fn everything_is_there_after_reopening(backend: Backend) {
    let database = backend.database().await;
    let stage = Stage::set(&database).await;
    let row = stage.row("posts", Uuid::new_v4());
    let loaded = stage.load("ada", &[row], &[]).await;
    stage
        .commit(commit(&loaded, "ada", &[write(1, row, Op::Insert, 0)]))
        .await;
    let before = stage.load("ada", &[row], &[1]).await;
    stage.store.close().await;

    let mut again = Stage::set(&database).await;
    again.user = stage.user.clone();
    let after = again.load("ada", &[row], &[1]).await;
    assert_eq!((after.head, after.epoch), (before.head, before.epoch));
    assert_eq!((after.rows, after.recorded), (before.rows, before.recorded));
    assert_eq!(ids(&again.page("bob", 0, 10, false).await), [1]);
    again.store.close().await;
}

/// What one process announces, another hears; the embedded store has no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_travel_between_the_processes_of_one_postgres() {
    let database = Backend::Postgres.database().await;
    let (here, there) = (Stage::set(&database).await, Stage::set(&database).await);
    let mut heard = there
        .store
        .bus()
        .expect("PostgreSQL has a bus")
        .listen()
        .await
        .expect("it listens");
    let heads: Vec<(UserId, ServerId)> = (1..300)
        .map(|n| {
            let user = UserId::new(format!("user-{n}-{}", "x".repeat(60))).expect("a valid user");
            (user, ServerId::new(n))
        })
        .collect();
    let bus = here.store.bus().expect("PostgreSQL has a bus");
    bus.publish(heads.clone()).await.expect("it publishes");
    for expected in heads {
        assert_eq!(heard.recv().await, Some(expected));
    }
    let embedded = Backend::Embedded.database().await;
    assert!(Stage::set(&embedded).await.store.bus().is_none());
}
