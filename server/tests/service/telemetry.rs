//! Logs and metrics.

use std::time::Duration;

use crate::{
    client::{CLOSE, Client, Request, TEXT, frame},
    tally::Tally,
};

#[test]
fn every_series_exists_from_the_start() {
    let metrics = Tally::start().metrics();
    for series in [
        "tally_messages_total 0",
        "tally_active_connections 0",
        "tally_errors_total{kind=\"protocol\"} 0",
        "tally_shutdown_duration_seconds{slot=\"blue\"} 0",
        "tally_handshakes_total{outcome=\"accepted\"} 0",
        "tally_handshakes_total{outcome=\"origin\"} 0",
        "tally_closes_total{reason=\"taken_over\"} 0",
        "tally_resumes_total{outcome=\"resumed\"} 0",
        "tally_sessions_parked 0",
        "tally_sessions_forgotten_total{reason=\"evicted\"} 0",
        "tally_draining 0",
        "tally_slow_readers_total 0",
        "tally_log_records_dropped_total 0",
        "tally_build_info{",
        "process_open_fds ",
    ] {
        assert!(
            metrics.lines().any(|line| line.starts_with(series)),
            "{series}\n{metrics}"
        );
    }
    assert!(!metrics.contains("colour="), "the scrape sets the colour");
}

#[test]
fn the_counters_equal_what_the_clients_counted() {
    let tally = Tally::start();
    let mut clients: Vec<Client> = (0..10).map(|_| tally.connect()).collect();
    for client in &mut clients {
        for count in 1..=20 {
            client.send_text("x");
            client.expect_count(count);
        }
    }
    tally.wait_for_metric("tally_messages_total", 200.0);
    tally.wait_for_metric("tally_active_connections", 10.0);
    for client in &mut clients {
        client.send_close(1000);
        client.expect_text("{\"bye\":true,\"total\":20}");
    }
    tally.wait_for_metric("tally_active_connections", 0.0);
    tally.wait_for_metric("tally_sessions_parked", 10.0);
    tally.wait_for_metric("tally_closes_total{reason=\"client\"}", 10.0);
    tally.wait_for_metric("tally_message_duration_seconds_count", 200.0);
}

#[test]
fn every_event_of_a_connection_carries_its_request_id() {
    let tally = Tally::with(&[("TALLY_LOG_LEVEL", "debug")]);
    let mut client = tally.connect_with(Request::new().header("X-Request-Id", "follow-me"));
    client.send_text("one");
    client.expect_count(1);
    client.send_close(1000);
    let closed = tally.wait_for_event("connection_closed");
    assert_eq!(
        (&closed["total"], &closed["close_code"]),
        (&1.into(), &1000.into())
    );
    for event in ["connection_opened", "message_counted", "connection_closed"] {
        let line = tally.wait_for_event(event);
        assert_eq!(line["request_id"], "follow-me");
        assert!(line["connection"].is_u64());
        for key in ["ts", "level", "msg", "colour", "version"] {
            assert!(line[key].is_string(), "{key} is missing in {line}");
        }
    }
    let message = tally.wait_for_event("message_counted");
    assert_eq!(message["level"], "DEBUG");
}

#[test]
fn no_log_line_shows_a_session_or_a_query() {
    let mut tally = Tally::with(&[("TALLY_LOG_LEVEL", "debug")]);
    let mut client = tally.connect();
    let session = client.session();
    client.send_text("a secret text");
    client.expect_count(1);
    drop(client);
    let request = Request::new().query(&format!("session={session}&hello=1&token=hush"));
    tally.connect_with(request);
    tally.refused(Request::new().query("session=hush"));
    tally.signal("TERM");
    tally.wait_for_event("shutdown_complete");
    tally.wait_exit();
    let log = format!("{:?}", tally.log_lines());
    for secret in [
        session.as_str(),
        &session[..13],
        "hush",
        "secret",
        "session=",
    ] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[test]
fn opening_and_closing_is_sampled_above_a_hundred_a_second() {
    let tally = Tally::start();
    for _ in 0..400 {
        drop(tally.connect());
    }
    tally.wait_for_metric("tally_closes_total{reason=\"peer_gone\"}", 400.0);
    let suppressed = tally.metric("tally_log_records_suppressed_total");
    let logged = tally
        .log_lines()
        .iter()
        .filter(|line| {
            line["event"]
                .as_str()
                .is_some_and(|event| event.starts_with("connection_"))
        })
        .count();
    assert!(suppressed > 0.0);
    assert_eq!(suppressed as usize + logged, 800);
}

#[test]
fn the_duration_of_a_shutdown_can_be_scraped_from_the_other_colour() {
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().to_str().unwrap();
    let blue = Tally::with(&[("TALLY_STATE_DIR", directory)]);
    let green = [("TALLY_STATE_DIR", directory), ("TALLY_COLOUR", "green")];
    let mut dying = Tally::with(&green);
    let mut silent = dying.connect();
    dying.signal("TERM");
    silent.expect_text("{\"bye\":true,\"total\":0}");
    silent.expect_frame(CLOSE, &1001u16.to_be_bytes());
    dying.wait_exit();
    let duration = blue.metric("tally_shutdown_duration_seconds{slot=\"green\"}");
    assert!((0.9..10.0).contains(&duration), "{duration}");
    assert!((blue.metric("tally_shutdowns_total{outcome=\"clean\",slot=\"green\"}") - 1.0) < 0.1);

    let mut killed = Tally::with(&green);
    killed.signal("KILL");
    killed.wait_exit();
    let next = Tally::with(&green);
    let unclean = "tally_shutdowns_total{outcome=\"unclean\",slot=\"green\"}";
    assert!((next.metric(unclean) - 1.0).abs() < 0.1);
    assert!((blue.metric(unclean) - 1.0).abs() < 0.1);
}

#[test]
fn version_and_probes_answer_on_the_operators_listener() {
    let tally = Tally::start();
    let (status, version) = tally.get(tally.operator, "/version");
    let version: serde_json::Value = serde_json::from_str(&version).unwrap();
    assert_eq!((status, &version["colour"]), (200, &"blue".into()));
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(tally.get(tally.operator, path).0, 200);
        assert_eq!(tally.get(tally.public, path).0, 200);
    }
    assert_eq!(
        tally.get(tally.public, "/metrics").0,
        404,
        "not for the public"
    );
}

#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_tally-server"))
        .env("TALLY_LISTEN", "127.0.0.1:0")
        .env("TALLY_OPERATOR_LISTEN", "127.0.0.1:0")
        .env("TALLY_LOG_LEVEL", "debug")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    let listening: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = listening["address"].as_str().unwrap().parse().unwrap();
    let mut client = Client::open(address, &Request::new());
    // Far more records than the pipe and the queue hold.
    for round in 0..400u64 {
        client.send(&frame(0x80 | TEXT, b"").repeat(100));
        for count in 1..=100 {
            client.expect_count(round * 100 + count);
        }
    }
    let kill = Command::new("kill").arg(child.id().to_string()).status();
    assert!(kill.unwrap().success());
    client.expect_text("{\"bye\":true,\"total\":40000}");
    drop(client);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while child.try_wait().unwrap().is_none() {
        assert!(std::time::Instant::now() < deadline, "it hangs on its log");
        std::thread::sleep(Duration::from_millis(10));
    }
}
