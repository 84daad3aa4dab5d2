//! The conformance suite on every store, with one process and with two, with
//! actors and without.

use oversync_tests::conformance::{business_tables, cases, run};
use oversync_tests::{Backend, Config, Server, Target};

async fn all_cases_pass(backend: Backend, processes: usize, config: Config) {
    let database = backend.database().await;
    database.execute(business_tables(backend)).await;
    // Cases ask from cursors at which no device was ever known to be; `retention` has
    // those that may be folded.
    let config = config.unfolded();
    let mut servers = Vec::new();
    for _ in 0..processes {
        servers.push(Server::start(&database, config.clone()).await);
    }
    let targets: Vec<_> = servers.iter().map(Server::target).collect();
    let failures = run(&Target::in_turn(&targets), cases()).await;
    assert!(
        failures.is_empty(),
        "{} of {} cases failed:\n{}",
        failures.len(),
        cases().count(),
        failures.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded() {
    all_cases_pass(Backend::Embedded, 1, Config::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    all_cases_pass(Backend::Postgres, 1, Config::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_with_two_processes() {
    all_cases_pass(Backend::Postgres, 2, Config::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_without_actors() {
    all_cases_pass(Backend::Embedded, 1, Config::default().bypass_actors()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_without_actors() {
    all_cases_pass(Backend::Postgres, 1, Config::default().bypass_actors()).await;
}

#[test]
fn there_are_at_least_a_hundred_cases_with_names_of_their_own() {
    let names: std::collections::HashSet<_> = cases().map(|case| case.name).collect();
    assert_eq!(names.len(), cases().count());
    assert!(names.len() >= 100, "{}", names.len());
}
