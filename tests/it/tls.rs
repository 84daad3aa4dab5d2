//! HTTPS and wss by the server itself: devices that believe its authority, devices
//! that do not, and a certificate that is renewed while they are connected.

use oversync_tests::app::App;
use oversync_tests::server::SECRET;
use oversync_tests::target::fresh_user;
use oversync_tests::{Authority, Backend, Config, Server, Target, eventually};

use std::path::PathBuf;

fn config(authority: &Authority) -> Config {
    authority.renew();
    Config::default()
        .set("tls.certificate_file", text(authority.certificate_file()))
        .set("tls.key_file", text(authority.key_file()))
}

fn text(path: PathBuf) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// What a new connection is shown, DER.
async fn shown(authority: &Authority, server: &Server) -> Vec<u8> {
    let url = format!("https://{}/health", server.address());
    let response = authority.client().get(url).send().await;
    let response = response.expect("an answer over TLS");
    assert_eq!(response.status(), 200);
    // Over HTTP/2 one connection has any number of requests, and no limit counts those.
    assert_eq!(response.version(), reqwest::Version::HTTP_11);
    let info = response.extensions().get::<reqwest::tls::TlsInfo>();
    let certificate = info.and_then(|info| info.peer_certificate());
    certificate.expect("a certificate").to_vec()
}

fn target(server: &Server) -> Target {
    Target::new(format!("https://{}", server.address()), SECRET)
}

/// Each polls once an hour: what comes, comes by a hint over wss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_meet_over_tls_and_a_renewed_certificate() {
    let authority = Authority::default();
    let database = Backend::Embedded.database().await;
    let server = Server::start(&database, config(&authority)).await;
    let (target, user) = (target(&server), fresh_user());
    let open = async |device: &str| {
        let pem = authority.pem().to_owned();
        let app = App::open_with(&target, &user, device, |config| {
            config.root_certificates(pem.as_bytes()).expect("PEM")
        });
        let app = app.await;
        app.client.start().expect("the engine starts");
        app
    };
    let (ada, bob) = (open("ada").await, open("bob").await);
    ada.add("0f8fad5b-d9cb-469f-a165-70867728950e", "Ada");
    eventually("what Ada wrote arrives", || async {
        (bob.people().len() == 1).then_some(())
    })
    .await;

    // The certificate first, its key later, as tools write them: until both belong
    // together, the old ones serve.
    let before = shown(&authority, &server).await;
    let (certificate, key) = authority.certify();
    std::fs::write(authority.certificate_file(), certificate).expect("written");
    eventually("the server has looked", || async {
        assert_eq!(shown(&authority, &server).await, before);
        let told = "the keys stay as they were";
        server.log().contains(told).then_some(())
    })
    .await;
    std::fs::write(authority.key_file(), key).expect("written");
    eventually("the new certificate is shown", || async {
        (shown(&authority, &server).await != before).then_some(())
    })
    .await;

    // Who was connected still is, and who comes is let in.
    bob.add("1f8fad5b-d9cb-469f-a165-70867728950e", "Bob");
    let eve = open("eve").await;
    for app in [&ada, &eve] {
        eventually("what Bob wrote arrives", || async {
            (app.people().len() == 2).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_an_unknown_authority_gets_nothing() {
    let authority = Authority::default();
    let database = Backend::Embedded.database().await;
    let server = Server::start(&database, config(&authority)).await;
    let ada = App::open(&target(&server), &fresh_user(), "ada").await;
    ada.add("0f8fad5b-d9cb-469f-a165-70867728950e", "Ada");
    let error = ada.client.sync().await.expect_err("it is not believed");
    let text = error.to_string();
    assert!(text.contains("certificate"), "{text}");
    assert!(!server.log().contains("/sync/"), "{}", server.log());
    assert_eq!(ada.client.status().await.expect("a status").unsent, 1);

    let none = oversqlite::Config::new("a.db", "https://a", ada.client.user().clone(), || async {
        Ok(String::new())
    });
    let error = none.root_certificates(b"no PEM").expect_err("no PEM");
    assert!(error.to_string().contains("BEGIN CERTIFICATE"), "{error}");
}
