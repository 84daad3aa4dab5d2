//! A byte-level reader of JSON texts, from front to back.

use super::{JsonFault, Kind, MAX_DEPTH};
use std::borrow::Cow;

/// Reads one JSON text from front to back.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    text: &'a str,
    pub(super) at: usize,
    pub(super) depth: usize,
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

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    pub(super) fn syntax<T>(&self) -> Result<T, JsonFault> {
        Err(JsonFault::Syntax(self.at))
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes().get(self.at) {
            self.at += 1;
        }
    }

    pub(super) fn peek_byte(&mut self) -> Option<u8> {
        self.skip_space();
        self.bytes().get(self.at).copied()
    }

    pub(super) fn expect_byte(&mut self, byte: u8) -> Result<(), JsonFault> {
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

    pub(super) fn want(&mut self, kind: Kind) -> Result<(), JsonFault> {
        if self.kind()? == kind {
            Ok(())
        } else {
            Err(JsonFault::WrongType(self.at))
        }
    }

    pub(super) fn enter(&mut self) -> Result<(), JsonFault> {
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

    pub(super) fn skip_number(&mut self) -> Result<(), JsonFault> {
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

    pub(super) fn skip_word(&mut self, word: &str) -> Result<(), JsonFault> {
        if self.bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(())
        } else {
            self.syntax()
        }
    }
}

/// How many bytes come before the first that means something inside a string: a
/// quote, a backslash, a control character. Eight at a time.
pub(super) fn plain(bytes: &[u8]) -> usize {
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
pub(super) struct KeySet<'a> {
    few: Vec<Cow<'a, str>>,
    many: std::collections::HashSet<Cow<'a, str>>,
}

impl<'a> KeySet<'a> {
    const LINEAR: usize = 16;

    pub(super) fn insert(&mut self, key: Cow<'a, str>) -> Result<(), JsonFault> {
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
