//! The life of an application on its users' devices: installed, used, taken
//! offline, reinstalled, replaced, lent to somebody else. Each story ends with
//! every device equal to a fresh one, and with `oversync verify` silent.

use oversqlite::{Client, DeviceId, SignOut, UserId};
use oversync_tests::server::command;
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Backend, Config, Database, Port, Server, eventually, on_both_stores};
use rusqlite::{Connection, params};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

on_both_stores!(
    a_fresh_install_brings_what_the_user_wrote_before,
    normal_use,
    a_reinstall_counts_on,
    copies_of_a_file_lose_nothing,
    a_device_is_replaced,
    offline_and_online_again,
    conflicts_end_the_same_everywhere,
    another_user_signs_in,
    fifty_parents_and_a_hundred_children_made_offline,
    many_batches_with_deletes,
    deleted_here_added_again_there,
    blob_keys_with_cascading_children,
);

/// On the device: text keys and blob keys, each with children that go with
/// their parent.
const ON_THE_DEVICE: &str = "
    PRAGMA foreign_keys = ON;
    CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, age INTEGER);
    CREATE TABLE posts (id TEXT PRIMARY KEY NOT NULL, title TEXT,
        author_id TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE);
    CREATE TABLE albums (id BLOB PRIMARY KEY NOT NULL DEFAULT (randomblob(16)), title TEXT);
    CREATE TABLE photos (id BLOB PRIMARY KEY NOT NULL DEFAULT (randomblob(16)), bytes BLOB,
        album_id BLOB NOT NULL REFERENCES albums (id) ON DELETE CASCADE);";

const TABLES: [&str; 4] = ["people", "posts", "albums", "photos"];

/// In the server's database: the same tables, with their owner.
fn on_the_server(backend: Backend) -> &'static str {
    match backend {
        Backend::Postgres => {
            "CREATE SCHEMA life;
             CREATE TABLE life.people (id uuid PRIMARY KEY, owner text NOT NULL, name text, age bigint);
             CREATE TABLE life.posts (id uuid PRIMARY KEY, owner text NOT NULL, title text,
                 author_id uuid NOT NULL REFERENCES life.people (id) DEFERRABLE INITIALLY DEFERRED);
             CREATE TABLE life.albums (id uuid PRIMARY KEY, owner text NOT NULL, title text);
             CREATE TABLE life.photos (id uuid PRIMARY KEY, owner text NOT NULL, bytes bytea,
                 album_id uuid NOT NULL REFERENCES life.albums (id) DEFERRABLE INITIALLY DEFERRED);"
        }
        Backend::Embedded => {
            "CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, owner TEXT NOT NULL, name TEXT, age INTEGER);
             CREATE TABLE posts (id TEXT PRIMARY KEY NOT NULL, owner TEXT NOT NULL, title TEXT,
                 author_id TEXT NOT NULL REFERENCES people (id));
             CREATE TABLE albums (id BLOB PRIMARY KEY NOT NULL, owner TEXT NOT NULL, title TEXT);
             CREATE TABLE photos (id BLOB PRIMARY KEY NOT NULL, owner TEXT NOT NULL, bytes BLOB,
                 album_id BLOB NOT NULL REFERENCES albums (id));"
        }
    }
}

/// A server whose business tables are the application's.
struct World {
    // Dropped in this order.
    server: Server,
    _database: Database,
}

impl World {
    async fn new(backend: Backend) -> Self {
        Self::with(backend, Config::default()).await
    }

    async fn with(backend: Backend, config: Config) -> Self {
        let database = backend.database().await;
        database.execute(on_the_server(backend)).await;
        let tables = TABLES.map(|table| {
            let mut settings = toml::Table::new();
            settings.insert("schema".to_owned(), "life".into());
            settings.insert("table".to_owned(), table.into());
            settings.insert("owner_column".to_owned(), "owner".into());
            toml::Value::Table(settings)
        });
        let config = config
            .set("tables", tables.to_vec())
            .set("strict_tables", true);
        let server = Server::start(&database, config).await;
        Self {
            server,
            _database: database,
        }
    }

