//! The paced drain: at its rate, and back again.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    client::{Client, Request},
    tally::{PATIENCE, Tally},
};

impl Tally {
    /// What `/drain` answers to this method.
    pub fn drain(&self, method: &str, query: &str) -> (u16, Value) {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .new_agent();
        let url = format!("http://{}/drain{query}", self.operator);
        let answer = match method {
            "POST" => agent.post(&url).send_empty(),
            "DELETE" => agent.delete(&url).call(),
            _ => agent.get(&url).call(),
        };
        let mut answer = answer.expect("an answer");
        let body = answer.body_mut().read_to_string().unwrap();
        let body = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}"));
        (answer.status().as_u16(), body)
    }
}

fn crowd(tally: &Tally, size: u64) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..size).map(|_| tally.connect()).collect();
    for (client, count) in clients.iter_mut().zip(0..size) {
        for number in 1..=count % 3 {
            client.send_text("x");
            client.expect_count(number);
        }
    }
    clients
}

/// Everybody gets the right bye, the oldest first; returns how long it took.
fn expect_goodbyes(clients: &mut [Client]) -> Duration {
    let began = Instant::now();
    for (client, count) in clients.iter_mut().zip(0..) {
        client.expect_goodbye(count % 3, 1001);
    }
    began.elapsed()
}

#[test]
fn sockets_go_at_the_rate() {
    for workers in ["1", "2"] {
        let tally = Tally::with(&[("TALLY_WORKERS", workers)]);
        let mut clients = crowd(&tally, 40);
        let (status, told) = tally.drain("POST", "?rate=20");
        assert_eq!(status, 202);
        assert_eq!(told["draining"], true);
        let took = expect_goodbyes(&mut clients);
        assert!(took > Duration::from_millis(1800), "{took:?}");
        assert!(took < Duration::from_secs(6), "{took:?}");
        let done = json!({"draining": true, "connections": 0, "store": "up"});
        assert_eq!(tally.drain("GET", ""), (200, done));
        assert_eq!(tally.get(tally.public, "/readyz").0, 503);
        assert_eq!(tally.refused(Request::new()).status, 503);
        assert!(tally.metric("tally_draining") > 0.5);
        assert_eq!(tally.wait_for_event("paced_drain_began")["rate"], 20);
    }
}

#[test]
fn one_worker_goes_on_for_those_that_have_nobody_left() {
    let tally = Tally::with(&[("TALLY_WORKERS", "2")]);
    let mut clients = crowd(&tally, 40);
    // Every second one has gone by itself: the workers take turns, so one of them is empty.
    let mut left: Vec<Client> = Vec::new();
    for (index, client) in clients.drain(..).enumerate() {
        if index % 2 == 0 {
            left.push(client);
        }
    }
    tally.wait_for_metric("tally_active_connections", 20.0);
    tally.drain("POST", "?rate=20");
    let began = Instant::now();
    for client in &mut left {
        let bye = client.read_json();
        assert_eq!(bye["bye"], true);
    }
    let took = began.elapsed();
    assert!(took > Duration::from_millis(800), "{took:?}");
    assert!(took < Duration::from_millis(1800), "{took:?}");
}

#[test]
fn a_drain_is_taken_back() {
    let tally = Tally::start();
    let mut clients = crowd(&tally, 30);
    tally.drain("POST", "?rate=5");
    clients[0].expect_goodbye(0, 1001);
    let (status, told) = tally.drain("DELETE", "");
    assert_eq!((status, &told["draining"]), (200, &json!(false)));
    let stayed = told["connections"].as_u64().unwrap();
    assert!((20..30).contains(&stayed), "{told}");
    let last = clients.last_mut().unwrap();
    last.send_text("x");
    last.expect_count(3);
    let mut new = tally.connect();
    new.send_text("x");
    new.expect_count(1);
    // At that rate somebody would have had to go by now.
    last.expect_silence(Duration::from_millis(400));
    assert_eq!(tally.get(tally.public, "/readyz").0, 200);
    assert!(tally.metric("tally_draining") < 0.5);
    let session = clients[0].session();
    tally.resume(&session).assert_session(true, 0);
    assert_eq!(tally.drain("DELETE", "").0, 200, "harmless without a drain");
}

#[test]
fn a_drain_can_begin_again_and_change_its_rate() {
    let tally = Tally::start();
    let mut clients = crowd(&tally, 30);
    tally.drain("POST", "?rate=5");
    clients[0].expect_goodbye(0, 1001);
    tally.drain("DELETE", "");
    assert_eq!(tally.drain("POST", "?rate=1").0, 202);
    assert_eq!(tally.drain("POST", "?rate=1000").0, 202);
    let began = Instant::now();
    for client in &mut clients[1..] {
        assert_eq!(client.read_json()["bye"], true);
    }
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[test]
fn the_end_of_the_process_does_not_wait_for_a_paced_drain() {
    let mut tally = Tally::start();
    let mut clients = crowd(&tally, 60);
    tally.drain("POST", "?rate=1");
    tally.signal("TERM");
    // The last one reads its bye and does not answer, which holds the drain open for a second.
    let mut last = clients.pop().unwrap();
    last.expect_text("{\"bye\":true,\"total\":2}");
    for method in ["POST", "DELETE"] {
        let (status, problem) = tally.drain(method, "");
        assert_eq!((status, &problem["status"]), (409, &json!(409)));
    }
    for client in &mut clients {
        assert_eq!(client.read_json()["bye"], true);
    }
    drop(clients);
    assert_eq!(tally.wait_exit().code(), Some(0));
}

#[test]
fn a_drain_without_sense_is_refused_and_changes_nothing() {
    let tally = Tally::start();
    for query in [
        "?rate=0",
        "?rate=fast",
        "?rate=-1",
        "?rate=100001",
        "?speed=5",
    ] {
        let (status, problem) = tally.drain("POST", query);
        assert_eq!(status, 400, "{query}");
        assert!(problem["detail"].as_str().unwrap().contains("`rate`"));
    }
    let idle = json!({"draining": false, "connections": 0, "store": "up"});
    assert_eq!(tally.drain("GET", ""), (200, idle));
    assert_eq!(
        tally.get(tally.public, "/drain").0,
        404,
        "not for the public"
    );
}
