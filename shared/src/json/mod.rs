//! JSON that never becomes a tree and never touches floats.
//!
//! [`Reader`] cuts an upload's body into slices, so that a payload is kept as the text
//! it came as; [`canonicalise`] judges a payload (depth, duplicate keys, lone
//! surrogates) and gives it a form under which two payloads are equal exactly when they
//! are the same JSON value. Called by the server for uploads and by the device for what
//! its peers send; everything it reads is untrusted.

mod canonical;
mod members;
mod reader;
#[cfg(test)]
mod tests;

pub use canonical::canonicalise;
pub use members::{checked_members, members};
pub use reader::Reader;

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
