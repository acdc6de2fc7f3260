//! Sessions that outlive the process which counted them: two colours on one store.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    client::{Client, PING, PONG, Request},
    earlier,
    redis_server::RedisServer,
    tally::{PATIENCE, PROGRAM, Tally},
};

/// A store that processes share, and the state directory of its host.
struct Place {
    folder: TempDir,
    redis: Option<RedisServer>,
    /// The colour that is of an earlier build, and that build.
    earlier: Option<(&'static str, &'static Path)>,
}

impl Place {
    fn sqlite() -> Option<Self> {
        Some(Self::with(None))
    }

    fn redis() -> Option<Self> {
        Some(Self::with(Some(RedisServer::start()?)))
    }

    fn with(redis: Option<RedisServer>) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            redis,
            earlier: None,
        }
    }

    fn with_earlier(self, colour: &'static str) -> Option<Self> {
        let earlier = Some((colour, earlier::program()?));
        Some(Self { earlier, ..self })
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("sessions.db")
    }

    fn store(&self) -> String {
        match &self.redis {
            None => format!("sqlite:{}", self.file().display()),
            Some(redis) => redis.url(),
        }
    }

    fn start_with(&self, colour: &str, settings: &[(&str, &str)]) -> Tally {
        let store = self.store();
        let own = [
            ("TALLY_COLOUR", colour),
            ("TALLY_SESSION_STORE", &store),
            ("TALLY_STATE_DIR", self.folder.path().to_str().unwrap()),
        ];
        let program = match self.earlier {
            Some((earlier, program)) if earlier == colour => program,
            _ => Path::new(PROGRAM),
        };
        Tally::of(program, &[&own, settings].concat())
    }

    fn start(&self, colour: &str) -> Tally {
        self.start_with(colour, &[])
    }

    fn wipe(&self) {
        match &self.redis {
            Some(redis) => redis.wipe(),
            None => {
                for suffix in ["", "-wal", "-shm"] {
                    let _ = fs::remove_file(format!("{}{suffix}", self.file().display()));
                }
            }
        }
    }
}

/// A test for each store that is shared.
macro_rules! on_each_store {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[test]
            fn $name() {
                super::Place::sqlite().map(super::$name);
            })*
        }
        mod redis {
            $(#[test]
            fn $name() {
                super::Place::redis().map(super::$name);
            })*
        }
    };
}

/// A drill for each store that two releases share.
macro_rules! with_an_earlier_build {
    ($colour:literal, $($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[test]
            #[ignore = "slow: ./just drill"]
            fn $name() {
                super::Place::sqlite().and_then(|place| place.with_earlier($colour)).map(super::$name);
            })*
        }
        mod redis {
            $(#[test]
            #[ignore = "slow: ./just drill"]
            fn $name() {
                super::Place::redis().and_then(|place| place.with_earlier($colour)).map(super::$name);
            })*
        }
    };
}

on_each_store![
    a_session_goes_on_in_another_process,
    a_connection_that_hangs_in_another_process_hands_over,
    a_session_that_has_just_begun_is_known_everywhere,
    a_session_claimed_from_two_sides_at_once_has_one_holder,
    after_a_shutdown_every_count_is_there,
    after_a_kill_the_last_checkpoint_is_there,
    with_message_by_message_checkpoints_a_kill_costs_nothing,
    a_forged_session_and_an_expired_one_begin_anew,
    an_idle_session_outlives_its_time_while_it_is_open,
    after_a_wipe_open_sessions_are_saved_again,
];

mod a_flip_from_an_earlier_build {
    use super::*;

    with_an_earlier_build![
        "blue",
        a_session_goes_on_in_another_process,
        a_connection_that_hangs_in_another_process_hands_over,
        a_session_claimed_from_two_sides_at_once_has_one_holder,
        after_a_shutdown_every_count_is_there,
        after_a_kill_the_last_checkpoint_is_there,
        with_message_by_message_checkpoints_a_kill_costs_nothing,
    ];
}

mod a_rollback_to_an_earlier_build {
    use super::*;

    with_an_earlier_build![
        "green",
        after_a_shutdown_every_count_is_there,
        after_a_kill_the_last_checkpoint_is_there,
        with_message_by_message_checkpoints_a_kill_costs_nothing,
    ];
}

