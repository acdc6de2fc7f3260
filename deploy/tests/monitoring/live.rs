//! Rules and dashboards against a real stack: what they ask for is there.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tungstenite::Message;

use crate::{
    clone::Clone,
    dashboards::{dashboards, panels},
    engine::Engine,
    programs::{
        Running, escaped, files, filled, free_port, get_json, monitoring, programs, read, wait_for,
    },
};

/// As in prometheus.yml, four times of which Grafana takes for a rate.
const RATE_INTERVAL: &str = "20s";

/// How far the dashboards look back here.
const RANGE: &str = "5m";

/// A stack that is watched by the project's monitoring.
struct Watched {
    clone: Clone,
    prometheus: String,
    loki: String,
    _running: Vec<Running>,
}

impl Watched {
    /// None where this machine lacks something, which is then told.
    fn start() -> Option<Self> {
        let found = programs(["prometheus", "alertmanager", "loki", "otelcol"])?;
        let clone = Clone::upped(Engine::Native)?;
        let folder = clone.root.path().join(".tally");
        let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let ports: Vec<String> = (0..5)
            .map(|_| format!("127.0.0.1:{}", free_port()))
            .collect();
        let port = |nth: usize| ports[nth].rsplit(':').next().unwrap();
        let url = |nth: usize| format!("http://{}", ports[nth]);

        fs::create_dir_all(at("rules/fake")).unwrap();
        for (file, values) in [
            (
                "loki/loki.yml",
                &[
                    ("LOKI_HOST", "127.0.0.1"),
                    ("LOKI_PORT", port(2)),
                    ("LOKI_GRPC_PORT", port(4)),
                    ("LOKI_DATA", &at("loki")),
                    ("LOKI_RULES", &at("rules")),
                    ("ALERTMANAGER_URL", &url(1)),
                ][..],
            ),
            (
                "otelcol/otelcol.yml",
                &[
                    ("LOGS", &at("logs/*.log")),
                    ("HISTORY", &at("history.jsonl")),
                    ("STACK", "none"),
                    ("LOKI", &url(2)),
                    ("OTELCOL_DATA", &at("otelcol")),
                    ("OTELCOL_HOST", "127.0.0.1"),
                    ("OTELCOL_PORT", port(3)),
                ],
            ),
            (
                "alertmanager/alertmanager.yml",
                &[
                    ("PEOPLE_WEBHOOKS", "[]"),
                    ("PEOPLE_MAILS", "[]"),
                    ("WATCHDOG_WEBHOOKS", "[]"),
                ],
            ),
        ] {
            let path = monitoring(file);
            let name = path.file_name().unwrap().to_str().unwrap();
            fs::write(folder.join(name), filled(&path, values)).unwrap();
        }
        fs::create_dir_all(at("prometheus/rules")).unwrap();
        fs::create_dir_all(at("prometheus/targets")).unwrap();
        for rules in files("prometheus/rules", "yml") {
            let copy = folder
                .join("prometheus/rules")
                .join(rules.file_name().unwrap());
            fs::copy(rules, copy).unwrap();
        }
        let configuration = monitoring("prometheus/prometheus.yml");
        fs::copy(configuration, at("prometheus/prometheus.yml")).unwrap();
        let stack = clone.record()["ports"].clone();
        let local = |name: &str| format!("127.0.0.1:{}", stack[name]);
        let target = |address: &str, label: &str, value: &str| json!({ "targets": [address], "labels": { label: value } });
        for (file, targets) in [
            (
                "tally",
                json!([
                    target(&local("blue_operator"), "colour", "blue"),
                    target(&local("green_operator"), "colour", "green")
                ]),
            ),
            (
                "others",
                json!([
                    target(&local("internal"), "job", "traefik"),
                    target(&ports[0], "job", "prometheus"),
                    target(&ports[1], "job", "alertmanager"),
                    target(&ports[2], "job", "loki"),
                    target(&ports[3], "job", "otelcol")
                ]),
            ),
            ("alertmanager", json!([{ "targets": [ports[1]] }])),
        ] {
            let path = at(&format!("prometheus/targets/{file}.json"));
            fs::write(path, targets.to_string()).unwrap();
        }
        let configured = |name: &str| at(&format!("{name}.yml"));
        let start = |nth: usize, arguments: &[String], ready: &str| {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let log = folder
                .join("logs")
                .join(found[nth].file_name().unwrap())
                .with_extension("log");
            Running::start(&found[nth], &arguments, log).ready(&format!("{}/{ready}", url(nth)))
        };
        let running = vec![
            start(
                1,
                &[
                    format!("--config.file={}", configured("alertmanager")),
                    format!("--storage.path={}", at("alertmanager")),
                    format!("--web.listen-address={}", ports[1]),
                    "--cluster.listen-address=".into(),
                ],
                "-/ready",
            ),
            start(
                2,
                &[format!("-config.file={}", configured("loki"))],
                "metrics",
            ),
            start(
                3,
                &[format!("--config={}", configured("otelcol"))],
                "metrics",
            ),
            start(
                0,
                &[
                    format!("--config.file={}", at("prometheus/prometheus.yml")),
                    format!("--storage.tsdb.path={}", at("tsdb")),
                    format!("--web.listen-address={}", ports[0]),
                ],
                "-/ready",
            ),
        ];
        Some(Self {
            clone,
            prometheus: url(0),
            loki: url(2),
            _running: running,
        })
    }

