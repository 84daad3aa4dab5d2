//! A restore of PostgreSQL that is cut off: by a signal, or because one of the three
//! processes that make it is killed. The database is what it was, or says what to do.

use crate::recovery::{back_up, place, text};
use oversync_tests::device::insert;
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Database, HttpDevice, Port, Server, eventually};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor as _, PgConnection};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

const USERS: &str = "business.users";

/// A table whose rows come back only when nobody holds the lock, and behind it more than
/// fits between the programs.
const GATE: &str = "CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(1); RETURN true; END $$;
    CREATE TABLE gates (x int CHECK (gate()));
    INSERT INTO gates VALUES (1);
    CREATE TABLE heavy (words text);
    INSERT INTO heavy SELECT repeat('many words ', 100) FROM generate_series(1, 4000)";

/// Sessions of the program that plays a dump.
const OF_PSQL: &str = "FROM pg_stat_activity \
    WHERE datname = current_database() AND application_name = 'psql'";

/// A server that has stopped, a backup, and what was written after it.
struct Ward {
    database: Database,
    server: Server,
    device: HttpDevice,
    backup: PathBuf,
    before: Value,
    _folder: TempDir,
}

impl Ward {
    async fn set() -> Self {
        let database = Backend::Postgres.database().await;
        let mut server = Server::answering(&database, Config::default()).await;
        let device = server.target().one_device();
        let row = |id| insert(id, USERS, &fresh_key(), json!({"n": id}));
        device.upload(&[row(1)]).await;
        database.execute(GATE).await;
        let (folder, backup) = place();
        back_up(&server, &backup).await;
        device.upload(&[row(2)]).await;
        let before = everything(&device).await;
        server.terminate().await;
        Self {
            database,
            server,
            device,
            backup,
            before,
            _folder: folder,
        }
    }

    fn replace(&self) -> [&str; 5] {
        let from = text(&self.backup);
        ["restore", "--replace", "--json", "--from", from]
    }

    /// The program in the middle of the dump: it waits at the gate.
    async fn in_the_middle(&self, arguments: &[&str], at: &Database) -> (Child, Gate) {
        let gate = Gate::shut(at).await;
        let mut program = self.server.program(arguments);
        program.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = program.spawn().expect("it starts");
        let waiting = format!("SELECT count(*) {OF_PSQL} AND wait_event = 'advisory'");
        eventually("it waits in the middle", || async {
            (at.ask(&waiting).await? == "1").then_some(())
        })
        .await;
        (child, gate)
    }

    /// Everything is as before the restore, for the server and its devices.
    async fn is_untouched(&mut self) {
        gone(&self.database).await;
        self.server.restart(Port::Same).await;
        assert_eq!(everything(&self.device).await, self.before);
        self.server.verified().await;
        self.server.terminate().await;
    }

    /// What comes next is whole.
    async fn is_restored_by(&mut self, arguments: &[&str]) {
        let done = self.server.told(arguments).await;
        assert_eq!(done["users"], 1, "{done}");
        self.server.restart(Port::Same).await;
        let page = everything(&self.device).await;
        assert_eq!(page["changes"].as_array().map(Vec::len), Some(1), "{page}");
        self.server.verified().await;
    }
}

/// The lock at which a restore waits.
struct Gate(PgConnection);

impl Gate {
    async fn shut(at: &Database) -> Self {
        let mut holder = PgConnection::connect(at.url()).await.expect("connects");
        let locked = holder.execute("SELECT pg_advisory_lock(1)").await;
        locked.expect("locked");
        Self(holder)
    }

    async fn open(self) {
        self.0.close().await.expect("let go");
    }
}

async fn everything(device: &HttpDevice) -> Value {
    device.download("after=0&include_self=true").await
}

/// What a program says at its end, which is no success.
async fn failed(child: Child) -> String {
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output().expect("it ends"));
    let output: Output = ended.await.expect("it ends");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

/// The process of this name that another one has started.
fn child_of(parent: &Child, name: &str) -> u32 {
    let processes = std::fs::read_dir("/proc").expect("processes");
    let mut numbers = processes.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.parse::<u32>().ok()
    });
    let found = numbers.find(|pid| {
        // "pid (name) state parent …"
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.split_once(&format!("({name}) "));
        let of = rest.and_then(|(_, rest)| rest.split(' ').nth(1));
        of == Some(&parent.id().to_string())
    });
    found.unwrap_or_else(|| panic!("no {name} runs"))
}

