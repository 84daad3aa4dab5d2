//! Tokens by configuration: every algorithm is taken where it is configured and
//! nowhere else, keys rotate without a restart, and no token is ever logged.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use oversync::Clock;
use oversync_tests::device::insert;
use oversync_tests::target::{fresh_key, fresh_user};
use oversync_tests::{Backend, Config, Database, HttpDevice, Server, eventually};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;

/// Long enough for every HS algorithm.
const SECRET: &str = "sixty-four bytes and more, as HS512 asks for: 0123456789abcdefghijklmnop";

struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    public_pem: String,
    public_raw: Vec<u8>,
}

impl Signer {
    fn new(algorithm: Algorithm) -> Self {
        let pair = match algorithm {
            Algorithm::RS256 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
            Algorithm::ES256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Algorithm::EdDSA => KeyPair::generate_for(&PKCS_ED25519),
            _ => {
                let key = EncodingKey::from_secret(SECRET.as_bytes());
                return Self {
                    algorithm,
                    key,
                    public_pem: String::new(),
                    public_raw: Vec::new(),
                };
            }
        };
        let pair = pair.expect("a key pair");
        let pem = pair.serialize_pem();
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_ed_pem(pem.as_bytes()),
        };
        Self {
            algorithm,
            key: key.expect("a private key"),
            public_raw: pair.public_key_raw().to_vec(),
            public_pem: pair.public_key_pem(),
        }
    }

    fn sign(&self, kid: Option<&str>, more: Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = kid.map(str::to_owned);
        let mut claims = json!({
            "sub": fresh_user(), "did": "phone",
            "exp": Clock::system().now().unix_timestamp() + 600,
        });
        for (name, value) in more.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        encode(&header, &claims, &self.key).expect("it signs")
    }

    fn jwk(&self, kid: &str) -> Value {
        if self.algorithm == Algorithm::EdDSA {
            let x = URL_SAFE_NO_PAD.encode(&self.public_raw);
            return json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": kid, "x": x});
        }
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a JWK");
        jwk.common.key_id = Some(kid.to_owned());
        serde_json::to_value(jwk).expect("JSON")
    }
}

const ALL: [Algorithm; 6] = [
    Algorithm::HS256,
    Algorithm::HS384,
    Algorithm::HS512,
    Algorithm::RS256,
    Algorithm::ES256,
    Algorithm::EdDSA,
];

fn is_symmetric(algorithm: Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512
    )
}

async fn server(config: Config) -> (Server, Database) {
    let database = Backend::Embedded.database().await;
    (Server::start(&database, config).await, database)
}

/// The status of a request with this token; every refusal is the same.
async fn status(server: &Server, token: &str) -> u16 {
    let target = server.target();
    let request = target
        .client()
        .get(format!("{}/sync/download", target.base()))
        .bearer_auth(token);
    let reply = HttpDevice::send(request).await;
    if reply.status == 200 {
        return 200;
    }
    let body = reply.refused(401, "authentication_failed");
    assert_eq!(body["message"], "authentication failed");
    401
}

fn write(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("written");
    path
}

