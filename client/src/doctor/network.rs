//! What the server says: whether it can be reached, what time it is there, what
//! it thinks of the token, and whether it knows the tables.
//!
//! Nothing is written there: the one upload carries changes with an operation
//! that does not exist, which is refused after the question whether their table
//! is registered (PROTOCOL.md section 3).

use super::{Finding, Symptom};
use crate::claims::Claims;
use crate::clock::unix_now_ms;
use crate::config::Config;
use crate::error::NetworkError;
use crate::listener;
use crate::state::State;
use crate::transport::Transport;
use oversync_shared::wire::{Capabilities, UploadReply, UserQuotas, feature, reason};
use serde::Serialize;

/// Clocks further apart than this are a finding: more than any leeway for tokens.
const CLOCKS_APART_S: i64 = 60;

/// What a server takes that does not say.
const MAX_PAGE: usize = 1000;

/// What the server said of itself, as far as it could be asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ServerFacts {
    /// Its address, as configured.
    pub url: String,
    /// How long one small request took, in milliseconds.
    pub answered_in_ms: u64,
    /// Its clock, in seconds ahead of this device's; none when it does not say.
    pub clock_ahead_s: Option<i64>,
    /// Whose token was shown.
    pub token_user: Option<String>,
    /// For which device it is.
    pub token_device: Option<String>,
    /// When it ends, in seconds from now by the server's clock.
    pub token_ends_in_s: Option<i64>,
    /// The application it is configured for; none on a plain v1 server.
    pub app_name: Option<String>,
    /// The oldest and the newest application schema version it takes.
    pub schema_versions: Option<(i64, i64)>,
    /// What one user may have there; none where nothing is limited, or it does not say.
    pub quotas: Option<UserQuotas>,
    /// The history of its database.
    pub epoch: Option<String>,
    /// The user's head.
    pub head: Option<i64>,
    /// The highest change id of this device on record.
    pub highest_change_id: Option<i64>,
    /// Whether a WebSocket gets through; none when it was not tried.
    pub hints: Option<bool>,
}

/// The server, as far as it answers.
#[derive(Default)]
pub(super) struct Network {
    pub(super) facts: Option<ServerFacts>,
    /// Only when it takes this device's token.
    pub(super) transport: Option<Reader>,
}

/// Who may read pages.
pub(super) struct Reader {
    pub(super) transport: Transport,
    pub(super) page: usize,
}

struct Examination<'a> {
    config: &'a Config,
    state: Option<&'a State>,
    facts: ServerFacts,
    findings: &'a mut Vec<Finding>,
}

/// Asks the server whatever may be the matter.
pub(super) async fn examine(
    config: &Config,
    state: Option<&State>,
    findings: &mut Vec<Finding>,
) -> Network {
    let transport = match Transport::new(config) {
        Ok(transport) => transport,
        Err(error) => {
            let advice = "give the server's address as http://… or https://…";
            findings.push(Finding::new(Symptom::BadAddress, error.to_string(), advice));
            return Network::default();
        }
    };
    let mut examination = Examination {
        config,
        state,
        facts: ServerFacts {
            url: config.server.clone(),
            ..ServerFacts::default()
        },
        findings,
    };
    let page = examination.run(&transport).await;
    let reached = !examination
        .findings
        .iter()
        .any(|found| found.symptom == Symptom::Unreachable);
    Network {
        facts: reached.then_some(examination.facts),
        transport: page.map(|page| Reader { transport, page }),
    }
}

