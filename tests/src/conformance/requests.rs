//! Section 1: methods, paths, bodies, and what makes a request no request.

use super::case_list;
use crate::device::{HttpDevice, insert};
use crate::target::{Target, fresh_key};
use reqwest::Method;
use serde_json::json;

case_list![V1:
    another_method_is_405,
    another_path_is_404,
    a_body_that_is_no_upload_is_400,
    an_empty_upload_says_the_head,
    null_fields_count_as_absent,
    unknown_fields_are_ignored,
    the_content_type_does_not_matter,
    a_compressed_body_is_415,
    bad_download_parameters_are_400;
Extension:
    a_bad_wait_is_400,
    another_epoch_is_409_and_nothing_is_applied,
    an_unsupported_schema_version_is_409,
];

async fn another_method_is_405(target: Target) {
    let device = target.one_device();
    for (path, right) in [
        ("/sync/upload", Method::POST),
        ("/sync/download", Method::GET),
        ("/sync/schema-version", Method::GET),
        ("/health", Method::GET),
    ] {
        for method in [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ] {
            if method != right {
                HttpDevice::send(device.request(method, path))
                    .await
                    .refused(405, "method_not_allowed");
            }
        }
    }
}

async fn another_path_is_404(target: Target) {
    let device = target.one_device();
    for path in [
        "/",
        "/sync",
        "/sync/",
        "/sync/uploads",
        "/sync/upload/x",
        "/SYNC/download",
    ] {
        device.get(path).await.refused(404, "not_found");
    }
}

