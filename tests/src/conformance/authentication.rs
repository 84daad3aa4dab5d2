//! Section 2: who is calling.

use super::case_list;
use crate::device::{HttpDevice, insert};
use crate::target::{Target, fresh_key, fresh_user};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use oversync::Clock;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

case_list![V1:
    every_token_fault_has_one_identical_answer,
    every_endpoint_asks_for_a_token,
    the_answer_is_the_same_at_every_endpoint,
    the_scheme_is_read_in_any_case,
    the_algorithm_is_not_the_tokens_choice,
    names_of_one_and_255_bytes_are_taken,
    a_clock_may_be_a_little_off,
    a_user_sees_only_its_own_stream,
    a_source_id_in_the_body_is_ignored;
Extension:
    a_socket_and_the_capabilities_ask_for_a_token,
];

fn now() -> i64 {
    Clock::system().now().unix_timestamp()
}

fn sign(target: &Target, algorithm: Algorithm, claims: &Value) -> String {
    let key = EncodingKey::from_secret(target.secret());
    encode(&Header::new(algorithm), claims, &key).expect("any claims can be signed")
}

fn shows(target: &Target, claims: Value) -> HttpDevice {
    let token = sign(target, Algorithm::HS256, &claims);
    HttpDevice::new(target.clone(), "-", "-", token)
}

async fn every_token_fault_has_one_identical_answer(target: Target) {
    let end = now() + 600;
    let good = target.token("u", "d", Duration::from_secs(600));
    let (rest, signature) = good.rsplit_once('.').expect("three parts");
    let claims = [
        json!({"sub": "u", "did": "d"}),
        json!({"sub": "u", "did": "d", "exp": now() - 120}),
        json!({"sub": "u", "did": "d", "exp": end.to_string()}),
        json!({"sub": "u", "did": "d", "exp": null}),
        json!({"sub": "u", "did": "d", "exp": end, "nbf": now() + 120}),
        json!({"sub": "u", "exp": end}),
        json!({"did": "d", "exp": end}),
        json!({"sub": "", "did": "d", "exp": end}),
        json!({"sub": "u", "did": "", "exp": end}),
        json!({"sub": 7, "did": "d", "exp": end}),
        json!({"sub": "u", "did": 7, "exp": end}),
        json!({"sub": "u", "did": null, "exp": end}),
        json!({"sub": "u\u{0}", "did": "d", "exp": end}),
        json!({"sub": "u", "did": "d\n", "exp": end}),
        json!({"sub": "u\u{85}", "did": "d", "exp": end}),
        json!({"sub": "u".repeat(256), "did": "d", "exp": end}),
        json!({"sub": "u", "did": "é".repeat(128), "exp": end}),
        json!({"sub": "u", "did": "server", "exp": end}),
        json!(["u", "d", end]),
    ];
    let mut headers: Vec<Option<String>> = claims
        .iter()
        .map(|claims| {
            Some(format!(
                "Bearer {}",
                sign(&target, Algorithm::HS256, claims)
            ))
        })
        .collect();
    let foreign = Target::new(target.base(), "quite another secret of enough bytes");
    headers.extend([
        None,
        Some(String::new()),
        Some("Bearer".into()),
        Some("Bearer ".into()),
        Some("Bearer x".into()),
        Some("Bearer a.b.c".into()),
        Some(format!("Basic {good}")),
        Some(good.clone()),
        Some(format!("Bearer {rest}.")),
        Some(format!(
            "Bearer {rest}.{}",
            signature.chars().rev().collect::<String>()
        )),
        Some(format!("Bearer {good}x")),
        Some(format!(
            "Bearer {}",
            foreign.token("u", "d", Duration::from_secs(600))
        )),
    ]);
    let url = format!("{}/sync/download", target.base());
    let mut first = None;
    for header in headers {
        let mut request = target.client().get(&url);
        if let Some(header) = &header {
            request = request.header("authorization", header);
        }
        let reply = HttpDevice::send(request).await;
        assert_eq!(reply.status, 401, "{header:?}");
        reply.refused(401, "authentication_failed");
        assert_eq!(
            reply.text,
            *first.get_or_insert_with(|| reply.text.clone()),
            "the answer does not depend on the fault: {header:?}"
        );
    }
}

async fn every_endpoint_asks_for_a_token(target: Target) {
    let nobody = HttpDevice::new(target, "-", "-", "nonsense".into());
    for path in ["/sync/download", "/sync/schema-version"] {
        nobody.get(path).await.refused(401, "authentication_failed");
    }
    nobody
        .upload_raw("{}")
        .await
        .refused(401, "authentication_failed");
    nobody
        .upload_raw("not even JSON")
        .await
        .refused(401, "authentication_failed");
}

