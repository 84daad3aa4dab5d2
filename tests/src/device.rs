//! A device that is nothing but HTTP: no SQLite, no memory, no rules.

use crate::socket::{Refused, Socket};
use crate::target::Target;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// One device of one user of one server.
#[derive(Debug, Clone)]
pub struct HttpDevice {
    target: Target,
    user: String,
    name: String,
    token: String,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body as it came.
    pub text: String,
}

impl Reply {
    async fn read(response: reqwest::Response) -> Result<Self, reqwest::Error> {
        Ok(Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await?,
        })
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{error} in the body of {}: {}", self.status, self.text))
    }

    /// The body, having checked that the status is 200.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    /// Checks status and code, and returns the body.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        let body = self.json();
        assert_eq!(body["error"], code, "{body}");
        assert!(
            body["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "an error says what is wrong: {body}"
        );
        body
    }

    /// Checks a 400 and its whole body.
    #[track_caller]
    pub fn bad_request(&self, message: &str) {
        assert_eq!(
            (self.status, self.json()),
            (400, json!({"error": "invalid_request", "message": message}))
        );
    }
}

impl HttpDevice {
    /// A device that shows this token.
    pub fn new(target: Target, user: &str, name: &str, token: String) -> Self {
        Self {
            target,
            user: user.to_owned(),
            name: name.to_owned(),
            token,
        }
    }

    /// Whose it is.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Its name, the token's `did`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it shows.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The server it talks to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Another device of the same user.
    pub fn sibling(&self, name: &str) -> Self {
        self.target.device(&self.user, name)
    }

    /// The same device at another server (or another process of one).
    pub fn at(&self, target: &Target) -> Self {
        target.device(&self.user, &self.name)
    }

    /// Any request, with this device's token.
    pub fn request(&self, method: Method, path_and_query: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path_and_query}", self.target.base());
        self.target
            .client()
            .request(method, url)
            .bearer_auth(&self.token)
    }

    /// Sends a request and reads its answer.
    pub async fn send(request: reqwest::RequestBuilder) -> Reply {
        Self::try_send(request).await.expect("the server answers")
    }

    /// Sends a request that may find no server.
    pub async fn try_send(request: reqwest::RequestBuilder) -> Result<Reply, reqwest::Error> {
        Reply::read(request.send().await?).await
    }

    /// A GET.
    pub async fn get(&self, path_and_query: &str) -> Reply {
        Self::send(self.request(Method::GET, path_and_query)).await
    }

    /// An upload with any body.
    pub async fn upload_raw(&self, body: impl Into<reqwest::Body>) -> Reply {
        let request = self
            .request(Method::POST, "/sync/upload")
            .header("content-type", "application/json");
        Self::send(request.body(body)).await
    }

    /// An upload that may find no server.
    pub async fn try_upload(&self, changes: &[Value]) -> Result<Reply, reqwest::Error> {
        let request = self.request(Method::POST, "/sync/upload");
        Self::try_send(request.json(&json!({ "changes": changes }))).await
    }

    /// An upload of changes; the answer must be 200.
    pub async fn upload(&self, changes: &[Value]) -> Value {
        self.upload_raw(json!({ "changes": changes }).to_string())
            .await
            .ok()
    }

    /// An upload of one change: its status.
    pub async fn upload_one(&self, change: Value) -> Value {
        self.upload(&[change]).await["statuses"][0].clone()
    }

    /// An upload of changes; their statuses.
    pub async fn statuses(&self, changes: &[Value]) -> Vec<Value> {
        let reply = self.upload(changes).await;
        let statuses = reply["statuses"].as_array().expect("statuses").clone();
        assert_eq!(statuses.len(), changes.len(), "one status per change");
        statuses
    }

    /// An upload of changes, having checked that each is applied.
    pub async fn applied(&self, changes: &[Value]) {
        for status in self.statuses(changes).await {
            assert_eq!(status["status"], "applied", "{status}");
        }
    }

    /// The user's failed projections, newest first; `query` starts with a question
    /// mark, or is empty.
    pub async fn failures(&self, query: &str) -> Vec<Value> {
        let path = format!("/admin/materialize-failures{query}");
        let list = self.get(&path).await.ok();
        list.as_array().expect("a bare array").clone()
    }

    /// An upload that the server may be too busy for: sent again as it asks,
    /// until it is answered.
    pub async fn upload_patiently(&self, changes: &[Value]) -> Value {
        loop {
            let reply = self.try_upload(changes).await.expect("the server answers");
            if reply.status != 503 {
                return reply.ok();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A download with this query.
    pub async fn download_raw(&self, query: &str) -> Reply {
        self.get(&format!("/sync/download?{query}")).await
    }

    /// A download; the answer must be 200.
    pub async fn download(&self, query: &str) -> Value {
        self.download_raw(query).await.ok()
    }

    /// Pages through one frozen window: everything after `after` that this
    /// device would see, and the window's end.
    pub async fn download_all(&self, after: i64, limit: usize, more: &str) -> (Vec<Value>, i64) {
        let mut found = Vec::new();
        let (mut after, mut until) = (after, 0);
        loop {
            let page = self
                .download(&format!("after={after}&limit={limit}&until={until}{more}"))
                .await;
            let changes = page["changes"].as_array().expect("changes");
            assert!(changes.len() <= limit);
            found.extend(changes.iter().cloned());
            until = page["window_until"].as_i64().expect("window_until");
            let next = page["next_after"].as_i64().expect("next_after");
            if page["has_more"] == false {
                return (found, until);
            }
            assert!(next > after, "a page moves on: {page}");
            after = next;
        }
    }

    /// The server ids that [`Self::download_all`] finds.
    pub async fn server_ids(&self, more: &str) -> Vec<i64> {
        let (changes, _) = self.download_all(0, 1_000, more).await;
        changes
            .iter()
            .map(|change| change["server_id"].as_i64().expect("server_id"))
            .collect()
    }

    /// A WebSocket for hints, with the token in the Authorization header.
    pub async fn connect(&self) -> Socket {
        self.try_connect(&[]).await.expect("the upgrade is taken")
    }

    /// [`Self::connect`] with further headers; may be refused.
    pub async fn try_connect(&self, headers: &[(&'static str, &str)]) -> Result<Socket, Refused> {
        let bearer = format!("Bearer {}", self.token);
        let mut all = vec![
            ("authorization", bearer.as_str()),
            ("sec-websocket-protocol", "oversync.v1"),
        ];
        all.extend_from_slice(headers);
        Socket::connect(self.target.authority(), &all).await
    }
}

/// An INSERT of a row that the device takes for new.
pub fn insert(id: i64, table: &str, pk: &str, payload: Value) -> Value {
    change(id, table, "INSERT", pk, 0, payload)
}

/// An UPDATE on top of a version.
pub fn update(id: i64, table: &str, pk: &str, version: i64, payload: Value) -> Value {
    change(id, table, "UPDATE", pk, version, payload)
}

/// A DELETE on top of a version.
pub fn delete(id: i64, table: &str, pk: &str, version: i64) -> Value {
    let mut change = change(id, table, "DELETE", pk, version, Value::Null);
    let fields = change.as_object_mut().expect("an object");
    fields.remove("payload");
    change
}

/// Any change; `table` is `schema.table`.
pub fn change(id: i64, table: &str, op: &str, pk: &str, version: i64, payload: Value) -> Value {
    let (schema, table) = table.split_once('.').expect("schema.table");
    json!({
        "source_change_id": id, "schema": schema, "table": table, "op": op, "pk": pk,
        "server_version": version, "payload": payload,
    })
}
