//! Download queries against the routes in this process: whatever the query, the
//! answer is the page that PROTOCOL.md section 4 gives, or the error it names.

use super::Target;
use super::bytes::NASTY;
use super::upload::Service;
use crate::server::SECRET;
use actix_web::App;
use actix_web::http::Uri;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use bytestring::ByteString;
use oversync::Clock;
use oversync::auth::mint_token;
use oversync_shared::{DeviceId, UserId};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use std::time::Duration;

/// The stream that is asked for: schema and device of the entries 1, 2, 3 …
const STREAM: &[(&str, &str)] = &[
    ("business", "ada"),
    ("public", "ada"),
    ("business", "bob"),
    ("tree", "bob"),
    ("business", "bob"),
    ("business", "ada"),
];

pub(super) struct Query {
    service: Service,
    token: String,
    epoch: String,
}

impl Query {
    pub(super) fn start() -> Self {
        let service = Service::start();
        let user = UserId::new("ann").expect("a user");
        for (id, (schema, device)) in (1..).zip(STREAM) {
            let table = match *schema {
                "business" => "users",
                "public" => "notes",
                _ => "nodes",
            };
            let body = json!({"changes": [{
                "source_change_id": id, "schema": schema, "table": table, "op": "INSERT",
                "pk": format!("0f8fad5b-d9cb-469f-a165-70867728950{id}"), "payload": {},
            }]});
            let device = DeviceId::new(*device).expect("a device");
            let body = ByteString::from(body.to_string());
            let upload = service.service.read_upload(&body, &user, &device);
            let upload = upload.expect("an upload");
            let reply = service.system.block_on(service.service.upload(upload));
            assert_eq!(reply.expect("applied").highest_server_seq.get(), id);
        }
        let token = mint_token(
            SECRET.as_bytes(),
            &user,
            &DeviceId::new("ada").expect("a device"),
            Clock::system().now(),
            Duration::from_secs(24 * 3_600),
        );
        let epoch = service.service.epoch().to_string();
        Self {
            service,
            token,
            epoch,
        }
    }
}

/// What must come back.
#[derive(Debug, PartialEq)]
enum Answer {
    Page(Value),
    Refused(u16, String),
    /// A long poll with nothing to say: not waited for here.
    Waits,
}

fn refused(message: &str) -> Answer {
    Answer::Refused(400, message.to_owned())
}

/// Section 4, read plainly.
fn plainly(query: &str, epoch: &str) -> Answer {
    let find = |name: &str| {
        let mut all = url::form_urlencoded::parse(query.as_bytes());
        let value = all.find(|(key, _)| key == name).map(|(_, value)| value);
        value.filter(|value| !value.is_empty())
    };
    let number = |name: &str, default: i64| match find(name) {
        None => Some(default),
        Some(text) => text.parse::<i64>().ok(),
    };
    let Some(after) = number("after", 0) else {
        return refused("after must be an integer");
    };
    if after < 0 {
        return refused("after must be >= 0");
    }
    let Some(limit) = number("limit", 100) else {
        return refused("limit must be an integer");
    };
    if !(1..=1_000).contains(&limit) {
        return refused("limit must be between 1 and 1000");
    }
    let Some(until) = number("until", 0) else {
        return refused("until must be an integer");
    };
    if until < 0 {
        return refused("until must be >= 0");
    }
    let schema = find("schema");
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if schema
        .as_ref()
        .is_some_and(|schema| !schema.chars().all(is_plain))
    {
        return refused("invalid schema name");
    }
    let wait = number("wait", 0);
    let Some(wait) = wait.filter(|wait| (0..=60).contains(wait)) else {
        return refused("wait must be between 0 and 60");
    };
    if find("epoch").is_some_and(|asked| asked != epoch) {
        let text = "the database has another history";
        return Answer::Refused(409, text.to_owned());
    }
    let include_self = find("include_self").is_some_and(|text| text == "true");
    let head = STREAM.len() as i64;
    let window = if until == 0 { head } else { until };
    let visible: Vec<i64> = (1..)
        .zip(STREAM)
        .filter(|(id, _)| *id > after && *id <= window)
        .filter(|(_, (of, device))| {
            (include_self || *device != "ada") && schema.as_ref().is_none_or(|schema| of == schema)
        })
        .map(|(id, _)| id)
        .collect();
    if visible.is_empty() && wait > 0 {
        return Answer::Waits;
    }
    let page: Vec<i64> = visible.iter().copied().take(limit as usize).collect();
    Answer::Page(json!({
        "changes": page, "has_more": visible.len() > page.len(),
        "next_after": page.last().copied().unwrap_or(after), "window_until": window,
        "epoch": epoch, "head": head, "highest_source_change_id": 6,
    }))
}