    /// A file that the application has made, and nobody synchronises yet.
    fn phone(&self, user: &str, device: &str) -> Phone {
        let folder = TempDir::with_prefix("oversync-phone.").expect("a temporary folder");
        let phone = Phone {
            path: folder.path().join("app.db"),
            _folder: folder,
            user: user.to_owned(),
            device: device.to_owned(),
            client: None,
        };
        phone.sql(ON_THE_DEVICE);
        phone
    }

    /// A synchronised one.
    async fn online(&self, user: &str, device: &str) -> Phone {
        let mut phone = self.phone(user, device);
        phone.open(self).await;
        phone.sync().await;
        phone
    }

    /// Every device shows what the server has; returned for more questions.
    async fn all_equal(&self, phones: &[&Phone]) -> Contents {
        for _ in 0..3 {
            for phone in phones {
                phone.sync().await;
            }
        }
        let fresh = self.online(&phones[0].user, &fresh_key()).await.contents();
        for phone in phones {
            assert_eq!(phone.contents(), fresh, "{} differs", phone.device);
            let status = phone.client().status().await.expect("a status");
            assert_eq!(
                (status.unsent, status.rejected, status.parked),
                (0, 0, 0),
                "{}: {status:?}",
                phone.device
            );
        }
        let verified = command()
            .args(["verify", "--all", "--config"])
            .arg(self.server.config())
            .output()
            .expect("verify runs");
        let said = String::from_utf8_lossy(&verified.stdout);
        assert!(verified.status.success(), "{said}");
        fresh
    }
}

/// Every row of every table, keys first, as SQL literals.
type Contents = Vec<String>;

/// An application's file on a device.
struct Phone {
    client: Option<Client>,
    path: PathBuf,
    _folder: TempDir,
    user: String,
    device: String,
}

impl Phone {
    async fn try_open(&mut self, world: &World) -> Result<(), oversqlite::Error> {
        let target = world.server.target();
        let token = target.token(&self.user, &self.device, Duration::from_secs(3_600));
        let config = oversqlite::Config::new(
            &self.path,
            target.base(),
            UserId::new(self.user.clone()).expect("a user"),
            move || {
                let token = token.clone();
                async move { Ok(token) }
            },
        )
        .device(DeviceId::new(self.device.clone()).expect("a device"))
        .schema("life");
        let config = TABLES
            .iter()
            .fold(config, |config, table| config.table(*table));
        self.client = Some(Client::open(config).await?);
        Ok(())
    }

    async fn open(&mut self, world: &World) {
        self.try_open(world).await.expect("the client opens");
    }

    async fn close(&mut self) {
        if let Some(client) = self.client.take() {
            client.stop().await;
        }
    }

    /// A copy of the file as it is now, made by SQLite.
    fn backup(&self) -> PathBuf {
        let copy = self.path.with_extension(fresh_key());
        self.file()
            .execute("VACUUM INTO ?1", [copy.to_str().expect("text")])
            .expect("copied");
        copy
    }

    /// A copy takes the place of the file; the client is closed.
    fn put_back(&self, copy: &Path) {
        for left in ["db-wal", "db-shm"] {
            let _ = std::fs::remove_file(self.path.with_extension(left));
        }
        std::fs::copy(copy, &self.path).expect("copied");
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("opened")
    }

    async fn sync(&self) {
        self.client().sync().await.expect("it synchronises");
    }

    /// A program that knows nothing of us.
    fn file(&self) -> Connection {
        let file = Connection::open(&self.path).expect("the file opens");
        file.busy_timeout(Duration::from_secs(10))
            .expect("a time-out");
        file.pragma_update(None, "foreign_keys", true)
            .expect("a pragma");
        file
    }

    fn sql(&self, sql: &str) {
        self.file()
            .execute_batch(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    fn count(&self, table: &str) -> i64 {
        self.file()
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                row.get(0)
            })
            .expect("a count")
    }

