//! An operator of a server: its other listener, with the operators' token.

use crate::device::{HttpDevice, Reply};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// What operators show to every server started here.
pub const ADMIN_TOKEN: &str = "operators-token-for-tests-only-0123456789abcdef";

/// An operator.
#[derive(Debug, Clone)]
pub struct Admin {
    base: String,
    token: String,
    client: reqwest::Client,
}

impl Admin {
    /// Of the listener at `base`.
    pub fn new(base: impl Into<String>) -> Self {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()
            .expect("an HTTP client");
        Self {
            base: base.into(),
            token: ADMIN_TOKEN.to_owned(),
            client,
        }
    }

    /// The same listener with another token.
    #[must_use]
    pub fn showing(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// The listener's address as a URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Any request without a token.
    pub fn request(&self, method: Method, path_and_query: &str) -> reqwest::RequestBuilder {
        self.client
            .request(method, format!("{}{path_and_query}", self.base))
    }

    /// A GET.
    pub async fn get(&self, path_and_query: &str) -> Reply {
        let request = self.request(Method::GET, path_and_query);
        HttpDevice::send(request.bearer_auth(&self.token)).await
    }

    /// A POST with any body.
    pub async fn post_raw(&self, path: &str, body: impl Into<reqwest::Body>) -> Reply {
        let request = self.request(Method::POST, path).body(body);
        HttpDevice::send(request.bearer_auth(&self.token)).await
    }

    /// A POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_raw(path, body.to_string()).await
    }

    /// Changes a user's rows as the server; the answer must be 200.
    pub async fn write(&self, user: &str, changes: &[Value]) -> Value {
        let body = json!({ "user": user, "changes": changes });
        self.post("/admin/write", &body).await.ok()
    }

    /// A write of one change: its status.
    pub async fn write_one(&self, user: &str, change: Value) -> Value {
        self.write(user, &[change]).await["statuses"][0].clone()
    }

    /// Revokes a device; the answer must be 200.
    pub async fn revoke(&self, device: &HttpDevice) {
        self.set_access("/admin/revoke", device).await;
    }

    /// Lets it in again.
    pub async fn reinstate(&self, device: &HttpDevice) {
        self.set_access("/admin/reinstate", device).await;
    }

    async fn set_access(&self, path: &str, device: &HttpDevice) {
        let body = json!({"user": device.user(), "device": device.name()});
        let mut expected = body.clone();
        expected["revoked"] = json!(path == "/admin/revoke");
        assert_eq!(self.post(path, &body).await.ok(), expected);
    }

    /// [`Self::metric`] of a name that is made up.
    pub async fn metric_named(&self, name_and_labels: String) -> f64 {
        self.metric(&name_and_labels).await
    }

    /// A metric's value, given as it stands in the text; 0 when it has not been
    /// counted yet.
    pub async fn metric(&self, name_and_labels: &str) -> f64 {
        let reply = self.get("/metrics").await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let value = reply.text.lines().find_map(|line| {
            let rest = line.strip_prefix(name_and_labels)?;
            rest.strip_prefix(' ')?.parse().ok()
        });
        value.unwrap_or(0.0)
    }
}
