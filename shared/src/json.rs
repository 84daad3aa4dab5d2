//! A byte-level JSON reader that never builds a tree and never touches floats.
//!
//! It cuts an upload's body into slices, so that a payload is kept as the text
//! it came as, and it judges a payload: depth, duplicate keys, lone surrogates,
//! and a canonical form under which two payloads are equal exactly when they
//! are the same JSON value (key order and white space do not count, numbers
//! count by their digits). Called by the server for uploads and by the device
//! for what its peers send; everything it reads is untrusted.

use std::borrow::Cow;

/// Deepest nesting of objects and arrays that is accepted (PROTOCOL.md
/// section 3); a bare object has depth 1.
pub const MAX_DEPTH: usize = 64;

/// What is wrong with a JSON text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    /// Not JSON; the offset is in bytes.
    #[error("not JSON at byte {0}")]
    Syntax(usize),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("JSON nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// One object has a key twice.
    #[error("duplicate key \"{0}\"")]
    DuplicateKey(String),
    /// A `\u` escape names half of a surrogate pair.
    #[error("lone surrogate at byte {0}")]
    LoneSurrogate(usize),
    /// A value of another type than the reader asked for.
    #[error("value of another type at byte {0}")]
    WrongType(usize),
}

/// Which kind of value comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// `-1.5e3`
    Number,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
}

