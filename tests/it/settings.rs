//! Settings: where they come from, what is refused and in which words, and what
//! the command line says about itself.

use oversync_tests::server::command;
use oversync_tests::{ADMIN_TOKEN, Backend, Config, HttpDevice, Server, Target, eventually};
use serde_json::json;
use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};
use tempfile::TempDir;

const SECRET: &str = "a secret of at least thirty-two bytes";

/// Runs `oversync config` with a file, variables and flags.
fn config(file: &str, variables: &[(&str, &str)], flags: &[&str]) -> Output {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("oversync.toml");
    std::fs::write(&path, file).expect("written");
    command()
        .args(["config", "--config"])
        .arg(&path)
        .args(flags)
        .envs(variables.iter().copied())
        .output()
        .expect("runs")
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// The refusal's text, which must not hold the secret.
fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[test]
fn the_effective_settings_are_printed_with_secrets_hidden() {
    let file = format!("jwt_secret = '{SECRET}'\napp_name = 'shop'\n[limits]\nmax_changes = 7");
    let text = printed(&config(&file, &[], &[]));
    assert!(!text.contains(SECRET), "{text}");
    let table: toml::Table = text.parse().expect("TOML");
    assert_eq!(table["jwt_secret"].as_str(), Some("***"));
    assert_eq!(table["app_name"].as_str(), Some("shop"));
    assert_eq!(table["listen"].as_str(), Some("127.0.0.1:8080"));
    assert_eq!(
        table["database_url"].as_str(),
        Some("sqlite://data/oversync.db")
    );
    assert_eq!(table["dev"].as_bool(), Some(false));
    assert_eq!(table["limits"]["max_changes"].as_integer(), Some(7));
    assert_eq!(
        table["limits"]["max_payload_bytes"].as_integer(),
        Some(1 << 20)
    );
    assert_eq!(
        table["limits"]["max_body_bytes"].as_integer(),
        Some(8 << 20)
    );
    assert_eq!(table["limits"]["max_page"].as_integer(), Some(1_000));
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let file =
        format!("jwt_secret = '{SECRET}'\napp_name = 'file'\nschema_version = 4\nlog = 'debug'");
    let variables = [
        ("OVERSYNC_APP_NAME", "variable"),
        ("OVERSYNC_LOG", "error"),
        ("OVERSYNC_LIMITS__MAX_CHANGES", "9"),
    ];
    let text = printed(&config(&file, &variables, &["--app-name", "flag"]));
    for line in [
        "app_name = \"flag\"",
        "log = \"error\"",
        "schema_version = 4",
        "max_changes = 9",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn unknown_keys_are_named() {
    let base = format!("jwt_secret = '{SECRET}'\n");
    for (file, key) in [
        (format!("{base}lissten = '127.0.0.1:1'"), "lissten"),
        (format!("{base}[limits]\nmax_pages = 5"), "max_pages"),
        (
            format!("{base}[[tables]]\nschema = 'a'\ntable = 'b'\nowner = 'c'"),
            "owner",
        ),
        (
            format!(
                "{base}[[tables]]\nschema = 'a'\ntable = 'b'\nreferences = [{{ column = 'c', table = 'd', to = 'e' }}]"
            ),
            "`to`",
        ),
    ] {
        let text = refusal(&config(&file, &[], &[]));
        assert!(text.contains(key), "{key}: {text}");
    }
    let text = refusal(&config(&base, &[("OVERSYNC_LISSTEN", "x")], &[]));
    assert!(text.contains("lissten"), "{text}");
    let text = refusal(&config(&base, &[("OVERSYNC_LIMITS__MAX_PAGES", "5")], &[]));
    assert!(text.contains("max_pages"), "{text}");
}

#[test]
fn bad_values_are_named() {
    let base = format!("jwt_secret = '{SECRET}'\n");
    for (rest, expected) in [
        ("listen = 'nowhere'", "listen"),
        ("listen = '127.0.0.1:65536'", "listen"),
        ("schema_version = 'one'", "schema_version"),
        (
            "schema_version = 1\nmin_schema_version = 2",
            "min_schema_version",
        ),
        ("workers = 0", "workers"),
        ("workers = -1", "workers"),
        ("dev = 'perhaps'", "dev"),
        ("log_format = 'xml'", "log_format"),
        ("[limits]\nmax_changes = 0", "limits.max_changes"),
        ("[limits]\nmax_page = 1001", "limits.max_page"),
        (
            "[limits]\nmax_in_flight_bytes = 1",
            "limits.max_in_flight_bytes",
        ),
        ("[[tables]]\nschema = 'a'", "table"),
        ("jwt_secret_file = 'also'", "jwt_secret_file"),
        ("not TOML", "TOML"),
    ] {
        let text = refusal(&config(&format!("{base}{rest}"), &[], &[]));
        assert!(text.contains(expected), "{rest}: {text}");
        assert!(!text.contains(SECRET), "{text}");
    }
    let output = command()
        .args(["config", "--config", "/nowhere/oversync.toml"])
        .output()
        .expect("runs");
    assert!(refusal(&output).contains("/nowhere/oversync.toml"));
}

#[test]
fn short_and_sample_secrets_are_refused_except_in_development() {
    let sample = "a-string-secret-at-least-256-bits-long";
    for (secret, expected) in [
        ("", "jwt_secret"),
        ("short", "32 bytes"),
        (&SECRET[..31], "32 bytes"),
        (sample, "sample"),
    ] {
        let file = format!("jwt_secret = '{secret}'");
        let text = refusal(&config(&file, &[], &[]));
        assert!(text.contains(expected), "{secret}: {text}");
        printed(&config(&file, &[], &["--dev"]));
    }
    assert!(refusal(&config("", &[], &[])).contains("jwt_secret"));
    printed(&config("", &[], &["--dev"]));
    printed(&config(
        &format!("jwt_secret = '{}'", &SECRET[..32]),
        &[],
        &[],
    ));
}

#[test]
fn a_secret_may_stand_in_a_file() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("secret");
    let flags = ["--jwt-secret-file", path.to_str().expect("text")];
    std::fs::write(&path, format!("\n {SECRET}\n")).expect("written");
    let text = printed(&config("", &[], &flags));
    assert!(!text.contains(SECRET), "{text}");
    std::fs::write(&path, format!("{}\n", &SECRET[..31])).expect("written");
    assert!(refusal(&config("", &[], &flags)).contains("32 bytes"));
    std::fs::remove_file(&path).expect("removed");
    assert!(refusal(&config("", &[], &flags)).contains("jwt_secret_file"));
}

#[test]
fn the_command_line_explains_itself() {
    let run = |arguments: &[&str]| command().args(arguments).output().expect("runs");
    let help = printed(&run(&["--help"]));
    for word in ["serve", "config"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    let help = printed(&run(&["serve", "--help"]));
    for flag in [
        "--config",
        "--listen",
        "--database-url",
        "--dev",
        "--jwt-secret-file",
    ] {
        assert!(help.contains(flag), "{flag}: {help}");
    }
    assert!(printed(&run(&["--version"])).starts_with("oversync "));
    for wrong in [
        &["serve", "--nonsense"][..],
        &["nonsense"],
        &["serve", "--listen", "x"],
        &[],
    ] {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// Starts a server that must refuse, and returns what it said.
fn refuses_to_serve(file: &str) -> String {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("oversync.toml");
    std::fs::write(&path, file).expect("written");
    let output = command()
        .args(["serve", "--listen", "127.0.0.1:0", "--config"])
        .arg(&path)
        .current_dir(folder.path())
        .output()
        .expect("runs");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let base = format!("jwt_secret = '{SECRET}'\n");
    let table = "[[tables]]\nschema = 'a'\ntable = 'b'\n";
    for (rest, expected) in [
        (String::new(), "no tables"),
        (format!("database_url = 'mysql://x'\n{table}"), "mysql"),
        (format!("database_url = 'sqlite://'\n{table}"), "database_url"),
        (format!("schema_file = 'missing.sql'\n{table}"), "missing.sql"),
        (format!("{table}{table}"), "a.b"),
        ("[[tables]]\nschema = 'a b'\ntable = 'c'".to_owned(), "a b"),
        ("[[tables]]\nschema = 'a'\ntable = '_oversync_log'".to_owned(), "_oversync_log"),
        ("[[tables]]\nschema = 'pg_catalog'\ntable = 'pg_class'".to_owned(), "pg_catalog"),
        (
            "[[tables]]\nschema = 'a'\ntable = 'b'\nreferences = [{ column = 'c', table = 'nothing' }]".to_owned(),
            "a.nothing",
        ),
        (
            "[[tables]]\nschema = 'a'\ntable = 'p'\nkey_column = 'uid'\n[[tables]]\nschema = 'a'\ntable = 'b'\n\
             references = [{ column = 'c', table = 'p', ref_column = 'name' }]".to_owned(),
            "a.b.c has ref_column = \"name\"",
        ),
    ] {
        let text = refuses_to_serve(&format!("{base}{rest}"));
        assert!(text.contains(expected), "{rest}: {text}");
        assert!(!text.contains(SECRET) && !text.contains("panicked"), "{text}");
    }
    let unreachable = "database_url = 'postgres://somebody:hunter2@127.0.0.1:1/x'\n";
    let text = refuses_to_serve(&format!("{base}{unreachable}{table}"));
    assert!(
        !text.contains("hunter2"),
        "a password is never printed: {text}"
    );
}

#[tokio::test]
async fn a_second_process_on_the_embedded_store_is_refused() {
    let database = Backend::Embedded.database().await;
    let mut server = Server::start(&database, Config::default()).await;
    let file = format!(
        "jwt_secret = '{SECRET}'\nadmin_token = '{ADMIN_TOKEN}'\ndatabase_url = '{}'\n[[tables]]\nschema = 'a'\ntable = 'b'",
        database.url()
    );
    let text = refuses_to_serve(&file);
    assert!(
        text.contains("in use") && text.contains("PostgreSQL"),
        "{text}"
    );
    server.target().one_device().download("").await;
    // Its lock ends with the process, however that ends.
    server.kill();
    server.restart(oversync_tests::Port::Free).await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let database = Backend::Embedded.database().await;
    let server = Server::start(&database, Config::default()).await;
    let output = command()
        .args(["serve", "--dev", "--listen", &server.address().to_string()])
        .output()
        .expect("runs");
    let text = refusal(&output);
    assert!(
        text.contains("listen") && text.contains(&server.address().to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn anybody_signs_in_in_development_only() {
    let database = Backend::Embedded.database().await;
    let sign_in = |target: &Target, body: serde_json::Value| {
        let url = format!("{}/signin", target.base());
        HttpDevice::send(target.client().post(url).json(&body))
    };
    let ann = json!({"username": "ann", "password": "x", "device_id": "phone"});
    let mut server = Server::start(&database, Config::default()).await;
    sign_in(&server.target(), ann.clone())
        .await
        .refused(404, "not_found");
    server.terminate().await;
    drop(server);

    let server = Server::start(&database, Config::default().set("dev", true)).await;
    let target = server.target();
    let reply = sign_in(&target, ann).await.ok();
    assert_eq!(
        (&reply["user_id"], &reply["device_id"]),
        (&json!("user-ann"), &json!("phone"))
    );
    let token = reply["token"].as_str().expect("a token").to_owned();
    HttpDevice::new(target.clone(), "user-ann", "phone", token)
        .download("")
        .await;
    for wrong in [
        json!({}),
        json!({"username": "", "device_id": "d"}),
        json!({"username": "ann"}),
        json!({"username": "ann", "device_id": "server"}),
        json!({"username": "a\u{0}", "device_id": "d"}),
        json!({"username": "a".repeat(251), "device_id": "d"}),
        json!([]),
    ] {
        sign_in(&target, wrong)
            .await
            .refused(400, "invalid_request");
    }
}

#[tokio::test]
async fn operators_have_a_listener_of_their_own() {
    let database = Backend::Embedded.database().await;
    let file = format!(
        "jwt_secret = '{SECRET}'\nadmin_token = '{ADMIN_TOKEN}'\ndatabase_url = '{}'\n[[tables]]\nschema = 'a'\ntable = 'b'",
        database.url()
    );
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("oversync.toml");
    std::fs::write(&path, file).expect("written");
    let mut child = command()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--config",
        ])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let address = output
        .lines()
        .map(|line| line.expect("text"))
        .find_map(|line| Some(line.strip_prefix("operators: http://")?.to_owned()))
        .expect("the line that says where");
    let admin = Target::new(format!("http://{address}"), SECRET);
    let device = admin.one_device();
    eventually("the operators' listener answers", || async {
        let reply = HttpDevice::try_send(device.request(reqwest::Method::GET, "/ready")).await;
        reply.ok().filter(|reply| reply.status == 200)
    })
    .await;
    assert_eq!(device.get("/health").await.status, 200);
    device.get("/sync/download").await.refused(404, "not_found");
    child.kill().expect("killed");
    child.wait().expect("ended");
}
