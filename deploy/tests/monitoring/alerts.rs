//! The rules of Prometheus and Loki, and the runbook that they lead to.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use crate::programs::{files, monitoring, programs, read, succeeds, told};

/// The parts of an entry in the runbook.
const PARTS: [&str; 4] = ["Meaning", "Impact", "Diagnosis", "Mitigation"];

const SEVERITIES: [&str; 4] = ["critical", "warning", "info", "none"];

/// The alerts of all rules: name, and the lines of the rule.
fn alerts() -> Vec<(String, String)> {
    let rules = [files("prometheus/rules", "yml"), files("loki/rules", "yml")].concat();
    let mut alerts = Vec::new();
    for text in rules.iter().map(|path| read(path)) {
        for rule in text.split("- alert: ").skip(1) {
            let name = rule.lines().next().unwrap().to_owned();
            alerts.push((name, rule.to_owned()));
        }
    }
    alerts
}

fn names() -> BTreeSet<String> {
    alerts().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn every_alert_has_a_severity_and_says_what_to_read() {
    for (name, rule) in alerts() {
        let severities = SEVERITIES.map(|severity| format!("severity: {severity}"));
        let found = severities.iter().filter(|severity| {
            rule.contains(&format!("{severity} }}")) || rule.contains(&format!("{severity},"))
        });
        assert_eq!(found.count(), 1, "{name} has one severity");
        // Those of one name share their annotations.
        if rule.contains("annotations: *") {
            continue;
        }
        let link = format!("runbook_url: \"@RUNBOOK@#{}\"", name.to_lowercase());
        for part in ["summary: ", "description: ", &link] {
            assert!(rule.contains(part), "{name} lacks {part}");
        }
    }
}

#[test]
fn every_alert_has_its_entry_in_the_runbook_and_every_entry_its_alert() {
    let runbook = read(&monitoring("runbook.md"));
    let entries: BTreeMap<&str, &str> = runbook
        .split("\n## ")
        .skip(1)
        .filter_map(|entry| entry.split_once('\n'))
        .collect();
    let titles: BTreeSet<String> = entries.keys().map(|&title| title.to_owned()).collect();
    assert_eq!(titles, names());
    for (title, entry) in entries {
        let paragraphs: Vec<&str> = entry.trim().split("\n\n").collect();
        assert_eq!(paragraphs.len(), PARTS.len(), "{title}");
        for (part, paragraph) in PARTS.iter().zip(paragraphs) {
            let begins = format!("**{part}.** ");
            let rest = paragraph.strip_prefix(&begins);
            assert!(rest.is_some_and(|rest| !rest.is_empty()), "{title}: {part}");
        }
    }
}

/// The words of a text that begin so, with what follows of letters, digits, `_` and `:`.
fn words(text: &str, begin: &str) -> BTreeSet<String> {
    let word = |rest: &str| {
        let end = rest.find(|letter: char| !(letter.is_alphanumeric() || "_:".contains(letter)));
        format!("{begin}{}", &rest[..end.unwrap_or(rest.len())])
    };
    text.split(begin).skip(1).map(word).collect()
}

#[test]
fn every_threshold_is_used_and_no_other_number_is_compared_with() {
    const THRESHOLD: &str = "tally:threshold:";
    let thresholds = read(&monitoring("prometheus/rules/thresholds.yml"));
    let rules = read(&monitoring("prometheus/rules/alerts.yml"));
    assert_eq!(words(&thresholds, THRESHOLD), words(&rules, THRESHOLD));
    for path in files("grafana/dashboards", "json") {
        let used = words(&read(&path), THRESHOLD);
        assert!(
            used.is_subset(&words(&thresholds, THRESHOLD)),
            "{path:?}: {used:?}"
        );
    }
    // 0 and 1 are no thresholds: something is there or not. 600 is the window of its own rule.
    for (name, rule) in alerts() {
        for compared in rule.split(" > ").skip(1).chain(rule.split(" < ").skip(1)) {
            let number = compared.split_whitespace().next().unwrap_or_default();
            let allowed = number.parse::<f64>().is_err() || ["0", "1", "600"].contains(&number);
            assert!(allowed, "{name} compares with {number}");
        }
    }
}

#[test]
fn promtool_finds_nothing_to_say_about_the_rules() {
    let Some([promtool]) = programs(["promtool"]) else {
        return;
    };
    let configuration = monitoring("prometheus/prometheus.yml");
    let check = ["check", "config", "--lint=all", "--lint-fatal"];
    let arguments = [&check[..], &[configuration.to_str().unwrap()]].concat();
    let told = succeeds(&promtool, &arguments);
    for file in files("prometheus/rules", "yml") {
        assert!(told.contains(file.to_str().unwrap()), "{told}");
    }
}

#[test]
fn every_alert_fires_when_it_should_and_is_silent_when_not() {
    let Some([promtool]) = programs(["promtool"]) else {
        return;
    };
    let tests = files("prometheus/tests", "yml");
    let output = Command::new(promtool)
        .args(["test", "rules"])
        .args(&tests)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));

    // A case is what follows the alert's name, up to the next one.
    let text: String = tests.iter().map(|path| read(path)).collect();
    let cases: Vec<(&str, bool)> = text
        .split("alertname: ")
        .skip(1)
        .map(|case| {
            let end = case.find([',', '\n']).unwrap();
            (&case[..end], !case.contains("exp_alerts: []"))
        })
        .collect();
    for (name, _) in alerts_of_prometheus() {
        let fires = |should: bool| cases.contains(&(name.as_str(), should));
        assert!(fires(true), "no test has {name} fire");
        assert!(
            fires(false) || name == "TallyWatchdog",
            "no test has {name} silent"
        );
    }
}

fn alerts_of_prometheus() -> Vec<(String, String)> {
    let of_loki = read(&monitoring("loki/rules/fake/alerts.yml"));
    let mut alerts = alerts();
    alerts.retain(|(name, _)| !of_loki.contains(&format!("alert: {name}\n")));
    alerts
}
