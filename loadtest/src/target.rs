//! What is loaded: one or several processes of one server, how to get tokens
//! for it, and what it can do. Any v1 server will do; hints and epochs are used
//! where it has them.

use crate::clock::unix_now;
use crate::http::{Endpoint, Http};
use crate::sources::Sources;
use anyhow::{Context as _, bail, ensure};
use jsonwebtoken::{EncodingKey, Header, encode};
use oversync_shared::wire::{Capabilities, SignInReply, SignInRequest, feature};
use serde::Serialize;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

/// How long a token lasts that is signed here; devices take a new one after 401.
const TOKEN_SECONDS: i64 = 3_600;

/// Where tokens come from.
#[derive(Clone)]
pub enum Tokens {
    /// `POST /signin`: a development server.
    SignIn,
    /// Signed here (HS256), with the server's secret.
    Secret(Arc<[u8]>),
}

impl Tokens {
    /// The secret in a file; white space around it does not count.
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(Self::Secret(text.trim().as_bytes().into()))
    }
}

/// A server.
#[derive(Clone)]
pub struct Target {
    /// Its processes.
    pub endpoints: Vec<Arc<Endpoint>>,
    tokens: Tokens,
    sources: Sources,
    /// Whether it has hints over WebSocket.
    pub has_hints: bool,
}

/// Who a device is for the server.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// The token's `sub`.
    pub user_id: String,
    /// The bearer token.
    pub token: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    did: &'a str,
    iat: i64,
    exp: i64,
}

impl Target {
    /// Looks at a server. All URLs must be processes on one database.
    pub async fn look(urls: &[String], tokens: Tokens) -> anyhow::Result<Self> {
        ensure!(!urls.is_empty(), "no URL");
        let mut endpoints = Vec::with_capacity(urls.len());
        for url in urls {
            endpoints.push(Arc::new(Endpoint::resolve(url).await?));
        }
        let mut target = Self {
            endpoints,
            tokens,
            sources: Sources::new(),
            has_hints: false,
        };
        let signed_in = target.sign_in("loadtest-looks", "observer").await?;
        let answer = target
            .http(0)
            .get("/sync/capabilities", &signed_in.token)
            .await
            .with_context(|| urls[0].clone())?;
        ensure!(
            answer.status != 401,
            "{}: the server does not take our tokens",
            urls[0]
        );
        let can: Option<Capabilities> = serde_json::from_slice(&answer.body).ok();
        target.has_hints = answer.is_success()
            && can.is_some_and(|can| can.features.iter().any(|name| name == feature::WS));
        Ok(target)
    }

    /// The process for the n-th device.
    pub fn endpoint(&self, number: usize) -> Arc<Endpoint> {
        Arc::clone(&self.endpoints[number % self.endpoints.len()])
    }

    /// A connection to the process for the n-th device.
    pub fn http(&self, number: usize) -> Http {
        let endpoint = self.endpoint(number);
        let source = endpoint.is_loopback().then(|| self.sources.own());
        Http::new(endpoint, source)
    }

    /// Where the n-th device comes from, when it is up to us.
    pub fn source(&self, number: usize) -> Option<Ipv4Addr> {
        let is_here = self.endpoint(number).is_loopback();
        is_here.then(|| self.sources.of(number))
    }

    /// A token for a device of a user.
    pub async fn sign_in(&self, username: &str, device: &str) -> anyhow::Result<SignedIn> {
        match &self.tokens {
            Tokens::Secret(secret) => {
                let now = unix_now();
                let claims = Claims {
                    sub: username,
                    did: device,
                    iat: now,
                    exp: now + TOKEN_SECONDS,
                };
                let key = EncodingKey::from_secret(secret);
                Ok(SignedIn {
                    user_id: username.to_owned(),
                    token: encode(&Header::default(), &claims, &key)?,
                })
            }
            Tokens::SignIn => {
                let asked = SignInRequest {
                    username: username.to_owned(),
                    password: "-".to_owned(),
                    device_id: device.to_owned(),
                };
                let mut http = self.http(0);
                let answer = http
                    .post("/signin", "", &serde_json::to_vec(&asked)?)
                    .await
                    .context("sign-in")?;
                if !answer.is_success() {
                    bail!(
                        "sign-in: {}; the server must run with --dev, or give --jwt-secret-file",
                        answer.status
                    );
                }
                let reply: SignInReply = serde_json::from_slice(&answer.body)?;
                Ok(SignedIn {
                    user_id: reply.user_id,
                    token: reply.token,
                })
            }
        }
    }
}
