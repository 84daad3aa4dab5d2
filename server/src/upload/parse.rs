//! The body of an upload, cut into slices without building a tree.
//!
//! Only JSON types are judged here; the content of each change is judged by
//! `oversync_shared::upload::check`, so that one bad change never harms its
//! neighbours.

use oversync_shared::json::{JsonFault, Kind, Reader};
use oversync_shared::upload::RawChange;
use std::borrow::Cow;

/// The body is not an upload request: not JSON, not an object, a wrongly typed
/// field, nested too deep, or a key twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Failed to parse upload request")]
pub struct NotAnUpload;

impl From<JsonFault> for NotAnUpload {
    fn from(_: JsonFault) -> Self {
        Self
    }
}

/// Who wrote a request: what a field may hold depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaker {
    Device,
    Server,
}

/// The version a change was sent with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SentBase<'a> {
    /// A number.
    Version(i64),
    /// A text, which only the server itself may send.
    Word(Cow<'a, str>),
}

impl Default for SentBase<'_> {
    fn default() -> Self {
        Self::Version(0)
    }
}

/// An upload request, borrowed from its body.
#[derive(Debug, Default)]
pub struct Envelope<'a> {
    /// The changes, in request order; empty when there are more than `keep`.
    pub changes: Vec<SentChange<'a>>,
    /// The number of every change, kept or not.
    pub ids: Vec<i64>,
    /// The epoch the device believes in.
    pub epoch: Option<Cow<'a, str>>,
    /// Whose rows the server itself changes.
    pub user: Option<Cow<'a, str>>,
    /// The device will never again send a change id below this one.
    pub settled_below: Option<i64>,
}

/// One change as it was sent.
#[derive(Debug, Default)]
pub struct SentChange<'a> {
    source_change_id: i64,
    schema: Cow<'a, str>,
    table: Cow<'a, str>,
    op: Cow<'a, str>,
    pk: Cow<'a, str>,
    base: SentBase<'a>,
    payload: Option<&'a str>,
}

impl<'a> SentChange<'a> {
    /// For the checks of its content.
    pub fn as_raw(&self) -> RawChange<'_> {
        RawChange {
            source_change_id: self.source_change_id,
            schema: &self.schema,
            table: &self.table,
            op: &self.op,
            pk: &self.pk,
            server_version: match self.base {
                SentBase::Version(version) => version,
                SentBase::Word(_) => 0,
            },
            payload: self.payload,
        }
    }

    /// The version as sent.
    pub fn base(&self) -> &SentBase<'a> {
        &self.base
    }

    /// The payload's text, a slice of the body.
    pub fn payload(&self) -> Option<&'a str> {
        self.payload
    }
}

/// Reads an upload's body. A body of `null` is an upload without changes. Of a
/// batch with more than `keep` changes only the numbers are kept: none of it
/// will be applied.
pub fn parse(body: &[u8], keep: usize) -> Result<Envelope<'_>, NotAnUpload> {
    parse_of(Speaker::Device, body, keep)
}

/// The same for a write of the server itself, which has a user besides, and may
/// have words for versions.
pub fn parse_write(body: &[u8], keep: usize) -> Result<Envelope<'_>, NotAnUpload> {
    parse_of(Speaker::Server, body, keep)
}

fn parse_of(speaker: Speaker, body: &[u8], keep: usize) -> Result<Envelope<'_>, NotAnUpload> {
    let text = std::str::from_utf8(body).map_err(|_| NotAnUpload)?;
    let mut reader = Reader::new(text);
    let mut envelope = Envelope::default();
    if reader.kind()? == Kind::Null {
        reader.null()?;
    } else {
        reader.object(|reader, key| -> Result<(), NotAnUpload> {
            match key {
                "last_server_seq_seen" => {
                    integer(reader)?;
                }
                "settled_below" => envelope.settled_below = integer(reader)?,
                "user" if speaker == Speaker::Server => envelope.user = string(reader)?,
                "epoch" => envelope.epoch = string(reader)?,
                "changes" if reader.kind()? == Kind::Null => reader.null()?,
                "changes" => reader.array(|reader| -> Result<(), NotAnUpload> {
                    let sent = change(speaker, reader)?;
                    envelope.ids.push(sent.source_change_id);
                    if envelope.ids.len() <= keep {
                        envelope.changes.push(sent);
                    } else {
                        envelope.changes = Vec::new();
                    }
                    Ok(())
                })?,
                _ => reader.checked()?,
            }
            Ok(())
        })?;
    }
    reader.end()?;
    Ok(envelope)
}

