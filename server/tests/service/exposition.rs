//! What a scraper and a log shipper read: form rather than figures.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    client::{BINARY, CLOSE, Request, TEXT, frame, header},
    tally::Tally,
};

/// A line of the text format that is no comment: the series with its labels, and its value.
fn samples(metrics: &str) -> Vec<(String, f64)> {
    metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            (series.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

/// The names of all series, with their labels.
fn series(tally: &Tally) -> BTreeSet<String> {
    let samples = samples(&tally.metrics());
    samples.into_iter().map(|(series, _)| series).collect()
}

fn assert_no_new_series(tally: &Tally, before: &BTreeSet<String>) {
    let now = series(tally);
    let new: Vec<_> = now.symmetric_difference(before).collect();
    assert!(new.is_empty(), "{new:?}");
}

/// The kind of each family.
fn kinds(metrics: &str) -> BTreeMap<&str, &str> {
    metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect()
}

fn name(series: &str) -> &str {
    series.split('{').next().unwrap_or(series)
}

#[test]
fn metrics_are_well_formed_and_follow_the_conventions() {
    let tally = Tally::start();
    let mut client = tally.connect();
    client.send_text("one");
    client.expect_count(1);
    let metrics = tally.metrics();
    let kinds = kinds(&metrics);
    let samples = samples(&metrics);

    let unique: BTreeSet<&String> = samples.iter().map(|(series, _)| series).collect();
    assert_eq!(unique.len(), samples.len(), "no series comes twice");
    for (series, _) in &samples {
        let name = name(series);
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| {
                name.strip_suffix(suffix)
                    .filter(|family| kinds.contains_key(family))
            })
            .unwrap_or(name);
        assert!(kinds.contains_key(family), "{series} has no TYPE");
        assert!(
            metrics.contains(&format!("# HELP {family} ")),
            "{series} has no HELP"
        );
        assert!(
            name.starts_with("tally_") || name.starts_with("process_"),
            "{series}"
        );
        assert!(
            !series.contains("colour=") && !series.contains("color="),
            "{series}"
        );
    }
    for (family, kind) in kinds {
        assert_eq!(
            family.ends_with("_total"),
            kind == "counter",
            "{family} is a {kind}; counters end in _total, and nothing else does"
        );
    }
}

#[test]
fn histograms_add_up() {
    let tally = Tally::start();
    let mut client = tally.connect();
    for count in 1..=10 {
        client.send_text("x");
        client.expect_count(count);
    }
    tally.wait_for_metric("tally_message_duration_seconds_count", 10.0);
    let metrics = tally.metrics();
    let samples = samples(&metrics);
    for (family, _) in kinds(&metrics)
        .into_iter()
        .filter(|(_, kind)| *kind == "histogram")
    {
        let bucket = format!("{family}_bucket{{");
        let buckets: Vec<f64> = samples
            .iter()
            .filter(|(series, _)| series.starts_with(&bucket))
            .map(|(_, value)| *value)
            .collect();
        assert!(buckets.is_sorted(), "{family}: {buckets:?}");
        let count = samples
            .iter()
            .find(|(series, _)| *series == format!("{family}_count"));
        assert_eq!(buckets.last(), count.map(|(_, value)| value), "{family}");
    }
}

#[test]
fn every_kind_of_mistake_moves_its_own_counters() {
    let tally = Tally::with(&[("TALLY_MESSAGE_RATE", "2")]);
    let too_fast = frame(0x80 | TEXT, b"x").repeat(3);
    for (kind, bytes) in [
        ("protocol", frame(0x83, b"")),
        ("unsupported", frame(0x80 | BINARY, b"x")),
        ("invalid_text", frame(0x80 | TEXT, b"\xff")),
        ("too_big", header(0x80 | TEXT, 1 << 40)),
        ("too_fast", too_fast),
    ] {
        let errors = format!("tally_errors_total{{kind=\"{kind}\"}}");
        let closes = format!("tally_closes_total{{reason=\"{kind}\"}}");
        tally.wait_for_metric(&errors, 0.0);
        tally.connect().send(&bytes);
        tally.wait_for_metric(&errors, 1.0);
        tally.wait_for_metric(&closes, 1.0);
    }
    let errors: f64 = samples(&tally.metrics())
        .iter()
        .filter(|(series, _)| series.starts_with("tally_errors_total"))
        .map(|(_, value)| value)
        .sum();
    assert!(
        (errors - 5.0).abs() < 0.1,
        "each moved one of them: {errors}"
    );
}

#[test]
fn nothing_a_client_sends_becomes_a_series() {
    let tally = Tally::start();
    let before = series(&tally);
    for code in [1000u16, 3000, 3333, 4711, 4999] {
        let mut client = tally.connect_with(Request::new().header("Origin", "http://tally.test"));
        client.send_frame(CLOSE, &code.to_be_bytes());
        client.expect_text("{\"bye\":true,\"total\":0}");
        tally.resume(&client.session());
    }
    for path in ["/a", "/b?c=d", "/ws/chat/x"] {
        tally.refused(Request::new().path(path));
        tally.get(tally.public, path);
    }
    tally.refused(Request::new().method("BREW"));
    tally.refused(Request::new().header("Origin", "https://evil.example"));
    assert_no_new_series(&tally, &before);
}

#[test]
fn a_warning_makes_no_new_series() {
    let tally = Tally::with(&[("TALLY_SESSIONS_MAX", "0")]);
    let before = series(&tally);
    drop(tally.connect());
    tally.wait_for_event("sessions_evicted");
    assert_no_new_series(&tally, &before);
}

#[test]
fn every_log_line_has_the_common_keys_in_their_form() {
    let mut tally = Tally::with(&[("TALLY_LOG_LEVEL", "debug"), ("TALLY_COLOUR", "green")]);
    let mut client = tally.connect();
    client.send_text("one");
    client.expect_count(1);
    tally.refused(Request::new().method("PUT"));
    tally.signal("TERM");
    client.expect_goodbye(1, 1001);
    tally.wait_exit();
    tally.wait_for_event("shutdown_complete");
    for line in tally.log_lines() {
        let ts = line["ts"].as_str().unwrap();
        assert!(chrono::DateTime::parse_from_rfc3339(ts).is_ok(), "{ts}");
        assert!(
            ts.len() == 24 && ts.ends_with('Z'),
            "{ts}: UTC, milliseconds"
        );
        let level = line["level"].as_str().unwrap();
        assert!(
            ["ERROR", "WARNING", "INFO", "DEBUG"].contains(&level),
            "{line}"
        );
        for key in ["msg", "event", "version"] {
            assert!(
                line[key].as_str().is_some_and(|text| !text.is_empty()),
                "{key}: {line}"
            );
        }
        assert_eq!(line["colour"], "green", "{line}");
        if line["connection"].is_u64() {
            assert!(line["request_id"].is_string(), "{line}");
        }
    }
}

#[test]
fn the_level_of_the_log_is_a_setting() {
    let tally = Tally::with(&[("TALLY_LOG_LEVEL", "info")]);
    let mut client = tally.connect();
    client.send_text("one");
    client.expect_count(1);
    drop(client);
    tally.wait_for_event("connection_closed");
    let told = tally.log_lines();
    assert!(told.iter().all(|line| line["event"] != "message_counted"));
    // Counted all the same, and by level.
    assert!(tally.metric("tally_log_records_total{level=\"INFO\"}") >= 5.0);
    tally.wait_for_metric("tally_log_records_total{level=\"DEBUG\"}", 0.0);
}

#[test]
fn the_metrics_and_the_log_agree_about_the_end() {
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().to_str().unwrap();
    let blue = Tally::with(&[("TALLY_STATE_DIR", directory)]);
    let mut green = Tally::with(&[("TALLY_STATE_DIR", directory), ("TALLY_COLOUR", "green")]);
    let mut client = green.connect();
    green.signal("TERM");
    client.expect_goodbye(0, 1001);
    assert_eq!(green.wait_exit().code(), Some(0));
    let last = green.wait_for_event("shutdown_complete");
    let logged = last["duration_ms"].as_f64().unwrap() / 1000.0;
    let scraped = blue.metric("tally_shutdown_duration_seconds{slot=\"green\"}");
    assert!(scraped > 0.0);
    assert!(
        (logged - scraped).abs() < 0.01,
        "{logged} s logged, {scraped} s scraped"
    );
    // The next green knows it, too, and has had no unclean end.
    let next = Tally::with(&[("TALLY_STATE_DIR", directory), ("TALLY_COLOUR", "green")]);
    next.wait_for_metric(
        "tally_shutdowns_total{outcome=\"clean\",slot=\"green\"}",
        1.0,
    );
    next.wait_for_metric(
        "tally_shutdowns_total{outcome=\"unclean\",slot=\"green\"}",
        0.0,
    );
}