fn signal(signal: &str, pid: u32) {
    let told = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(told.expect("kill runs").success());
}

/// No session of psql is left there.
async fn gone(database: &Database) {
    eventually("psql's session is gone", || async {
        let sessions = database.ask(&format!("SELECT count(*) {OF_PSQL}")).await?;
        (sessions == "0").then_some(())
    })
    .await;
}

/// The database lets go by itself, though what the restore waits for does not come.
#[tokio::test]
async fn who_stops_a_restore_has_changed_nothing() {
    let mut ward = Ward::set().await;
    for with in ["-INT", "-TERM"] {
        let (child, gate) = ward.in_the_middle(&ward.replace(), &ward.database).await;
        signal(with, child.id());
        let said = failed(child).await;
        assert!(said.contains("stopped by a signal"), "{said}");
        assert!(said.contains("nothing was changed"), "{said}");
        ward.is_untouched().await;
        gate.open().await;
    }
    let replace = ward.replace().map(str::to_owned);
    ward.is_restored_by(&replace.each_ref().map(String::as_str))
        .await;
}

/// One of the two programs that a restore runs is killed, by an administrator or for the
/// memory it takes.
#[tokio::test]
async fn a_program_that_is_killed_takes_the_whole_restore_back() {
    let mut ward = Ward::set().await;
    for name in ["pg_restore", "psql"] {
        let (child, gate) = ward.in_the_middle(&ward.replace(), &ward.database).await;
        signal("-KILL", child_of(&child, name));
        gate.open().await;
        let said = failed(child).await;
        for word in [
            name,
            "SIGKILL",
            "nothing was changed",
            "run the restore again",
        ] {
            assert!(said.contains(word), "{word} in: {said}");
        }
        ward.is_untouched().await;
    }
    let replace = ward.replace().map(str::to_owned);
    ward.is_restored_by(&replace.each_ref().map(String::as_str))
        .await;
}

/// SIGKILL: nobody is left who could clean up. psql hears no COMMIT.
#[tokio::test]
async fn a_restore_that_is_killed_leaves_an_empty_database_empty() {
    let mut ward = Ward::set().await;
    let empty = Backend::Postgres.database().await;
    let from = text(&ward.backup).to_owned();
    let to = ["--json", "--from", &from, "--database-url", empty.url()];
    let restore = [&["restore"], &to[..]].concat();
    let (mut child, gate) = ward.in_the_middle(&restore, &empty).await;
    child.kill().expect("killed");
    child.wait().expect("it ends");
    gate.open().await;
    gone(&empty).await;
    let left = "SELECT count(*) FROM pg_class WHERE relnamespace IN (SELECT oid FROM pg_namespace \
        WHERE nspname IN ('oversync', 'public'))";
    assert_eq!(empty.ask(left).await.as_deref(), Some("0"));
    // Not one of another name either: it is taken for empty.
    let done = ward.server.told(&restore).await;
    assert_eq!(done["users"], 1, "{done}");
    ward.is_untouched().await;
}

/// The backup is in place, and its new history has not begun.
#[tokio::test]
async fn who_stops_a_restore_at_its_end_is_told_how_to_end_it() {
    let mut ward = Ward::set().await;
    let (child, gate) = ward.in_the_middle(&ward.replace(), &ward.database).await;
    // The new history waits a while for this to go.
    let options: PgConnectOptions = ward.database.url().parse().expect("a URL");
    let late = options.application_name("oversync");
    let late = PgConnection::connect_with(&late).await.expect("connects");
    gate.open().await;
    eventually("the backup is there", || async {
        let epoch = ward.database.ask("SELECT epoch FROM oversync.meta").await?;
        epoch.starts_with("unfinished restore ").then_some(())
    })
    .await;
    // Where it has given up meanwhile, it says the same.
    let _ = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    let said = failed(child).await;
    late.close().await.expect("it ends");
    assert!(said.contains("oversync restore --in-place"), "{said}");
    let output = ward.server.run(&["devices", "--user", "somebody"]).await;
    let refused = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{refused}");
    assert!(refused.contains("oversync restore --in-place"), "{refused}");
    ward.is_restored_by(&["restore", "--in-place", "--json"])
        .await;
}
