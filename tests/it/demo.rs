//! The page that `oversync serve --dev` shows: two devices in one browser.
//!
//! `DEMO_SCREENSHOTS=FOLDER` keeps pictures of it.

use oversync_tests::browser::Browser;
use oversync_tests::target::fresh_key;
use oversync_tests::{Backend, Config, Port, Server, eventually};
use std::path::Path;

/// The texts of one device's notes, as its user sees them.
fn notes(device: u8) -> String {
    format!(
        "[...document.querySelectorAll('#device-{device} li input')].map(i => i.value).join('|')"
    )
}

fn state(device: u8) -> String {
    format!("document.querySelector('#device-{device} .state').textContent")
}

async fn picture(browser: &Browser, name: &str) {
    if let Some(folder) = std::env::var_os("DEMO_SCREENSHOTS") {
        browser.screenshot(&Path::new(&folder).join(name)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_typed_on_one_device_appears_on_the_other() {
    let database = Backend::Embedded.database().await;
    let mut server = Server::start(&database, Config::default().set("dev", true)).await;
    let browser = Browser::start(1100, 620).await;
    let url = format!("http://{}/demo?user={}", server.address(), fresh_key());
    browser.open(&url).await;
    for device in [1, 2] {
        browser
            .until(&format!("{} === 'connected'", state(device)))
            .await;
    }
    browser.click("#device-1 .add").await;
    browser.enter("#device-1 li input", "Buy milk \u{e9}").await;
    browser
        .until(&format!("{} === 'Buy milk \u{e9}'", notes(2)))
        .await;
    browser.enter("#device-2 li input", ", and bread").await;
    browser
        .until(&format!("{} === 'Buy milk \u{e9}, and bread'", notes(1)))
        .await;
    picture(&browser, "connected.png").await;

    // Both edit while one of them is offline: one of the edits gives way, visibly.
    browser.click("#device-2 .offline").await;
    browser.enter("#device-2 li input", " (offline)").await;
    browser.enter("#device-1 li input", " (online)").await;
    browser
        .until("document.querySelector('#device-1 .facts').textContent.includes(' 0 unsent')")
        .await;
    browser
        .until("document.querySelector('#device-2 .facts').textContent.includes(' 1 unsent')")
        .await;
    picture(&browser, "offline.png").await;
    browser.click("#device-2 .offline").await;
    let merged = "Buy milk \u{e9}, and bread (online)";
    browser.until(&format!("{} === '{merged}'", notes(2))).await;
    browser
        .until("document.querySelector('#device-2 .log').textContent.includes('gave way')")
        .await;
    browser
        .until(&format!("{} === 'connected'", state(2)))
        .await;
    picture(&browser, "conflict.png").await;

    // The server goes away and comes back: both find it by themselves.
    server.kill();
    browser
        .until(&format!("{} !== 'connected'", state(1)))
        .await;
    browser.enter("#device-1 li input", "!").await;
    server.restart(Port::Same).await;
    browser
        .until(&format!("{} === '{merged}!'", notes(2)))
        .await;
    browser.click("#device-2 li button").await;
    browser.until(&format!("{} === ''", notes(1))).await;

    // Nothing but the server's absence was worth a complaint.
    eventually("quiet", || async {
        let odd: Vec<String> = browser
            .complaints()
            .await
            .into_iter()
            .filter(|line| !line.contains("ERR_CONNECTION") && !line.contains("WebSocket"))
            .collect();
        assert!(odd.is_empty(), "{odd:?}");
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_such_page_in_production() {
    let database = Backend::Embedded.database().await;
    let server = Server::start(&database, Config::default()).await;
    let anybody = server.target().one_device();
    assert_eq!(anybody.get("/demo").await.status, 404);
}
