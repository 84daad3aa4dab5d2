//! The operators' console in a browser: signing in, what it shows, what it does, with
//! a keyboard alone, on a phone, and with data that is out to do harm.
//!
//! `CONSOLE_SCREENSHOTS=FOLDER` keeps pictures of it.

use oversync_tests::browser::Browser;
use oversync_tests::conformance::business_tables;
use oversync_tests::device::{delete, insert, update};
use oversync_tests::port::HeldPort;
use oversync_tests::target::fresh_key;
use oversync_tests::{ADMIN_TOKEN, Backend, Config, Database, Event, Port, Server};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const USERS: &str = "business.users";
const BOOKS: &str = "shelf.books";

/// Runs if anything that a device sent is ever taken for HTML.
const HARM: &str = "<img src=x onerror=\"window.harmed=1\"><script>window.harmed=1</script>";

/// Longer than a test takes.
const WHOLE_TEST: Duration = Duration::from_secs(600);

/// In the numbers of the WebDriver protocol.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

async fn server() -> (Database, Server) {
    let database = Backend::Embedded.database().await;
    let tables = business_tables(Backend::Embedded);
    database.execute(tables).await;
    let config = Config::default()
        .operators()
        .set("workers", 1)
        .set("retention.enabled", false)
        .set("retention.pause_ms", 100);
    let server = Server::start(&database, config).await;
    (database, server)
}

async fn picture(browser: &Browser, name: &str) {
    if let Some(folder) = std::env::var_os("CONSOLE_SCREENSHOTS") {
        let file = Path::new(&folder).join(name);
        // Long lists are the same all the way down.
        if name.contains("user.") || name.contains("live.") || name.contains("confirm.") {
            browser.screenshot(&file).await;
        } else {
            browser.whole_page(&file).await;
        }
    }
}

fn text(selector: &str) -> String {
    format!("document.querySelector('{selector}').textContent")
}

async fn sign_in(browser: &Browser, server: &Server) {
    browser
        .open(&format!("{}/console", server.admin().base()))
        .await;
    browser.enter("#token", ADMIN_TOKEN).await;
    browser.click("#sign-in-form button").await;
    browser
        .until(&format!("{} === 'connected'", text("#connection")))
        .await;
    browser
        .until("!document.querySelector('#overview').hidden")
        .await;
}

async fn go_to(browser: &Browser, view: &str) {
    browser.click(&format!("nav a[href=\"#{view}\"]")).await;
    browser
        .until(&format!("!document.querySelector('#{view}').hidden"))
        .await;
}

fn rows(selector: &str, count: usize) -> String {
    format!("document.querySelectorAll('{selector} tbody tr').length === {count}")
}

/// The new process has come further than the old one was when the page asks again: what
/// it did first is shown too, and nothing of what came before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_feed_begins_anew_with_the_server() {
    let database = Backend::Embedded.database().await;
    let operators = HeldPort::take();
    let config = Config::default()
        .operators()
        .set("admin_listen", operators.address().to_string())
        .set("workers", 1)
        .unfolded();
    let mut server = Server::start(&database, config).await;
    let ada = server.target().one_device();
    let row = |id| insert(id, USERS, &fresh_key(), json!({"name": "Ada"}));
    let browser = Browser::start(1200, 900).await;
    sign_in(&browser, &server).await;
    go_to(&browser, "live").await;
    ada.upload(&[row(1)]).await;
    ada.upload(&[row(2)]).await;
    browser.until(&rows("#feed", 2)).await;
    browser.click("#live-pause").await;
    server.kill();
    server.restart(Port::Same).await;
    for id in 3..8 {
        ada.upload(&[row(id)]).await;
    }
    browser.click("#live-pause").await;
    browser.until(&rows("#feed", 5)).await;
    let heads = "return [...document.querySelectorAll('#feed tbody tr')].map(line => line.cells[3].textContent).join(' ')";
    assert_eq!(browser.run(heads).await, "7 6 5 4 3");
    browser
        .until(&format!(
            "{}.startsWith('the server was restarted')",
            text("#live-state")
        ))
        .await;
    picture(&browser, "restarted-live.png").await;
    // And it goes on from there.
    ada.upload(&[row(8)]).await;
    browser.until(&rows("#feed", 6)).await;
    quiet(&browser, &["ERR_CONNECTION"]).await;
}