fn with_key(algorithm: Algorithm, signer: &Signer, folder: &TempDir) -> Config {
    let name = format!("{algorithm:?}");
    if is_symmetric(algorithm) {
        return Config::default()
            .set("jwt_secret", SECRET)
            .set("auth.algorithm", name);
    }
    let file = write(folder, "key.pem", &signer.public_pem);
    Config::default()
        .unset("jwt_secret")
        .set("auth.algorithm", name)
        .set("auth.public_key_file", file.display().to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_algorithm_is_taken_where_it_is_configured_and_nowhere_else() {
    let folder = TempDir::new().expect("a folder");
    let signers: Vec<Signer> = ALL.into_iter().map(Signer::new).collect();
    for configured in &signers {
        let config = with_key(configured.algorithm, configured, &folder);
        let (server, _database) = server(config).await;
        for signer in &signers {
            let expected = if signer.algorithm == configured.algorithm {
                200
            } else {
                401
            };
            let token = signer.sign(None, json!({}));
            assert_eq!(
                status(&server, &token).await,
                expected,
                "{:?} at a server for {:?}",
                signer.algorithm,
                configured.algorithm
            );
        }
        // The public key is public: it must not do for a secret.
        let header = Header::new(Algorithm::HS256);
        let claims =
            json!({"sub": "u", "did": "d", "exp": Clock::system().now().unix_timestamp() + 600});
        let forged = encode(
            &header,
            &claims,
            &EncodingKey::from_secret(configured.public_pem.as_bytes()),
        );
        assert_eq!(status(&server, &forged.expect("it signs")).await, 401);
        // Another key of the same kind.
        let other = Signer::new(configured.algorithm).sign(None, json!({}));
        let expected = if is_symmetric(configured.algorithm) {
            200
        } else {
            401
        };
        assert_eq!(status(&server, &other).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_set_go_by_name_and_rotate_without_a_restart() {
    let folder = TempDir::new().expect("a folder");
    let (old, new, edge) = (
        Signer::new(Algorithm::RS256),
        Signer::new(Algorithm::ES256),
        Signer::new(Algorithm::EdDSA),
    );
    let set = |keys: &[Value]| json!({ "keys": keys }).to_string();
    let file = write(
        &folder,
        "jwks.json",
        &set(&[old.jwk("old"), edge.jwk("edge")]),
    );
    let config = Config::default()
        .unset("jwt_secret")
        .set("auth.jwks_file", file.display().to_string());
    let (server, _database) = server(config).await;
    assert_eq!(
        status(&server, &old.sign(Some("old"), json!({}))).await,
        200
    );
    assert_eq!(
        status(&server, &edge.sign(Some("edge"), json!({}))).await,
        200
    );
    // A name of another key, no name among several, an unknown name.
    assert_eq!(
        status(&server, &old.sign(Some("edge"), json!({}))).await,
        401
    );
    assert_eq!(status(&server, &old.sign(None, json!({}))).await, 401);
    assert_eq!(
        status(&server, &new.sign(Some("new"), json!({}))).await,
        401
    );

    write(
        &folder,
        "jwks.json",
        &set(&[new.jwk("new"), edge.jwk("edge")]),
    );
    eventually("the new key is taken", || async {
        (status(&server, &new.sign(Some("new"), json!({}))).await == 200).then_some(())
    })
    .await;
    assert_eq!(
        status(&server, &old.sign(Some("old"), json!({}))).await,
        401
    );
    // A file that cannot be used changes nothing.
    write(&folder, "jwks.json", "not JSON");
    eventually("the fault is logged", || async {
        assert_eq!(
            status(&server, &new.sign(Some("new"), json!({}))).await,
            200
        );
        server
            .log()
            .contains("the keys stay as they were")
            .then_some(())
    })
    .await;
}

/// The secret in a file: whoever has the old one is out at once, a socket stays
/// until its token ends, and what signs people in goes along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_rotates_without_a_restart() {
    let folder = TempDir::new().expect("a folder");
    let (old, new) = (
        SECRET,
        "another secret: 0123456789abcdefghijklmnopqrstuvwxyz-0123456789abc",
    );
    let file = write(&folder, "secret", &format!(" {old}\n"));
    let config = Config::default()
        .unset("jwt_secret")
        .set("dev", true)
        .set("auth.algorithm", "HS384")
        .set("jwt_secret_file", file.display().to_string());
    let (server, _database) = server(config).await;
    let token = |secret: &str| {
        let claims = json!({
            "sub": "u", "did": "d", "exp": Clock::system().now().unix_timestamp() as f64 + 600.5,
        });
        let key = EncodingKey::from_secret(secret.as_bytes());
        encode(&Header::new(Algorithm::HS384), &claims, &key).expect("it signs")
    };
    assert_eq!(status(&server, &token(old)).await, 200);
    assert_eq!(status(&server, &token(new)).await, 401);
    let device = HttpDevice::new(server.target(), "u", "d", token(old));
    let mut socket = device.connect().await;
    let mut told = socket.hello().await;

    write(&folder, "secret", new);
    eventually("the new secret is taken", || async {
        (status(&server, &token(new)).await == 200).then_some(())
    })
    .await;
    assert_eq!(status(&server, &token(old)).await, 401);
    let sign_in = async || {
        let request = server
            .target()
            .client()
            .post(format!("{}/signin", server.target().base()))
            .json(&json!({"username": "ann", "device_id": "phone"}));
        let reply = HttpDevice::send(request).await.ok();
        reply["token"].as_str().expect("a token").to_owned()
    };
    eventually("who signs in gets a token that is taken", || async {
        (status(&server, &sign_in().await).await == 200).then_some(())
    })
    .await;
    let sibling = HttpDevice::new(server.target(), "u", "d", token(new));
    sibling
        .upload(&[insert(1, "business.users", &fresh_key(), json!({}))])
        .await;
    socket.told_of(1, &mut told).await;

    // Too short, or cut off: the secret stays as it was.
    for bad in ["short", ""] {
        write(&folder, "secret", bad);
        let faults = server.log().matches("the keys stay as they were").count();
        eventually("the fault is logged", || async {
            assert_eq!(status(&server, &token(new)).await, 200);
            let now = server.log().matches("the keys stay as they were").count();
            (now > faults).then_some(())
        })
        .await;
        assert_eq!(status(&server, &token(bad)).await, 401);
    }
    assert!(!server.log().contains(new) && !server.log().contains(old));
}

/// RFC 7519 allows decimals in dates; what is no date is no token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dates_may_have_decimals() {
    let (server, _database) = server(Config::default().set("jwt_secret", SECRET)).await;
    let signer = Signer::new(Algorithm::HS256);
    let now = Clock::system().now().unix_timestamp() as f64;
    for (claims, expected) in [
        (
            json!({"exp": now + 60.25, "nbf": now - 0.5, "iat": now - 0.125}),
            200,
        ),
        (json!({"exp": now - 31.5}), 401),
        (json!({"nbf": now + 40.5}), 401),
        (json!({"exp": 1e300}), 401),
        (json!({"nbf": -1.5}), 401),
        (json!({"iat": 1e15}), 401),
    ] {
        assert_eq!(
            status(&server, &signer.sign(None, claims.clone())).await,
            expected,
            "{claims}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audience_and_issuer_are_required_when_configured() {
    let config = Config::default()
        .set("jwt_secret", SECRET)
        .set("auth.audience", "sync")
        .set("auth.issuer", "https://login.example");
    let (server, _database) = server(config).await;
    let signer = Signer::new(Algorithm::HS256);
    for (claims, expected) in [
        (json!({"aud": "sync", "iss": "https://login.example"}), 200),
        (
            json!({"aud": ["other", "sync"], "iss": "https://login.example"}),
            200,
        ),
        (json!({}), 401),
        (json!({"aud": "sync"}), 401),
        (json!({"iss": "https://login.example"}), 401),
        (json!({"aud": "other", "iss": "https://login.example"}), 401),
        (
            json!({"aud": "sync", "iss": "https://login.example.evil"}),
            401,
        ),
        (json!({"aud": [], "iss": "https://login.example"}), 401),
    ] {
        assert_eq!(
            status(&server, &signer.sign(None, claims.clone())).await,
            expected,
            "{claims}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_is_logged() {
    let (server, _database) = server(Config::default().set("log", "trace")).await;
    let device = server.target().one_device();
    let bad = format!("{}x", device.token());
    device.download("").await;
    device.connect().await;
    assert_eq!(status(&server, &bad).await, 401);
    let signature = device.token().rsplit('.').next().expect("three parts");
    let log = server.log();
    assert!(log.len() > 1_000, "the log is not empty");
    assert!(!log.contains(signature), "a token in the log");
}
