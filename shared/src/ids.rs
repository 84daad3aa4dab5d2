//! Identifiers and numbers that must not be mistaken for one another.
//!
//! Every one is a newtype: a server id never passes for a row version, a user
//! never for a device. The two names that come from outside (user, device) can
//! only be made by checking them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest user or device name, in bytes (PROTOCOL.md section 2).
pub const MAX_NAME_BYTES: usize = 255;

/// The device name under which the server writes on its own behalf; refused in
/// tokens (PROTOCOL.md section 2).
pub const SERVER_DEVICE: &str = "server";

/// Why a user or device name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("is empty")]
    Empty,
    /// The name is longer than [`MAX_NAME_BYTES`].
    #[error("is longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// The name has a control character (NUL, line feed, …).
    #[error("contains a control character")]
    ControlCharacter,
    /// The device name is the server's own, [`SERVER_DEVICE`].
    #[error("is reserved")]
    Reserved,
}

fn check_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::ControlCharacter);
    }
    Ok(())
}

/// The owner of the data: the token's `sub`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct UserId(String);

impl UserId {
    /// Checks 1–255 bytes without control characters.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        check_name(&text)?;
        Ok(Self(text))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One installation of the application: the token's `did`, a change's
/// `source_id`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct DeviceId(String);

impl DeviceId {
    /// Checks 1–255 bytes without control characters, and that the name is not
    /// the server's own.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        check_name(&text)?;
        if text == SERVER_DEVICE {
            return Err(NameError::Reserved);
        }
        Ok(Self(text))
    }

    /// The device under whose name the server itself writes.
    pub fn server() -> Self {
        Self(SERVER_DEVICE.to_owned())
    }

    /// Whether this is the server's own.
    pub fn is_server(&self) -> bool {
        self.0 == SERVER_DEVICE
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub struct $name(i64);

        impl $name {
            /// Wraps a number.
            pub const fn new(value: i64) -> Self {
                Self(value)
            }

            /// The number.
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A position in one user's change stream: 1, 2, 3 … A device's cursor and
    /// the user's head are server ids too; 0 stands before the first.
    ServerId
}

number! {
    /// How often a row has been written on the server: 1, 2, 3 …; 0 for a row
    /// it has never seen.
    RowVersion
}

number! {
    /// A device-local number of one change (`source_change_id`), never used
    /// again for other content.
    ChangeId
}

impl ServerId {
    /// Before the first change.
    pub const ZERO: Self = Self(0);

    /// The id that follows.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl RowVersion {
    /// Of a row the server has never seen.
    pub const NEVER_SEEN: Self = Self(0);

    /// The version after one more write.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(UserId::new("a".repeat(255)).is_ok());
        assert_eq!(UserId::new("a".repeat(256)), Err(NameError::TooLong));
        assert_eq!(UserId::new(""), Err(NameError::Empty));
        assert_eq!(UserId::new("a\0b"), Err(NameError::ControlCharacter));
        assert_eq!(UserId::new("a\u{85}"), Err(NameError::ControlCharacter));
        assert!(UserId::new("server").is_ok());
        assert_eq!(DeviceId::new("server"), Err(NameError::Reserved));
    }
}