    fn contents(&self) -> Contents {
        let file = self.file();
        let mut contents = Vec::new();
        for (table, columns) in [
            ("people", "quote(id) || quote(name) || quote(age)"),
            ("posts", "quote(id) || quote(title) || quote(author_id)"),
            ("albums", "quote(id) || quote(title)"),
            ("photos", "quote(id) || quote(bytes) || quote(album_id)"),
        ] {
            let sql = format!("SELECT '{table} ' || {columns} FROM {table} ORDER BY id");
            let mut rows = file.prepare(&sql).expect("a query");
            let rows = rows.query_map([], |row| row.get(0)).expect("rows");
            contents.extend(rows.map(|row| row.expect("text")));
        }
        contents
    }
}

fn person(id: &str, name: &str) -> String {
    format!("INSERT INTO people (id, name) VALUES ('{id}', '{name}');")
}

fn post(id: &str, author: &str, title: &str) -> String {
    format!("INSERT INTO posts (id, author_id, title) VALUES ('{id}', '{author}', '{title}');")
}

async fn a_fresh_install_brings_what_the_user_wrote_before(backend: Backend) {
    let (world, user) = (World::new(backend).await, fresh_user());
    let laptop = world.online(&user, "laptop").await;
    laptop.sql(&person(&fresh_key(), "from the laptop"));
    laptop.sync().await;
    // A year of use, before anybody thought of synchronising.
    let mut phone = world.phone(&user, "phone");
    let author = fresh_key();
    phone.sql(&person(&author, "from before"));
    phone.sql(&post(&fresh_key(), &author, "from before"));
    phone.sql("INSERT INTO albums (title) VALUES ('from before')");
    phone.open(&world).await;
    phone.sql(&post(
        &fresh_key(),
        &author,
        "after opening, before the first sync",
    ));
    phone.sync().await;
    let all = world.all_equal(&[&phone, &laptop]).await;
    assert_eq!(all.len(), 5, "{all:#?}");
}

async fn normal_use(backend: Backend) {
    let (world, user) = (World::new(backend).await, fresh_user());
    let phone = world.online(&user, "phone").await;
    let laptop = world.online(&user, "laptop").await;
    for device in [&phone, &laptop] {
        device.client().start().expect("the engine starts");
    }
    let author = fresh_key();
    phone.sql(&person(&author, "Ann"));
    eventually("the person is on the laptop", || async {
        (laptop.count("people") == 1).then_some(())
    })
    .await;
    for day in 0..10 {
        let (here, there) = if day % 2 == 0 {
            (&phone, &laptop)
        } else {
            (&laptop, &phone)
        };
        here.sql(&post(&fresh_key(), &author, &format!("day {day}")));
        here.sql(&format!(
            "UPDATE people SET age = {day}, name = name || '!'"
        ));
        eventually("the day is on the other device", || async {
            let seen: Option<i64> = there
                .file()
                .query_row("SELECT age FROM people", [], |row| row.get(0))
                .expect("a person");
            (seen == Some(day) && there.count("posts") == day + 1).then_some(())
        })
        .await;
    }
    let all = world.all_equal(&[&phone, &laptop]).await;
    assert!(all[0].contains("Ann!!!!!!!!!!"), "{}", all[0]);
}

async fn a_reinstall_counts_on(backend: Backend) {
    let (world, user) = (World::new(backend).await, fresh_user());
    let author = fresh_key();
    let before = world.online(&user, "phone").await;
    before.sql(&person(&author, "Ann"));
    for n in 0..5 {
        before.sql(&post(&fresh_key(), &author, &format!("before {n}")));
    }
    before.sync().await;
    drop(before);
    // The same device name, an empty file, and edits before the first contact.
    let mut after = world.phone(&user, "phone");
    after.open(&world).await;
    let newcomer = fresh_key();
    after.sql(&person(&newcomer, "Bob"));
    after.sql(&post(&fresh_key(), &newcomer, "after"));
    after.sync().await;
    assert_eq!((after.count("people"), after.count("posts")), (2, 6));
    after.sql("UPDATE posts SET title = title || '.'");
    let all = world.all_equal(&[&after]).await;
    assert_eq!(all.len(), 8, "{all:#?}");
}

