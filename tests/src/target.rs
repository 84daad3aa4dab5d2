//! A server as seen from outside: its address and the secret of its tokens.

use crate::canary;
use crate::device::HttpDevice;
use oversync::Clock;
use oversync::auth::mint_token;
use oversync_shared::{DeviceId, UserId};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// A server that speaks the protocol, ours or another's; perhaps as several
/// processes on one database, which then take requests in turn.
#[derive(Debug, Clone)]
pub struct Target {
    bases: Vec<String>,
    next: Arc<AtomicUsize>,
    secret: Vec<u8>,
    client: reqwest::Client,
}

impl Target {
    /// The server at `base` (as in `http://127.0.0.1:8080`), whose tokens are
    /// signed with `secret` (HS256).
    pub fn new(base: impl Into<String>, secret: impl Into<Vec<u8>>) -> Self {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(90))
            .build()
            .expect("an HTTP client");
        Self {
            bases: vec![base.into().trim_end_matches('/').to_owned()],
            next: Arc::default(),
            secret: secret.into(),
            client,
        }
    }

    /// Several processes as one target: each request goes to the next of them,
    /// so that what one has cached is always overtaken by another.
    ///
    /// # Panics
    /// When there is none.
    pub fn in_turn(targets: &[Self]) -> Self {
        let mut all = targets.first().expect("a target").clone();
        all.bases = targets
            .iter()
            .flat_map(|target| target.bases.clone())
            .collect();
        all.next = Arc::default();
        all
    }

    /// The base URL for the next request, without a slash at the end.
    pub fn base(&self) -> &str {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        &self.bases[turn % self.bases.len()]
    }

    /// Host and port for the next connection.
    pub fn authority(&self) -> &str {
        let base = self.base();
        base.split_once("://")
            .map_or(base, |(_, authority)| authority)
    }

    /// What signs its tokens.
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// Connections shared by everything that talks to it.
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// A token that is good for `lifetime`.
    pub fn token(&self, user: &str, device: &str, lifetime: Duration) -> String {
        let token = mint_token(
            &self.secret,
            &UserId::new(user).expect("a valid user"),
            &DeviceId::new(device).expect("a valid device"),
            Clock::system().now(),
            lifetime,
        );
        canary::minted(&token);
        token
    }

    /// A device of a user, with a token for an hour.
    pub fn device(&self, user: &str, device: &str) -> HttpDevice {
        let token = self.token(user, device, Duration::from_secs(3_600));
        HttpDevice::new(self.clone(), user, device, token)
    }

    /// A user whom the server has never seen, as two of its devices.
    pub fn two_devices(&self) -> (HttpDevice, HttpDevice) {
        let user = fresh_user();
        (self.device(&user, "ada"), self.device(&user, "bob"))
    }

    /// One device of a user whom the server has never seen.
    pub fn one_device(&self) -> HttpDevice {
        self.device(&fresh_user(), "ada")
    }
}

/// A user name that nobody has used.
pub fn fresh_user() -> String {
    format!("user-{}", Uuid::new_v4().simple())
}

/// A row key that nobody has used.
pub fn fresh_key() -> String {
    Uuid::new_v4().to_string()
}
