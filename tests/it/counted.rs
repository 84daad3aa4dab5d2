//! Who holds up folding, and who does not: devices at the start, devices that only their
//! own changes reach, silent ones; what is known of them, and that plain clients which
//! are never told anything but pages end with what the server has.

use oversync_tests::device::{delete, insert, update};
use oversync_tests::folding::{
    count, eager, folded_up_to, folds, ids, name_of, own, people, silence,
};
use oversync_tests::server::output;
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{
    Backend, Config, Database, HttpDevice, Seed, Server, eventually, on_both_stores,
};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long folding may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

on_both_stores!(
    a_device_that_never_moved_hears_what_became_of_its_rows,
    what_a_device_need_not_read_holds_nothing,
    a_device_through_with_the_fold_holds_nothing,
    cursors_are_known_before_folding_is_switched_on,
    records_are_kept_while_their_device_is_there,
    who_is_refused_holds_nothing,
    who_has_waited_longest_is_folded_first,
    plain_clients_agree_while_it_folds,
);

/// Waits until a device's cursor is written down: here entries are folded as soon as
/// they are there.
async fn known(database: &Database, device: &HttpDevice, cursor: i64) {
    let name = device.name();
    let known = format!("readers WHERE device_id = '{name}' AND cursor = {cursor}");
    eventually("its cursor is known", || async {
        (count(database, &known).await == 1).then_some(())
    })
    .await;
}

/// A device that uploads and never moves its cursor has rows, although it is at the
/// start. It must hear of what others deleted of them, whenever it comes.
async fn a_device_that_never_moved_hears_what_became_of_its_rows(backend: Backend) {
    for silent in [false, true] {
        let database = backend.database().await;
        let server = Server::start(&database, eager()).await;
        let ann = server.target().one_device();
        let eve = ann.sibling("eve");
        let keys: Vec<String> = (0..3).map(|_| fresh_key()).collect();
        ann.upload(&people(1, &keys)).await;
        assert_eq!(eve.download("after=0").await["next_after"], 3);
        known(&database, &eve, 3).await;
        eve.upload(&[
            delete(1, "business.users", &keys[0], 1),
            update(2, "business.users", &keys[1], 1, name_of(7)),
        ])
        .await;
        assert_eq!(eve.download("after=3").await["next_after"], 3);
        if silent {
            silence(&database, ann.name()).await;
        }
        folded_up_to(&database, 5).await;
        // As one page, and one by one.
        for limit in [100, 1] {
            let (seen, cursor) = ann.download_all(0, limit, "").await;
            let told: Vec<_> = seen
                .iter()
                .map(|change| (&change["pk"], &change["op"], &change["server_version"]))
                .collect();
            let (gone, changed) = (json!(keys[0]), json!(keys[1]));
            assert_eq!(
                told,
                [
                    (&changed, &json!("INSERT"), &json!(2)),
                    (&gone, &json!("DELETE"), &json!(2))
                ]
            );
            assert_eq!(cursor, 5);
        }
        // To who never had it nothing is said of what is gone.
        let (fresh, _) = ann.sibling("fresh").download_all(0, 100, "").await;
        assert_eq!(fresh.len(), 2);
        server.verified().await;
        // When it has moved on, there is nobody left who would have to hear of it.
        assert_eq!(count(&database, "log").await, 3);
        ann.download("after=5").await;
        eventually("its cursor is known", || async {
            let moved = count(&database, "devices WHERE has_moved").await;
            (moved == 2).then_some(())
        })
        .await;
        let more: Vec<_> = (0..2)
            .map(|version| {
                update(
                    4 + version,
                    "business.users",
                    &keys[2],
                    1 + version,
                    json!({}),
                )
            })
            .collect();
        ann.upload(&more).await;
        for device in [&eve, &ann, &ann.sibling("fresh")] {
            device.download("after=7").await;
        }
        folded_up_to(&database, 7).await;
        assert_eq!(count(&database, "log").await, 2);
        server.verified().await;
    }
}

