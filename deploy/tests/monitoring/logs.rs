//! From a line in a file to a query in Loki, with the project's Collector and Loki.

use std::{collections::BTreeMap, fs, io::Write, path::PathBuf};

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::{
    delivery::listen,
    programs::{
        PATIENCE, Running, escaped, filled, free_port, get, get_json, monitoring, programs,
        wait_for,
    },
};

/// A line, with the labels and the metadata that it was filed under.
type Filed = (String, BTreeMap<String, String>);

/// A Collector and a Loki on files of their own.
struct Shipping {
    folder: tempfile::TempDir,
    programs: [PathBuf; 2],
    ports: [u16; 3],
    alertmanager: String,
    running: Vec<Running>,
}

impl Shipping {
    /// None where the programs are missing, which is then told.
    fn start(logs: &str) -> Option<Self> {
        Self::start_with(logs, "http://127.0.0.1:9")
    }

    fn start_with(logs: &str, alertmanager: &str) -> Option<Self> {
        let mut shipping = Self {
            programs: programs(["loki", "otelcol"])?,
            folder: tempfile::tempdir().unwrap(),
            ports: [free_port(), free_port(), free_port()],
            alertmanager: alertmanager.to_owned(),
            running: Vec::new(),
        };
        shipping.configure(logs);
        shipping.start_loki();
        shipping.start_collector();
        Some(shipping)
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn told(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn configure(&self, logs: &str) {
        let [http, grpc, metrics] = self.ports.map(|port| port.to_string());
        let loki = filled(
            &monitoring("loki/loki.yml"),
            &[
                ("LOKI_HOST", "127.0.0.1"),
                ("LOKI_PORT", &http),
                ("LOKI_GRPC_PORT", &grpc),
                ("LOKI_DATA", &self.told("loki")),
                ("LOKI_RULES", &self.told("rules")),
                ("ALERTMANAGER_URL", &self.alertmanager),
            ],
        );
        fs::write(self.path("loki.yml"), loki).unwrap();
        let rules = fs::read(monitoring("loki/rules/fake/alerts.yml")).unwrap();
        fs::write(self.path("rules/fake/alerts.yml"), rules).unwrap();
        let collector = filled(
            &monitoring("otelcol/otelcol.yml"),
            &[
                ("LOGS", &self.told(logs)),
                ("HISTORY", &self.told("history.jsonl")),
                ("STACK", "tally-1a2b3c"),
                ("LOKI", &format!("http://127.0.0.1:{http}")),
                ("OTELCOL_DATA", &self.told("otelcol")),
                ("OTELCOL_HOST", "127.0.0.1"),
                ("OTELCOL_PORT", &metrics),
            ],
        );
        fs::write(self.path("otelcol.yml"), collector).unwrap();
    }

    fn start_loki(&mut self) {
        let file = format!("-config.file={}", self.told("loki.yml"));
        let loki = Running::start(&self.programs[0], &[&file], self.path("loki.out"));
        let url = format!("http://127.0.0.1:{}/metrics", self.ports[0]);
        self.running.push(loki.ready(&url));
    }

    fn start_collector(&mut self) {
        let file = format!("--config={}", self.told("otelcol.yml"));
        let collector = Running::start(&self.programs[1], &[&file], self.path("otelcol.out"));
        let url = format!("http://127.0.0.1:{}/metrics", self.ports[2]);
        self.running.push(collector.ready(&url));
    }

    fn write(&self, file: &str, lines: &[Value]) {
        let mut writer = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(file))
            .unwrap();
        for line in lines {
            // A line that is no JSON is given as a string.
            let line = line
                .as_str()
                .map_or_else(|| line.to_string(), str::to_owned);
            writeln!(writer, "{line}").unwrap();
        }
    }

    /// What a query finds: the labels and metadata of each line, by the line.
    ///
    /// # Errors
    /// Loki does not answer.
    fn find(&self, query: &str) -> Result<Vec<Filed>, String> {
        let url = format!(
            "http://127.0.0.1:{}/loki/api/v1/query_range?limit=5000&query={}",
            self.ports[0],
            escaped(query)
        );
        let answer = get_json(&url)?;
        let streams = answer["data"]["result"].as_array().unwrap();
        let lines = streams.iter().flat_map(|stream| {
            let labels: BTreeMap<String, String> =
                serde_json::from_value(stream["stream"].clone()).unwrap();
            let lines = stream["values"].as_array().unwrap();
            lines
                .iter()
                .map(move |line| (line[1].as_str().unwrap().to_owned(), labels.clone()))
        });
        Ok(lines.collect())
    }

    /// Waits until a query finds so many lines.
    fn wait(&self, query: &str, count: usize) -> Vec<Filed> {
        wait_for(&format!("{count} lines of {query}"), || {
            let found = self.find(query)?;
            match found.len() {
                len if len == count => Ok(found),
                len => Err(format!("{len}: {found:?}")),
            }
        })
    }
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn record(level: &str, event: &str, more: Value) -> Value {
    let mut record = json!({ "ts": now(), "level": level, "msg": "it is so", "event": event });
    let fields = record.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    record
}

/// As Docker's json-file driver writes it.
fn wrapped(container: &str, line: &Value) -> Value {
    let log = line
        .as_str()
        .map_or_else(|| line.to_string(), str::to_owned);
    json!({ "log": log + "\n", "stream": "stdout", "attrs": { "tag": container }, "time": now() })
}

/// Checks what a line was filed under: service, colour, level, event, request.
fn assert_filed(lines: &[Filed], needle: &str, expected: [&str; 5]) {
    let found: Vec<_> = lines
        .iter()
        .filter(|(line, _)| line.contains(needle))
        .collect();
    assert_eq!(found.len(), 1, "{needle}: {lines:?}");
    let labels = &found[0].1;
    let names = ["service", "colour", "level", "event", "request_id"];
    let filed = names.map(|name| labels.get(name).map_or("", String::as_str));
    assert_eq!(filed, expected, "{needle}");
}

/// The same lines on either engine.
fn said() -> [(&'static str, Value); 7] {
    [
        (
            "blue",
            record("INFO", "connection_opened", json!({ "request_id": "r-1" })),
        ),
        (
            "blue",
            record("WARNING", "drain_overdue", json!({ "connections": 3 })),
        ),
        (
            "green",
            record("CRITICAL", "library", json!({ "colour": "green" })),
        ),
        ("green", json!("thread 'main' panicked at src/hub.rs:1:2:")),
        (
            "traefik",
            json!({ "level": "info", "RequestMethod": "GET", "downstream_X-Request-Id": "r-1", "time": now() }),
        ),
        (
            "traefik",
            json!({ "level": "error", "message": "no such file", "time": now() }),
        ),
        (
            "loki",
            json!("level=warn ts=2026-01-01T00:00:00Z caller=x.go msg=\"slow disk\""),
        ),
    ]
}

fn assert_said_is_filed(lines: &[Filed]) {
    for (needle, expected) in [
        (
            "connection_opened",
            ["tally", "blue", "info", "connection_opened", "r-1"],
        ),
        (
            "drain_overdue",
            ["tally", "blue", "warn", "drain_overdue", ""],
        ),
        ("\"library\"", ["tally", "green", "critical", "library", ""]),
        ("panicked", ["tally", "green", "error", "", ""]),
        ("RequestMethod", ["traefik", "", "info", "request", "r-1"]),
        ("no such file", ["traefik", "", "error", "", ""]),
        ("slow disk", ["loki", "", "warn", "", ""]),
    ] {
        assert_filed(lines, needle, expected);
    }
}

#[test]
fn a_line_of_a_process_is_filed_by_who_said_it_and_how_bad_it_is() {
    let Some(shipping) = Shipping::start("logs/*.log") else {
        return;
    };
    for (program, line) in said() {
        shipping.write(&format!("logs/{program}.log"), &[line]);
    }
    // Its own complaints would make more of them.
    shipping.write("logs/otelcol.log", &[json!("level=error msg=mine")]);
    assert_said_is_filed(&shipping.wait(r#"{service=~".+"}"#, said().len()));
}

#[test]
fn a_line_of_a_container_is_filed_the_same_and_other_stacks_are_left_alone() {
    let Some(shipping) = Shipping::start("containers/*/*-json.log") else {
        return;
    };
    for (container, line) in said() {
        let file = format!("containers/{container}/{container}-json.log");
        let container = format!("tally-1a2b3c-{container}");
        shipping.write(&file, &[wrapped(&container, &line)]);
    }
    let other = record("ERROR", "hub_behind", json!({}));
    shipping.write(
        "containers/x/x-json.log",
        &[wrapped("tally-ffffff-blue", &other)],
    );
    let untagged = json!({ "log": "somebody else's\n", "stream": "stderr", "time": now() });
    shipping.write("containers/y/y-json.log", &[untagged]);
    let last = wrapped("tally-1a2b3c-blue", &record("INFO", "ready", json!({})));
    shipping.write("containers/x/x-json.log", &[last]);
    let lines = shipping.wait(r#"{service=~".+"}"#, said().len() + 1);
    assert_filed(&lines, "\"ready\"", ["tally", "blue", "info", "ready", ""]);
    assert_said_is_filed(&lines);
}

#[test]
fn one_request_is_followed_by_its_id_through_traefik_and_the_service() {
    let Some(shipping) = Shipping::start("logs/*.log") else {
        return;
    };
    for (program, line) in said() {
        shipping.write(&format!("logs/{program}.log"), &[line]);
    }
    let lines = shipping.wait(r#"{service=~".+"} | request_id = "r-1""#, 2);
    let services: Vec<_> = lines
        .iter()
        .map(|(_, labels)| labels["service"].as_str())
        .collect();
    assert!(services.contains(&"tally") && services.contains(&"traefik"));
}

#[test]
fn a_deploy_is_filed_under_the_colour_that_is_live_from_then_on() {
    let Some(shipping) = Shipping::start("logs/*.log") else {
        return;
    };
    for (verb, outcome) in [
        ("flip", "done"),
        ("rollback", "taken_back"),
        ("flip", "unfinished"),
    ] {
        let entry =
            json!({ "at": now(), "verb": verb, "from": "blue", "to": "green", "outcome": outcome });
        shipping.write("history.jsonl", &[entry]);
    }
    let lines = shipping.wait(r#"{service="deploy"}"#, 3);
    assert_filed(&lines, "done", ["deploy", "green", "info", "flip", ""]);
    assert_filed(
        &lines,
        "taken_back",
        ["deploy", "blue", "error", "rollback", ""],
    );
    assert_filed(
        &lines,
        "unfinished",
        ["deploy", "green", "error", "flip", ""],
    );
}

#[test]
fn nothing_is_lost_or_doubled_though_everybody_is_killed_and_the_log_is_renamed() {
    let Some(mut shipping) = Shipping::start("logs/*.log") else {
        return;
    };
    let lines =
        |from: u32| (from..from + 10).map(|nth| record("INFO", &format!("nth_{nth}"), json!({})));
    let write = |shipping: &Shipping, from| {
        shipping.write("logs/blue.log", &lines(from).collect::<Vec<_>>());
    };
    let all = r#"{service="tally"}"#;
    write(&shipping, 0);
    shipping.wait(all, 10);
    // The Collector first, so that there is something that it has read and Loki has not.
    shipping.running.clear();
    write(&shipping, 10);
    shipping.start_collector();
    wait_for("a line that waits", || waiting(&shipping, 1.0));
    shipping.running.clear();
    let renamed = shipping.path("logs/blue.log.1");
    fs::rename(shipping.path("logs/blue.log"), renamed).unwrap();
    write(&shipping, 20);
    shipping.start_collector();
    shipping.start_loki();
    let mut found: Vec<_> = shipping
        .wait(all, 30)
        .into_iter()
        .map(|(_, labels)| labels["event"].clone())
        .collect();
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 30);
}

/// # Errors
/// Not so many lines wait for Loki.
fn waiting(shipping: &Shipping, count: f64) -> Result<(), String> {
    let metrics = get(&format!("http://127.0.0.1:{}/metrics", shipping.ports[2]))?;
    let size = metrics
        .lines()
        .find(|line| line.starts_with("otelcol_exporter_queue_size"))
        .and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    match size {
        Some(size) if size >= count => Ok(()),
        other => Err(format!("{other:?} wait")),
    }
}

#[test]
fn what_loki_will_not_have_is_counted() {
    let Some(shipping) = Shipping::start("logs/*.log") else {
        return;
    };
    let mut old = record("INFO", "ready", json!({}));
    old["ts"] = json!("2001-01-01T00:00:00.000Z");
    shipping.write("logs/blue.log", &[old]);
    for (port, metric) in [
        (shipping.ports[0], "loki_discarded_samples_total{"),
        (
            shipping.ports[2],
            "otelcol_exporter_send_failed_log_records_total{",
        ),
    ] {
        wait_for(metric, || {
            let metrics = get(&format!("http://127.0.0.1:{port}/metrics"))?;
            let counted = metrics.lines().any(|line| line.starts_with(metric));
            counted
                .then_some(())
                .ok_or_else(|| "nothing is counted".to_owned())
        });
    }
}

#[test]
fn what_only_a_log_tells_becomes_an_alert() {
    let (alertmanager, told) = listen();
    let Some(shipping) = Shipping::start_with("logs/*.log", alertmanager.trim_end_matches('/'))
    else {
        return;
    };
    let failing = json!({ "level": "error", "time": now(), "message": "Error occurred during watcher callback" });
    shipping.write("logs/traefik.log", &[failing]);
    shipping.write(
        "logs/green.log",
        &[json!("thread 'main' panicked at src/hub.rs:1:2:")],
    );
    let mut missing = vec![
        ("TallyTraefikReloadFailing", json!("traefik"), Value::Null),
        ("TallyPanicked", json!("tally"), json!("green")),
    ];
    while !missing.is_empty() {
        let alerts = told.recv_timeout(PATIENCE).unwrap();
        for labels in alerts
            .as_array()
            .unwrap()
            .iter()
            .map(|alert| &alert["labels"])
        {
            missing.retain(|(name, job, colour)| {
                labels["alertname"] != *name || labels["job"] != *job || labels["colour"] != *colour
            });
        }
    }
}
