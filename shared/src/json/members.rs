//! The members of a JSON object, each with its value's text.

use super::reader::KeySet;
use super::{JsonFault, Kind, Reader};
use std::borrow::Cow;

/// The members of a JSON object: each key with its value's text, in the order
/// they stand. The text must have passed [`canonicalise`](super::canonicalise).
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

/// [`canonicalise`](super::canonicalise) and [`members`] in one pass, for who needs no canonical form:
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
