//! The form of the dashboards: what Grafana would not complain about, and people would.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::programs::{files, monitoring, read};

/// What the Grafana of deploy/compose/monitoring.yml writes itself.
const SCHEMA_VERSION: u64 = 42;

/// A panel's place is counted in these.
const COLUMNS: u64 = 24;

/// Panels that show text, not figures.
const WITHOUT_UNIT: [&str; 2] = ["logs", "text"];

pub fn dashboards() -> Vec<(PathBuf, Value)> {
    let parse = |path: PathBuf| {
        let dashboard =
            serde_json::from_str(&read(&path)).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        (path, dashboard)
    };
    files("grafana/dashboards", "json")
        .into_iter()
        .map(parse)
        .collect()
}

/// The panels that show something.
pub fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().unwrap();
    panels
        .iter()
        .filter(|panel| panel["type"] != "row")
        .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn stem(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}

/// The data sources that are provisioned: uid and type.
fn data_sources() -> BTreeSet<(String, String)> {
    let provisioned = read(&monitoring(
        "grafana/provisioning/datasources/datasources.yml",
    ));
    let sources = provisioned.split("\n  - name: ").skip(1);
    let field = |source: &str, name: &str| {
        let line = source
            .lines()
            .find_map(|line| line.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("{source} has no {name}"))
            .to_owned()
    };
    sources
        .map(|source| (field(source, "uid: "), field(source, "type: ")))
        .collect()
}

/// Every object below that is called `datasource`.
fn named_data_sources(value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Array(values) => values
            .iter()
            .for_each(|value| named_data_sources(value, found)),
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "datasource" {
                    found.push((text(&value["uid"]).into(), text(&value["type"]).into()));
                }
                named_data_sources(value, found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_dashboard_is_one_of_the_family() {
    let mut uids = BTreeSet::new();
    for (path, dashboard) in dashboards() {
        let uid = text(&dashboard["uid"]);
        assert_eq!(uid, format!("tally-{}", stem(&path)), "{path:?}");
        assert!(uids.insert(uid.to_owned()), "{uid} comes twice");
        assert_eq!(dashboard["schemaVersion"], SCHEMA_VERSION, "{path:?}");
        assert_eq!(
            dashboard["editable"], false,
            "{path:?}: it is changed in its file"
        );
        assert!(
            dashboard["id"].is_null(),
            "{path:?}: only a Grafana gives ids"
        );
        assert!(!text(&dashboard["title"]).is_empty(), "{path:?}");
        assert!(!text(&dashboard["description"]).is_empty(), "{path:?}");
        // The links on top lead to all that have the tag.
        assert_eq!(dashboard["tags"][0], "tally", "{path:?}");
        assert_eq!(dashboard["links"][0]["tags"][0], "tally", "{path:?}");
    }
    for expected in ["service", "deploys", "traefik", "logs", "runbook"] {
        assert!(uids.contains(&format!("tally-{expected}")), "{expected}");
    }
}

#[test]
fn links_between_dashboards_lead_somewhere() {
    let uids: BTreeSet<String> = dashboards()
        .iter()
        .map(|(_, dashboard)| text(&dashboard["uid"]).to_owned())
        .collect();
    let files = [files("grafana", "json"), files("grafana", "yml")].concat();
    for path in files {
        for link in read(&path).split("/d/").skip(1) {
            let uid = link.split(['?', '/', '"', '#']).next().unwrap();
            assert!(uids.contains(uid), "{path:?}: {uid}");
        }
    }
}

#[test]
fn every_panel_says_what_it_shows_and_in_which_unit() {
    for (path, dashboard) in dashboards() {
        let mut ids = BTreeSet::new();
        for panel in panels(&dashboard) {
            let title = text(&panel["title"]);
            assert!(!title.is_empty(), "{path:?}: {}", panel["id"]);
            assert!(
                ids.insert(panel["id"].as_u64()),
                "{path:?}, {title}: its id"
            );
            let description = text(&panel["description"]);
            assert!(
                description.ends_with('.'),
                "{path:?}, {title}: {description:?}"
            );
            let kind = text(&panel["type"]);
            let unit = text(&panel["fieldConfig"]["defaults"]["unit"]);
            let has_unit = !unit.is_empty() || WITHOUT_UNIT.contains(&kind);
            assert!(has_unit, "{path:?}, {title} has no unit");
            let targets = panel["targets"].as_array().map_or(0, Vec::len);
            assert_eq!(
                targets == 0,
                kind == "text",
                "{path:?}, {title}: {targets} targets"
            );
        }
    }
}

#[test]
fn no_panel_lies_on_another_or_sticks_out() {
    for (path, dashboard) in dashboards() {
        let mut taken = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = text(&panel["title"]);
            let [x, y, w, h] =
                ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            assert!(w > 0 && h > 0 && x + w <= COLUMNS, "{path:?}, {title}");
            for place in (y..y + h).flat_map(|row| (x..x + w).map(move |column| (row, column))) {
                assert!(
                    taken.insert(place),
                    "{path:?}, {title} lies on another panel"
                );
            }
        }
    }
}

#[test]
fn every_data_source_is_provisioned() {
    let mut known = data_sources();
    known.insert(("-- Grafana --".into(), "grafana".into()));
    for (path, dashboard) in dashboards() {
        let mut found = Vec::new();
        named_data_sources(&dashboard, &mut found);
        assert!(!found.is_empty(), "{path:?}");
        for source in found {
            assert!(known.contains(&source), "{path:?}: {source:?}");
        }
    }
}