/// A plain client's cursor stands still while only its own changes come.
async fn what_a_device_need_not_read_holds_nothing(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, eager()).await;
    let ann = server.target().one_device();
    let eve = ann.sibling("eve");
    let key = fresh_key();
    eve.upload(&[insert(1, "business.users", &key, json!({}))])
        .await;
    assert_eq!(ann.download("after=0").await["next_after"], 1);
    known(&database, &ann, 1).await;
    for round in 0..4 {
        for n in 1..=5 {
            let id = round * 5 + n;
            ann.upload(&[update(id, "business.users", &key, id, name_of(id))])
                .await;
        }
        let page = ann.download("after=1").await;
        assert_eq!(
            (&page["changes"], &page["next_after"]),
            (&json!([]), &json!(1))
        );
        folded_up_to(&database, 1 + (round + 1) * 5).await;
    }
    // Others' changes are there for it, and hold the floor until it has them.
    eve.upload(&[delete(2, "business.users", &key, 21)]).await;
    let next = fresh_key();
    ann.upload(&[insert(99, "business.users", &next, json!({}))])
        .await;
    for _ in 0..2 {
        let page = ann.download("after=1").await;
        assert_eq!(ids(&page["changes"]), [22]);
        assert_eq!(page["changes"][0]["op"], "DELETE");
    }
    assert_eq!(count(&database, "users WHERE floor = 21").await, 1);
    // That is true of this cursor, and of who leaves out its own.
    for other in ["after=1&include_self=true", "after=2", "after=20"] {
        let other = ann.download_raw(other).await;
        other.refused(410, "history_pruned");
    }
    ann.download("after=22").await;
    folded_up_to(&database, 23).await;
    server.verified().await;
}

/// It has read all of a fold but its own rows, which stand at the end.
async fn a_device_through_with_the_fold_holds_nothing(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, eager()).await;
    let ann = server.target().one_device();
    let eve = ann.sibling("eve");
    let keys: Vec<String> = (0..4).map(|_| fresh_key()).collect();
    eve.upload(&people(1, &keys[..2])).await;
    ann.upload(&people(1, &keys[2..])).await;
    folded_up_to(&database, 4).await;
    assert_eq!(ann.download("after=0").await["next_after"], 2);
    for round in 0..3 {
        let id = 3 + round;
        assert_eq!(ids(&ann.download("after=2").await["changes"]), [0; 0]);
        ann.upload(&[update(id, "business.users", &keys[2], 1 + round, json!({}))])
            .await;
        assert_eq!(ids(&ann.download("after=2").await["changes"]), [0; 0]);
        folded_up_to(&database, 5 + round).await;
    }
    eve.upload(&[delete(3, "business.users", &keys[0], 1)])
        .await;
    assert_eq!(ids(&ann.download("after=2").await["changes"]), [8]);
    server.verified().await;
}

async fn cursors_are_known_before_folding_is_switched_on(backend: Backend) {
    let database = backend.database().await;
    let off = Config::default()
        .set("retention.enabled", false)
        .set("retention.pause_ms", 5);
    let mut server = Server::start(&database, off).await;
    let ann = server.target().one_device();
    let eve = ann.sibling("eve");
    let keys: Vec<String> = (0..9).map(|_| fresh_key()).collect();
    ann.upload(&people(1, &keys)).await;
    eve.download("after=0").await;
    eve.download("after=9").await;
    eventually("her cursor is known", || async {
        let eve = count(&database, "readers WHERE device_id = 'eve' AND cursor = 9").await;
        (eve == 1).then_some(())
    })
    .await;
    // Written once, not at every request.
    let readers = own(&database, "readers");
    let seen_at = format!("SELECT seen_at FROM {readers} WHERE device_id = 'eve'");
    let before = database.ask(&seen_at).await;
    for _ in 0..20 {
        eve.download("after=9").await;
    }
    let late = ann.sibling("late");
    late.download("after=0").await;
    eventually("who came later is known", || async {
        let late = count(&database, "readers WHERE device_id = 'late'").await;
        (late == 1).then_some(())
    })
    .await;
    assert_eq!(database.ask(&seen_at).await, before);
    let gone: Vec<Value> = (10..)
        .zip(&keys)
        .map(|(id, key)| delete(id, "business.users", key, 1))
        .collect();
    ann.upload(&gone).await;
    assert_eq!(count(&database, "users WHERE floor > 0").await, 0);
    // What was heard last is written down at the end.
    late.download("after=12").await;
    server.terminate().await;
    assert_eq!(count(&database, "readers WHERE cursor = 12").await, 1);

    let server = Server::start(&database, eager()).await;
    let (eve, late) = (eve.at(&server.target()), late.at(&server.target()));
    folded_up_to(&database, 9).await;
    let (seen, _) = eve.download_all(9, 4, "").await;
    assert_eq!(ids(&seen.into()), (10..=18).collect::<Vec<_>>());
    eve.download("after=18").await;
    folded_up_to(&database, 12).await;
    let (seen, _) = late.download_all(12, 4, "").await;
    assert_eq!(ids(&seen.into()), (13..=18).collect::<Vec<_>>());
    server.verified().await;
}

