//! Rules and dashboards against a real stack: what they ask for is there.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    dashboards::{dashboards, panels},
    engine::Engine,
    programs::{escaped, files, get_json, read, wait_for},
    watched::{Watched, now, result},
};

/// As in prometheus.yml, four times of which Grafana takes for a rate.
const RATE_INTERVAL: &str = "20s";

/// How far the dashboards look back here.
const RANGE: &str = "5m";

/// What a series, a sample or a stream has to show.
fn figures(series: &Value) -> Vec<&str> {
    let values = series["values"].as_array();
    let one = series.get("value").into_iter();
    let pairs = values.into_iter().flatten().chain(one);
    pairs.filter_map(|pair| pair[1].as_str()).collect()
}

/// What a panel's target shows over the time range.
///
/// # Errors
/// Nothing, or nobody answers.
fn show(watched: &Watched, target: &Value, query: &str) -> Result<(), String> {
    let shown = match target["datasource"]["uid"].as_str() {
        Some("prometheus") if target["instant"] == true => watched.ask_prometheus(query)?,
        Some("prometheus") => result(&format!(
            "{}/api/v1/query_range?step=5&start={}&end={}&query={}",
            watched.prometheus,
            now() - 300.0,
            now(),
            escaped(query)
        ))?,
        Some("loki") => watched.ask_loki(query)?,
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

/// A query with what Grafana would fill in.
///
/// # Panics
/// A variable is left.
fn fill(query: &str, dashboard: &Value) -> String {
    let text = query
        .replace("$__rate_interval", RATE_INTERVAL)
        .replace("$__auto", RATE_INTERVAL)
        .replace("$__range", RANGE);
    let text = choose(&text, dashboard);
    assert!(!text.contains('$'), "{text}");
    text
}

/// A query with what the dashboard's variables are at first.
pub fn choose(query: &str, dashboard: &Value) -> String {
    let mut text = query.to_owned();
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
    text
}

/// Every target of every dashboard, filled in: what it is of, itself, and its query.
pub fn targets() -> Vec<(String, Value, String)> {
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
    ask_for_everything(Engine::Native);
}

#[test]
#[ignore = "slow: ./just drill"]
fn whatever_they_ask_for_is_there_with_containers_too() {
    ask_for_everything(Engine::Docker);
}

fn ask_for_everything(engine: Engine) {
    let Some(watched) = Watched::start(engine) else {
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
    // Only a front door under TLS has any: the tests of the door look for that.
    asked.retain(|selector| !selector.contains("traefik_tls_certs_not_after"));
    for selector in asked {
        wait_for(&selector, || {
            match watched.ask_prometheus(&selector)?.len() {
                0 => Err("there is no such series".into()),
                _ => Ok(()),
            }
        });
    }

    for (name, target, query) in targets() {
        wait_for(&name, || show(&watched, &target, &query));
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
