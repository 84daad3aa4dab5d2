//! What settings are refused, what is filled in, and what is printed of them.

use super::*;
use std::io::Write as _;

fn load(toml: &str) -> Result<Settings, SettingsError> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(toml.as_bytes()).expect("written");
    Settings::load(Some(file.path()), serde_json::json!({}))
}

fn problem(toml: &str) -> String {
    load(toml).expect_err("must be refused").to_string()
}

#[test]
fn mistakes_name_the_setting() {
    assert!(problem("").contains("jwt_secret"));
    assert!(problem("jwt_secret = 'short'").contains("32 bytes"));
    assert!(problem("jwt_secret = 'a-string-secret-at-least-256-bits-long'").contains("sample"));
    assert!(problem("dev = true\nlisten = 'nowhere'").contains("listen"));
    assert!(problem("dev = true\nlissten = '127.0.0.1:1'").contains("lissten"));
    assert!(problem("dev = true\n[limits]\nmax_pages = 5").contains("max_pages"));
    assert!(problem("dev = true\n[limits]\nmax_page = 1001").contains("limits.max_page"));
    assert!(problem("dev = true\n[limits]\nstall_seconds = 1").contains("stall_seconds"));
    for wrong in [0, 4, 61] {
        let text = problem(&format!("dev = true\n[limits]\nping_seconds = {wrong}"));
        assert!(text.contains("limits.ping_seconds"), "{text}");
    }
    assert!(problem("dev = true\n[limits]\nmax_answer_bytes = 9").contains("max_answer"));
    let rates = |text: &str| problem(&format!("dev = true\n[rates]\n{text}"));
    assert!(rates("user_requests = 5").contains("user_requests"));
    assert!(rates("user_requests = { per_second = 0, burst = 1 }").contains("per_second"));
    let trace = |text: &str| problem(&format!("dev = true\n[trace]\n{text}"));
    assert!(trace("endpoint = 'localhost:4318'").contains("trace.endpoint"));
    assert!(trace("share = 0").contains("trace.share"));
    assert!(trace("share = nan").contains("trace.share"));
    assert!(rates("user_sockets = 0").contains("user_sockets"));
    let short = problem("dev = true\n[retention]\nenabled = true\nkeep_seconds = 599.9");
    assert!(
        short.contains("retention.keep_seconds: is 599.9")
            && short.contains("pause_ms, which is 300000"),
        "{short}"
    );
    for good in [
        "enabled = true\nkeep_seconds = 600",
        "enabled = true\nkeep_seconds = 0.02\npause_ms = 10",
        // Nothing is folded.
        "pause_ms = 7200000",
    ] {
        let settings = load(&format!("dev = true\n[retention]\n{good}"));
        assert!(settings.is_ok(), "{good}");
    }
    for no_time in ["-1", "nan", "inf"] {
        let text = problem(&format!(
            "dev = true\n[retention]\nkeep_seconds = {no_time}"
        ));
        assert!(text.contains("retention.keep_seconds"), "{text}");
    }
    assert!(problem("dev = true\n[quotas]\nuser_rows = 0").contains("user_rows"));
    assert!(problem("dev = true\n[quotas]\nrows = 5").contains("rows"));
    assert!(rates("trusted_proxies = ['nobody']").contains("trusted_proxies"));
    for wrong in [
        "*",
        "",
        "https://a.example/",
        "https://A.example",
        "https://a.example:443",
    ] {
        let text = problem(&format!("dev = true\nallowed_origins = ['{wrong}']"));
        assert!(text.contains("allowed_origins"), "{text}");
    }
    assert!(problem("dev = true\n[[tables]]\nschema = 'a'").contains("table"));
    assert!(problem("dev = true\nmin_schema_version = 3").contains("min_schema_version"));
}

#[test]
fn operators_need_a_token_of_their_own() {
    let long = "x".repeat(32);
    let base = format!("jwt_secret = 'another{long}'\nadmin_listen = '127.0.0.1:0'\n");
    let with = |rest: &str| problem(&format!("{base}{rest}"));
    assert!(with("").starts_with("admin_token: is not set"));
    let short = with("admin_token = 'hunter2-hunter2-hunter2-hunter2'");
    assert!(short.contains("admin_token: is shorter than 32 bytes") && !short.contains("hunter2"));
    assert!(with(&format!("admin_token = '{DEV_ADMIN_TOKEN}'")).contains("sample"));
    assert!(with(&format!("admin_token = '{DEV_SECRET}'")).contains("sample"));
    assert!(with(&format!("admin_token = 'another{long}'")).contains("jwt_secret"));
    assert!(with(&format!("admin_token = 'a b{long}'")).contains("header"));
    assert!(with("admin_token_file = 'missing.token'").contains("missing.token"));
    let both = format!("admin_token = '{long}'\nadmin_token_file = 'missing.token'");
    assert!(with(&both).starts_with("admin_token_file: is set together with admin_token"));

    let settings = load(&format!("{base}admin_token = '{long}'")).expect("valid");
    assert!(!settings.to_toml().contains(&long) && !format!("{settings:?}").contains(&long));
    let settings = load("dev = true\nadmin_listen = '127.0.0.1:0'").expect("valid");
    let token = settings.admin_token.expect("filled in");
    assert_eq!(token.expose(), DEV_ADMIN_TOKEN);
    assert!(load("dev = true").expect("valid").admin_token.is_none());
}