/// Uploads alone are signs of life, for as long as records are concerned.
async fn records_are_kept_while_their_device_is_there(backend: Backend) {
    let database = backend.database().await;
    let config = eager().set("retention.enabled", false);
    let mut server = Server::start(&database, config).await;
    let ann = server.target().one_device();
    let bob = ann.sibling("bob");
    let keys: Vec<String> = (0..2).map(|_| fresh_key()).collect();
    let of = |key: &String| -> Vec<Value> {
        let change = |n: i64| update(n + 1, "business.users", key, n, name_of(n));
        (0..4).map(change).collect()
    };
    let first = ann.statuses(&of(&keys[0])).await;
    let other = bob.statuses(&of(&keys[1])).await;
    eventually("both are known", || async {
        (count(&database, "readers").await == 2).then_some(())
    })
    .await;
    for device in [ann.name(), bob.name()] {
        silence(&database, device).await;
    }
    // One of them comes back, to upload and nothing else.
    ann.upload(&[]).await;
    let since = match backend {
        Backend::Embedded => "(unixepoch() - 3600) * 1000000",
        Backend::Postgres => "now() - interval '1 hour'",
    };
    let there = format!("readers WHERE seen_at > {since} AND read_at < {since}");
    eventually("it is there again", || async {
        (count(&database, &there).await == 1).then_some(())
    })
    .await;
    server.terminate().await;
    let server = Server::start(&database, eager()).await;
    let (ann, bob) = (ann.at(&server.target()), bob.at(&server.target()));
    // What is folded now leaves a record, also of one that is forgotten by then.
    folded_up_to(&database, 8).await;
    assert_eq!(count(&database, "records").await, 6);
    assert_eq!(ann.statuses(&of(&keys[0])).await, first);
    assert_eq!(bob.statuses(&of(&keys[1])).await, other);
    eventually("both are known again", || async {
        (count(&database, &format!("readers WHERE seen_at > {since}")).await == 2).then_some(())
    })
    .await;
    eventually("the silent one is forgotten", || async {
        // Its upload above may be written down at any time until now, and makes it known
        // once more.
        silence(&database, bob.name()).await;
        let records = count(&database, "records").await;
        let readers = count(&database, "readers").await;
        ((records, readers) == (3, 1)).then_some(())
    })
    .await;
    assert_eq!(ann.statuses(&of(&keys[0])).await, first);
    // What nobody remembers is not done twice all the same.
    let again = bob.statuses(&of(&keys[1])).await;
    for status in &again[..3] {
        assert_eq!(status["status"], "conflict", "{status}");
    }
    assert_eq!(again[3], other[3], "the entry is still there");
    assert_eq!(ann.download("after=0").await["head"], 8);
    server.verified().await;
}

