//! Settings of operators: the token they show on their own listener. Checked
//! before anything starts; a refusal names the setting and never its value.

use super::{Settings, SettingsError, is_known, value};

/// Shortest token of operators, in bytes: it cannot be guessed.
const MIN_TOKEN_BYTES: usize = 32;

impl Settings {
    pub(super) fn check_admin(&self) -> Result<(), SettingsError> {
        let Some(token) = &self.admin_token else {
            return match self.admin_listen {
                None => Ok(()),
                Some(_) => Err(value(
                    "admin_token",
                    "is not set, and admin_listen needs it; set it or admin_token_file",
                )),
            };
        };
        let setting = if self.admin_token_file.is_some() {
            "admin_token_file"
        } else {
            "admin_token"
        };
        if let Some(problem) = admin_token_problem(token.expose(), self.dev) {
            return Err(value(setting, problem));
        }
        // Who operates need not be able to sign in as anybody.
        if self.jwt_secret.as_ref() == Some(token) {
            return Err(value(
                setting,
                "is the same as jwt_secret; make another one with: openssl rand -base64 48",
            ));
        }
        Ok(())
    }
}

/// Why a text is no token for operators. `dev` takes the known ones.
pub(crate) fn admin_token_problem(token: &str, dev: bool) -> Option<&'static str> {
    if token.len() < MIN_TOKEN_BYTES {
        return Some("is shorter than 32 bytes; make one with: openssl rand -base64 48");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(
            "has characters that a header does not carry; make one with: openssl rand -base64 48",
        );
    }
    if !dev && is_known(token.as_bytes()) {
        return Some("is a sample that everybody knows; make one with: openssl rand -base64 48");
    }
    None
}
