//! SIGHUP: what a running server takes over from its settings, what it says needs a
//! restart, and settings that cannot be used.

use oversync_tests::device::insert;
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Server, eventually};
use reqwest::Method;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_rates_and_logs_are_taken_over() {
    let database = Backend::Embedded.database().await;
    let config = Config::default().set("limits.max_changes", 3);
    let server = Server::answering(&database, config).await;
    let device = server.target().one_device();
    let upload = async |count: i64| {
        let changes: Vec<_> = (1..=count)
            .map(|id| insert(id, "business.users", &fresh_key(), json!({"name": "x"})))
            .collect();
        device.upload(&changes).await
    };
    let most = async || {
        let reply = device.get("/sync/capabilities").await.ok();
        reply["limits"]["max_changes"].as_i64()
    };
    assert_eq!(most().await, Some(3));

    // Cannot be used: nothing changes, and the log says which setting.
    server.reload(&database, Config::default().set("limits.max_changes", 0));
    eventually("the refusal is logged", || async {
        let log = server.log();
        (log.contains("settings stay as they were") && log.contains("limits.max_changes"))
            .then_some(())
    })
    .await;
    assert_eq!(most().await, Some(3));

    let mut rate = toml::Table::new();
    rate.insert("per_second".into(), 1.into());
    rate.insert("burst".into(), 10.into());
    let config = Config::default()
        .set("limits.max_changes", 2)
        .set("limits.stall_seconds", 61)
        .set("rates.user_requests", rate)
        .set("workers", 1)
        .set("log", "warn");
    server.reload(&database, config);
    eventually("the new limit is told", || async {
        (most().await == Some(2)).then_some(())
    })
    .await;
    let refused = upload(3).await;
    let status = &refused["statuses"][0];
    assert_eq!(status["invalid"]["reason"], "batch_too_large", "{refused}");
    // Far more than a second gives back while this runs.
    let mut statuses = Vec::new();
    while statuses.len() < 400 && !statuses.contains(&429) {
        let request = device.request(Method::GET, "/sync/capabilities");
        statuses.push(request.send().await.expect("an answer").status().as_u16());
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    let log = server.log();
    let told = log
        .lines()
        .find(|line| line.contains("settings were read again"));
    // Not written any more: the log is for warnings now.
    assert_eq!(told, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_restart_is_named() {
    let database = Backend::Embedded.database().await;
    let server = Server::answering(&database, Config::default()).await;
    let config = Config::default()
        .set("limits.stall_seconds", 61)
        .set("workers", 1)
        .set("app_name", "another");
    server.reload(&database, config);
    let line = eventually("the settings are read again", || async {
        let log = server.log();
        let mut lines = log.lines();
        let line = lines.find(|line| line.contains("settings were read again"));
        line.map(str::to_owned)
    })
    .await;
    assert!(
        line.contains("limits.stall_seconds, app_name, workers"),
        "{line}"
    );
    server.reload(&database, Config::default());
    eventually("nothing is left", || async {
        server.log().contains("needs_restart=\"\"").then_some(())
    })
    .await;
}
