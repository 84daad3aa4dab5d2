//! JSON for fuzzing: texts made at random, with everything a reader may stumble
//! over, and a slow, plain judge of them that shares no code with the scanner.

use super::bytes::NASTY;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::fmt;

/// Deepest nesting that a payload or an unknown field may have (PROTOCOL.md
/// section 3).
pub const MAX_DEPTH: usize = 64;

/// White space as JSON knows it, mostly none.
pub fn space(rng: &mut StdRng, out: &mut String) {
    while rng.random_bool(0.1) {
        out.push(*[' ', '\n', '\t', '\r'].choose(rng).expect("not empty"));
    }
}

/// A number in one of its many spellings; now and then none at all.
pub fn number(rng: &mut StdRng, out: &mut String) {
    const ODD: &[&str] = &[
        "0",
        "-0",
        "-0.0",
        "1e5",
        "1E+5",
        "5e-324",
        "9e999",
        "-9e999",
        "9007199254740993",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "0.10",
        "1.0",
        "123456789012345678901234567890",
        "01",
        "1.",
        ".5",
        "1e",
        "+1",
        "--1",
        "0x1",
    ];
    if rng.random_bool(0.3) {
        out.push_str(ODD.choose(rng).expect("not empty"));
    } else {
        out.push_str(&rng.random_range(-100..100_i64).to_string());
    }
}

/// A string with its quotes; escapes of every kind, now and then a wrong one.
pub fn string(rng: &mut StdRng, out: &mut String) {
    const PIECES: &[&str] = &[
        "a",
        "b",
        "name",
        "\\n",
        "\\\"",
        "\\\\",
        "\\/",
        "\\u0000",
        "\\u0061",
        "\\u00e9",
        "\\ud83d\\ude00",
        "é",
        "😀",
        "\u{FFFF}",
        "\u{7f}",
        "{",
        "}",
        "[",
        ",",
        ":",
        " ",
    ];
    const WRONG: &[&str] = &[
        "\\ud800",
        "\\udc00",
        "\\ud800\\u0061",
        "\\x",
        "\\u12",
        "\n",
        "\u{1}",
        "\"",
    ];
    out.push('"');
    for _ in 0..rng.random_range(0..4) {
        out.push_str(PIECES.choose(rng).expect("not empty"));
    }
    if rng.random_bool(0.02) {
        out.push_str(WRONG.choose(rng).expect("not empty"));
    }
    out.push('"');
}

/// An object; keys come twice now and then.
pub fn object(rng: &mut StdRng, levels: usize, out: &mut String) {
    out.push('{');
    let count = if rng.random_bool(0.03) {
        rng.random_range(14..24)
    } else {
        rng.random_range(0..4)
    };
    for index in 0..count {
        if index > 0 {
            out.push(',');
        }
        space(rng, out);
        if rng.random_bool(0.6) {
            out.push_str(&format!("\"k{index}\""));
        } else {
            string(rng, out);
        }
        space(rng, out);
        out.push(':');
        value(rng, levels, out);
    }
    out.push('}');
}

/// Any value, at most so many levels deep, except where depth itself is the point.
pub fn value(rng: &mut StdRng, levels: usize, out: &mut String) {
    space(rng, out);
    let kinds = if levels == 0 { 5 } else { 8 };
    match rng.random_range(0..kinds) {
        0 => number(rng, out),
        1 | 2 => string(rng, out),
        3 => out.push_str(["true", "false", "null"].choose(rng).expect("not empty")),
        4 if rng.random_bool(0.02) => {
            let depth = rng.random_range(55..75);
            let (open, close) = *[("[", "]"), ("{\"a\":", "}")]
                .choose(rng)
                .expect("not empty");
            out.push_str(&open.repeat(depth));
            out.push('1');
            out.push_str(&close.repeat(depth));
        }
        4 if rng.random_bool(0.02) => out.push_str(NASTY.choose(rng).expect("not empty")),
        4 => number(rng, out),
        5 => {
            out.push('[');
            for index in 0..rng.random_range(0..4) {
                if index > 0 {
                    out.push(',');
                }
                value(rng, levels - 1, out);
            }
            space(rng, out);
            out.push(']');
        }
        _ => object(rng, levels - 1, out),
    }
    space(rng, out);
}

/// A value as read by the judge; numbers are their digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tree {
    /// `null`, `true`, `false` or a number: the text itself.
    Plain(String),
    /// A string, unescaped.
    Text(String),
    /// In order.
    Array(Vec<Tree>),
    /// In order, each key with its value.
    Object(Vec<(String, Tree)>),
}

/// What the judge says of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// No JSON at all.
    Syntax,
    /// JSON, but with a lone surrogate somewhere.
    LoneSurrogate,
    /// JSON that a reader takes.
    Tree(Tree),
}

/// Whether a text is JSON by its grammar alone.
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// The members of an object, duplicates and all; `None` where it is none, or a
/// key has a lone surrogate.
pub fn members(text: &str) -> Option<Vec<(String, Box<RawValue>)>> {
    struct Members(Vec<(String, Box<RawValue>)>);
    struct Collect;
    impl<'de> Visitor<'de> for Collect {
        type Value = Members;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
            let mut found = Vec::new();
            while let Some(member) = map.next_entry()? {
                found.push(member);
            }
            Ok(Members(found))
        }
    }
    impl<'de> Deserialize<'de> for Members {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(Collect)
        }
    }
    serde_json::from_str::<Members>(text)
        .ok()
        .map(|members| members.0)
}

