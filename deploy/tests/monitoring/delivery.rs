//! Alertmanager with the project's routes: who is told, and of what not.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    sync::mpsc::{Receiver, channel},
    thread,
};

use serde_json::{Value, json};

use crate::programs::{
    PATIENCE, Running, filled, free_port, get_json, monitoring, programs, succeeds, wait_for,
};

const NOBODY: &str = "[]";

/// What `up` makes of the settings.
fn configuration(webhook: &str, mail: &str, watchdog: &str) -> String {
    filled(
        &monitoring("alertmanager/alertmanager.yml"),
        &[
            ("PEOPLE_WEBHOOKS", webhook),
            ("PEOPLE_MAILS", mail),
            ("WATCHDOG_WEBHOOKS", watchdog),
        ],
    )
}

fn write(folder: &Path, configuration: &str) -> String {
    let path = folder.join("alertmanager.yml");
    fs::write(&path, configuration).unwrap();
    path.to_str().unwrap().to_owned()
}

/// An Alertmanager, and where it is.
fn start(program: &Path, folder: &Path, configuration: &str) -> (Running, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let running = Running::start(
        program,
        &[
            &format!("--config.file={}", write(folder, configuration)),
            &format!("--storage.path={}", folder.display()),
            &format!("--web.listen-address={address}"),
            "--cluster.listen-address=",
        ],
        folder.join("log"),
    );
    let url = format!("http://{address}");
    (running.ready(&format!("{url}/-/ready")), url)
}

fn alert(labels: Value) -> Value {
    json!({ "labels": labels, "annotations": { "summary": "It is so." } })
}

fn raise(url: &str, alerts: &[Value]) {
    let posted = ureq::post(format!("{url}/api/v2/alerts")).send_json(json!(alerts));
    assert!(posted.unwrap().status().is_success());
}

#[test]
fn amtool_takes_the_routes_whoever_is_to_be_told() {
    let Some([amtool]) = programs(["amtool"]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let webhook = r#"[{"url": "http://127.0.0.1:9/"}]"#;
    let mail = r#"[{"to": "a@example.org", "from": "b@example.org", "smarthost": "127.0.0.1:25"}]"#;
    for (webhook, mail, watchdog) in [
        (NOBODY, NOBODY, NOBODY),
        (webhook, NOBODY, NOBODY),
        (NOBODY, mail, webhook),
        (webhook, mail, webhook),
    ] {
        let path = write(folder.path(), &configuration(webhook, mail, watchdog));
        succeeds(&amtool, &["check-config", &path]);
        for (labels, receiver) in [
            (
                "alertname=TallyNoActiveConnections severity=critical",
                "people",
            ),
            ("alertname=TallyTargetDown severity=warning", "people"),
            ("alertname=TallyDeployInProgress severity=info", "nobody"),
            ("alertname=TallyWatchdog severity=none", "watchdog"),
        ] {
            let file = format!("--config.file={path}");
            let test = ["config", "routes", "test", &file];
            let labels: Vec<&str> = labels.split(' ').collect();
            let told = succeeds(&amtool, &[&test[..], &labels].concat());
            assert_eq!(told.trim(), receiver, "{labels:?}");
        }
    }
}

#[test]
fn one_cause_calls_once() {
    let Some([alertmanager]) = programs(["alertmanager"]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let nobody = configuration(NOBODY, NOBODY, NOBODY);
    // What stands first hides what stands second, and not what stands third.
    let tally = |name: &str, severity: &str| json!({ "alertname": name, "severity": severity, "job": "tally", "colour": "blue" });
    let critical = |name| tally(name, "critical");
    let warning = |name| tally(name, "warning");
    for (cause, hidden, shown) in [
        (
            critical("TallyTargetsGone"),
            critical("TallyNoActiveConnections"),
            critical("TallyPanicked"),
        ),
        (
            warning("TallyTargetDown"),
            warning("TallyMassDisconnect"),
            critical("TallyNoActiveConnections"),
        ),
        (
            tally("TallyDeployInProgress", "info"),
            warning("TallyMassDisconnect"),
            critical("TallyNoActiveConnections"),
        ),
        (
            critical("TallyRestartLoop"),
            warning("TallyTargetDown"),
            critical("TallyPanicked"),
        ),
        (
            critical("TallyErrorBudgetBurn"),
            warning("TallyErrorBudgetBurn"),
            warning("TallySlowReaders"),
        ),
        (
            json!({ "alertname": "TallyTraefikDown", "severity": "critical", "job": "traefik" }),
            critical("TallyErrorBudgetBurn"),
            warning("TallyTargetDown"),
        ),
    ] {
        let (_running, url) = start(&alertmanager, folder.path(), &nobody);
        raise(
            &url,
            &[
                alert(cause.clone()),
                alert(hidden.clone()),
                alert(shown.clone()),
            ],
        );
        let state = |labels: &Value| {
            let alerts = get_json(&format!("{url}/api/v2/alerts"))?;
            let found = alerts
                .as_array()
                .unwrap()
                .iter()
                .find(|alert| alert["labels"] == *labels);
            let state = found.map(|alert| alert["status"]["state"].clone());
            state.ok_or(format!("{labels} is not there"))
        };
        let expect = |labels: &Value, expected: &str| {
            wait_for(
                &format!("{expected} {labels} beside {cause}"),
                || match state(labels)? {
                    Value::String(state) if state == expected => Ok(()),
                    other => Err(other.to_string()),
                },
            );
        };
        expect(&hidden, "suppressed");
        expect(&shown, "active");
        expect(&cause, "active");
    }
}

/// Takes webhooks, and hands on what they say.
pub fn listen() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (sender, received) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let said = answer(stream.unwrap());
            if sender.send(said).is_err() {
                return;
            }
        }
    });
    (url, received)
}

fn answer(stream: TcpStream) -> Value {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    reader.get_mut().write_all(answer.as_bytes()).unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn an_alert_and_its_end_reach_whom_a_setting_names_and_the_watchdog_its_own() {
    let Some([alertmanager]) = programs(["alertmanager"]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (people, told) = listen();
    let (dog, barked) = listen();
    let hook = |url: &str| json!([{ "url": url }]).to_string();
    // As it is, but nobody wants to wait in a test.
    let text = configuration(&hook(&people), NOBODY, &hook(&dog))
        .replace("group_wait: 10s", "group_wait: 1s")
        .replace("group_interval: 1m", "group_interval: 1s");
    let (_running, url) = start(&alertmanager, folder.path(), &text);
    let nobody =
        json!({ "alertname": "TallyNoActiveConnections", "severity": "critical", "job": "tally" });
    let watchdog = json!({ "alertname": "TallyWatchdog", "severity": "none" });
    let silent =
        json!({ "alertname": "TallyDeployInProgress", "severity": "info", "job": "tally" });
    raise(
        &url,
        &[
            alert(nobody.clone()),
            alert(watchdog.clone()),
            alert(silent),
        ],
    );
    let message = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(message["status"], "firing");
    assert_eq!(message["alerts"][0]["labels"], nobody);
    assert_eq!(
        barked.recv_timeout(PATIENCE).unwrap()["alerts"][0]["labels"],
        watchdog
    );
    let mut over = alert(nobody.clone());
    over["endsAt"] = json!("2000-01-01T00:00:00Z");
    over["startsAt"] = json!("1999-12-31T00:00:00Z");
    raise(&url, &[over]);
    let message = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(message["status"], "resolved", "{message}");
    assert_eq!(message["alerts"][0]["labels"], nobody);
}
