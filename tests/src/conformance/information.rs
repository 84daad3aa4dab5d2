//! What a server says about itself.

use super::case_list;
use crate::device::HttpDevice;
use crate::target::Target;
use serde_json::json;

case_list![V1:
    health_and_readiness_need_no_token,
    the_schema_version_is_a_number;
Extension:
    capabilities_name_limits_and_features,
    a_request_has_an_id,
];

async fn health_and_readiness_need_no_token(target: Target) {
    for path in ["/health", "/ready"] {
        let url = format!("{}{path}", target.base());
        let reply = HttpDevice::send(target.client().get(url)).await;
        assert_eq!(reply.status, 200, "{path}");
    }
}

async fn the_schema_version_is_a_number(target: Target) {
    let body = target.one_device().get("/sync/schema-version").await.ok();
    let version = body["schema_version"].as_i64().expect("a number");
    assert_eq!(body, json!({ "schema_version": version }));
}

async fn capabilities_name_limits_and_features(target: Target) {
    let device = target.one_device();
    let served = device.get("/sync/capabilities").await.ok();
    assert_eq!(served["protocol"], "v1");
    assert!(served["app_name"].is_string());
    assert_eq!(served["epoch"], device.download("").await["epoch"]);
    let limits = &served["limits"];
    for limit in [
        "max_changes",
        "max_payload_bytes",
        "max_body_bytes",
        "max_page",
    ] {
        assert!(
            limits[limit].as_u64().is_some_and(|n| n > 0),
            "{limit}: {limits}"
        );
    }
    assert!(limits["max_page"].as_u64() <= Some(1_000));
    for feature in ["ws", "wait", "epoch", "ordered_feed"] {
        let features = served["features"].as_array().expect("a list");
        assert!(features.contains(&json!(feature)), "{feature}");
    }
}

async fn a_request_has_an_id(target: Target) {
    let device = target.one_device();
    let ids = [device.get("/health").await, device.get("/sync/none").await]
        .map(|reply| reply.headers["x-request-id"].clone());
    assert_ne!(ids[0], ids[1]);
}