/// Nothing was worth a complaint but what is given.
async fn quiet(browser: &Browser, except: &[&str]) {
    let odd: Vec<String> = browser.complaints().await;
    let odd: Vec<&String> = odd
        .iter()
        .filter(|line| !except.iter().any(|word| line.contains(word)))
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
    assert_eq!(
        browser.run("return window.harmed ?? null").await,
        Value::Null
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_and_does_everything() {
    let (_database, server) = server().await;
    let browser = Browser::start(1200, 900).await;
    let (ada, bob) = server.target().two_devices();
    let user = ada.user().to_owned();
    browser
        .open(&format!("{}/console", server.admin().base()))
        .await;
    browser.enter("#token", "not the token").await;
    browser.click("#sign-in-form button").await;
    browser
        .until(&format!(
            "{}.includes('not the operators')",
            text("#sign-in-error")
        ))
        .await;
    picture(&browser, "sign-in.png").await;
    browser
        .run("document.querySelector('#token').value = ''")
        .await;
    sign_in(&browser, &server).await;
    // The token is in this tab's store, and in no address.
    let where_it_is = browser
        .run("return [location.href, document.cookie, localStorage.length, sessionStorage.length]")
        .await;
    assert_eq!(
        where_it_is,
        json!([format!("{}/console", server.admin().base()), "", 0, 1])
    );

    let mut socket = bob.connect().await;
    socket.hello().await;
    // Read all the while: who answers no ping is let go.
    let bobs_bye = tokio::spawn(async move {
        loop {
            let message = socket.next_within(WHOLE_TEST).await;
            match message.expect("a bye before the test is over") {
                Event::Message(message) if message["type"] == "bye" => return message,
                Event::Message(_) => {}
                Event::Closed(code) => panic!("closed ({code:?}) before the bye"),
            }
        }
    });
    browser
        .until(&format!("{}.includes('{user}')", text("#connected")))
        .await;
    go_to(&browser, "live").await;
    let key = fresh_key();
    ada.upload(&[insert(1, USERS, &key, json!({"name": "Ada"}))])
        .await;
    browser
        .until(&format!("{}.includes('1 change by ada')", text("#feed")))
        .await;
    browser
        .until(&format!("{}.includes('told 1 session')", text("#feed")))
        .await;
    browser.click("#live-pause").await;
    browser
        .until("document.querySelector('#live-pause').getAttribute('aria-pressed') === 'true'")
        .await;
    ada.upload(&[update(2, USERS, &key, 1, json!({"name": "Ada L."}))])
        .await;
    browser.click("#live-pause").await;
    browser
        .until("document.querySelectorAll('#feed tbody tr').length === 4")
        .await;

    // Charts are drawn of two readings and more.
    go_to(&browser, "overview").await;
    for id in 3..40 {
        ada.upload(&[insert(
            id,
            USERS,
            &fresh_key(),
            json!({"name": "one of many"}),
        )])
        .await;
    }
    browser.until("/^(?!0 )[\\d.]+ per second/.test(document.querySelector('#chart-uploads output').textContent)").await;
    browser.until("/99 % [\\d.]+ ms/.test(document.querySelector('#chart-upload-latency output').textContent)").await;
    let label = browser
        .run("return document.querySelector('#chart-uploads svg').getAttribute('aria-label')")
        .await;
    assert!(
        label
            .as_str()
            .is_some_and(|label| label.starts_with("Uploads over the last")),
        "{label}"
    );

    // A failure is shown, tried again for nothing, then to an end.
    let (other, taken) = (server.target().one_device(), fresh_key());
    other
        .upload(&[insert(
            1,
            BOOKS,
            &taken,
            json!({"title": "a", "label": "x"}),
        )])
        .await;
    ada.upload(&[insert(
        90,
        BOOKS,
        &fresh_key(),
        json!({"title": "b", "label": "x"}),
    )])
    .await;
    go_to(&browser, "failures").await;
    browser
        .until("document.querySelectorAll('#failure-list tbody tr').length === 1")
        .await;
    browser.click("#failure-list tbody button").await;
    browser
        .until(&format!(
            "{}.includes('Still not written')",
            text("#notice")
        ))
        .await;
    let retries = text("#failure-list tbody td:nth-child(5)");
    browser.until(&format!("{retries} === '1'")).await;
    picture(&browser, "failures.png").await;
    other.upload(&[delete(2, BOOKS, &taken, 1)]).await;
    browser.click("#failure-list tbody button").await;
    browser
        .until("!document.querySelector('#failures-empty').hidden")
        .await;
    browser
        .until(&format!("{}.includes('at version 1')", text("#notice")))
        .await;

    // One user, found by name.
    go_to(&browser, "users").await;
    browser.enter("#users-prefix", &user[..12]).await;
    browser.click("#users-form button").await;
    browser
        .until("document.querySelectorAll('#user-list tbody tr').length === 1")
        .await;
    browser.click("#user-list tbody a").await;
    browser
        .until("document.querySelectorAll('#rows tbody tr').length === 20")
        .await;
    browser.enter("#rows-table", USERS).await;
    browser.enter("#rows-key", &key[..8]).await;
    browser.click("#rows-form button").await;
    browser
        .until("document.querySelectorAll('#rows tbody tr').length === 1")
        .await;
    browser
        .until(&format!("{}.includes('Ada L.')", text("#rows")))
        .await;
    for (shown, more) in [(20, "true"), (40, "false")] {
        let entries = "document.querySelectorAll('#entries tbody tr').length";
        browser.until(&format!("{entries} === {shown}")).await;
        let hidden = "document.querySelector('#entries-more').hidden";
        assert_eq!(
            browser.run(&format!("return String(!{hidden})")).await,
            more
        );
        if more == "true" {
            browser.click("#entries-more").await;
        }
    }

    // Revoked, the device's socket closes; then it may come in again.
    let bobs = "[...document.querySelectorAll('#devices tbody tr')].find(r => r.cells[0].textContent === 'bob')";
    browser
        .until(&format!("{bobs}?.textContent.includes('connected')"))
        .await;
    browser.click("[aria-label=\"Revoke: bob\"]").await;
    browser
        .until("document.querySelector('#confirm').open")
        .await;
    picture(&browser, "confirm.png").await;
    browser.click("#confirm [value=no]").await;
    browser
        .until("!document.querySelector('#confirm').open")
        .await;
    assert_eq!(
        bob.get("/sync/download").await.status,
        200,
        "nothing was done"
    );
    browser.click("[aria-label=\"Revoke: bob\"]").await;
    browser.click("#confirm-yes").await;
    browser
        .until(&format!("{bobs}?.textContent.includes('revoked')"))
        .await;
    assert_eq!(bobs_bye.await.expect("it is read")["reason"], "revoked");
    bob.get("/sync/download")
        .await
        .refused(401, "authentication_failed");
    browser.click("[aria-label=\"Restore access: bob\"]").await;
    browser
        .until(&format!("{bobs}?.textContent.includes('not connected')"))
        .await;
    assert_eq!(bob.get("/sync/download").await.status, 200);

    go_to(&browser, "storage").await;
    browser
        .until(&format!("/file[\\d.]+ [KM]iB/.test({})", text("#stored")))
        .await;
    browser
        .until(&format!("{}.includes('shelf.books')", text("#tables")))
        .await;
    browser.click("#sign-out").await;
    browser
        .until("!document.querySelector('#sign-in').hidden && sessionStorage.length === 0")
        .await;
    quiet(&browser, &["401"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_devices_send_stays_text() {
    let (_database, server) = server().await;
    let browser = Browser::start(1200, 900).await;
    let user = format!("u {HARM} /?#%'");
    let device = server.target().device(&user, &format!("d {HARM}"));
    device
        .upload(&[
            insert(1, BOOKS, &fresh_key(), json!({"title": "", "text": HARM})),
            insert(2, USERS, &fresh_key(), json!({"name": HARM})),
        ])
        .await;
    // The names of tables are letters, digits and lines: no device gets farther.
    let refused = device
        .upload(&[insert(3, "business.<img>", &fresh_key(), json!({}))])
        .await;
    assert_eq!(refused["statuses"][0]["status"], "invalid");
    let mut socket = device.connect().await;
    socket.hello().await;
    sign_in(&browser, &server).await;
    let shown = |selector: &str| format!("{}.includes('<img src=x')", text(selector));
    browser.until(&shown("#connected")).await;
    go_to(&browser, "live").await;
    browser.until(&shown("#feed")).await;
    go_to(&browser, "failures").await;
    browser.until(&shown("#failure-list")).await;
    go_to(&browser, "users").await;
    browser.until(&shown("#user-list")).await;
    // Its link leads to it, whatever it is called.
    browser.click("#user-list tbody a").await;
    for selector in ["#user-name", "#devices", "#rows", "#entries"] {
        browser.until(&shown(selector)).await;
    }
    browser.click("#devices button.danger").await;
    browser.until(&shown("#confirm-text")).await;
    browser.click("#confirm-yes").await;
    browser.until(&shown("#notice")).await;
    let planted = "return document.querySelectorAll('img, main script').length";
    assert_eq!(browser.run(planted).await, 0);
    // And were it HTML, the page would not run it.
    let forced = "try { document.body.innerHTML = '<p>x</p>'; return 'taken' } catch (error) { return error.name }";
    assert_eq!(browser.run(forced).await, "TypeError");
    quiet(&browser, &["TrustedHTML", "Trusted"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_keyboard_alone() {
    let (_database, server) = server().await;
    let device = server.target().one_device();
    device
        .upload(&[insert(1, USERS, &fresh_key(), json!({}))])
        .await;
    let browser = Browser::start(1200, 900).await;
    browser
        .open(&format!("{}/console", server.admin().base()))
        .await;
    // The field has the focus from the start.
    browser.until("document.activeElement.id === 'token'").await;
    browser.press(&format!("{ADMIN_TOKEN}{ENTER}")).await;
    browser
        .until(
            "!document.querySelector('#overview').hidden && document.activeElement.id === 'main'",
        )
        .await;
    let focused = "(document.activeElement.textContent || document.activeElement.id).trim()";
    let tab_to = async |wanted: &str| {
        for _ in 0..40 {
            if browser.run(&format!("return {focused}")).await == wanted {
                return;
            }
            browser.press(TAB).await;
        }
        panic!("no way to {wanted} with Tab");
    };
    // Past the end of the page the browser begins at its top.
    browser.run("document.querySelector('.skip').focus()").await;
    tab_to("Users").await;
    let ring = "getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(
        browser.run(&format!("return {ring}")).await,
        "solid",
        "the focus is seen"
    );
    browser.press(ENTER).await;
    browser
        .until("document.querySelectorAll('#user-list tbody tr').length === 1")
        .await;
    tab_to(device.user()).await;
    browser.press(ENTER).await;
    browser
        .until("document.querySelectorAll('#devices tbody tr').length === 1")
        .await;
    tab_to("Revoke").await;
    browser.press(ENTER).await;
    browser
        .until("document.querySelector('#confirm').open")
        .await;
    tab_to("Revoke").await;
    browser.press(ENTER).await;
    browser
        .until(&format!("{}.includes('revoked')", text("#devices")))
        .await;
    assert_eq!(device.get("/sync/download").await.status, 401);
    browser
        .until("document.activeElement.classList.contains('scroll')")
        .await;
    quiet(&browser, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_light_and_dark_on_a_desk_and_a_phone() {
    let (_database, mut server) = server().await;
    let (ada, bob) = server.target().two_devices();
    let mut sockets = Vec::new();
    for device in [&ada, &bob] {
        sockets.push(device.connect().await);
    }
    for socket in &mut sockets {
        socket.hello().await;
    }
    let long = "A title that goes on and on, ".repeat(20);
    let key = fresh_key();
    ada.upload(&[
        insert(
            1,
            USERS,
            &key,
            json!({"id": key, "name": "Ada", "email": "ada@example.org"}),
        ),
        insert(2, BOOKS, &fresh_key(), json!({"title": "", "text": long})),
        insert(3, BOOKS, &fresh_key(), json!({"title": long, "pages": 300})),
    ])
    .await;
    bob.upload(&[delete(1, USERS, &key, 1)]).await;
    bob.download("after=2").await;
    server.admin().revoke(&ada.sibling("lost-telephone")).await;
    let browser = Browser::start(1200, 900).await;
    sign_in(&browser, &server).await;
    let writing = {
        let ada = ada.clone();
        tokio::spawn(async move {
            for id in 10.. {
                let change = insert(id, USERS, &fresh_key(), json!({"name": "one of many"}));
                if ada.try_upload(&[change]).await.is_err() {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(if id % 50 == 0 {
                    900
                } else {
                    30
                }))
                .await;
            }
        })
    };
    let views = ["overview", "live", "failures", "users", "storage", "user"];
    for (screen, width, height, is_phone) in [("desk", 1200, 900, false), ("phone", 360, 740, true)]
    {
        browser.screen(width, height, is_phone).await;
        for scheme in ["light", "dark"] {
            browser.colours(scheme).await;
            for view in views {
                if view == "user" {
                    go_to(&browser, "users").await;
                    browser.click("#user-list tbody a").await;
                    browser
                        .until("document.querySelectorAll('#entries tbody tr').length > 2")
                        .await;
                } else {
                    go_to(&browser, view).await;
                }
                let ready = match view {
                    "overview" => {
                        "document.querySelectorAll('.chart > svg .line[d^=M]').length > 5"
                    }
                    "live" => "document.querySelectorAll('#feed tbody tr').length > 2",
                    "failures" => {
                        "document.querySelectorAll('#failure-list tbody tr').length === 1"
                    }
                    "storage" => "document.querySelectorAll('#tables tbody tr').length > 2",
                    _ => "true",
                };
                browser.until(ready).await;
                // What is wide scrolls by itself; the page does not.
                let wide = "return document.documentElement.scrollWidth";
                let wide = browser.run(wide).await;
                assert!(
                    wide.as_u64() <= Some(width.into()),
                    "{screen} {view}: {wide}"
                );
                let dark = browser
                    .run("return getComputedStyle(document.documentElement).backgroundColor")
                    .await;
                let is_dark = dark == "rgb(20, 23, 28)";
                assert_eq!(is_dark, scheme == "dark", "{dark}");
                picture(&browser, &format!("{screen}-{scheme}-{view}.png")).await;
            }
        }
    }
    go_to(&browser, "overview").await;
    server.kill();
    browser
        .until(&format!(
            "{}.includes('connection lost')",
            text("#connection")
        ))
        .await;
    picture(&browser, "lost.png").await;
    server.restart(Port::Free).await;
    writing.abort();
    quiet(&browser, &["ERR_CONNECTION"]).await;
}