fn change<'a>(speaker: Speaker, reader: &mut Reader<'a>) -> Result<SentChange<'a>, NotAnUpload> {
    let mut sent = SentChange::default();
    reader.object(|reader, key| -> Result<(), NotAnUpload> {
        match key {
            "source_change_id" => sent.source_change_id = integer(reader)?.unwrap_or(0),
            "schema" => sent.schema = string(reader)?.unwrap_or_default(),
            "table" => sent.table = string(reader)?.unwrap_or_default(),
            "op" => sent.op = string(reader)?.unwrap_or_default(),
            "pk" => sent.pk = string(reader)?.unwrap_or_default(),
            "server_version" if speaker == Speaker::Server && reader.kind()? == Kind::String => {
                sent.base = SentBase::Word(reader.string()?);
            }
            "server_version" => sent.base = SentBase::Version(integer(reader)?.unwrap_or(0)),
            "payload" if reader.kind()? == Kind::Null => reader.null()?,
            "payload" => sent.payload = Some(reader.raw()?),
            _ => reader.checked()?,
        }
        Ok(())
    })?;
    Ok(sent)
}

/// A null counts as absent.
fn integer(reader: &mut Reader<'_>) -> Result<Option<i64>, JsonFault> {
    if reader.kind()? == Kind::Null {
        reader.null().map(|()| None)
    } else {
        reader.integer().map(Some)
    }
}

/// A null counts as absent.
fn string<'a>(reader: &mut Reader<'a>) -> Result<Option<Cow<'a, str>>, JsonFault> {
    if reader.kind()? == Kind::Null {
        reader.null().map(|()| None)
    } else {
        reader.string().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_upload() {
        for good in [
            "null",
            "{}",
            r#"{"changes":null}"#,
            r#"{"changes":[],"extra":{"a":[1]}}"#,
            r#"{"epoch":null}"#,
        ] {
            assert!(parse(good.as_bytes(), 10).is_ok(), "{good}");
        }
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(64), "]".repeat(64));
        for bad in [
            "",
            " ",
            "[]",
            "3",
            "{",
            "{}x",
            r#"{"changes":{}}"#,
            r#"{"changes":[null]}"#,
            r#"{"changes":[1]}"#,
            r#"{"changes":[],"changes":[]}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"last_server_seq_seen":"1"}"#,
            r#"{"last_server_seq_seen":1.5}"#,
            r#"{"changes":[{"source_change_id":1.0}]}"#,
            r#"{"changes":[{"source_change_id":9223372036854775808}]}"#,
            r#"{"changes":[{"pk":5}]}"#,
            r#"{"changes":[{"pk":"a","pk":"b"}]}"#,
            r#"{"epoch":7}"#,
            &deep,
        ] {
            assert_eq!(parse(bad.as_bytes(), 10).err(), Some(NotAnUpload), "{bad}");
        }
        assert!(parse(b"{\"epoch\":\"\xff\"}", 10).is_err());
    }

    #[test]
    fn of_too_many_changes_only_the_numbers_are_kept() {
        let body = format!(
            "{{\"changes\":[{{}},{}{{}}]}}",
            "{\"source_change_id\":7},".repeat(10)
        );
        let envelope = parse(body.as_bytes(), 11).expect("valid");
        assert_eq!((envelope.changes.len(), envelope.ids.len()), (0, 12));
        assert_eq!(envelope.ids[1], 7);
    }

    #[test]
    fn a_payload_is_a_slice_of_the_body() {
        let body = r#"{"changes":[{"payload": {"n": 1.50 , "deep": [[{}]]} ,"op":"\u0049NSERT"}]}"#;
        let envelope = parse(body.as_bytes(), 10).expect("valid");
        assert_eq!(
            envelope.changes[0].payload(),
            Some(r#"{"n": 1.50 , "deep": [[{}]]}"#)
        );
        assert_eq!(envelope.changes[0].as_raw().op, "INSERT");
    }
}
