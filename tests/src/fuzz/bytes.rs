//! Bytes that have broken something somewhere, and mutation of bytes.

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// Texts that have broken something somewhere.
pub const NASTY: &[&str] = &[
    "\0",
    "\u{FEFF}",
    "\u{202E}",
    "%",
    "%s%n",
    "'; DROP TABLE users; --",
    "\\",
    "\"",
    "{",
    "[",
    "}",
    "]",
    ",",
    ":",
    "\\u0000",
    "\\ud800",
    "\\udfff\\ud800",
    "null",
    "true",
    "-0",
    "1e999",
    "-1e-999",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "1.0",
    "00",
    "0x10",
    "18446744073709551616",
    "\u{7f}",
    "\n",
    "\t",
    "/*",
    "NaN",
    "Infinity",
    "$1",
    "?1",
    "\u{1F468}\u{200D}",
    "{\"a\":1,\"a\":2}",
    "[[[[[[[[[[",
    "\"changes\":",
    "\"pk\":",
    "\"payload\":{",
    "ﬀ",
    "İ",
];

/// Cuts, doubles, flips and fills bytes, a few times over.
pub fn mutate(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..5) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..24)).min(bytes.len());
        match rng.random_range(0..7) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            3 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            4 if at < bytes.len() => bytes[at] = rng.random(),
            5 => {
                let run =
                    vec![*b"[{\" 0\\".choose(rng).expect("not empty"); rng.random_range(1..200)];
                bytes.splice(at..at, run);
            }
            _ => {
                let nasty = NASTY.choose(rng).expect("not empty");
                bytes.splice(at..end, nasty.bytes());
            }
        }
    }
}