/// Reads one JSON text from front to back.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of the text.
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
        }
    }

    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    fn syntax<T>(&self) -> Result<T, JsonFault> {
        Err(JsonFault::Syntax(self.at))
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes().get(self.at) {
            self.at += 1;
        }
    }

    fn peek_byte(&mut self) -> Option<u8> {
        self.skip_space();
        self.bytes().get(self.at).copied()
    }

    fn expect_byte(&mut self, byte: u8) -> Result<(), JsonFault> {
        if self.peek_byte() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            self.syntax()
        }
    }

    /// The kind of the value that comes next.
    pub fn kind(&mut self) -> Result<Kind, JsonFault> {
        match self.peek_byte() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => self.syntax(),
        }
    }

    /// Only white space may follow.
    pub fn end(&mut self) -> Result<(), JsonFault> {
        match self.peek_byte() {
            None => Ok(()),
            Some(_) => self.syntax(),
        }
    }

    fn want(&mut self, kind: Kind) -> Result<(), JsonFault> {
        if self.kind()? == kind {
            Ok(())
        } else {
            Err(JsonFault::WrongType(self.at))
        }
    }

    fn enter(&mut self) -> Result<(), JsonFault> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            Err(JsonFault::TooDeep)
        } else {
            Ok(())
        }
    }

    /// Reads an object; `member` is called with each key and must consume
    /// exactly one value. A key that comes twice is a fault.
    pub fn object<E: From<JsonFault>>(
        &mut self,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        self.want(Kind::Object)?;
        self.enter()?;
        let mut seen = KeySet::default();
        if self.peek_byte() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                let key = self.string()?;
                self.expect_byte(b':')?;
                member(self, &key)?;
                seen.insert(key)?;
                match self.peek_byte() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => {
                        self.at += 1;
                        break;
                    }
                    _ => return Ok(self.syntax()?),
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads an array; `element` must consume exactly one value each time.
    pub fn array<E: From<JsonFault>>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.want(Kind::Array)?;
        self.enter()?;
        if self.peek_byte() == Some(b']') {
            self.at += 1;
        } else {
            loop {
                element(self)?;
                match self.peek_byte() {
                    Some(b',') => self.at += 1,
                    Some(b']') => {
                        self.at += 1;
                        break;
                    }
                    _ => return Ok(self.syntax()?),
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads a string, borrowed when it has no escapes.
    pub fn string(&mut self) -> Result<Cow<'a, str>, JsonFault> {
        self.want(Kind::String)?;
        let start = self.at + 1;
        let escaped = self.skip_string()?;
        let inner = &self.text[start..self.at - 1];
        if escaped {
            unescape(inner, start).map(Cow::Owned)
        } else {
            Ok(Cow::Borrowed(inner))
        }
    }

    /// Reads an integer of 64 bits, written without point or exponent.
    pub fn integer(&mut self) -> Result<i64, JsonFault> {
        self.want(Kind::Number)?;
        let start = self.at;
        self.skip_number()?;
        self.text[start..self.at]
            .parse()
            .map_err(|_| JsonFault::WrongType(start))
    }

    /// Reads `null`.
    pub fn null(&mut self) -> Result<(), JsonFault> {
        self.want(Kind::Null)?;
        self.skip_word("null")
    }

    /// Passes over one value and returns its text. Checks the grammar only:
    /// the value may be nested to any depth and may have duplicate keys. Uses
    /// no recursion.
    pub fn raw(&mut self) -> Result<&'a str, JsonFault> {
        self.skip_space();
        let start = self.at;
        let mut open: Vec<u8> = Vec::new();
        loop {
            match self.peek_byte() {
                Some(bracket @ (b'{' | b'[')) => {
                    self.at += 1;
                    let close = bracket + 2; // '{' + 2 is '}', '[' + 2 is ']'
                    if self.peek_byte() == Some(close) {
                        self.at += 1;
                    } else {
                        open.push(close);
                        if close == b'}' {
                            self.skip_key()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => {
                    self.skip_string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.skip_number()?,
                Some(b't') => self.skip_word("true")?,
                Some(b'f') => self.skip_word("false")?,
                Some(b'n') => self.skip_word("null")?,
                _ => return self.syntax(),
            }
            // A value has ended: close what ends here, or go on to the next.
            loop {
                let Some(&close) = open.last() else {
                    return Ok(&self.text[start..self.at]);
                };
                match self.peek_byte() {
                    Some(b',') => {
                        self.at += 1;
                        if close == b'}' {
                            self.skip_key()?;
                        }
                        break;
                    }
                    Some(byte) if byte == close => {
                        self.at += 1;
                        open.pop();
                    }
                    _ => return self.syntax(),
                }
            }
        }
    }

    /// Passes over one value with all checks: grammar, depth (counted from the
    /// start of the text), duplicate keys, lone surrogates.
    pub fn checked(&mut self) -> Result<(), JsonFault> {
        self.canonical(&mut Vec::new())
    }

    fn skip_key(&mut self) -> Result<(), JsonFault> {
        self.want(Kind::String)
            .map_err(|_| JsonFault::Syntax(self.at))?;
        self.skip_string()?;
        self.expect_byte(b':')
    }

    /// From the opening quote to behind the closing one; tells whether there
    /// are escapes. A lone surrogate passes here.
    fn skip_string(&mut self) -> Result<bool, JsonFault> {
        let bytes = self.bytes();
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += plain(&bytes[self.at..]);
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    match bytes.get(self.at + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                            self.at += 2
                        }
                        Some(b'u') => {
                            hex4(bytes, self.at + 2).ok_or(JsonFault::Syntax(self.at))?;
                            self.at += 6;
                        }
                        _ => return self.syntax(),
                    }
                }
                Some(0..=0x1f) | None => return self.syntax(),
                Some(_) => self.at += 1,
            }
        }
    }

    fn skip_digits(&mut self) -> Result<(), JsonFault> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.bytes().get(self.at) {
            self.at += 1;
        }
        if self.at == start {
            self.syntax()
        } else {
            Ok(())
        }
    }

    fn skip_number(&mut self) -> Result<(), JsonFault> {
        if self.bytes().get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if self.bytes().get(self.at) == Some(&b'0') {
            self.at += 1;
            if let Some(b'0'..=b'9') = self.bytes().get(self.at) {
                return self.syntax();
            }
        } else {
            self.skip_digits()?;
        }
        if self.bytes().get(self.at) == Some(&b'.') {
            self.at += 1;
            self.skip_digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes().get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes().get(self.at) {
                self.at += 1;
            }
            self.skip_digits()?;
        }
        Ok(())
    }

    fn skip_word(&mut self, word: &str) -> Result<(), JsonFault> {
        if self.bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(())
        } else {
            self.syntax()
        }
    }

    /// Appends the canonical form of the next value. Injective, not JSON:
    /// strings carry their length, numbers their digits, objects are sorted by
    /// key. Recursion is bounded by [`MAX_DEPTH`].
    fn canonical(&mut self, out: &mut Vec<u8>) -> Result<(), JsonFault> {
        match self.kind()? {
            Kind::Object => {
                self.enter()?;
                out.push(b'{');
                self.canonical_members(out)?;
                out.push(b'}');
                self.depth -= 1;
            }
            Kind::Array => {
                out.push(b'[');
                self.array(|reader| reader.canonical(out))?;
                out.push(b']');
            }
            Kind::String => {
                let text = self.string()?;
                push_string(out, &text);
            }
            Kind::Number => {
                let start = self.at;
                self.skip_number()?;
                out.push(b'#');
                out.extend_from_slice(&self.bytes()[start..self.at]);
                out.push(b';');
            }
            Kind::Bool if self.bytes()[self.at] == b't' => {
                self.skip_word("true")?;
                out.push(b't');
            }
            Kind::Bool => {
                self.skip_word("false")?;
                out.push(b'f');
            }
            Kind::Null => {
                self.skip_word("null")?;
                out.push(b'n');
            }
        }
        Ok(())
    }

    fn canonical_members(&mut self, out: &mut Vec<u8>) -> Result<(), JsonFault> {
        if self.peek_byte() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        let first = out.len();
        let mut members: Vec<Member<'a>> = Vec::new();
        let mut sorted = true;
        loop {
            if self.kind()? != Kind::String {
                return self.syntax();
            }
            let key = self.string()?;
            self.expect_byte(b':')?;
            let start = out.len();
            push_string(out, &key);
            self.canonical(out)?;
            if let Some(last) = members.last() {
                sorted &= *last.key < *key;
            }
            members.push(Member {
                key,
                canonical: start..out.len(),
            });
            match self.peek_byte() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    break;
                }
                _ => return self.syntax(),
            }
        }
        if sorted {
            return Ok(());
        }
        members.sort_by(|a, b| a.key.cmp(&b.key));
        if let Some(pair) = members.windows(2).find(|pair| pair[0].key == pair[1].key) {
            return Err(JsonFault::DuplicateKey(pair[0].key.clone().into_owned()));
        }
        let mut rebuilt = Vec::with_capacity(out.len() - first);
        for member in &members {
            rebuilt.extend_from_slice(&out[member.canonical.clone()]);
        }
        out[first..].copy_from_slice(&rebuilt);
        Ok(())
    }
}