/// The file is copied to another device, and both go on under one name; later the
/// first one is put back to an old state of itself.
async fn copies_of_a_file_lose_nothing(backend: Backend) {
    let (world, user) = (World::new(backend).await, fresh_user());
    let author = fresh_key();
    let mut first = world.online(&user, "phone").await;
    let other = world.online(&user, "laptop").await;
    first.sql(&person(&author, "Ann"));
    first.sync().await;
    let mut copy = world.phone(&user, "phone");
    copy.put_back(&first.backup());
    let old_state = first.backup();
    copy.open(&world).await;
    // Both give out the same numbers, for other content, without a look at the server.
    for n in 0..4 {
        first.sql(&post(&fresh_key(), &author, &format!("first {n}")));
        copy.sql(&post(&fresh_key(), &author, &format!("copy {n}")));
    }
    first.sql("UPDATE people SET name = 'Anna'");
    copy.sql("UPDATE people SET age = 7");
    first.sync().await;
    copy.sync().await;
    let all = world.all_equal(&[&first, &copy, &other]).await;
    assert_eq!(all.len(), 9, "{all:#?}");
    assert!(all[0].contains("'Anna'7"), "{all:#?}");
    // The old state knows nothing of all that, and its numbers are used up.
    first.close().await;
    first.put_back(&old_state);
    first.sql(&post(&fresh_key(), &author, "put back"));
    first.sql("UPDATE people SET age = 8");
    first.open(&world).await;
    first.sync().await;
    let all = world.all_equal(&[&first, &copy, &other]).await;
    assert_eq!(all.len(), 10, "{all:#?}");
    // Ann is seven for the others: both have set her age, and the server's stands.
    assert!(all[0].contains("'Anna'7"), "{all:#?}");
    let lost = first.client().conflicts().await.expect("a list");
    assert_eq!(lost[0].lost.as_deref(), Some(r#"{"age":8}"#));
}

async fn a_device_is_replaced(backend: Backend) {
    let (world, user) = (World::new(backend).await, fresh_user());
    let (shared, late) = (fresh_key(), fresh_key());
    let old = world.online(&user, "old").await;
    old.sql(&person(&shared, "Ann"));
    old.sync().await;
    // In a drawer, with one edit that nobody has seen.
    old.sql(&person(&late, "Late"));
    let new = world.online(&user, "new").await;
    assert_eq!(new.count("people"), 1);
    for age in 1..=5 {
        new.sql(&format!(
            "UPDATE people SET age = {age} WHERE id = '{shared}'"
        ));
        new.sync().await;
    }
    // A year later somebody switches it on.
    let all = world.all_equal(&[&old, &new]).await;
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(all.iter().any(|row| row.contains("'Ann'5")), "{all:#?}");
}

async fn offline_and_online_again(backend: Backend) {
    let (mut world, user) = (World::new(backend).await, fresh_user());
    let phone = world.online(&user, "phone").await;
    let laptop = world.online(&user, "laptop").await;
    let mut expected = 0;
    for round in 0..3 {
        world.server.kill();
        for (device, name) in [(&phone, "phone"), (&laptop, "laptop")] {
            let author = fresh_key();
            device.sql(&person(&author, name));
            device.sql(&post(&fresh_key(), &author, &format!("round {round}")));
            let refused = device.client().sync().await;
            assert!(refused.is_err(), "there is no server: {refused:?}");
            assert_eq!(device.client().status().await.expect("a status").unsent, 2);
            expected += 2;
        }
        world.server.restart(Port::Same).await;
        let all = world.all_equal(&[&phone, &laptop]).await;
        assert_eq!(all.len(), expected);
    }
}

async fn conflicts_end_the_same_everywhere(backend: Backend) {
    let (world, user) = (World::new(backend).await, fresh_user());
    let phone = world.online(&user, "phone").await;
    let laptop = world.online(&user, "laptop").await;
    let (both, gone, kept) = (fresh_key(), fresh_key(), fresh_key());
    for (key, name) in [(&both, "both"), (&gone, "gone"), (&kept, "kept")] {
        phone.sql(&person(key, name));
    }
    phone.sync().await;
    laptop.sync().await;
    // The same column on both; a delete against an edit, either way round.
    phone.sql(&format!(
        "UPDATE people SET name = 'phone' WHERE id = '{both}'"
    ));
    laptop.sql(&format!(
        "UPDATE people SET name = 'laptop' WHERE id = '{both}'"
    ));
    phone.sql(&format!("DELETE FROM people WHERE id = '{gone}'"));
    laptop.sql(&format!(
        "UPDATE people SET name = 'edited' WHERE id = '{gone}'"
    ));
    phone.sql(&format!(
        "UPDATE people SET name = 'edited' WHERE id = '{kept}'"
    ));
    laptop.sql(&format!("DELETE FROM people WHERE id = '{kept}'"));
    phone.sync().await;
    let all = world.all_equal(&[&laptop, &phone]).await;
    assert!(all.iter().any(|row| row.contains("'phone'")), "{all:#?}");
    // What gave way is on the device that wrote it, with both sides.
    let conflicts = laptop.client().conflicts().await.expect("a list");
    assert!(
        conflicts
            .iter()
            .any(|conflict| format!("{conflict:?}").contains("laptop")),
        "{conflicts:#?}"
    );
}

async fn another_user_signs_in(backend: Backend) {
    let world = World::new(backend).await;
    let (ann, bob) = (fresh_user(), fresh_user());
    let mut phone = world.online(&ann, "phone").await;
    phone.sql(&person(&fresh_key(), "of Ann"));
    phone.sync().await;
    phone.sql(&person(&fresh_key(), "of Ann, unsent"));
    // The file is Ann's: nobody else gets it, and nothing of it is sent as theirs.
    phone.client = None;
    phone.user.clone_from(&bob);
    let refused = phone.try_open(&world).await.expect_err("the file is Ann's");
    let text = refused.to_string();
    assert!(text.contains(&ann) && text.contains(&bob), "{text}");
    let of_bob = world.online(&bob, "phone").await;
    of_bob.sql(&person(&fresh_key(), "of Bob"));
    let all = world.all_equal(&[&of_bob]).await;
    assert_eq!(all.len(), 1, "{all:#?}");
    // Ann comes back to her file.
    phone.user.clone_from(&ann);
    phone.open(&world).await;
    let all = world.all_equal(&[&phone]).await;
    assert_eq!(all.len(), 2, "{all:#?}");
    // She gives the phone away; her last edit goes up first.
    phone.sql(&person(&fresh_key(), "of Ann, at the last minute"));
    let signed_out = phone.client().sign_out(SignOut::SyncFirst).await;
    signed_out.expect("everything can be sent");
    phone.client = None;
    assert_eq!(phone.contents(), Contents::new());
    phone.user.clone_from(&bob);
    phone.open(&world).await;
    let all = world.all_equal(&[&phone, &of_bob]).await;
    assert_eq!(all.len(), 1, "{all:#?}");
    let of_ann = world.online(&ann, "laptop").await;
    assert_eq!(world.all_equal(&[&of_ann]).await.len(), 3);
}

async fn fifty_parents_and_a_hundred_children_made_offline(backend: Backend) {
    let (world, user) = (World::new(backend).await, fresh_user());
    let phone = world.online(&user, "phone").await;
    let laptop = world.online(&user, "laptop").await;
    let file = phone.file();
    let parents: Vec<String> = (0..50).map(|_| fresh_key()).collect();
    // Children first: the references hold when the transaction ends.
    file.execute_batch("BEGIN; PRAGMA defer_foreign_keys = ON")
        .expect("a transaction");
    for n in 0..100 {
        file.execute(
            "INSERT INTO posts (id, author_id, title) VALUES (?1, ?2, ?3)",
            params![fresh_key(), parents[n % 50], format!("child {n}")],
        )
        .expect("a child");
    }
    for parent in &parents {
        file.execute_batch(&person(parent, "parent"))
            .expect("a parent");
    }
    file.execute_batch("COMMIT").expect("the references hold");
    let all = world.all_equal(&[&phone, &laptop]).await;
    assert_eq!(all.len(), 150);
    assert_eq!((laptop.count("people"), laptop.count("posts")), (50, 100));
}

async fn many_batches_with_deletes(backend: Backend) {
    // Small batches: parents and children are sent in different uploads.
    let config = Config::default().set("limits.max_changes", 17);
    let world = World::with(backend, config).await;
    let user = fresh_user();
    let phone = world.online(&user, "phone").await;
    let laptop = world.online(&user, "laptop").await;
    let parents: Vec<String> = (0..60).map(|_| fresh_key()).collect();
    for (n, parent) in parents.iter().enumerate() {
        phone.sql(&person(parent, &format!("parent {n}")));
        for child in 0..2 {
            phone.sql(&post(&fresh_key(), parent, &format!("{n}/{child}")));
        }
        if n % 20 == 10 {
            phone.sync().await;
        }
    }
    // Some that were sent, some that never were; their children go with them.
    for parent in parents.iter().step_by(6) {
        phone.sql(&format!("DELETE FROM people WHERE id = '{parent}'"));
    }
    laptop.sync().await;
    laptop.sql("DELETE FROM posts WHERE title LIKE '%/1'");
    let all = world.all_equal(&[&phone, &laptop]).await;
    assert_eq!(phone.count("people"), 50, "{all:#?}");
    assert!((50..=100).contains(&phone.count("posts")), "{all:#?}");
}

async fn deleted_here_added_again_there(backend: Backend) {
    let (world, user) = (World::new(backend).await, fresh_user());
    let phone = world.online(&user, "phone").await;
    let laptop = world.online(&user, "laptop").await;
    let key = fresh_key();
    phone.sql(&person(&key, "first"));
    phone.sync().await;
    laptop.sync().await;
    for round in 0..4 {
        // Deleted and added again in one go, by both, before either has synced.
        let (here, there) = if round % 2 == 0 {
            (&phone, &laptop)
        } else {
            (&laptop, &phone)
        };
        here.sql(&format!("DELETE FROM people WHERE id = '{key}'"));
        here.sync().await;
        there.sql(&format!("DELETE FROM people WHERE id = '{key}'"));
        there.sql(&person(&key, &format!("again {round}")));
        there.sync().await;
        here.sync().await;
        world.all_equal(&[&phone, &laptop]).await;
        if here.count("people") == 0 {
            there.sql(&person(&key, &format!("added after all {round}")));
        }
        let all = world.all_equal(&[here, there]).await;
        assert_eq!(all.len(), 1, "round {round}: {all:#?}");
    }
}

async fn blob_keys_with_cascading_children(backend: Backend) {
    let (world, user) = (World::new(backend).await, fresh_user());
    let phone = world.online(&user, "phone").await;
    let laptop = world.online(&user, "laptop").await;
    phone.sql(
        "INSERT INTO albums (title) VALUES ('summer'), ('winter');
         INSERT INTO photos (bytes, album_id) SELECT randomblob(100), id FROM albums;
         INSERT INTO photos (bytes, album_id) SELECT x'', id FROM albums;
         INSERT INTO photos (bytes, album_id) SELECT NULL, id FROM albums;",
    );
    assert_eq!(world.all_equal(&[&phone, &laptop]).await.len(), 8);
    // An update of the parent leaves the children alone.
    laptop.sql("UPDATE albums SET title = title || ', edited'");
    assert_eq!(world.all_equal(&[&laptop, &phone]).await.len(), 8);
    phone.sql("DELETE FROM albums WHERE title LIKE 'summer%'");
    let all = world.all_equal(&[&phone, &laptop]).await;
    assert_eq!((all.len(), laptop.count("photos")), (4, 3), "{all:#?}");
    // A photo is added to an album that the other device deletes meanwhile.
    laptop.sql("INSERT INTO photos (bytes, album_id) SELECT x'01', id FROM albums");
    phone.sql("DELETE FROM albums");
    phone.sync().await;
    laptop.sync().await;
    let status = laptop.client().status().await.expect("a status");
    let is_there = laptop.count("photos") > 0;
    assert!(
        is_there || status.conflicts + status.rejected + status.unsent > 0,
        "the photo is nowhere: {status:?}"
    );
}
