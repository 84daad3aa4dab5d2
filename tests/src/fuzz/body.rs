//! Upload bodies: made at random, and read as plainly as PROTOCOL.md section 3
//! says it.

use super::bytes::mutate;
use super::json::{self, Judged, MAX_DEPTH, Tree};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::value::RawValue;

/// A body with something of everything, and keys few enough to meet again.
pub(super) fn body(rng: &mut StdRng) -> Vec<u8> {
    let mut text = String::new();
    json::space(rng, &mut text);
    if rng.random_bool(0.02) {
        json::value(rng, 3, &mut text);
        return text.into_bytes();
    }
    text.push('{');
    let mut fields = vec!["changes"];
    for field in [
        "last_server_seq_seen",
        "settled_below",
        "epoch",
        "extra",
        "changes",
    ] {
        if rng.random_bool(0.05) {
            let at = rng.random_range(0..=fields.len());
            fields.insert(at, field);
        }
    }
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        json::space(rng, &mut text);
        text.push_str(&format!("\"{field}\":"));
        match *field {
            "changes" if rng.random_bool(0.97) => {
                text.push('[');
                for index in 0..rng.random_range(0..7) {
                    if index > 0 {
                        text.push(',');
                    }
                    change(rng, &mut text);
                }
                text.push(']');
            }
            "settled_below" | "last_server_seq_seen" if rng.random_bool(0.7) => text.push('7'),
            _ => json::value(rng, 3, &mut text),
        }
    }
    text.push('}');
    let mut bytes = text.into_bytes();
    if rng.random_bool(0.3) {
        mutate(&mut bytes, rng);
    }
    bytes
}

fn key(rng: &mut StdRng) -> String {
    let digit = rng.random_range(0..6);
    let key = format!("0f8fad5b-d9cb-469f-a165-70867728950{digit}");
    match rng.random_range(0..12) {
        0 => key.to_uppercase(),
        1 => key.replace('-', ""),
        2 => format!("{{{key}}}"),
        3 => format!("urn:uuid:{key}"),
        _ => key,
    }
}

fn change(rng: &mut StdRng, out: &mut String) {
    const TABLES: &[(&str, &str)] = &[
        ("business", "users"),
        ("business", "posts"),
        ("business", "comments"),
        ("tree", "nodes"),
        ("ring", "lefts"),
        ("ring", "rights"),
        ("", "notes"),
        (" Business ", "USERS"),
        ("business", "nothing"),
    ];
    let (schema, table) = TABLES.choose(rng).expect("not empty");
    let op = ["INSERT", "UPDATE", "DELETE", " insert", "upsert"];
    let op = op.choose(rng).expect("not empty");
    let mut fields = [
        ("source_change_id", rng.random_range(1..12).to_string()),
        ("schema", format!("{schema:?}")),
        ("table", format!("{table:?}")),
        ("op", format!("{op:?}")),
        ("pk", format!("{:?}", key(rng))),
        ("server_version", rng.random_range(0..3).to_string()),
        ("payload", payload(rng, *op == "DELETE")),
        ("more", "null".to_owned()),
    ];
    for field in &mut fields {
        if rng.random_bool(0.02) {
            field.1.clear();
            json::value(rng, 3, &mut field.1);
        }
        if rng.random_bool(0.005) {
            field.0 = "pk";
        }
    }
    out.push('{');
    let mut is_first = true;
    for (name, value) in fields {
        if rng.random_bool(0.04) {
            continue;
        }
        if !is_first {
            out.push(',');
        }
        is_first = false;
        out.push_str(&format!("\"{name}\":{value}"));
    }
    out.push('}');
}

fn payload(rng: &mut StdRng, is_delete: bool) -> String {
    let mut text = String::new();
    if is_delete && rng.random_bool(0.9) {
        return "null".into();
    }
    if rng.random_bool(0.4) {
        json::object(rng, 3, &mut text);
        return text;
    }
    let mut members = Vec::new();
    for column in [
        "author_id",
        "post_id",
        "parent_id",
        "left_id",
        "right_id",
        "owner_id",
    ] {
        if rng.random_bool(0.25) {
            let value = match rng.random_range(0..8) {
                0 => "null".to_owned(),
                1 => "\"\"".to_owned(),
                2 => "42".to_owned(),
                3 => "\"D4+tW9nLRp+hZXCGdyiVDg==\"".to_owned(),
                _ => format!("{:?}", key(rng)),
            };
            members.push(format!("\"{column}\":{value}"));
        }
    }
    format!("{{{}}}", members.join(","))
}

/// The change ids of a body as PROTOCOL.md section 3 reads it; `None` where it is
/// no upload.
pub(super) fn plainly(text: &str) -> Option<Vec<i64>> {
    if !json::is_json(text) {
        return None;
    }
    let text = text.trim_matches([' ', '\n', '\r', '\t']);
    if text == "null" {
        return Some(Vec::new());
    }
    let mut ids = Vec::new();
    for (name, value) in unique(text)? {
        let value = value.get();
        match name.as_str() {
            "last_server_seq_seen" | "settled_below" => drop(integer(value)?),
            "epoch" => string(value)?,
            "changes" if value == "null" => {}
            "changes" => {
                let changes: Vec<Box<RawValue>> = serde_json::from_str(value).ok()?;
                for change in &changes {
                    ids.push(plain_change(change.get())?);
                }
            }
            _ => strict(value, 1)?,
        }
    }
    Some(ids)
}

fn plain_change(text: &str) -> Option<i64> {
    let mut id = 0;
    for (name, value) in unique(text)? {
        let value = value.get();
        match name.as_str() {
            "source_change_id" => id = integer(value)?,
            "server_version" => drop(integer(value)?),
            "schema" | "table" | "op" | "pk" => string(value)?,
            "payload" => {}
            _ => strict(value, 3)?,
        }
    }
    Some(id)
}

/// The members of an object in which no key comes twice.
fn unique(text: &str) -> Option<Vec<(String, Box<RawValue>)>> {
    let members = json::members(text)?;
    let names: std::collections::HashSet<&String> = members.iter().map(|(name, _)| name).collect();
    (names.len() == members.len()).then_some(members)
}

fn integer(text: &str) -> Option<i64> {
    if text == "null" {
        Some(0)
    } else {
        text.parse().ok()
    }
}

fn string(text: &str) -> Option<()> {
    let is_null = text == "null";
    (is_null || serde_json::from_str::<String>(text).is_ok()).then_some(())
}

/// A value that nobody reads is checked all the same.
pub(super) fn strict(text: &str, around: usize) -> Option<()> {
    match json::judge(text) {
        Judged::Tree(tree) => is_taken(&tree, around).then_some(()),
        Judged::Syntax | Judged::LoneSurrogate => None,
    }
}

fn is_taken(tree: &Tree, around: usize) -> bool {
    tree.depth() + around <= MAX_DEPTH && !tree.has_duplicate_keys()
}