#[test]
fn dev_needs_no_configuration_and_secrets_are_hidden() {
    let settings = load("dev = true").expect("valid");
    let origins = "allowed_origins = ['https://a.example:8443', 'capacitor://localhost']";
    assert!(load(&format!("dev = true\n{origins}")).is_ok());
    assert_eq!(settings.tables.len(), 2);
    let printed = settings.to_toml();
    assert!(printed.contains("jwt_secret = \"***\""), "{printed}");
    assert!(!printed.contains(DEV_SECRET) && !format!("{settings:?}").contains(DEV_SECRET));
}

#[test]
fn a_database_password_is_not_printed() {
    let url = "postgres://me:hunter2@db.example/app?host=%2Frun";
    let printed = load(&format!("dev = true\ndatabase_url = '{url}'"))
        .expect("valid")
        .to_toml();
    assert!(
        printed.contains("postgres://me:***@db.example/app?host=%2Frun"),
        "{printed}"
    );
    assert!(!printed.contains("hunter2"));
}

#[test]
fn a_database_password_in_the_query_is_not_printed() {
    for (url, expected) in [
        (
            "postgres://db.example/app?host=%2Frun&password=hunter2&user=me",
            "postgres://db.example/app?host=%2Frun&password=***&user=me",
        ),
        (
            "postgres://me:hunter2@db.example/app?pass%77ord=hunter2",
            "postgres://me:***@db.example/app?pass%77ord=***",
        ),
        // No URL, because of the slash in it.
        ("postgres://me:hunter2/x@db.example/app", "postgres://***"),
        (
            "postgres://me:1234/hunter2@db.example/app",
            "postgres://***",
        ),
        ("postgres://me:12#hunter2@db.example/app", "postgres://***"),
        (
            "postgres://db.example/app?sslmode=require",
            "postgres://db.example/app?sslmode=require",
        ),
    ] {
        let settings = load(&format!("dev = true\ndatabase_url = '{url}'"));
        let printed = settings.expect("valid").to_toml();
        let line = format!("database_url = \"{expected}\"");
        assert!(printed.contains(&line), "{printed}");
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}

#[test]
fn times_of_folding_have_an_end() {
    let retention = |text: &str| load(&format!("dev = true\n[retention]\n{text}"));
    let problem = |text: &str| retention(text).expect_err("must be refused").to_string();
    assert!(problem("silent_days = 100001").contains("retention.silent_days"));
    assert!(problem("keep_seconds = 8640000001.0").contains("retention.keep_seconds"));
    assert!(problem("keep_seconds = -1.0").contains("retention.keep_seconds"));
    assert!(retention("silent_days = 100000\nkeep_seconds = 8640000000.0").is_ok());
}

#[test]
fn nats_needs_an_address_and_a_database_to_share() {
    let nats = |text: &str| load(&format!("dev = true\n{text}"));
    let problem = |text: &str| nats(text).expect_err("must be refused").to_string();
    let shared = "database_url = 'postgres://localhost/app'\n[nats]\n";
    let url = "url = 'nats://me:hunter2@n.example:4222'\n";
    assert!(problem(&format!("{shared}url = 'example'")).contains("nats.url"));
    assert!(problem(&format!("{shared}url = 'http://n.example'")).contains("nats.url"));
    assert!(problem(&format!("{shared}{url}subject = 'a.*'")).contains("nats.subject"));
    assert!(problem(&format!("{shared}{url}subject = 'a..b'")).contains("nats.subject"));
    assert!(problem(&format!("[nats]\n{url}")).contains("embedded"));
    let settings = nats(&format!("{shared}{url}")).expect("valid");
    assert!(!settings.to_toml().contains("hunter2"));
}

#[test]
fn flags_win() {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(b"dev = true\napp_name = 'file'\nschema_version = 4")
        .expect("written");
    let flags = serde_json::json!({"app_name": "flag"});
    let settings = Settings::load(Some(file.path()), flags).expect("valid");
    assert_eq!(
        (settings.app_name.as_str(), settings.schema_version),
        ("flag", 4)
    );
}
