//! The canonical form of a JSON text: one form for one value, whatever the order of
//! keys and the white space; numbers count by their digits.

use super::{JsonFault, Kind, Reader};
use std::borrow::Cow;

impl<'a> Reader<'a> {
    /// Passes over one value with all checks: grammar, depth (counted from the
    /// start of the text), duplicate keys, lone surrogates.
    pub fn checked(&mut self) -> Result<(), JsonFault> {
        self.canonical(&mut Vec::new())
    }

    /// Appends the canonical form of the next value. Injective, not JSON:
    /// strings carry their length, numbers their digits, objects are sorted by
    /// key. Recursion is bounded by [`MAX_DEPTH`].
    pub(super) fn canonical(&mut self, out: &mut Vec<u8>) -> Result<(), JsonFault> {
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

fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.len().to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(text.as_bytes());
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