    /// A little of everything that a stack sees: clients, a page, a flip, and a line that Loki will
    /// not have.
    fn live(&self) {
        let old = json!({ "ts": "2001-01-01T00:00:00.000Z", "level": "INFO", "event": "ready" });
        let log = self.clone.root.path().join(".tally/logs/old.log");
        fs::write(log, format!("{old}\n")).unwrap();
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
    fn ask_prometheus(&self, query: &str) -> Result<Vec<Value>, String> {
        result(&format!(
            "{}/api/v1/query?query={}",
            self.prometheus,
            escaped(query)
        ))
    }

    /// # Errors
    /// Loki does not answer, or cannot.
    fn ask_loki(&self, query: &str) -> Result<Vec<Value>, String> {
        let from = now() - 900.0;
        result(&format!(
            "{}/loki/api/v1/query_range?limit=10&step=10&start={from}&query={}",
            self.loki,
            escaped(query)
        ))
    }

    /// What a panel's target shows over the time range.
    ///
    /// # Errors
    /// Nothing, or nobody answers.
    fn show(&self, target: &Value, query: &str) -> Result<(), String> {
        let shown = match target["datasource"]["uid"].as_str() {
            Some("prometheus") if target["instant"] == true => self.ask_prometheus(query)?,
            Some("prometheus") => result(&format!(
                "{}/api/v1/query_range?step=5&start={}&end={}&query={}",
                self.prometheus,
                now() - 300.0,
                now(),
                escaped(query)
            ))?,
            Some("loki") => self.ask_loki(query)?,
            other => panic!("{other:?} is no data source that can be asked"),
        };
        let figures = shown
            .iter()
            .flat_map(figures)
            .filter(|figure| *figure != "NaN");
        match figures.count() {
            0 => Err(format!("{query} shows nothing")),
            _ => Ok(()),
        }
    }
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}

/// # Errors
/// Nobody answers, or not with a result.
fn result(url: &str) -> Result<Vec<Value>, String> {
    let answer = get_json(url)?;
    let result = answer["data"]["result"].as_array().cloned();
    result.ok_or_else(|| answer.to_string())
}

/// What a series, a sample or a stream has to show.
fn figures(series: &Value) -> Vec<&str> {
    let values = series["values"].as_array();
    let one = series.get("value").into_iter();
    let pairs = values.into_iter().flatten().chain(one);
    pairs.filter_map(|pair| pair[1].as_str()).collect()
}

/// A query with what Grafana would fill in.
///
/// # Panics
/// A variable is left.
fn fill(query: &str, dashboard: &Value) -> String {
    let mut text = query
        .replace("$__rate_interval", RATE_INTERVAL)
        .replace("$__auto", RATE_INTERVAL)
        .replace("$__range", RANGE);
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let value = match variable["current"]["value"].as_str().unwrap() {
            "$__all" => variable["allValue"].as_str().unwrap(),
            value => value,
        };
        let name = format!("${}", variable["name"].as_str().unwrap());
        assert!(
            dashboard.to_string().matches(&name).count() > 0,
            "{name} is not used"
        );
        text = text.replace(&name, value);
    }
    assert!(!text.contains('$'), "{text}");
    text
}

