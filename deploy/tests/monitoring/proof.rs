//! From real clients to an alert that somebody hears: what a person on call relies on.

use std::{fs, path::Path};

use serde_json::Value;
use tungstenite::Message;

use crate::{
    clone::Socket,
    engine::{Engine, on_each_engine},
    programs::{get_json, wait_for},
    watched::{Watched, now},
};

on_each_engine!([], slow [
    what_clients_do_is_counted_and_that_they_are_gone_is_told,
    a_request_is_followed_by_its_id,
    a_flip_is_seen_and_so_is_the_shutdown_of_the_colour_that_is_gone,
]);

const CLIENTS: usize = 25;
const MESSAGES: usize = 4;

/// People wait for a minute; a test does not.
fn impatient(monitoring: &Path) {
    let replace = |file: &str, from: &str, to: &str| {
        let path = monitoring.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file}: {from}");
        fs::write(path, text.replace(from, to)).unwrap();
    };
    replace("prometheus/rules/alerts.yml", "for: 60s", "for: 5s");
    replace(
        "prometheus/prometheus.yml",
        "scrape_interval: 5s",
        "scrape_interval: 1s",
    );
    replace(
        "prometheus/prometheus.yml",
        "scrape_timeout: 4s",
        "scrape_timeout: 1s",
    );
    replace(
        "prometheus/prometheus.yml",
        "evaluation_interval: 5s",
        "evaluation_interval: 1s",
    );
}

/// A figure as Prometheus has it, of a scrape that began after `since`.
fn figure(watched: &Watched, query: &str, since: f64) -> Result<f64, String> {
    let number = |answer: Vec<Value>| -> Result<f64, String> {
        let first = answer.first().ok_or("there is no such series")?;
        let text = first["value"][1].as_str().ok_or("it has no value")?;
        text.parse().map_err(|_| text.to_owned())
    };
    let scraped = "min(timestamp(tally_messages_total))";
    let scraped = number(watched.ask_prometheus(scraped)?)?;
    if scraped < since {
        return Err(format!(
            "the last scrape was {:.1} s too early",
            since - scraped
        ));
    }
    number(watched.ask_prometheus(query)?)
}

fn wait_for_figure(watched: &Watched, query: &str, expected: f64) {
    wait_for(query, || match figure(watched, query, 0.0)? {
        found if found == expected => Ok(()),
        found => Err(format!("{found} is not {expected}")),
    });
}

fn talk(watched: &Watched) -> Socket {
    let (mut socket, _) = watched.clone.connect().unwrap();
    for count in 1..=MESSAGES {
        socket.send(Message::text("x")).unwrap();
        let answer = socket.read().unwrap().to_string();
        assert_eq!(answer, format!("{{\"count\":{count}}}"));
    }
    socket
}

/// # Errors
/// The alert does not fire, or Alertmanager does not answer.
fn firing(watched: &Watched, name: &str) -> Result<Value, String> {
    let url = format!("{}/api/v2/alerts?active=true", watched.alertmanager);
    let alerts = get_json(&url)?;
    let mut alerts = alerts.as_array().unwrap().iter();
    let found = alerts.find(|alert| alert["labels"]["alertname"] == name);
    found
        .cloned()
        .ok_or_else(|| format!("{name} does not fire"))
}

fn what_clients_do_is_counted_and_that_they_are_gone_is_told(engine: Engine) {
    const ALERT: &str = "TallyNoActiveConnections";
    let Some(watched) = Watched::start_with(engine, impatient) else {
        return;
    };
    // What `up` itself has said is counted too.
    let [messages, handshakes] = [
        "sum(tally_messages_total)",
        "sum(tally_handshakes_total{outcome=\"accepted\"})",
    ];
    let since = now();
    let [said, shaken] =
        [messages, handshakes].map(|query| wait_for(query, || figure(&watched, query, since)));
    let clients: Vec<Socket> = (0..CLIENTS).map(|_| talk(&watched)).collect();
    wait_for_figure(&watched, messages, said + (CLIENTS * MESSAGES) as f64);
    wait_for_figure(&watched, handshakes, shaken + CLIENTS as f64);
    wait_for_figure(&watched, "sum(tally_active_connections)", CLIENTS as f64);
    // It may have fired before they came.
    wait_for("silence", || match firing(&watched, ALERT) {
        Err(_) => Ok(()),
        Ok(alert) => Err(alert.to_string()),
    });

    drop(clients);
    let alert = wait_for(ALERT, || firing(&watched, ALERT));
    assert_eq!(alert["labels"]["severity"], "critical");
    assert_eq!(alert["labels"]["job"], "tally");
    let runbook = alert["annotations"]["runbook_url"].as_str().unwrap();
    assert!(runbook.starts_with(&watched.grafana), "{runbook}");

    let back = talk(&watched);
    wait_for("an end of it", || match firing(&watched, ALERT) {
        Err(_) => Ok(()),
        Ok(alert) => Err(alert.to_string()),
    });
    drop(back);
}

fn a_request_is_followed_by_its_id(engine: Engine) {
    let Some(watched) = Watched::start(engine) else {
        return;
    };
    let (socket, response) = watched.clone.connect().unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap();
    drop(socket);
    // What the server says of the connection, and what Traefik says of the request.
    for (service, event) in [
        ("tally", "connection_opened"),
        ("tally", "connection_closed"),
        ("traefik", "request"),
    ] {
        let query = format!("{{service=\"{service}\"}} | request_id=\"{id}\" | event=\"{event}\"");
        wait_for(&query, || match watched.ask_loki(&query)?.len() {
            1 => Ok(()),
            other => Err(format!("{other} lines")),
        });
    }
}

fn a_flip_is_seen_and_so_is_the_shutdown_of_the_colour_that_is_gone(engine: Engine) {
    let Some(watched) = Watched::start_with(engine, impatient) else {
        return;
    };
    let clients: Vec<Socket> = (0..CLIENTS).map(|_| talk(&watched)).collect();
    watched.clone.succeeds("flip");
    drop(clients);
    // As the dashboards ask for their marks and for the live colour.
    for query in [
        "{service=\"deploy\"} | event=\"up\"",
        "{service=\"deploy\", colour=\"green\"} | event=\"flip\" | json outcome=\"outcome\" | outcome=\"done\"",
    ] {
        wait_for(query, || match watched.ask_loki(query)?.len() {
            1 => Ok(()),
            other => Err(format!("{other} lines")),
        });
    }
    // One that was stopped on purpose is no target, and so none that is down.
    wait_for_figure(&watched, "count(up{job=\"tally\", colour=\"green\"})", 1.0);
    wait_for("an end of blue", || {
        match watched
            .ask_prometheus("up{job=\"tally\", colour=\"blue\"}")?
            .len()
        {
            0 => Ok(()),
            _ => Err("it is a target still".into()),
        }
    });
    let query =
        "max(tally_shutdown_duration_seconds{job=\"tally\", colour=\"green\", slot=\"blue\"})";
    let took = wait_for(query, || match figure(&watched, query, 0.0)? {
        took if took > 0.0 => Ok(took),
        took => Err(took.to_string()),
    });
    assert!(took < 10.0, "{took} s");
    assert!(firing(&watched, "TallyTargetDown").is_err());
}
