//! A stack that is watched by the project's monitoring, as `up` starts it.

use std::{
    fs,
    io::Write,
    path::Path,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tungstenite::Message;

use crate::{
    clone::{Clone, workspace},
    engine::{Engine, docker},
    programs::{escaped, files, get_json, monitoring, programs, read},
};

pub struct Watched {
    pub clone: Clone,
    pub prometheus: String,
    pub alertmanager: String,
    pub loki: String,
    pub grafana: String,
}

impl Watched {
    /// None where this machine lacks something, which is then told.
    pub fn start(engine: Engine) -> Option<Self> {
        Self::start_with(engine, |_| {})
    }

    /// The same after a change of the project's files, whose folder it gets.
    pub fn start_with(engine: Engine, change: impl FnOnce(&Path)) -> Option<Self> {
        if !has_parts(engine) {
            return None;
        }
        let clone = Clone::new(engine);
        provide(&clone);
        change(&clone.root.path().join("monitoring"));
        clone.up_with(&[("TALLY_MONITORING", "on")])?;
        let ports = clone.record()["ports"]["monitoring"].clone();
        let url = |part: &str| format!("http://127.0.0.1:{}", ports[part]);
        Some(Self {
            prometheus: url("prometheus"),
            alertmanager: url("alertmanager"),
            loki: url("loki"),
            grafana: url("grafana"),
            clone,
        })
    }

    /// A little of everything that a stack sees: clients, a page, a flip, and a line that Loki will
    /// not have.
    pub fn live(&self) {
        let old = json!({
            "at": "2001-01-01T00:00:00Z", "verb": "flip", "outcome": "done", "from": "blue", "to": "green",
        });
        let history = self.clone.root.path().join(".tally/history.jsonl");
        let mut history = fs::File::options().append(true).open(history).unwrap();
        writeln!(history, "{old}").unwrap();
        let visit = || {
            let (mut socket, _) = self.clone.connect().unwrap();
            socket.send(Message::text("x")).unwrap();
            socket.read().unwrap();
            assert_eq!(self.clone.get("/"), "200");
        };
        visit();
        self.clone.succeeds("flip");
        for _ in 0..20 {
            visit();
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// # Errors
    /// Prometheus does not answer, or cannot.
    pub fn ask_prometheus(&self, query: &str) -> Result<Vec<Value>, String> {
        result(&format!(
            "{}/api/v1/query?query={}",
            self.prometheus,
            escaped(query)
        ))
    }

    /// # Errors
    /// Loki does not answer, or cannot.
    pub fn ask_loki(&self, query: &str) -> Result<Vec<Value>, String> {
        let from = now() - 900.0;
        result(&format!(
            "{}/loki/api/v1/query_range?limit=10&step=10&start={from}&query={}",
            self.loki,
            escaped(query)
        ))
    }
}

/// Gives a clone the files of the monitoring.
pub fn provide(clone: &Clone) {
    let sources = workspace();
    let mut copied = files("", "yml");
    copied.extend(files("", "json"));
    copied.extend(["grafana/grafana.ini", "runbook.md"].map(monitoring));
    copied.push(sources.join("deploy/compose/monitoring.yml"));
    for source in copied {
        let copy = clone
            .root
            .path()
            .join(source.strip_prefix(&sources).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(source, copy).unwrap();
    }
}

/// Whether all but Grafana can be started; what is missing is told.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn has_parts(engine: Engine) -> bool {
    if engine == Engine::Native {
        return programs(["prometheus", "alertmanager", "loki", "otelcol"]).is_some();
    }
    if let Some(lack) = engine.lacks() {
        println!("skipped: {lack}");
        return false;
    }
    let compose = read(&workspace().join("deploy/compose/monitoring.yml"));
    let images = compose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("image: "));
    let mut images = images.filter(|image| !image.starts_with("grafana/grafana:"));
    let missing = images.find(|image| docker(&["image", "inspect", image]).is_err());
    if let Some(missing) = missing {
        println!("skipped: there is no image {missing}; deploy/stand-ins builds one");
    }
    missing.is_none()
}

pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}

/// # Errors
/// Nobody answers, or not with a result.
pub fn result(url: &str) -> Result<Vec<Value>, String> {
    let answer = get_json(url)?;
    let result = answer["data"]["result"].as_array().cloned();
    result.ok_or_else(|| answer.to_string())
}