/// Every target of every dashboard, filled in: what it is of, itself, and its query.
fn targets() -> Vec<(String, Value, String)> {
    let mut targets = Vec::new();
    for (path, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let name = format!("{path:?}, {}", panel["title"]);
                let query = fill(target["expr"].as_str().unwrap(), &dashboard);
                targets.push((name, target.clone(), query));
            }
        }
    }
    targets
}

/// The expressions of all rules of Prometheus.
fn rules() -> Vec<String> {
    let mut rules = Vec::new();
    for text in files("prometheus/rules", "yml")
        .iter()
        .map(|path| read(path))
    {
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let Some(rest) = line.trim().strip_prefix("expr: ") else {
                continue;
            };
            let mut rule = rest.trim_start_matches(">-").to_owned();
            let depth = |line: &str| line.len() - line.trim_start().len();
            while rest == ">-" && lines.peek().is_some_and(|next| depth(next) > depth(line)) {
                rule = format!("{rule} {}", lines.next().unwrap().trim());
            }
            rules.push(rule);
        }
    }
    rules
}

/// The selectors in what Prometheus makes of a query.
fn selectors(node: &Value, found: &mut BTreeSet<String>) {
    match node {
        Value::Array(nodes) => nodes.iter().for_each(|node| selectors(node, found)),
        Value::Object(fields) => {
            if ["vectorSelector", "matrixSelector"]
                .contains(&node["type"].as_str().unwrap_or_default())
            {
                found.insert(selector(node));
            }
            fields.values().for_each(|field| selectors(field, found));
        }
        _ => {}
    }
}

/// A selector as one may ask for it. That there has been an error of ours is not asked for.
fn selector(node: &Value) -> String {
    let matchers = node["matchers"].as_array().into_iter().flatten();
    let told = |matcher: &Value| {
        let [name, kind, value] =
            ["name", "type", "value"].map(|field| matcher[field].as_str().unwrap().to_owned());
        format!("{name}{kind}{value:?}")
    };
    let told: Vec<String> = matchers
        .map(told)
        .filter(|matcher| !matcher.starts_with("code=~"))
        .collect();
    format!("{{{}}}", told.join(","))
}

#[test]
fn whatever_rules_and_dashboards_ask_for_is_there() {
    let Some(watched) = Watched::start() else {
        return;
    };
    watched.live();

    // What an alert or a panel selects is a series that there is: no name or label is misspelt.
    let mut asked = BTreeSet::new();
    let panels = targets()
        .into_iter()
        .filter(|(_, target, _)| target["datasource"]["uid"] == "prometheus");
    for query in rules().into_iter().chain(panels.map(|(_, _, query)| query)) {
        let url = format!(
            "{}/api/v1/parse_query?query={}",
            watched.prometheus,
            escaped(&query)
        );
        let parsed = get_json(&url).unwrap_or_else(|error| panic!("{query}: {error}"));
        selectors(&parsed["data"], &mut asked);
    }
    assert!(asked.len() > 50, "{asked:?}");
    // Those of alerts that fire are there only while they do.
    asked.retain(|selector| !selector.contains("\"ALERTS\""));
    for selector in asked {
        wait_for(&selector, || {
            match watched.ask_prometheus(&selector)?.len() {
                0 => Err("there is no such series".into()),
                _ => Ok(()),
            }
        });
    }

    for (name, target, query) in targets() {
        wait_for(&name, || watched.show(&target, &query));
    }
    for (path, dashboard) in dashboards() {
        for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
            let Some(query) = annotation["expr"].as_str() else {
                continue;
            };
            let asked = match annotation["datasource"]["uid"].as_str() {
                Some("loki") => watched.ask_loki(query),
                _ => watched.ask_prometheus(query),
            };
            let shown = asked.unwrap_or_else(|error| panic!("{path:?}: {error}"));
            assert!(
                !shown.is_empty() || query.contains("ALERTS"),
                "{path:?}: {query}"
            );
        }
    }
}
