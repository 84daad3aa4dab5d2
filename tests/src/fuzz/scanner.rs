//! The JSON scanner against a judge that shares no code with it.

use super::Target;
use super::bytes::mutate;
use super::json::{self, Judged, MAX_DEPTH, Tree};
use oversync_shared::json::{JsonFault, Kind, Reader, canonicalise, members};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

pub(super) struct Scanner;

impl Target for Scanner {
    fn input(&mut self, rng: &mut StdRng) -> Vec<u8> {
        let mut text = String::new();
        json::value(rng, 5, &mut text);
        let mut bytes = text.into_bytes();
        if rng.random_bool(0.3) {
            mutate(&mut bytes, rng);
        }
        bytes
    }

    fn check(&mut self, case: u64, input: &[u8]) -> Result<(), String> {
        // The scanner reads text; what is none is refused before.
        let text = String::from_utf8_lossy(input);
        let text: &str = &text;
        let mut canonical = Vec::new();
        let found = canonicalise(text, &mut canonical);
        let judged = json::judge(text);

        // Grammar alone: raw() takes exactly what is JSON, of any depth.
        let mut reader = Reader::new(text);
        let raw = reader.raw().and_then(|raw| reader.end().map(|()| raw));
        let is_json = judged != Judged::Syntax;
        if raw.is_ok() != is_json {
            return Err(format!("raw() says {raw:?}, and is_json is {is_json}"));
        }
        let trimmed = text.trim_matches([' ', '\n', '\r', '\t']);
        if raw.is_ok_and(|raw| raw != trimmed) {
            return Err("raw() is not the value's own text".into());
        }

        let tree = match (&judged, &found) {
            (Judged::Syntax, Err(_)) => return Ok(()),
            (Judged::LoneSurrogate, Err(JsonFault::Syntax(_) | JsonFault::WrongType(_))) => {
                return Err(format!("{found:?}, though it is JSON"));
            }
            (Judged::LoneSurrogate, Err(_)) => return Ok(()),
            (Judged::Tree(tree), _) => tree,
            (_, Ok(())) => return Err(format!("taken, and yet {judged:?}")),
        };
        match &found {
            Ok(()) if tree.depth() > MAX_DEPTH => return Err("taken, though too deep".into()),
            Ok(()) if tree.has_duplicate_keys() => return Err("taken, with a key twice".into()),
            Err(JsonFault::TooDeep) if tree.depth() > MAX_DEPTH => return Ok(()),
            Err(JsonFault::DuplicateKey(_)) if tree.has_duplicate_keys() => return Ok(()),
            Err(fault) => return Err(format!("{fault:?}, and nothing is wrong with it")),
            Ok(()) => {}
        }

        // One value, one form: whatever the order of keys, white space, escapes.
        let mut rng = StdRng::seed_from_u64(case);
        let form = |text: &str| {
            let mut form = Vec::new();
            canonicalise(text, &mut form)
                .map(|()| form)
                .map_err(|fault| format!("{fault} in another spelling: {text}"))
        };
        let mut spelt = String::new();
        tree.spell(&mut rng, &mut spelt);
        if form(&spelt)? != canonical {
            return Err(format!("another form in another spelling: {spelt}"));
        }
        // Another value, another form.
        let other = tree.changed(&mut rng);
        let mut spelt = String::new();
        other.spell(&mut rng, &mut spelt);
        if form(&spelt)? == canonical {
            return Err(format!("the same form for another value: {spelt}"));
        }
        pieces(text, tree)
    }
}

/// What the reader cuts out of an object, an integer, a string.
fn pieces(text: &str, tree: &Tree) -> Result<(), String> {
    let mut reader = Reader::new(text);
    let same = match tree {
        Tree::Object(parts) => {
            let found = members(text).map_err(|fault| fault.to_string())?;
            let mut all = found.iter().zip(parts);
            found.len() == parts.len()
                && all.all(|((key, part), (expected, tree))| {
                    key == expected && json::judge(part) == Judged::Tree(tree.clone())
                })
        }
        Tree::Text(expected) => reader.string().is_ok_and(|found| found == *expected),
        Tree::Plain(expected) if reader.kind() == Ok(Kind::Number) => {
            reader.integer().ok() == expected.parse().ok()
        }
        Tree::Plain(_) | Tree::Array(_) => true,
    };
    if same {
        Ok(())
    } else {
        Err("cut into other pieces than it has".into())
    }
}
