//! A headless Chromium behind chromedriver, spoken to in plain WebDriver (W3C) over HTTP: the few
//! commands that are needed do not pay for a client crate and its asynchronous stack.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long the page may take for anything that a test waits for. Generous: on a busy machine a
/// cold browser takes seconds, and who passes never waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";
pub const SPACE: &str = " ";

/// Resolves as soon as the expression holds, woken by the page's own changes.
const WAIT: &str = r#"
    const [expression, done] = arguments;
    const holds = new Function(`return (${expression})`);
    if (holds()) return done(true);
    const observer = new MutationObserver(() => {
        if (!holds()) return;
        observer.disconnect();
        done(true);
    });
    observer.observe(document, {
        attributes: true, characterData: true, childList: true, subtree: true,
    });
"#;

pub struct Browser {
    http: ureq::Agent,
    /// The address of the WebDriver session.
    session: String,
    driver: Child,
    /// A profile of its own: tests share no storage.
    _profile: TempDir,
}

impl Browser {
    /// `None`, and a line that says so, where there is no Chromium.
    pub fn start() -> Option<Self> {
        let Some((chromium, mut driver)) = installed() else {
            // Past the capture of the test harness, which keeps what passing tests print.
            let _ = writeln!(
                std::io::stderr(),
                "skipped: chromium is not installed (apt-get install chromium chromium-driver)"
            );
            return None;
        };
        let profile = tempfile::tempdir().expect("a directory for the profile");
        let mut driver = driver
            .arg("--port=0")
            // What a browser leaves lying about goes with the profile.
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let port = port(&mut driver);
        let http = ureq::Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE * 2))
            .build()
            .new_agent();
        let mut browser = Self {
            http,
            session: format!("http://127.0.0.1:{port}/session"),
            driver,
            _profile: profile,
        };
        browser.open_session(&chromium);
        Some(browser)
    }

    fn open_session(&mut self, chromium: &str) {
        let profile = self._profile.path().join("profile");
        let profile = profile.display();
        let opened = self.post(
            "",
            &json!({"capabilities": {"alwaysMatch": {
                "goog:chromeOptions": {"binary": chromium, "args": [
                    "--headless",
                    // Tests run as root in containers, where Chromium's sandbox cannot.
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-dev-shm-usage",
                    "--disable-background-networking",
                    "--no-proxy-server",
                    "--no-first-run",
                    "--window-size=1000,900",
                    format!("--user-data-dir={profile}"),
                ]},
                "goog:loggingPrefs": {"browser": "ALL"},
                "timeouts": {"script": PATIENCE.as_millis() as u64},
            }}}),
        );
        let id = opened["sessionId"].as_str().expect("a session id");
        self.session = format!("{}/{id}", self.session);
    }

    fn post(&self, command: &str, body: &Value) -> Value {
        let address = format!("{}{command}", self.session);
        let answer = self.http.post(&address).send_json(body);
        value(command, answer)
    }

    fn get(&self, command: &str) -> Value {
        let address = format!("{}{command}", self.session);
        value(command, self.http.get(&address).call())
    }

    pub fn open(&self, address: &str) {
        self.post("/url", &json!({"url": address}));
    }

    /// What a JavaScript expression is.
    pub fn value(&self, expression: &str) -> Value {
        let script = format!("return ({expression})");
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    pub fn text(&self, id: &str) -> String {
        let text = self.value(&format!("document.getElementById('{id}').textContent"));
        text.as_str().expect("a text").to_owned()
    }

    /// Waits until a JavaScript expression about the page holds.
    pub fn wait(&self, expression: &str) {
        let body = json!({"script": WAIT, "args": [expression]});
        let address = format!("{}/execute/async", self.session);
        let answer = self.http.post(&address).send_json(&body);
        let answer: Value = read("/execute/async", answer);
        assert_eq!(
            answer["value"],
            json!(true),
            "waited in vain for {expression}; the page says:\n{}",
            self.value("document.body.innerText")
                .as_str()
                .unwrap_or_default()
        );
    }

    pub fn wait_for_text(&self, id: &str, text: &str) {
        self.wait(&format!(
            "document.getElementById('{id}').textContent === {}",
            json!(text)
        ));
    }

    pub fn click(&self, id: &str) {
        let found = self.post(
            "/element",
            &json!({"using": "css selector", "value": format!("#{id}")}),
        );
        let element = found
            .as_object()
            .and_then(|reference| reference.values().next())
            .and_then(Value::as_str)
            .expect("an element");
        self.post(&format!("/element/{element}/click"), &json!({}));
    }

    /// Presses keys one after the other, whatever has the focus.
    pub fn press(&self, keys: &str) {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key})))
            .collect();
        self.post(
            "/actions",
            &json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]}),
        );
    }

    /// The id of the element with the focus.
    pub fn focus(&self) -> String {
        let id = self.value("document.activeElement.id");
        id.as_str().expect("an id").to_owned()
    }

    /// A phone or a desktop, light or dark.
    pub fn look(&self, width: u32, height: u32, scheme: &str) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600}),
        );
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
        );
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        self.post(
            "/goog/cdp/execute",
            &json!({"cmd": command, "params": parameters}),
        );
    }

    /// What the console got, warnings and errors only.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({"type": "browser"}));
        let entries = entries.as_array().expect("a list").iter();
        entries
            .filter(|entry| ["SEVERE", "WARNING"].contains(&entry["level"].as_str().unwrap_or("")))
            .map(|entry| entry["message"].to_string())
            .collect()
    }

    pub fn save_screenshot(&self, path: &Path) {
        let picture = self.get("/screenshot");
        let picture = BASE64_STANDARD
            .decode(picture.as_str().expect("Base64"))
            .expect("Base64");
        std::fs::write(path, picture).expect("the screenshot is written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends Chromium; a driver that is killed first would leave it behind.
        let _ = self.http.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn read(command: &str, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Value {
    let mut answer = answer.unwrap_or_else(|error| panic!("WebDriver {command}: {error}"));
    let body = answer.body_mut();
    // A screenshot is larger than ureq reads without being told so.
    let body = body.with_config().limit(64 << 20).read_json();
    body.unwrap_or_else(|error| panic!("WebDriver {command}: {error}"))
}

fn value(command: &str, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Value {
    let mut answer = read(command, answer);
    let error = &answer["value"]["error"];
    assert!(error.is_null(), "WebDriver {command}: {}", answer["value"]);
    answer["value"].take()
}

/// The browser's path and its driver, under the names that distributions give them.
fn installed() -> Option<(String, Command)> {
    let find = |names: &[&str]| {
        let path = std::env::var_os("PATH")?;
        let places: Vec<_> = std::env::split_paths(&path).collect();
        let mut candidates = names
            .iter()
            .flat_map(|name| places.iter().map(move |place| place.join(name)));
        candidates.find(|candidate| candidate.is_file())
    };
    let chromium = find(&["chromium", "chromium-browser", "google-chrome"])?;
    let driver = find(&["chromedriver", "chromium.chromedriver"])?;
    Some((
        chromium.to_string_lossy().into_owned(),
        Command::new(driver),
    ))
}

/// The port that the driver picked, from the line in which it says so.
fn port(driver: &mut Child) -> u16 {
    let mut lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
    let said = lines
        .by_ref()
        .map_while(Result::ok)
        .find(|line| line.contains("started successfully on port"))
        .expect("chromedriver names its port");
    // The rest is read and forgotten: a full pipe would stop the driver.
    thread::spawn(move || lines.for_each(drop));
    let digits = |character: char| !character.is_ascii_digit();
    said.trim_matches(digits).parse().expect("a port")
}
