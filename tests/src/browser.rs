//! A headless Chromium, driven through a ChromeDriver of its own by the
//! WebDriver protocol (W3C), which is JSON over HTTP. Debian's packages
//! `chromium` and `chromium-driver`.

use crate::eventually::eventually;
use reqwest::Method;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use tempfile::TempDir;

/// What ChromeDriver prints before the port it has taken.
const READY: &str = "was started successfully on port ";

/// The name under which the protocol hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one page; it ends with this value.
#[derive(Debug)]
pub struct Browser {
    session: String,
    client: reqwest::Client,
    driver: Child,
    // Kept open: a process whose output nobody reads would be told so.
    _output: BufReader<ChildStdout>,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser with an empty profile and a window of this size.
    ///
    /// # Panics
    /// When Chromium or ChromeDriver is not installed or does not start.
    pub async fn start(width: u32, height: u32) -> Self {
        let profile = TempDir::with_prefix("oversync-browser.").expect("a temporary folder");
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .process_group(0)
            // Killed, it cleans nothing up: the folder is ours.
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed (Debian: chromium, chromium-driver)");
        let mut output = BufReader::new(driver.stdout.take().expect("its output is piped"));
        let mut line = String::new();
        let port: u16 = loop {
            line.clear();
            let read = output.read_line(&mut line).expect("its output is text");
            assert!(read > 0, "chromedriver ended before it said its port");
            if let Some((_, port)) = line.split_once(READY) {
                break port.trim().trim_end_matches('.').parse().expect("a port");
            }
        };
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("an HTTP client");
        let mut browser = Self {
            session: format!("http://127.0.0.1:{port}/session"),
            client,
            driver,
            _output: output,
            _profile: profile,
        };
        let arguments = json!([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-quic",
            "--no-first-run",
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", browser._profile.path().display()),
        ]);
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": {"args": arguments},
        }}});
        let made = browser.call(Method::POST, "", wanted).await;
        let id = made["sessionId"].as_str().expect("a session id");
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    /// One command; its result.
    async fn try_call(&self, method: Method, path: &str, body: Value) -> Result<Value, Value> {
        let mut request = self
            .client
            .request(method.clone(), format!("{}{path}", self.session));
        if method == Method::POST {
            request = request.json(&body);
        }
        let reply = request.send().await.expect("chromedriver answers");
        let is_right = reply.status().is_success();
        let mut answer: Value = reply.json().await.expect("chromedriver answers with JSON");
        let value = answer["value"].take();
        if is_right { Ok(value) } else { Err(value) }
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        self.try_call(method, path, body)
            .await
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) {
        self.call(Method::POST, "/url", json!({"url": url})).await;
    }

    /// Runs a function body in the page; what it returns.
    pub async fn run(&self, script: &str) -> Value {
        let body = json!({"script": script, "args": []});
        self.call(Method::POST, "/execute/sync", body).await
    }

    /// Waits until an expression is true in the page.
    pub async fn until(&self, expression: &str) {
        eventually(expression, || async {
            let value = self.run(&format!("return {expression}")).await;
            (value == true).then_some(())
        })
        .await;
    }

    async fn find(&self, selector: &str) -> String {
        eventually(selector, || async {
            let wanted = json!({"using": "css selector", "value": selector});
            let found = self.try_call(Method::POST, "/element", wanted).await.ok()?;
            Some(found[ELEMENT].as_str()?.to_owned())
        })
        .await
    }

    /// Clicks as a person would; on what has just been drawn anew, again.
    pub async fn click(&self, selector: &str) {
        eventually(selector, || async {
            let element = self.find(selector).await;
            let path = format!("/element/{element}/click");
            match self.try_call(Method::POST, &path, json!({})).await {
                Ok(_) => Some(()),
                Err(error) if error["error"] == "stale element reference" => None,
                Err(error) => panic!("{selector}: {error}"),
            }
        })
        .await;
    }

    /// Types into a field, key by key.
    pub async fn enter(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        let path = format!("/element/{element}/value");
        self.call(Method::POST, &path, json!({"text": text})).await;
    }

    /// Presses keys one after another, wherever the focus is; special ones by their
    /// numbers in the WebDriver protocol, as in `\u{e004}` for Tab.
    pub async fn press(&self, keys: &str) {
        let strokes = keys.chars().flat_map(|key| {
            let of = |kind| json!({"type": kind, "value": key.to_string()});
            [of("keyDown"), of("keyUp")]
        });
        let actions: Vec<Value> = strokes.collect();
        let body = json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]});
        self.call(Method::POST, "/actions", body).await;
    }

    /// Has the page believe that it is on a screen of this width and height.
    pub async fn screen(&self, width: u32, height: u32, is_phone: bool) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// Has the page believe that its reader prefers `light` or `dark`.
    pub async fn colours(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        let media = json!({ "features": features });
        self.devtools("Emulation.setEmulatedMedia", media).await;
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.call(Method::POST, "/goog/cdp/execute", body).await
    }

    /// A picture of the whole page, however long it is, as PNG.
    pub async fn whole_page(&self, file: &Path) {
        use base64::Engine as _;
        let wanted = json!({"format": "png", "captureBeyondViewport": true});
        let picture = self.devtools("Page.captureScreenshot", wanted).await;
        let text = picture["data"].as_str().expect("base64");
        let bytes = base64::engine::general_purpose::STANDARD.decode(text);
        std::fs::write(file, bytes.expect("base64")).expect("the picture is written");
    }

    /// Whatever the page has complained about.
    pub async fn complaints(&self) -> Vec<String> {
        let wanted = json!({"type": "browser"});
        let found = self.call(Method::POST, "/se/log", wanted).await;
        let lines = found.as_array().cloned().unwrap_or_default();
        lines
            .iter()
            .filter_map(|line| line["message"].as_str().map(str::to_owned))
            .collect()
    }

    /// A picture of the window, as PNG.
    pub async fn screenshot(&self, file: &Path) {
        use base64::Engine as _;
        let picture = self.call(Method::GET, "/screenshot", Value::Null).await;
        let text = picture.as_str().expect("base64");
        let bytes = base64::engine::general_purpose::STANDARD.decode(text);
        std::fs::write(file, bytes.expect("base64")).expect("the picture is written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver leads a group of its own, with the browser in it.
        let _ = Command::new("kill")
            .args(["-KILL", "--", &format!("-{}", self.driver.id())])
            .status();
        let _ = self.driver.wait();
    }
}
