//! The running server, asked like anybody could: whether it is there, what it thinks
//! of a token, which database it has, and whether its tables are still as it found
//! them.

use super::database::Database;
use super::{Examination, Wanted, compare_clocks, keys};
use crate::clock::Clock;
use crate::drift::{self, Shape};
use crate::settings::Settings;
use oversync_shared::wire::Capabilities;
use reqwest::header::DATE;
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use std::net::SocketAddr;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use url::Url;

/// How long an answer may take: it is on this machine, or near.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `/admin/tables` says.
#[derive(Deserialize)]
struct Tables {
    tables: Vec<Shape>,
}

/// Where a server with this setting is asked; nowhere where any free port will do.
fn url(scheme: &str, address: SocketAddr) -> Option<Url> {
    let host = match address {
        _ if address.port() == 0 => return None,
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => format!("127.0.0.1:{}", v4.port()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => format!("[::1]:{}", v6.port()),
        other => other.to_string(),
    };
    Url::parse(&format!("{scheme}://{host}")).ok()
}

pub(super) async fn look(
    found: &mut Examination,
    settings: &Settings,
    wanted: &Wanted,
    database: Option<&Database>,
    clock: &Clock,
) {
    let is_tls = settings.tls.certificate_file.is_some();
    let client = || Client::builder().no_proxy().timeout(PATIENCE);
    // A certificate names the host that devices know, not this address: whether anybody
    // is there is asked without looking at it. Tokens are only shown to who proves who
    // it is.
    let anybody = client().tls_danger_accept_invalid_certs(true).build();
    let named = [&wanted.server, &wanted.operators];
    let is_secure = named
        .into_iter()
        .flatten()
        .any(|url| url.scheme() == "https");
    let proven = match is_secure {
        true => client(),
        // No authority's certificate is needed, and this machine may have none.
        false => client().tls_certs_only([]),
    };
    let (anybody, proven) = match (anybody, proven.build()) {
        (Ok(anybody), Ok(proven)) => (anybody, proven),
        (Err(error), _) | (_, Err(error)) => return found.could_not("server", error),
    };
    let scheme = if is_tls { "https" } else { "http" };
    let own = || url(scheme, settings.listen);
    let Some(base) = wanted.server.clone().or_else(own) else {
        found.note(
            "server",
            "the settings let it listen on any free port, so a running one was not asked",
            "say where with --server http://ADDRESS:PORT",
        );
        return;
    };
    let asked = Asked {
        anybody,
        proven,
        clock,
        settings,
    };
    if !asked.is_there(found, &base, wanted.server.is_some()).await {
        return;
    }
    if base.scheme() == "http" || wanted.server.is_some() {
        asked.devices_side(found, &base, database).await;
    } else {
        found.note(
            "server",
            "it speaks TLS under a name that the settings do not say, so no token was shown to it: whether it runs with these keys, versions and this database is not known",
            "say where, by the certificate's name, with --server https://NAME:PORT",
        );
    }
    let operators = settings
        .admin_listen
        .and_then(|address| url("http", address));
    if let Some(base) = wanted.operators.clone().or(operators) {
        asked.operators_side(found, &base, database).await;
    }
}

/// Asks one server.
struct Asked<'a> {
    /// Takes any certificate; for what is no secret.
    anybody: Client,
    /// Takes those of an authority that the system believes.
    proven: Client,
    clock: &'a Clock,
    settings: &'a Settings,
}