async fn a_body_that_is_no_upload_is_400(target: Target) {
    let device = target.one_device();
    let deep_envelope = format!(r#"{{"x":{}{}}}"#, "[".repeat(64), "]".repeat(64));
    let bodies: Vec<Vec<u8>> = [
        "",
        " ",
        "x",
        "{",
        "{}{}",
        "[]",
        "true",
        "7",
        "\"text\"",
        "{'changes':[]}",
        r#"{"changes":{}}"#,
        r#"{"changes":"x"}"#,
        r#"{"changes":[1]}"#,
        r#"{"changes":[[]]}"#,
        r#"{"changes":[null]}"#,
        r#"{"changes":[{}],}"#,
        r#"{"changes":[],"changes":[]}"#,
        r#"{"changes":[{"pk":7}]}"#,
        r#"{"changes":[{"table":true}]}"#,
        r#"{"changes":[{"schema":[]}]}"#,
        r#"{"changes":[{"op":{}}]}"#,
        r#"{"changes":[{"source_change_id":"1"}]}"#,
        r#"{"changes":[{"source_change_id":1.5}]}"#,
        r#"{"changes":[{"source_change_id":1e3}]}"#,
        r#"{"changes":[{"source_change_id":9223372036854775808}]}"#,
        r#"{"changes":[{"server_version":"0"}]}"#,
        r#"{"changes":[{"server_version":-9223372036854775809}]}"#,
        r#"{"changes":[{"pk":"a","pk":"b"}]}"#,
        r#"{"changes":[{"payload":{"a":}}]}"#,
        r#"{"changes":[{"payload":{a:1}}]}"#,
        r#"{"changes":[{"payload":{"a":01}}]}"#,
        r#"{"last_server_seq_seen":"7"}"#,
        r#"{"last_server_seq_seen":[]}"#,
        r#"{"changes":[{"pk":"\ud800"}]}"#,
        r#"{"x":{"a":1,"a":1}}"#,
        "{\"x\":\"\u{1}\"}",
        &deep_envelope,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([
        b"{\"x\":\"\xff\"}".to_vec(),
        b"\xef\xbb\xbf{}".to_vec(),
        "{}".encode_utf16().flat_map(u16::to_le_bytes).collect(),
        b"\0".to_vec(),
    ])
    .collect();
    for body in bodies {
        let reply = device.upload_raw(body.clone()).await;
        assert_eq!(reply.status, 400, "{}", String::from_utf8_lossy(&body));
        reply.bad_request("Failed to parse upload request");
    }
    assert_eq!(device.download("").await["window_until"], 0);
}

async fn an_empty_upload_says_the_head(target: Target) {
    let device = target.one_device();
    for body in [
        "null",
        "{}",
        r#"{"changes":null}"#,
        r#"{"changes":[]}"#,
        " \n\t{ } ",
    ] {
        let reply = device.upload_raw(body).await.ok();
        assert_eq!(reply["accepted"], true, "{body}");
        assert_eq!(reply["highest_server_seq"], 0, "{body}");
        assert_eq!(reply["statuses"], json!([]), "{body}");
    }
    device
        .upload(&[insert(1, "business.users", &fresh_key(), json!({}))])
        .await;
    assert_eq!(device.upload(&[]).await["highest_server_seq"], 1);
}

async fn null_fields_count_as_absent(target: Target) {
    let device = target.one_device();
    let key = fresh_key();
    let body = json!({
        "last_server_seq_seen": null,
        "changes": [{
            "source_change_id": null, "schema": null, "table": "notes", "op": "INSERT", "pk": key,
            "server_version": null, "payload": {"a": null},
        }],
    });
    let reply = device.upload_raw(body.to_string()).await.ok();
    assert_eq!(
        reply["statuses"],
        json!([{"source_change_id": 0, "status": "applied", "new_server_version": 1}])
    );
    let page = device.download("include_self=true").await;
    let change = &page["changes"][0];
    assert_eq!(
        (&change["schema"], &change["table"]),
        (&json!("public"), &json!("notes"))
    );
    assert_eq!(change["payload"], json!({"a": null}));
}

async fn unknown_fields_are_ignored(target: Target) {
    let device = target.one_device();
    let mut change = insert(1, "business.users", &fresh_key(), json!({}));
    change["more"] = json!({"deep": [1, {"er": null}]});
    let body = json!({"changes": [change], "device": "x", "extra": [[]]});
    let reply = device.upload_raw(body.to_string()).await.ok();
    assert_eq!(reply["statuses"][0]["status"], "applied");
}

async fn the_content_type_does_not_matter(target: Target) {
    let device = target.one_device();
    for content_type in [
        "text/plain",
        "application/octet-stream",
        "application/json; charset=utf-8",
    ] {
        let request = device
            .request(Method::POST, "/sync/upload")
            .header("content-type", content_type)
            .body("{}");
        HttpDevice::send(request).await.ok();
    }
}

async fn a_compressed_body_is_415(target: Target) {
    let device = target.one_device();
    for encoding in [
        "gzip",
        "br",
        "deflate",
        "zstd",
        "x-unknown",
        "identity, gzip",
        "gzip, identity",
    ] {
        let request = device
            .request(Method::POST, "/sync/upload")
            .header("content-encoding", encoding)
            .body("{}");
        HttpDevice::send(request)
            .await
            .refused(415, "unsupported_encoding");
    }
    let request = device
        .request(Method::POST, "/sync/upload")
        .header("content-encoding", "Identity")
        .body("{}");
    HttpDevice::send(request).await.ok();
}

async fn bad_download_parameters_are_400(target: Target) {
    let device = target.one_device();
    for (query, message) in [
        ("after=x", "after must be an integer"),
        ("after=1.5", "after must be an integer"),
        ("after=9223372036854775808", "after must be an integer"),
        ("after=%00", "after must be an integer"),
        ("after=-1", "after must be >= 0"),
        ("after=-9223372036854775808", "after must be >= 0"),
        ("limit=x", "limit must be an integer"),
        ("limit=1e2", "limit must be an integer"),
        ("limit=0", "limit must be between 1 and 1000"),
        ("limit=-1", "limit must be between 1 and 1000"),
        ("limit=1001", "limit must be between 1 and 1000"),
        ("until=x", "until must be an integer"),
        ("until=-1", "until must be >= 0"),
        ("schema=Business", "invalid schema name"),
        ("schema=%20business", "invalid schema name"),
        ("schema=a-b", "invalid schema name"),
        ("schema=a%00", "invalid schema name"),
        ("schema=%C3%A9", "invalid schema name"),
        ("schema=a%27%20OR%201%3D1", "invalid schema name"),
        ("after=x&limit=0", "after must be an integer"),
    ] {
        let reply = device.download_raw(query).await;
        assert_eq!(reply.status, 400, "{query}");
        reply.bad_request(message);
    }
}

async fn a_bad_wait_is_400(target: Target) {
    let device = target.one_device();
    for wait in ["x", "-1", "61", "1.5", "9999999999999999999"] {
        device
            .download_raw(&format!("wait={wait}"))
            .await
            .bad_request("wait must be between 0 and 60");
    }
    device.download("wait=0").await;
}

async fn another_epoch_is_409_and_nothing_is_applied(target: Target) {
    let device = target.one_device();
    let epoch = device.download("").await["epoch"].clone();
    let change = insert(1, "business.users", &fresh_key(), json!({}));
    let body = |epoch: &serde_json::Value| json!({"epoch": epoch, "changes": [change]}).to_string();

    let refused = device.upload_raw(body(&json!("another"))).await;
    assert_eq!(refused.refused(409, "epoch_mismatch")["epoch"], epoch);
    let refused = device.download_raw("epoch=another").await;
    assert_eq!(refused.refused(409, "epoch_mismatch")["epoch"], epoch);
    assert_eq!(device.download("").await["head"], 0, "nothing was applied");

    let reply = device.upload_raw(body(&epoch)).await.ok();
    assert_eq!((&reply["epoch"], &reply["head"]), (&epoch, &json!(1)));
    let query = format!("include_self=true&epoch={}", epoch.as_str().expect("text"));
    let page = device.download(&query).await;
    assert_eq!((&page["epoch"], &page["head"]), (&epoch, &json!(1)));
    // A retry under a wrong epoch is refused too.
    let refused = device.upload_raw(body(&json!(""))).await;
    refused.refused(409, "epoch_mismatch");
}

async fn an_unsupported_schema_version_is_409(target: Target) {
    let device = target.one_device();
    let served = device.get("/sync/capabilities").await.ok();
    let (oldest, newest) = (
        served["min_schema_version"].as_i64().expect("a number"),
        served["schema_version"].as_i64().expect("a number"),
    );
    let body =
        json!({"changes": [insert(1, "business.users", &fresh_key(), json!({}))]}).to_string();
    let ask = |method: Method, path: &str, version: String| {
        let request = device
            .request(method, path)
            .header("Oversync-Schema-Version", version)
            .body(body.clone());
        HttpDevice::send(request)
    };
    for version in [oldest - 1, newest + 1] {
        for (method, path) in [
            (Method::POST, "/sync/upload"),
            (Method::GET, "/sync/download"),
        ] {
            let reply = ask(method, path, version.to_string()).await;
            let refused = reply.refused(409, "schema_version_unsupported");
            assert_eq!(refused["schema_version"], newest);
            assert_eq!(refused["min_schema_version"], oldest);
        }
    }
    for version in ["x", "", "1.0"] {
        let reply = ask(Method::GET, "/sync/download", version.to_owned()).await;
        reply.refused(400, "invalid_request");
    }
    assert_eq!(device.download("").await["head"], 0, "nothing was applied");
    for version in [oldest, newest] {
        ask(Method::POST, "/sync/upload", version.to_string())
            .await
            .ok();
    }
}