struct Member<'a> {
    key: Cow<'a, str>,
    canonical: std::ops::Range<usize>,
}

/// How many bytes come before the first that means something inside a string: a
/// quote, a backslash, a control character. Eight at a time.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    // The top bit of each byte below `least`, and perhaps of some above the lowest
    // such byte: a borrow goes upwards only.
    let below = |word: u64, least: u64| word.wrapping_sub(ONES * least) & !word & TOPS;
    let is = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let (words, rest) = bytes.as_chunks::<8>();
    for (place, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = is(word, b'"') | is(word, b'\\') | below(word, 0x20);
        if found != 0 {
            return place * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let means = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    words.len() * 8 + rest.iter().position(means).unwrap_or(rest.len())
}

/// The keys of one object so far. Small objects are searched; from
/// [`KeySet::LINEAR`] keys on they are hashed, so that a hostile object of
/// 100,000 keys costs no quadratic time.
#[derive(Default)]
struct KeySet<'a> {
    few: Vec<Cow<'a, str>>,
    many: std::collections::HashSet<Cow<'a, str>>,
}

impl<'a> KeySet<'a> {
    const LINEAR: usize = 16;

    fn insert(&mut self, key: Cow<'a, str>) -> Result<(), JsonFault> {
        if self.few.contains(&key) || self.many.contains(&key) {
            return Err(JsonFault::DuplicateKey(key.into_owned()));
        }
        if self.few.len() < Self::LINEAR {
            self.few.push(key);
        } else {
            self.many.insert(key);
        }
        Ok(())
    }
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.len().to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(text.as_bytes());
}