impl Target for Query {
    fn input(&mut self, rng: &mut StdRng) -> Vec<u8> {
        const NAMES: &[&str] = &[
            "after",
            "limit",
            "until",
            "schema",
            "include_self",
            "epoch",
            "wait",
            "after[]",
            "AFTER",
            "",
            "x",
        ];
        const TEXTS: &[&str] = &[
            "business", "public", "tree", "Business", "true", "TRUE", "1e1", "+3", "-0", " 3",
            "0x1", "",
        ];
        let mut query = Vec::new();
        for _ in 0..rng.random_range(0..6) {
            query.extend_from_slice(NAMES.choose(rng).expect("not empty").as_bytes());
            if rng.random_bool(0.95) {
                query.push(b'=');
            }
            let value: Vec<u8> = match rng.random_range(0..9) {
                0..4 => rng.random_range(-1..9_i64).to_string().into_bytes(),
                4 => rng.random_range(990..1_010_i64).to_string().into_bytes(),
                5 => NASTY.choose(rng).expect("not empty").bytes().collect(),
                6 => (0..rng.random_range(0..4)).map(|_| rng.random()).collect(),
                7 if rng.random_bool(0.3) => self.epoch.clone().into_bytes(),
                _ => TEXTS.choose(rng).expect("not empty").bytes().collect(),
            };
            for byte in value {
                match byte {
                    b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' if rng.random_bool(0.9) => {
                        query.push(byte)
                    }
                    b' ' if rng.random_bool(0.5) => query.push(b'+'),
                    _ => query.extend_from_slice(format!("%{byte:02x}").as_bytes()),
                }
            }
            query.push(*b"&&&&;%".choose(rng).expect("not empty"));
        }
        query
    }

    fn check(&mut self, _: u64, input: &[u8]) -> Result<(), String> {
        let Ok(query) = std::str::from_utf8(input) else {
            return Ok(());
        };
        // What cannot stand in a request line is refused by the HTTP parser.
        let Ok(uri) = Uri::try_from(format!("/sync/download?{query}")) else {
            return Ok(());
        };
        let query = uri.query().unwrap_or_default();
        let expected = plainly(query, &self.epoch);
        if expected == Answer::Waits {
            return Ok(());
        }
        let service = &self.service.service;
        let (status, body) = self.service.system.block_on(async {
            let app = init_service(App::new().configure(oversync::routes(service))).await;
            let bearer = format!("Bearer {}", self.token);
            let request = TestRequest::get()
                .uri(&uri.to_string())
                .insert_header(("authorization", bearer));
            let response = call_service(&app, request.to_request()).await;
            (response.status().as_u16(), read_body(response).await)
        });
        let mut body: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let found = if status == 200 {
            if let Some(changes) = body["changes"].as_array_mut() {
                for change in changes {
                    *change = change["server_id"].clone();
                }
            }
            Answer::Page(body)
        } else {
            Answer::Refused(
                status,
                body["message"].as_str().unwrap_or_default().to_owned(),
            )
        };
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?}\nexpected {expected:?}"))
        }
    }
}