/// Judges a text.
pub fn judge(text: &str) -> Judged {
    if !is_json(text) {
        return Judged::Syntax;
    }
    // Its own limit of depth stands far behind the one that is judged.
    tree(text, 0).map_or(Judged::LoneSurrogate, Judged::Tree)
}

/// Beyond this the judge looks no further: deeper is too deep anyway.
const DEEP_ENOUGH: usize = MAX_DEPTH + 2;

fn tree(text: &str, depth: usize) -> Option<Tree> {
    let text = text.trim_matches([' ', '\n', '\r', '\t']);
    Some(match text.as_bytes().first()? {
        b'{' | b'[' if depth > DEEP_ENOUGH => Tree::Array(Vec::new()),
        b'{' => {
            let parts = members(text)?.into_iter();
            let parts = parts.map(|(key, part)| Some((key, tree(part.get(), depth + 1)?)));
            Tree::Object(parts.collect::<Option<_>>()?)
        }
        b'[' => {
            let parts: Vec<Box<RawValue>> = serde_json::from_str(text).ok()?;
            let parts = parts.iter().map(|part| tree(part.get(), depth + 1));
            Tree::Array(parts.collect::<Option<_>>()?)
        }
        b'"' => Tree::Text(serde_json::from_str(text).ok()?),
        _ => Tree::Plain(text.to_owned()),
    })
}

impl Tree {
    /// Levels of nesting; a bare object has one.
    pub fn depth(&self) -> usize {
        match self {
            Self::Plain(_) | Self::Text(_) => 0,
            Self::Array(parts) => 1 + parts.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(parts) => {
                1 + parts
                    .iter()
                    .map(|(_, part)| part.depth())
                    .max()
                    .unwrap_or(0)
            }
        }
    }

    /// Whether some object has a key twice.
    pub fn has_duplicate_keys(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Text(_) => false,
            Self::Array(parts) => parts.iter().any(Self::has_duplicate_keys),
            Self::Object(parts) => {
                let mut seen = HashSet::new();
                parts
                    .iter()
                    .any(|(key, part)| !seen.insert(key) || part.has_duplicate_keys())
            }
        }
    }

    /// The same value in another spelling: keys in another order, other white
    /// space, other escapes.
    pub fn spell(&self, rng: &mut StdRng, out: &mut String) {
        use rand::seq::SliceRandom as _;
        space(rng, out);
        match self {
            Self::Plain(text) => out.push_str(text),
            Self::Text(text) => spell_text(text, rng, out),
            Self::Array(parts) => {
                out.push('[');
                for (index, part) in parts.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    part.spell(rng, out);
                }
                out.push(']');
            }
            Self::Object(parts) => {
                let mut parts: Vec<_> = parts.iter().collect();
                parts.shuffle(rng);
                out.push('{');
                for (index, (key, part)) in parts.into_iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    space(rng, out);
                    spell_text(key, rng, out);
                    space(rng, out);
                    out.push(':');
                    part.spell(rng, out);
                }
                out.push('}');
            }
        }
        space(rng, out);
    }

    /// Another value, different in one place.
    pub fn changed(&self, rng: &mut StdRng) -> Self {
        match self {
            Self::Plain(text) if text == "null" => Self::Plain("false".into()),
            Self::Plain(text) if text.ends_with(|c: char| c.is_ascii_digit()) => {
                let text = match text.find(['e', 'E', '.']) {
                    Some(_) => format!("{text}0"),
                    None => format!("{text}.0"),
                };
                Self::Plain(text)
            }
            Self::Plain(_) => Self::Plain("null".into()),
            Self::Text(text) => Self::Text(format!("{text}x")),
            Self::Array(parts) if parts.is_empty() => Self::Object(Vec::new()),
            Self::Array(parts) => {
                let mut parts = parts.clone();
                let at = rng.random_range(0..parts.len());
                // Two texts run together: an ambiguous form would not notice.
                if let Some([Self::Text(one), Self::Text(other)]) = parts.get(at..at + 2) {
                    let between = ["\"", "\":", ":", ""][rng.random_range(0..4)];
                    let whole = format!("{one}{between}{other}");
                    parts.splice(at..at + 2, [Self::Text(whole)]);
                } else {
                    parts[at] = parts[at].changed(rng);
                }
                Self::Array(parts)
            }
            Self::Object(parts) if parts.is_empty() => Self::Array(Vec::new()),
            Self::Object(parts) => {
                let mut parts = parts.clone();
                let at = rng.random_range(0..parts.len());
                if rng.random_bool(0.3) {
                    parts.remove(at);
                } else {
                    parts[at].1 = parts[at].1.changed(rng);
                }
                Self::Object(parts)
            }
        }
    }
}

fn spell_text(text: &str, rng: &mut StdRng, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        if c < ' ' || matches!(c, '"' | '\\') || rng.random_bool(0.1) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out.push('"');
}