impl Asked<'_> {
    async fn get(
        &self,
        base: &Url,
        path: &str,
        token: Option<&str>,
    ) -> Result<Response, reqwest::Error> {
        let mut url = base.clone();
        url.set_path(path);
        match token {
            Some(token) => self.proven.get(url).bearer_auth(token).send().await,
            None => self.anybody.get(url).send().await,
        }
    }

    /// Whether it answers, and with a database behind it.
    async fn is_there(&self, found: &mut Examination, base: &Url, is_expected: bool) -> bool {
        let before = self.clock.now();
        let answer = match self.get(base, "/ready", None).await {
            Ok(answer) => answer,
            Err(error) => {
                let what = format!("no server answers at {base}: {}", cause(&error));
                let advice = "start it with oversync serve; its log says why it ended";
                if is_expected {
                    found.trouble("server", what, advice);
                } else {
                    found.note("server", what, advice);
                }
                return false;
            }
        };
        if let Some(there) = date(&answer) {
            let here = before + (self.clock.now() - before) / 2;
            // The header has whole seconds, cut off.
            let ahead = there - here + time::Duration::milliseconds(500);
            let advice = "set the clocks by NTP: tokens are judged by the server's";
            compare_clocks(found, "the server's clock", ahead, advice);
        }
        if answer.status() != StatusCode::OK {
            let what = format!(
                "the server at {base} answers, and does not reach its database ({})",
                answer.status()
            );
            found.trouble(
                "server",
                what,
                "its log says why; the settings it runs with may be older than these",
            );
            return true;
        }
        found.saw(
            "server",
            format!("{base} answers, and reaches its database"),
        );
        true
    }

    /// What devices would meet.
    async fn devices_side(&self, found: &mut Examination, base: &Url, database: Option<&Database>) {
        let Some(token) = keys::token(self.settings, self.clock) else {
            return found.note(
                "server",
                "tokens are signed by somebody else, so none was shown to the running server: whether it runs with these keys, versions and this database is not known",
                "on a device, oversqlite doctor asks it with a token of its own",
            );
        };
        let answer = match self.get(base, "/sync/capabilities", Some(&token)).await {
            Ok(answer) => answer,
            Err(error) => return found.could_not("server", cause(&error)),
        };
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => {
                return found.trouble(
                    "keys",
                    "the running server refuses a token minted with these settings: it runs with another secret",
                    "restart it, or put the secret back; jwt_secret_file is read again without a restart",
                );
            }
            other => return found.could_not("server", format!("capabilities: {other}")),
        }
        let known: Capabilities = match answer.json().await {
            Ok(known) => known,
            Err(error) => return found.could_not("server", cause(&error)),
        };
        let settings = self.settings;
        if (known.min_schema_version, known.schema_version)
            != (settings.min_schema_version, settings.schema_version)
        {
            let what = format!(
                "the running server takes schema versions {} to {}, the settings say {} to {}",
                known.min_schema_version,
                known.schema_version,
                settings.min_schema_version,
                settings.schema_version
            );
            found.trouble(
                "server",
                what,
                "restart it: these settings are read at the start",
            );
        }
        let Some(database) = database else {
            return;
        };
        match database.view.epoch().await {
            Ok(epoch) if *epoch == *known.epoch => {}
            Ok(_) => found.trouble(
                "server",
                "the running server has another database than database_url names, or one that was restored since",
                "restart it; devices that meet another history synchronise anew",
            ),
            Err(error) => found.could_not("database", error),
        }
    }

    /// What operators would.
    async fn operators_side(
        &self,
        found: &mut Examination,
        base: &Url,
        database: Option<&Database>,
    ) {
        let Some(token) = &self.settings.admin_token else {
            return;
        };
        let answer = match self.get(base, "/admin/tables", Some(token.expose())).await {
            Ok(answer) => answer,
            Err(error) => {
                let what = format!(
                    "the operators' listener does not answer at {base}: {}",
                    cause(&error)
                );
                return found.trouble(
                    "server",
                    what,
                    "restart the server: admin_listen is read at the start",
                );
            }
        };
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => {
                let what =
                    "the running server does not take the operators' token of these settings";
                return found.trouble(
                    "keys",
                    what,
                    "restart it; admin_token_file is read again without a restart",
                );
            }
            other => return found.could_not("server", format!("tables: {other}")),
        }
        let then: Tables = match answer.json().await {
            Ok(then) => then,
            Err(error) => return found.could_not("server", cause(&error)),
        };
        // Where the tables do not fit, that has been said.
        let Some(database) = database.filter(|database| !database.shapes.is_empty()) else {
            return;
        };
        let drift = drift::between(&then.tables, &database.shapes);
        if drift.is_empty() {
            found.saw("tables", "as the running server found them");
        }
        for change in drift {
            found.trouble("tables", change.to_string(), "put the table back as it was, or restart the server; then try again what failed meanwhile");
        }
    }
}

fn date(answer: &Response) -> Option<OffsetDateTime> {
    let text = answer.headers().get(DATE)?.to_str().ok()?;
    // As HTTP writes it, GMT is the zone.
    OffsetDateTime::parse(&text.replace("GMT", "+0000"), &Rfc2822).ok()
}

/// The innermost cause: the outer ones only say that there was one.
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}