async fn who_is_refused_holds_nothing(backend: Backend) {
    let database = backend.database().await;
    let server = Server::start(&database, eager()).await;
    let ann = server.target().one_device();
    let keys: Vec<String> = (0..10).map(|_| fresh_key()).collect();
    ann.upload(&people(1, &keys)).await;
    folded_up_to(&database, 10).await;
    let lost = ann.sibling("lost");
    for round in 0..3 {
        let refused = lost.download_raw("after=5").await;
        refused.refused(410, "history_pruned");
        // At once: a few more of them would not be worth a new fold.
        let more: Vec<String> = (0..4).map(|_| fresh_key()).collect();
        ann.upload(&people(11 + 4 * round, &more)).await;
        folded_up_to(&database, 10 + 4 * (round + 1)).await;
    }
    server.verified().await;
}

async fn who_has_waited_longest_is_folded_first(backend: Backend) {
    let database = backend.database().await;
    let config = Config::default().set("retention.enabled", false);
    let mut server = Server::start(&database, config).await;
    let names = ["ann", "bob", "cyd"];
    for user in names {
        let device = server.target().device(user, "one");
        let keys: Vec<String> = (0..5).map(|_| fresh_key()).collect();
        device.upload(&people(1, &keys)).await;
    }
    server.terminate().await;
    let users = own(&database, "users");
    for (user, folded_at) in [("ann", 30), ("bob", 20), ("cyd", 10)] {
        let sql = format!("UPDATE {users} SET folded_at = {folded_at} WHERE user_id = '{user}'");
        database.execute(&sql).await;
    }
    let mut fold = server.program(&["fold", "--dry-run"]);
    fold.env("OVERSYNC_RETENTION__MIN_ENTRIES", "1")
        .env("OVERSYNC_RETENTION__PAUSE_MS", "1")
        .env("OVERSYNC_RETENTION__KEEP_SECONDS", "0.002");
    let output = output(fold).await;
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let order: Vec<_> = text.lines().skip(1).map(|line| &line[..3]).collect();
    assert_eq!(order, ["cyd", "bob", "ann"], "{text}");
}

// ------------------------------------------------------------------ plain clients

/// A client of nothing but PROTOCOL.md sections 1 to 4: rows with versions, a cursor
/// that follows `next_after`, its own changes left out, and 410 as it is written there.
struct Plain {
    device: HttpDevice,
    rows: BTreeMap<String, Value>,
    versions: BTreeMap<String, i64>,
    cursor: i64,
    next_id: i64,
    /// Its file is without a cursor, or begins again: its own changes too.
    hydrates: bool,
    /// It only uploads, until the end.
    only_writes: bool,
}

impl Plain {
    fn new(device: HttpDevice, only_writes: bool) -> Self {
        Self {
            device,
            rows: BTreeMap::new(),
            versions: BTreeMap::new(),
            cursor: 0,
            next_id: 1,
            hydrates: false,
            only_writes,
        }
    }

    fn set(&mut self, key: &str, version: i64, payload: &Value) {
        self.versions.insert(key.to_owned(), version);
        if payload.is_null() {
            self.rows.remove(key);
        } else {
            self.rows.insert(key.to_owned(), payload.clone());
        }
    }

    /// A new row, or a change or the end of one that it has.
    async fn write(&mut self, rng: &mut StdRng) {
        const TABLE: &str = "business.users";
        let known: Vec<&String> = self.rows.keys().collect();
        let is_new = known.is_empty() || known.len() < 12 && rng.random_bool(0.4);
        let key = if is_new {
            fresh_key()
        } else {
            known[rng.random_range(0..known.len())].clone()
        };
        let (id, version) = (self.next_id, self.versions.get(&key).copied().unwrap_or(0));
        self.next_id += 1;
        let payload = match !is_new && rng.random_bool(0.4) {
            true => Value::Null,
            false => json!({"by": self.device.name(), "id": id}),
        };
        let change = match payload.is_null() {
            true => delete(id, TABLE, &key, version),
            false => update(id, TABLE, &key, version, payload.clone()),
        };
        let reply = self
            .device
            .upload_patiently(std::slice::from_ref(&change))
            .await;
        let status = &reply["statuses"][0];
        match status["status"].as_str() {
            Some("applied") => self.set(&key, version + 1, &payload),
            Some("conflict") => {
                let row = &status["server_row"];
                let version = row["server_version"].as_i64().expect("a version");
                self.set(&key, version, &row["payload"]);
            }
            _ => panic!("{change} is answered {status}"),
        }
        // Its answer was lost: the same again.
        if rng.random_bool(0.2) {
            let again = self.device.upload_patiently(&[change]).await;
            assert_eq!(again["statuses"][0]["status"], status["status"]);
            if status["status"] == "applied" {
                assert_eq!(again["statuses"], reply["statuses"]);
            }
        }
    }

