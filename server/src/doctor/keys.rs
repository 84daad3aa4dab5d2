//! What tokens are checked with, and the server's certificate.

use super::Examination;
use crate::auth::{Authenticator as _, TokenAuthenticator, TokenMint};
use crate::clock::Clock;
use crate::settings::Settings;
use oversync_shared::{DeviceId, UserId};
use std::path::Path;
use std::time::Duration;
use time::OffsetDateTime;
use x509_parser::pem::Pem;

/// A token of the doctor's own is good for so long: it is shown once.
const LIFETIME: Duration = Duration::from_secs(60);

/// A certificate that ends sooner than this should have been renewed …
const SOON_DAYS: i64 = 7;

/// … and is worth a word so long before.
const WORD_DAYS: i64 = 30;

/// A token as the server would take it; `None` where somebody else signs them.
pub(super) fn token(settings: &Settings, clock: &Clock) -> Option<String> {
    let user = UserId::new("oversync-doctor").expect("BUG: a name");
    let device = DeviceId::new("doctor").expect("BUG: a name");
    let mint = TokenMint::from_settings(settings)?;
    Some(mint.mint(&user, &device, clock.now(), LIFETIME))
}

pub(super) async fn look(found: &mut Examination, settings: &Settings, clock: &Clock) {
    match TokenAuthenticator::from_settings(settings) {
        Err(error) => found.trouble(
            "keys",
            error.to_string(),
            "no token can be checked: mend it",
        ),
        Ok(keys) => match token(settings, clock) {
            None => found.saw("keys", "readable; tokens are signed by somebody else"),
            Some(token) => match keys.authenticate(&token).await {
                Ok(_) => found.saw("keys", "a token minted with them is taken"),
                Err(_) => found.trouble(
                    "keys",
                    "a token minted with these settings is not taken by them",
                    "look at auth.algorithm, audience and issuer, and at this machine's clock",
                ),
            },
        },
    }
    if let Some(path) = &settings.tls.certificate_file {
        certificate(found, path, clock.now());
    }
}

/// From when to when the certificate in a file is good.
fn certificate(found: &mut Examination, path: &Path, now: OffsetDateTime) {
    let name = path.display();
    let times = std::fs::read(path).map_err(|error| error.to_string());
    let (from, until) = match times.and_then(|pem| validity(&pem)) {
        Ok(times) => times,
        Err(problem) => {
            let what = format!("tls.certificate_file: {name}: {problem}");
            return found.trouble("certificate", what, "put a certificate in PEM there");
        }
    };
    let days = (until - now).whole_days();
    let renew = "renew it; a running server reads the file again by itself";
    if until <= now {
        found.trouble(
            "certificate",
            format!("{name} ended at {until}: devices refuse it"),
            renew,
        );
    } else if from > now {
        let what = format!("{name} is good only from {from} on: devices refuse it until then");
        found.trouble(
            "certificate",
            what,
            "look at this machine's clock, or use another one",
        );
    } else if days < SOON_DAYS {
        found.trouble("certificate", format!("{name} ends in {days} days"), renew);
    } else if days < WORD_DAYS {
        found.note("certificate", format!("{name} ends in {days} days"), renew);
    } else {
        found.saw("certificate", format!("{name} is good for {days} days"));
    }
}

/// Of the first certificate, which is the server's own.
fn validity(pem: &[u8]) -> Result<(OffsetDateTime, OffsetDateTime), String> {
    let own = Pem::iter_from_buffer(pem)
        .filter_map(Result::ok)
        .find(|block| block.label == "CERTIFICATE");
    let own = own.ok_or("there is no certificate in it")?;
    let parsed = own.parse_x509();
    let parsed = parsed.map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let times = parsed.validity();
    Ok((
        times.not_before.to_datetime(),
        times.not_after.to_datetime(),
    ))
}