/// Text and headers of the answer to a token that is none.
async fn the_answer_is_the_same_at_every_endpoint(target: Target) {
    let nobody = HttpDevice::new(target, "-", "-", "nonsense".into());
    let first = nobody.download_raw("").await;
    first.refused(401, "authentication_failed");
    for (method, path) in [
        (Method::POST, "/sync/upload"),
        (Method::GET, "/sync/download?after=x"),
        (Method::GET, "/sync/schema-version"),
        (Method::GET, "/admin/materialize-failures"),
        (Method::POST, "/admin/materialize-failures/retry"),
    ] {
        let reply = HttpDevice::send(nobody.request(method, path).body("{")).await;
        assert_eq!((reply.status, &reply.text), (401, &first.text), "{path}");
    }
}

async fn a_socket_and_the_capabilities_ask_for_a_token(target: Target) {
    let nobody = HttpDevice::new(target, "-", "-", "nonsense".into());
    let reply = nobody.get("/sync/capabilities").await;
    let body = reply.refused(401, "authentication_failed");
    let refused = nobody.try_connect(&[]).await.expect_err("no token");
    assert_eq!((refused.status, refused.body), (401, body));
}

async fn the_scheme_is_read_in_any_case(target: Target) {
    let token = target.token(&fresh_user(), "d", Duration::from_secs(60));
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let url = format!("{}/sync/download", target.base());
        let request = target.client().get(url);
        let reply =
            HttpDevice::send(request.header("authorization", format!("{scheme} {token}"))).await;
        reply.ok();
    }
}

async fn the_algorithm_is_not_the_tokens_choice(target: Target) {
    let claims = json!({"sub": "u", "did": "d", "exp": now() + 600});
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1IiwiZGlkIjoiZCIsImV4cCI6OTk5OTk5OTk5OX0.";
    for token in [
        sign(&target, Algorithm::HS384, &claims),
        sign(&target, Algorithm::HS512, &claims),
        none.to_owned(),
    ] {
        HttpDevice::new(target.clone(), "-", "-", token)
            .download_raw("")
            .await
            .refused(401, "authentication_failed");
    }
}

async fn names_of_one_and_255_bytes_are_taken(target: Target) {
    let long = format!("{}{}", "é".repeat(100), fresh_user());
    let long = format!("{long}{}", "x".repeat(255 - long.len()));
    for (user, device) in [
        (long.as_str(), "d"),
        ("x", long.as_str()),
        ("server", "d 'x'; --"),
    ] {
        let device = shows(
            &target,
            json!({"sub": user, "did": device, "exp": now() + 60}),
        );
        let mark = fresh_key();
        let reply = device
            .upload(&[insert(
                now(),
                "business.users",
                &mark,
                json!({"name": user}),
            )])
            .await;
        assert_eq!(reply["accepted"], true, "{reply}");
    }
}

async fn a_clock_may_be_a_little_off(target: Target) {
    let base = json!({"sub": fresh_user(), "did": "d"});
    let with = |exp: i64, nbf: i64| {
        let mut claims = base.clone();
        claims["exp"] = exp.into();
        claims["nbf"] = nbf.into();
        shows(&target, claims)
    };
    with(now() + 60, now() - 1).download("").await;
    // Far enough that it stays so on a slow machine.
    with(now() + 60, now() + 45)
        .download_raw("")
        .await
        .refused(401, "authentication_failed");
    with(now() - 31, now() - 60)
        .download_raw("")
        .await
        .refused(401, "authentication_failed");
}

async fn a_user_sees_only_its_own_stream(target: Target) {
    let (ann, eve) = (target.one_device(), target.one_device());
    let key = fresh_key();
    ann.upload(&[insert(1, "business.users", &key, json!({"name": "Ann"}))])
        .await;
    // The same key and change id of another user are another row and another change.
    let before = eve.download("include_self=true").await;
    assert_eq!(
        (&before["changes"], &before["head"]),
        (&json!([]), &json!(0))
    );
    let reply = eve
        .upload(&[insert(1, "business.users", &key, json!({"name": "Eve"}))])
        .await;
    assert_eq!(reply["statuses"][0]["new_server_version"], 1);
    assert_eq!(reply["highest_server_seq"], 1);
    // Nor does a foreign row count as a parent.
    let status = eve
        .upload_one(insert(
            2,
            "business.posts",
            &fresh_key(),
            json!({"author_id": fresh_key()}),
        ))
        .await;
    assert_eq!(status["invalid"]["reason"], "fk_missing");
    let page = ann.sibling("bob").download("").await;
    assert_eq!(page["changes"][0]["payload"], json!({"name": "Ann"}));
    assert_eq!(page["changes"].as_array().map(Vec::len), Some(1));
}

async fn a_source_id_in_the_body_is_ignored(target: Target) {
    let (ada, bob) = target.two_devices();
    let mut change = insert(1, "business.users", &fresh_key(), json!({}));
    change["source_id"] = "bob".into();
    let body = json!({"source_id": "bob", "user_id": "somebody", "changes": [change]});
    ada.upload_raw(body.to_string()).await.ok();
    let page = bob.download("").await;
    assert_eq!(page["changes"][0]["source_id"], "ada");
}