    /// One page; whether it has them all.
    async fn poll(&mut self, rng: &mut StdRng) -> bool {
        let (after, limit) = (self.cursor, rng.random_range(1..8));
        let own = if self.hydrates {
            "&include_self=true"
        } else {
            ""
        };
        let reply = self
            .device
            .download_raw(&format!("after={after}&limit={limit}{own}"))
            .await;
        if reply.status == 410 {
            assert!(after > 0, "who begins is always answered");
            self.rows.clear();
            self.versions.clear();
            (self.cursor, self.hydrates) = (0, true);
            return false;
        }
        // The answer may be lost, and is asked for again.
        if rng.random_bool(0.1) {
            return false;
        }
        let page = reply.ok();
        for change in page["changes"].as_array().expect("changes") {
            let key = change["pk"].as_str().expect("a key").to_owned();
            let version = change["server_version"].as_i64().expect("a version");
            if version > self.versions.get(&key).copied().unwrap_or(0) {
                self.set(&key, version, change.get("payload").unwrap_or(&Value::Null));
            }
        }
        self.cursor = page["next_after"].as_i64().expect("a cursor");
        let has_all = page["has_more"] == false;
        self.hydrates &= !has_all;
        has_all
    }
}

/// Lets a device be silent for so long that it is forgotten.
async fn forgotten(database: &Database, device: &str) {
    let known = format!("readers WHERE device_id = '{device}'");
    eventually("it is forgotten", || async {
        silence(database, device).await;
        (count(database, &known).await == 0).then_some(())
    })
    .await;
}

async fn plain_clients_agree_while_it_folds(backend: Backend) {
    const STEPS: usize = 300;
    let mut rng = Seed::from_env().rng(0);
    let database = backend.database().await;
    let mut servers = vec![Server::start(&database, eager()).await];
    if backend == Backend::Postgres {
        servers.push(Server::start(&database, eager()).await);
    }
    let user = fresh_user();
    let mut clients: Vec<Plain> = (0..5)
        .map(|n| {
            let target = servers[n % servers.len()].target();
            let device = target.device(&user, &format!("plain-{n}"));
            Plain::new(device, n == 0)
        })
        .collect();
    for _ in 0..STEPS {
        let who = rng.random_range(0..clients.len());
        match rng.random_range(0..20) {
            0 => forgotten(&database, clients[who].device.name()).await,
            1..=9 => clients[who].write(&mut rng).await,
            _ if clients[who].only_writes => {}
            _ => {
                clients[who].poll(&mut rng).await;
            }
        }
    }
    assert_eq!(clients[0].cursor, 0);
    let mut fresh = Plain::new(servers[0].target().device(&user, "fresh"), false);
    agree(&mut clients, &mut fresh, &mut rng).await;
    // How often it was folded meanwhile is a matter of speed. Until it was often enough:
    // more of it, with all at the head.
    while folds(&database).await <= 3 {
        let before = folds(&database).await;
        for _ in 0..20 {
            fresh.write(&mut rng).await;
        }
        let start = Instant::now();
        while folds(&database).await == before {
            agree(&mut clients, &mut fresh, &mut rng).await;
            assert!(start.elapsed() < PATIENCE, "it is not folded");
        }
    }
    agree(&mut clients, &mut fresh, &mut rng).await;
    servers[0].verified().await;
}

/// All of them read to the end, and have the same.
async fn agree(clients: &mut [Plain], fresh: &mut Plain, rng: &mut StdRng) {
    while !fresh.poll(rng).await {}
    for client in clients {
        while !client.poll(rng).await {}
        assert_eq!(client.rows, fresh.rows, "{}", client.device.name());
    }
}