fn hex4(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 4)?;
    digits.iter().try_fold(0, |value, digit| {
        Some(value * 16 + char::from(*digit).to_digit(16)?)
    })
}

/// Resolves the escapes of a string whose grammar has been checked.
fn unescape(inner: &str, offset: usize) -> Result<String, JsonFault> {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(plain) = rest.find('\\') {
        out.push_str(&rest[..plain]);
        let here = offset + inner.len() - rest.len() + plain;
        let escape = &rest.as_bytes()[plain..];
        let mut taken = 2;
        match escape[1] {
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => {
                let lone = JsonFault::LoneSurrogate(here);
                let high = hex4(escape, 2).ok_or_else(|| lone.clone())?;
                taken = 6;
                let scalar = if (0xd800..0xdc00).contains(&high) {
                    let pair = escape.get(6..8) == Some(b"\\u");
                    let low = if pair { hex4(escape, 8) } else { None };
                    let low = low
                        .filter(|low| (0xdc00..0xe000).contains(low))
                        .ok_or_else(|| lone.clone())?;
                    taken = 12;
                    0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    high
                };
                out.push(char::from_u32(scalar).ok_or(lone)?);
            }
            other => out.push(char::from(other)),
        }
        rest = &rest[plain + taken..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Checks one JSON text completely (grammar, depth, duplicate keys, lone
/// surrogates, nothing behind it) and appends its canonical form to `out`.
///
/// Two texts have the same canonical form exactly when they are the same JSON
/// value, numbers compared by their digits (`1.0` and `1` differ).
pub fn canonicalise(text: &str, out: &mut Vec<u8>) -> Result<(), JsonFault> {
    let mut reader = Reader::new(text);
    reader.canonical(out)?;
    reader.end()
}

/// The members of a JSON object: each key with its value's text, in the order
/// they stand. The text must have passed [`canonicalise`].
pub fn members(object: &str) -> Result<Vec<(Cow<'_, str>, &str)>, JsonFault> {
    let mut reader = Reader::new(object);
    reader.want(Kind::Object)?;
    reader.at += 1;
    let mut found = Vec::new();
    if reader.peek_byte() == Some(b'}') {
        return Ok(found);
    }
    loop {
        let key = reader.string()?;
        reader.expect_byte(b':')?;
        found.push((key, reader.raw()?));
        match reader.peek_byte() {
            Some(b',') => reader.at += 1,
            Some(b'}') => return Ok(found),
            _ => return reader.syntax(),
        }
    }
}

/// [`canonicalise`] and [`members`] in one pass, for who needs no canonical form:
/// refuses what the first refuses, and texts that are no object.
pub fn checked_members(object: &str) -> Result<Vec<(Cow<'_, str>, &str)>, JsonFault> {
    let mut reader = Reader::new(object);
    let mut found = Vec::new();
    let mut scratch = Vec::new();
    reader.want(Kind::Object)?;
    reader.enter()?;
    if reader.peek_byte() == Some(b'}') {
        reader.at += 1;
        reader.end()?;
        return Ok(found);
    }
    let mut seen = KeySet::default();
    loop {
        if reader.kind()? != Kind::String {
            return reader.syntax();
        }
        let key = reader.string()?;
        reader.expect_byte(b':')?;
        let kind = reader.kind()?;
        let start = reader.at;
        match kind {
            Kind::String => drop(reader.string()?),
            Kind::Number => reader.skip_number()?,
            _ => {
                scratch.clear();
                reader.canonical(&mut scratch)?;
            }
        }
        seen.insert(key.clone())?;
        found.push((key, &object[start..reader.at]));
        match reader.peek_byte() {
            Some(b',') => reader.at += 1,
            Some(b'}') => {
                reader.at += 1;
                reader.end()?;
                return Ok(found);
            }
            _ => return reader.syntax(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> Result<Vec<u8>, JsonFault> {
        let mut out = Vec::new();
        canonicalise(text, &mut out).map(|()| out)
    }

    /// Every byte at every place of a few words, before and behind others that
    /// nearly mean something, against the plain definition.
    #[test]
    fn what_means_something_in_a_string_is_found_where_it_is() {
        let means = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
        for around in [
            b' ', b'!', b'#', b'[', b']', b'a', 0x7f, 0x80, 0xa0, 0xa2, 0xdc, 0xff,
        ] {
            for length in 0..=19 {
                assert_eq!(plain(&vec![around; length]), length);
                for place in 0..length {
                    for byte in 0..=u8::MAX {
                        let mut text = vec![around; length];
                        text[place] = byte;
                        // A second one behind it.
                        for second in [around, b'"', b'\\', 0, 0x1f] {
                            text[length - 1] = if place == length - 1 { byte } else { second };
                            let expected = text.iter().position(means).unwrap_or(length);
                            assert_eq!(plain(&text), expected, "{text:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn equal_values_have_one_form() {
        let form = canonical(r#"{"b":[1, 2.50,{"x":null}],"a":"\u00e9\n"}"#);
        assert_eq!(
            form,
            canonical("{ \"a\" : \"é\\u000a\", \"b\": [1,2.50,{ \"x\" :null } ] }")
        );
        assert_ne!(canonical("1.0"), canonical("1"));
        assert_ne!(canonical("9007199254740993"), canonical("9007199254740992"));
        assert_ne!(canonical(r#"["a","b"]"#), canonical(r#"["a\",\"b"]"#));
    }

    #[test]
    fn faults_are_named() {
        assert_eq!(
            canonical(r#"{"a":1,"b":{"x":1,"x":2}}"#),
            Err(JsonFault::DuplicateKey("x".into()))
        );
        assert_eq!(
            canonical(r#"{"a":1,"\u0061":2}"#),
            Err(JsonFault::DuplicateKey("a".into()))
        );
        assert!(matches!(
            canonical(r#"["\ud800"]"#),
            Err(JsonFault::LoneSurrogate(_))
        ));
        assert!(matches!(
            canonical(r#"["\ud800\u0041"]"#),
            Err(JsonFault::LoneSurrogate(_))
        ));
        assert!(matches!(
            canonical(r#"["\udc00"]"#),
            Err(JsonFault::LoneSurrogate(_))
        ));
        assert!(canonical(r#"["\ud83d\ude00\u0000"]"#).is_ok());
        for bad in [
            "",
            "{",
            "[1,]",
            "{\"a\"}",
            "01",
            "1.",
            "nul",
            "\"\n\"",
            "1 2",
            "{\"a\":1,}",
            "+1",
            "{1:2}",
            "\"\\x\"",
        ] {
            assert!(canonical(bad).is_err(), "{bad}");
            assert!(Reader::new(bad).raw().is_err() || bad == "1 2", "{bad}");
        }
    }

    #[test]
    fn depth_is_limited_where_it_should_be() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(canonical(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(canonical(&nested(MAX_DEPTH + 1)), Err(JsonFault::TooDeep));
        // The slice of a payload can still be found when it is absurd.
        let absurd = nested(1_000_000);
        assert_eq!(Reader::new(&absurd).raw(), Ok(absurd.as_str()));
    }

    #[test]
    fn many_keys_are_checked_in_linear_time() {
        let body: String = (0..200_000).map(|n| format!("\"k{n}\":{n},")).collect();
        assert!(canonical(&format!("{{{body}\"z\":1}}")).is_ok());
        assert!(canonical(&format!("{{{body}\"k7\":1}}")).is_err());
        let mut count = 0;
        let text = format!("{{{body}\"z\":1}}");
        Reader::new(&text)
            .object(|reader, _| {
                count += 1;
                reader.raw().map(drop)
            })
            .expect("valid");
        assert_eq!(count, 200_001);
    }

    fn in_two_passes(text: &str) -> Option<Vec<(Cow<'_, str>, &str)>> {
        canonical(text).ok()?;
        members(text).ok()
    }

    #[test]
    fn one_pass_finds_what_two_do() {
        for text in [
            r#" {"a" : [1, 2] ,"b":"x", "\u0063": {"d":{}} , "e":true,"f":-1.5e3,"g":null} "#,
            "{ }",
            r#"{"a":1,"\u0061":2}"#,
            r#"{"a":{"x":1,"x":2}}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"\ud800":1}"#,
            r#"{"a":1} 2"#,
            r#"{"a":01}"#,
            r#"{"a":1,}"#,
            "[1]",
            "1",
            "",
        ] {
            assert_eq!(checked_members(text).ok(), in_two_passes(text), "{text}");
        }
        let deep = |depth: usize| format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(checked_members(&deep(MAX_DEPTH - 1)).is_ok());
        assert_eq!(checked_members(&deep(MAX_DEPTH)), Err(JsonFault::TooDeep));
    }

    #[test]
    fn members_are_slices() {
        let found = members(r#" {"a" : [1, 2] ,"b":"x"} "#).expect("an object");
        assert_eq!(found, vec![("a".into(), "[1, 2]"), ("b".into(), "\"x\"")]);
        assert_eq!(members("{}"), Ok(vec![]));
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
                prop::collection::btree_map(".*", inner, 0..8)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        // The same cases every time; PROPTEST_CASES asks for more of them.
        #![proptest_config(ProptestConfig {
            rng_seed: proptest::test_runner::RngSeed::Fixed(1),
            ..ProptestConfig::default()
        })]

        #[test]
        fn agrees_with_serde_on_values(a in any_json(), b in any_json()) {
            let text = serde_json::to_string(&a).expect("serialises");
            let pretty = serde_json::to_string_pretty(&a).expect("serialises");
            prop_assert_eq!(canonical(&text), canonical(&pretty));
            prop_assert_eq!(Reader::new(&pretty).raw(), Ok(pretty.as_str()));
            let other = serde_json::to_string(&b).expect("serialises");
            prop_assert_eq!(a == b, canonical(&text) == canonical(&other));
            for text in [&text, &pretty] {
                prop_assert_eq!(checked_members(text).ok(), in_two_passes(text));
            }
        }

        #[test]
        fn agrees_with_serde_on_rejection(bytes in prop::collection::vec(
            prop::sample::select(b"{}[]\",:\\u0d81e.-+ntrfalse \t".to_vec()), 0..24)) {
            let text = String::from_utf8(bytes).expect("ASCII");
            let serde = match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(_) => true,
                // serde reads numbers as f64; ours have no range.
                Err(error) => error.to_string().contains("out of range"),
            };
            prop_assert_eq!(checked_members(&text).ok(), in_two_passes(&text), "{:?}", text);
            let inside = format!("{{\"a\":{text},\"b\":[{text}]}}");
            prop_assert_eq!(checked_members(&inside).ok(), in_two_passes(&inside), "{:?}", inside);
            match canonical(&text) {
                Ok(_) => prop_assert!(serde, "accepted {text:?}"),
                Err(JsonFault::DuplicateKey(_)) => {}
                // serde reads numbers as f64 and refuses those out of its range.
                Err(fault) => prop_assert!(!serde, "refused {text:?}: {fault}"),
            }
        }
    }
}
