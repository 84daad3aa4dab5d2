//! The operators' credential: one token, from the settings or from a file that
//! is read again when it changes.
//!
//! It opens the operators' listener and nothing else; a device's token does not
//! open that. Compared in constant time, so that answering takes as long for a
//! nearly right token as for a wrong one.

use super::key_file::KeyFile;
use crate::settings::{Secret, Settings, SettingsError, admin_token_problem};
use subtle::ConstantTimeEq as _;

/// What operators must show.
pub(crate) enum AdminToken {
    /// Nothing is configured: nobody is let in.
    Unset,
    /// From the settings.
    Fixed(Secret),
    /// From a file.
    File(KeyFile<Secret>),
}

impl AdminToken {
    /// As the settings say; an error names the setting.
    pub(crate) fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let dev = settings.dev;
        if let Some(path) = &settings.admin_token_file {
            let parse = Box::new(move |text: &str| {
                let token = text.trim();
                match admin_token_problem(token, dev) {
                    Some(problem) => Err(problem.to_owned()),
                    None => Ok(Secret::new(token)),
                }
            });
            return Ok(Self::File(KeyFile::open("admin_token_file", path, parse)?));
        }
        Ok(match &settings.admin_token {
            None => Self::Unset,
            Some(token) => match admin_token_problem(token.expose(), dev) {
                None => Self::Fixed(token.clone()),
                Some(problem) => {
                    return Err(SettingsError::Value {
                        setting: "admin_token",
                        problem: problem.to_owned(),
                    });
                }
            },
        })
    }

    /// Whether there is a token at all.
    pub(crate) fn is_set(&self) -> bool {
        !matches!(self, Self::Unset)
    }

    /// Whether this is the token.
    pub(crate) fn is(&self, given: &str) -> bool {
        let fits = |token: &Secret| bool::from(token.expose().as_bytes().ct_eq(given.as_bytes()));
        match self {
            Self::Unset => false,
            Self::Fixed(token) => fits(token),
            Self::File(file) => fits(&file.keys()),
        }
    }
}
