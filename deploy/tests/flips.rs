//! Flips in a row under a crowd: nobody's handshake fails, and no count is wrong.

#[expect(dead_code, reason = "the tests of the stack need more of it")]
#[path = "stack/certificates.rs"]
mod certificates;
#[expect(dead_code, reason = "the tests of the stack need more of it")]
#[path = "stack/clone.rs"]
mod clone;
#[expect(dead_code, reason = "the tests of the stack need more of it")]
#[path = "stack/engine.rs"]
mod engine;

use std::{
    fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tungstenite::Message;

use crate::{
    clone::{Clone, Socket},
    engine::{Engine, on_each_engine},
};

on_each_engine!([], slow[twenty_flips_under_a_thousand_talking_sockets]);

const FLIPS: usize = 20;
const THREADS: usize = 4;
const SOCKETS_PER_THREAD: usize = 250;

/// From the write of the router's file to the last probe that the new colour answered.
const SWITCH_MEDIAN_MAX_MS: u64 = 300;

/// A client that counts, and comes back after each goodbye.
struct Talker {
    socket: Socket,
    count: u64,
}

impl Talker {
    fn connect(clone: &Clone) -> Result<Self, String> {
        let (socket, _) = clone.connect()?;
        Ok(Self { socket, count: 0 })
    }

    /// Sends a message; true when the answer is the next count, false when it is the goodbye.
    fn talk(&mut self) -> Result<bool, String> {
        // After the goodbye this may fail already, and the goodbye can still be read.
        let _ = self.socket.send(Message::text("x"));
        let answer = self.socket.read().map_err(|error| error.to_string())?;
        let count = self.count;
        if answer == Message::text(format!("{{\"count\":{}}}", count + 1)) {
            self.count += 1;
            Ok(true)
        } else if answer == Message::text(format!("{{\"bye\":true,\"total\":{count}}}")) {
            Ok(false)
        } else {
            Err(format!("{answer:?} after {count} messages"))
        }
    }
}

#[derive(Default)]
struct Crowd {
    here: AtomicUsize,
    handshakes: AtomicUsize,
    messages: AtomicUsize,
    over: AtomicBool,
}

impl Crowd {
    /// A part of the crowd, on one thread; returns what went wrong.
    fn talk(&self, clone: &Clone) -> Vec<String> {
        let mut failures = Vec::new();
        let connect = || {
            self.handshakes.fetch_add(1, Ordering::Relaxed);
            Talker::connect(clone)
        };
        let mut talkers: Vec<Talker> = Vec::new();
        for _ in 0..SOCKETS_PER_THREAD {
            match connect() {
                Ok(talker) => talkers.push(talker),
                Err(error) => failures.push(error),
            }
        }
        self.here.fetch_add(talkers.len(), Ordering::Relaxed);
        while !self.over.load(Ordering::Relaxed) {
            for talker in &mut talkers {
                match talker.talk() {
                    Ok(true) => {
                        self.messages.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    Ok(false) => {}
                    Err(error) => failures.push(error),
                }
                match connect() {
                    Ok(new) => *talker = new,
                    Err(error) => failures.push(error),
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
        failures
    }
}

fn twenty_flips_under_a_thousand_talking_sockets(engine: Engine) {
    // One crowd at a time: two would measure each other.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let crowd = Crowd::default();
    let began = Instant::now();
    let failures: Vec<String> = thread::scope(|scope| {
        let talkers: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| crowd.talk(&clone)))
            .collect();
        while crowd.here.load(Ordering::Relaxed) < THREADS * SOCKETS_PER_THREAD {
            assert!(began.elapsed() < Duration::from_secs(60), "the crowd comes");
            thread::sleep(Duration::from_millis(10));
        }
        for _ in 0..FLIPS {
            clone.succeeds("flip");
        }
        crowd.over.store(true, Ordering::Relaxed);
        let failures = talkers.into_iter().map(|talker| talker.join().unwrap());
        failures.flatten().collect()
    });
    assert_eq!(failures, Vec::<String>::new());
    let handshakes = crowd.handshakes.load(Ordering::Relaxed);
    assert!(
        handshakes > FLIPS * THREADS * SOCKETS_PER_THREAD,
        "every flip sends everybody to the other colour: {handshakes} handshakes"
    );
    assert!(crowd.messages.load(Ordering::Relaxed) > handshakes);
    report(&clone);
}

/// The median of the switches, with all of them told.
#[expect(clippy::print_stdout, reason = "figures that the README quotes")]
fn report(clone: &Clone) {
    let text = fs::read_to_string(clone.root.path().join(".tally/history.jsonl")).unwrap();
    let entries: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|entry: &serde_json::Value| entry["verb"] == "flip")
        .collect();
    assert_eq!(entries.len(), FLIPS);
    let mut switches: Vec<u64> = entries
        .iter()
        .map(|entry| entry["switch_ms"].as_u64().unwrap())
        .collect();
    switches.sort_unstable();
    let median = switches[FLIPS / 2];
    let peak = entries
        .iter()
        .filter_map(|entry| entry["handshakes_per_second_max"].as_u64())
        .max();
    println!(
        "switches in ms: {switches:?}, median {median}; handshakes a second, at most: {peak:?}"
    );
    for entry in &entries {
        assert_eq!(entry["outcome"], "done");
    }
    assert!(median <= SWITCH_MEDIAN_MAX_MS, "{switches:?}");
}