impl Examination<'_> {
    fn add(&mut self, symptom: Symptom, what: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding::new(symptom, what, advice));
    }

    /// How much a page may hold, when the server takes this device's requests.
    async fn run(&mut self, transport: &Transport) -> Option<usize> {
        let now_ms = unix_now_ms();
        let answer = match transport.knock().await {
            Ok(answer) => answer,
            Err(error) => {
                self.network(&error);
                return None;
            }
        };
        let took = unix_now_ms().saturating_sub(now_ms).max(0);
        self.facts.answered_in_ms = u64::try_from(took).unwrap_or(0);
        let middle_ms = now_ms + took / 2;
        // A Date has its fraction cut off.
        let ahead_ms = answer.date.map(|date| date * 1000 + 500 - middle_ms);
        self.facts.clock_ahead_s = ahead_ms.map(|ahead| ahead / 1000);
        let middle = middle_ms / 1000;
        self.clocks();
        let token = match transport.tokens.get().await {
            Ok(token) => token,
            Err(error) => {
                self.add(
                    Symptom::NoToken,
                    error.to_string(),
                    "the application's sign-in gives no token: sign in again; edits are captured meanwhile",
                );
                return None;
            }
        };
        if !self.token(&token, middle) {
            return None;
        }
        let capabilities = match transport.capabilities().await {
            Ok(capabilities) => capabilities,
            Err(error) => {
                self.network(&error);
                return None;
            }
        };
        self.capabilities(capabilities.as_ref());
        let names: Vec<String> = self
            .config
            .tables
            .iter()
            .map(|table| table.name.to_lowercase())
            .collect();
        match transport.are_registered(&self.config.schema, &names).await {
            Ok(reply) => self.registered(&names, &reply),
            Err(error) => {
                self.network(&error);
                return None;
            }
        }
        let offers = capabilities
            .as_ref()
            .is_some_and(|found| found.features.iter().any(|name| name == feature::WS));
        if offers {
            let tried = listener::try_connect(transport, &token).await;
            self.facts.hints = Some(tried.is_ok());
            if let Err(why) = tried {
                self.add(
                    Symptom::NoHints,
                    format!("no WebSocket gets through ({why})"),
                    "news come by long poll or by asking from time to time; let upgrades of /sync/ws through to be faster",
                );
            }
        }
        let limit = capabilities.map_or(MAX_PAGE, |found| found.limits.max_page);
        Some(limit.clamp(1, MAX_PAGE))
    }

    fn clocks(&mut self) {
        let ahead = self.facts.clock_ahead_s.unwrap_or(0);
        if ahead.abs() > CLOCKS_APART_S {
            let (apart, side) = (ahead.abs(), if ahead < 0 { "ahead of" } else { "behind" });
            self.add(
                Symptom::ClockSkew,
                format!("this device's clock is {apart} s {side} the server's"),
                "set the clock: tokens seem to end too early or too late; the order of edits does not depend on it",
            );
        }
    }

    /// Whether asking with this token can tell anything.
    fn token(&mut self, token: &str, now: i64) -> bool {
        let Some(claims) = Claims::read(token) else {
            self.add(
                Symptom::OpaqueToken,
                "the token is no JWT: whose it is and when it ends cannot be told from here",
                "nothing to do when your server issues such tokens",
            );
            return true;
        };
        // Tokens are judged by the server's clock.
        let now = now + self.facts.clock_ahead_s.unwrap_or(0);
        self.facts.token_user.clone_from(&claims.user);
        self.facts.token_device.clone_from(&claims.device);
        self.facts.token_ends_in_s = claims.expires_at.map(|end| end - now);
        let known = self.findings.len();
        if let Some(left) = self.facts.token_ends_in_s.filter(|left| *left <= 0) {
            self.add(
                Symptom::TokenExpired,
                format!("the token ended {} s ago", -left),
                "the application's sign-in must give a fresh one; edits are captured meanwhile",
            );
        }
        if let Some(from) = claims.not_before.filter(|from| *from > now + 30) {
            self.add(
                Symptom::TokenNotYetValid,
                format!("the token is good only in {} s", from - now),
                "look at the clock of whoever issues tokens",
            );
        }
        let user = self.state.map_or(&self.config.user, |state| &state.user);
        if let Some(other) = claims.user.filter(|other| other != user.as_str()) {
            let what = format!("the token is user \"{other}\"'s, the file user \"{user}\"'s");
            self.add(
                Symptom::TokenOfAnotherUser,
                what,
                "sign in as the file's user, or sign that user out first",
            );
        }
        let device = self
            .state
            .map(|state| &state.device)
            .or(self.config.device.as_ref());
        if let (Some(other), Some(device)) = (claims.device, device)
            && other != device.as_str()
        {
            let what =
                format!("the token is for device \"{other}\", the file is device \"{device}\"");
            self.add(
                Symptom::TokenOfAnotherDevice,
                what,
                "ask for a token with the file's device name as `did`",
            );
        }
        self.findings.len() == known
    }

    fn capabilities(&mut self, capabilities: Option<&Capabilities>) {
        let Some(found) = capabilities else { return };
        self.facts.app_name = Some(found.app_name.clone());
        self.facts.epoch = Some(found.epoch.clone());
        self.facts.schema_versions = Some((found.min_schema_version, found.schema_version));
        self.facts.quotas = found.quotas;
    }

    fn registered(&mut self, names: &[String], reply: &UploadReply) {
        self.facts.head = Some(reply.head.unwrap_or(reply.highest_server_seq).get());
        self.facts.highest_change_id = reply.highest_source_change_id.map(|id| id.get());
        if let Some(epoch) = &reply.epoch {
            self.facts.epoch = Some(epoch.clone());
        }
        let schema = &self.config.schema;
        let missing: Vec<String> = names
            .iter()
            .zip(&reply.statuses)
            .filter(|(_, status)| {
                let invalid = status.invalid.as_ref();
                invalid.is_some_and(|invalid| invalid.reason == reason::UNREGISTERED_TABLE)
            })
            .map(|(name, _)| format!("{schema}.{name}"))
            .collect();
        if !missing.is_empty() {
            self.add(
                Symptom::TableUnregistered,
                format!(
                    "the server does not synchronise {}: edits there are refused",
                    missing.join(", ")
                ),
                "register the table in the server's settings ([[tables]]); is the schema right?",
            );
        }
    }

    /// An answer that ends the examination.
    fn network(&mut self, error: &NetworkError) {
        let url = self.config.server.clone();
        let (symptom, advice) = match error {
            NetworkError::Unreachable(_) => (
                Symptom::Unreachable,
                "is the network there, the address right, the server running? edits are captured meanwhile",
            ),
            NetworkError::Token(_) => (
                Symptom::NoToken,
                "sign in again; edits are captured meanwhile",
            ),
            NetworkError::Unauthorised => (
                Symptom::TokenRefused,
                "it looks good from here: another secret, issuer or audience at the server, or the device was revoked; the server's log says which",
            ),
            NetworkError::Overloaded { .. } => {
                (Symptom::Overloaded, "the client tries again by itself")
            }
            NetworkError::SchemaVersion { .. } => (
                Symptom::SchemaVersion,
                "update the application, or widen min_schema_version and schema_version at the server; edits are kept",
            ),
            NetworkError::Refused { status: 500.., .. } => (
                Symptom::ServerFails,
                "the server's log says why; the client tries again by itself",
            ),
            NetworkError::TooLarge { .. }
            | NetworkError::EpochMismatch { .. }
            | NetworkError::HistoryPruned { .. }
            | NetworkError::Refused { .. }
            | NetworkError::Protocol(_) => (
                Symptom::NotTheServer,
                "something else answers at this address: is it right, with its path?",
            ),
        };
        self.add(symptom, format!("{url}: {error}"), advice);
    }
}
