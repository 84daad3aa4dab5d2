//! `oversync doctor` and clocks that are wrong: the running server's, and the database's.
//! The device's doctor has its own (`doctor.rs`).

use oversync_tests::proxy::{Proxy, Verdict};
use oversync_tests::server::{output, program};
use oversync_tests::{Backend, Config, Database, Server, on_both_stores};
use serde_json::Value;

on_both_stores!(a_server_whose_clock_is_wrong);

/// What the doctor says of clocks: gravity, finding and advice, or what it saw.
async fn said_of_clocks(server: &Server, asked_at: &str) -> (Vec<String>, String) {
    let arguments = ["doctor", "--json", "--server", asked_at];
    let examined = output(program(server.config(), &arguments)).await;
    let report: Value = serde_json::from_slice(&examined.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings").iter();
    let of_clocks = findings.filter(|finding| finding["about"] == "clock");
    let told: Vec<String> = of_clocks.map(Value::to_string).collect();
    let is_right = told.is_empty();
    assert_eq!(examined.status.success(), is_right, "{report:#}");
    (told, report["looked_at"].to_string())
}

async fn started(backend: Backend) -> (Database, Server) {
    let database = backend.database().await;
    let config = Config::default().set("listen", "127.0.0.1:0");
    let server = Server::answering(&database, config).await;
    (database, server)
}

async fn a_server_whose_clock_is_wrong(backend: Backend) {
    let (_database, server) = started(backend).await;
    for (date, word) in [
        ("Mon, 23 Nov 2020 03:00:00 GMT", "behind this machine's"),
        ("Mon, 23 Nov 2048 03:00:00 GMT", "ahead of this machine's"),
    ] {
        let proxy = Proxy::start(server.address(), move |line| {
            match line.starts_with("GET /ready ") {
                true => Verdict::Date(date),
                false => Verdict::Pass,
            }
        })
        .await;
        let (told, _) = said_of_clocks(&server, &proxy.base()).await;
        let [told] = &told[..] else {
            panic!("one clock is wrong, not {told:#?}")
        };
        for word in ["trouble", "the server's clock is", word, "NTP"] {
            assert!(told.contains(word), "{word} in: {told}");
        }
    }
    let (told, seen) = said_of_clocks(&server, server.target().base()).await;
    assert_eq!(told, [""; 0]);
    assert!(seen.contains("the server's clock agrees"), "{seen}");
}

/// The function that tells the time is hidden by another one: the whole way is real but
/// for the machine's clock, which all tests share.
#[tokio::test]
async fn a_database_whose_clock_is_wrong() {
    let (database, server) = started(Backend::Postgres).await;
    let name = database.ask("SELECT current_database()").await;
    let name = name.expect("a name");
    let wrong = |by: &str| {
        format!(
            "CREATE SCHEMA IF NOT EXISTS wrong;
             CREATE OR REPLACE FUNCTION wrong.clock_timestamp() RETURNS timestamptz LANGUAGE sql
             AS $$ SELECT pg_catalog.clock_timestamp() + interval '{by}' $$;
             ALTER DATABASE {name} SET search_path = wrong, pg_catalog, public"
        )
    };
    for (by, word) in [("-1 hour", "behind this"), ("90 s", "ahead of this")] {
        database.execute(&wrong(by)).await;
        let (told, seen) = said_of_clocks(&server, server.target().base()).await;
        let [told] = &told[..] else {
            panic!("one clock is wrong, not {told:#?}")
        };
        for word in ["trouble", "the database's clock is", word, "NTP"] {
            assert!(told.contains(word), "{word} in: {told}");
        }
        assert!(seen.contains("the server's clock agrees"), "{seen}");
    }
}