fn counted(client: &mut Client, from: u64, to: u64) {
    for count in from..=to {
        client.send_text("one");
        client.expect_count(count);
    }
}

/// Resumes until it is let in, as a client does that was told to come back.
fn resume_patiently(tally: &Tally, session: &str) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = Request::new().query(&format!("session={session}"));
        let client = Client::open(tally.public, &request);
        if client.status == 101 {
            return client;
        }
        assert_eq!(client.status, 503);
        assert!(client.headers.contains_key("retry-after"));
        assert!(Instant::now() < deadline, "{}", client.body);
        thread::sleep(Duration::from_millis(50));
    }
}

fn readiness(tally: &Tally) -> (u16, String) {
    let (status, text) = tally.get(tally.operator, "/readyz");
    let told: Value = serde_json::from_str(&text).unwrap();
    (status, told["store"].as_str().unwrap().to_owned())
}

fn wait_for_store(tally: &Tally, state: &str) {
    let deadline = Instant::now() + PATIENCE;
    while readiness(tally) != (200, state.to_owned()) {
        assert!(Instant::now() < deadline, "the store is never {state}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Until what is open has been saved once more.
fn wait_for_saves(tally: &Tally, more: f64) {
    let deadline = Instant::now() + PATIENCE;
    while tally.metric("tally_store_saves_total") < more {
        assert!(Instant::now() < deadline, "not saved");
        thread::sleep(Duration::from_millis(10));
    }
}

fn a_session_goes_on_in_another_process(place: Place) {
    let (blue, green) = (place.start("blue"), place.start("green"));
    let mut client = blue.connect();
    let session = client.session();
    let mut tallies = [&green, &blue].into_iter().cycle();
    for round in 0..4 {
        counted(&mut client, round * 3 + 1, round * 3 + 3);
        client.send_close(1000);
        client.expect_goodbye((round + 1) * 3, 1000);
        client = tallies.next().unwrap().resume(&session);
        client.assert_session(true, (round + 1) * 3);
        assert_eq!(client.session(), session);
    }
}

fn a_connection_that_hangs_in_another_process_hands_over(place: Place) {
    let (blue, green) = (place.start("blue"), place.start("green"));
    let mut old = blue.connect();
    let session = old.session();
    counted(&mut old, 1, 5);
    wait_for_saves(&blue, 1.0);
    // Not yet saved when the other one asks.
    counted(&mut old, 6, 9);
    let began = Instant::now();
    let mut new = green.resume(&session);
    assert!(began.elapsed() < Duration::from_millis(900));
    new.assert_session(true, 9);
    old.expect_goodbye(9, 4001);
    counted(&mut new, 10, 12);
    // And back.
    blue.resume(&session).assert_session(true, 12);
    new.expect_goodbye(12, 4001);
}

fn a_session_that_has_just_begun_is_known_everywhere(place: Place) {
    let (blue, green) = (place.start("blue"), place.start("green"));
    for _ in 0..10 {
        let mut old = blue.connect();
        counted(&mut old, 1, 2);
        green.resume(&old.session()).assert_session(true, 2);
        old.expect_goodbye(2, 4001);
    }
}

fn a_session_claimed_from_two_sides_at_once_has_one_holder(place: Place) {
    let (blue, green) = (place.start("blue"), place.start("green"));
    let mut first = blue.connect();
    let session = first.session();
    counted(&mut first, 1, 4);
    wait_for_saves(&blue, 1.0);
    drop(first);
    for _ in 0..5 {
        let mut both = thread::scope(|scope| {
            let claims = [&blue, &green].map(|tally| {
                let session = &session;
                scope.spawn(move || resume_patiently(tally, session))
            });
            claims.map(|claim| claim.join().unwrap())
        });
        let mut open = 0;
        for client in &mut both {
            client.assert_session(true, 4);
            client.send_frame(PING, b"there?");
            // Whoever lost it was told so before the other one was let in.
            open += usize::from(client.read_frame().unwrap().opcode == PONG);
        }
        assert_eq!(open, 1, "one of them holds the session");
    }
}

fn after_a_shutdown_every_count_is_there(place: Place) {
    let (mut blue, green) = (place.start("blue"), place.start("green"));
    let mut clients: Vec<Client> = (0..50).map(|_| blue.connect()).collect();
    for (client, count) in clients.iter_mut().zip(1..) {
        counted(client, 1, count);
    }
    blue.signal("TERM");
    for (client, count) in clients.iter_mut().zip(1..) {
        client.expect_goodbye(count, 1001);
        // Right after the goodbye, whatever the old process is still doing.
        green.resume(&client.session()).assert_session(true, count);
    }
    assert!(blue.wait_exit().success());
}

fn after_a_kill_the_last_checkpoint_is_there(place: Place) {
    let settings = [("TALLY_CHECKPOINT", "50ms")];
    let mut blue = place.start_with("blue", &settings);
    let green = place.start("green");
    let mut client = blue.connect();
    let session = client.session();
    counted(&mut client, 1, 7);
    wait_for_saves(&blue, 1.0);
    let saved = blue.metric("tally_store_saves_total");
    counted(&mut client, 8, 8);
    wait_for_saves(&blue, saved + 1.0);
    blue.signal("KILL");
    blue.wait_exit();
    let mut client = resume_patiently(&green, &session);
    client.assert_session(true, 8);
    counted(&mut client, 9, 9);
}

fn with_message_by_message_checkpoints_a_kill_costs_nothing(place: Place) {
    let settings = [("TALLY_CHECKPOINT", "message")];
    let mut blue = place.start_with("blue", &settings);
    let green = place.start("green");
    let mut clients: Vec<Client> = (0..20).map(|_| blue.connect()).collect();
    for round in 1..=5 {
        for client in &mut clients {
            client.send_text("a");
            client.send_text("b");
        }
        for client in &mut clients {
            client.expect_count(round * 2 - 1);
            client.expect_count(round * 2);
        }
    }
    // Their goodbye waits for the store no less.
    clients[0].send_text("last");
    clients[0].send_close(1000);
    clients[0].expect_count(11);
    clients[0].expect_goodbye(11, 1000);
    blue.signal("KILL");
    blue.wait_exit();
    let totals = std::iter::once(11).chain(std::iter::repeat(10));
    for (client, total) in clients.iter().zip(totals) {
        resume_patiently(&green, &client.session()).assert_session(true, total);
    }
}

fn a_forged_session_and_an_expired_one_begin_anew(place: Place) {
    let settings = [("TALLY_SESSION_TTL", "300ms")];
    let blue = place.start_with("blue", &settings);
    let forged = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
    let mut client = blue.resume(forged);
    client.assert_session(false, 0);
    assert_ne!(client.session(), forged);
    counted(&mut client, 1, 2);
    client.send_close(1000);
    client.expect_goodbye(2, 1000);
    thread::sleep(Duration::from_millis(400));
    blue.resume(&client.session()).assert_session(false, 0);
}

fn an_idle_session_outlives_its_time_while_it_is_open(place: Place) {
    let settings = [("TALLY_SESSION_TTL", "900ms"), ("TALLY_CHECKPOINT", "50ms")];
    let (blue, green) = (
        place.start_with("blue", &settings),
        place.start_with("green", &settings),
    );
    let mut client = blue.connect();
    counted(&mut client, 1, 3);
    thread::sleep(Duration::from_millis(2000));
    green.resume(&client.session()).assert_session(true, 3);
}

fn after_a_wipe_open_sessions_are_saved_again(place: Place) {
    let settings = [("TALLY_CHECKPOINT", "50ms")];
    let blue = place.start_with("blue", &settings);
    let green = place.start("green");
    let mut idle = blue.connect();
    counted(&mut idle, 1, 3);
    // So that a generation is known.
    blue.wait_for_metric("tally_store_up", 1.0);
    thread::sleep(Duration::from_millis(1200));
    place.wipe();
    blue.wait_for_event("store_wiped");
    let saved = blue.metric("tally_store_saves_total");
    wait_for_saves(&blue, saved);
    thread::sleep(Duration::from_millis(1200));
    resume_patiently(&green, &idle.session()).assert_session(true, 3);
}

// -- a store that goes away: Redis, for a file does not ---------------------------------------------

#[test]
fn without_its_store_a_server_goes_on_and_makes_nothing_up() {
    let Some(mut place) = Place::redis() else {
        return;
    };
    let mut blue = place.start("blue");
    let mut open = blue.connect();
    let mut leaving = blue.connect();
    let gone = blue.connect().session();
    counted(&mut open, 1, 3);
    counted(&mut leaving, 1, 2);
    place.redis.as_mut().unwrap().kill();
    wait_for_store(&blue, "down");
    assert!(blue.metric("tally_store_up") < 0.5);
    blue.wait_for_event("store_down");

    counted(&mut open, 4, 6);
    let mut fresh = blue.connect();
    fresh.assert_session(false, 0);
    counted(&mut fresh, 1, 1);
    let resumed = blue.refused(Request::new().query(&format!("session={gone}")));
    assert_eq!(resumed.status, 503);
    assert!(resumed.headers.contains_key("retry-after"));
    let began = Instant::now();
    leaving.send_close(1000);
    leaving.expect_goodbye(2, 1000);
    assert!(began.elapsed() < Duration::from_secs(2));

    // A paced drain waits for the store.
    assert_eq!(blue.drain("POST", "?rate=1000").0, 202);
    thread::sleep(Duration::from_millis(300));
    let (_, told) = blue.drain("GET", "");
    assert_eq!(
        (&told["connections"], &told["store"]),
        (&2.into(), &"down".into())
    );
    assert_eq!(blue.drain("DELETE", "").0, 200);

    place.redis.as_mut().unwrap().restart();
    wait_for_store(&blue, "up");
    blue.wait_for_metric("tally_store_pending", 0.0);
    blue.wait_for_event("store_up");
    let green = place.start("green");
    resume_patiently(&green, &leaving.session()).assert_session(true, 2);
    resume_patiently(&green, &open.session()).assert_session(true, 6);
    blue.signal("TERM");
    assert!(blue.wait_exit().success());
}

#[test]
fn what_cannot_be_stored_at_the_end_waits_for_the_next_process() {
    let Some(mut place) = Place::redis() else {
        return;
    };
    let mut blue = place.start("blue");
    let mut clients: Vec<Client> = (0..20).map(|_| blue.connect()).collect();
    // The store knows them, with less than they count in the end.
    wait_for_saves(&blue, 20.0);
    for (client, count) in clients.iter_mut().zip(1..) {
        counted(client, 1, count);
    }
    place.redis.as_mut().unwrap().kill();
    wait_for_store(&blue, "down");
    blue.signal("TERM");
    for (client, count) in clients.iter_mut().zip(1..) {
        client.expect_goodbye(count, 1001);
    }
    assert!(blue.wait_exit().success());
    blue.wait_for_event("sessions_spilled");
    let spilled = place.folder.path().join("blue.spill.jsonl");
    assert!(spilled.exists());

    place.redis.as_mut().unwrap().restart();
    let blue = place.start("blue");
    blue.wait_for_event("sessions_found_spilled");
    for (client, count) in clients.iter().zip(1..) {
        resume_patiently(&blue, &client.session()).assert_session(true, count);
    }
    assert!(!spilled.exists());
}

#[test]
fn a_store_that_restarts_costs_nothing() {
    let Some(mut place) = Place::redis() else {
        return;
    };
    let (blue, green) = (place.start("blue"), place.start("green"));
    let mut client = blue.connect();
    let session = client.session();
    counted(&mut client, 1, 5);
    client.send_close(1000);
    client.expect_goodbye(5, 1000);
    let redis = place.redis.as_mut().unwrap();
    redis.kill();
    redis.restart();
    resume_patiently(&green, &session).assert_session(true, 5);
}

#[test]
fn a_server_starts_without_its_store_and_finds_it_later() {
    let Some(mut place) = Place::redis() else {
        return;
    };
    place.redis.as_mut().unwrap().kill();
    let blue = place.start("blue");
    wait_for_store(&blue, "down");
    let mut client = blue.connect();
    counted(&mut client, 1, 2);
    place.redis.as_mut().unwrap().restart();
    wait_for_store(&blue, "up");
    client.send_close(1000);
    client.expect_goodbye(2, 1000);
    resume_patiently(&blue, &client.session()).assert_session(true, 2);
}
