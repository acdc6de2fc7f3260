//! The verbs, when all is well or plainly not.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use crate::{
    clone::{Clone, PATIENCE, talk_until, talking, told},
    engine::{Engine, Sick, on_each_engine},
};

on_each_engine!([
    up_flip_and_down,
    a_colour_that_is_sick_never_goes_live,
    what_an_idle_colour_ran_before_is_not_flipped_to,
    the_front_door_leads_to_the_server_only_and_logs_no_session,
], slow []);

fn up_flip_and_down(engine: Engine) {
    let clone = Clone::new(engine);
    let Some(up) = clone.up() else { return };
    assert!(up.contains("live         blue"), "{up}");
    assert_eq!(clone.colour(), "blue");
    clone.succeeds("up");
    let mut elsewhere = clone.command("up");
    elsewhere.env("TALLY_PORT", (clone.port - 1).to_string());
    let elsewhere = elsewhere.output().unwrap();
    assert!(
        told(&elsewhere).contains("./just down"),
        "{}",
        told(&elsewhere)
    );

    let (over, handshakes) = (AtomicBool::new(false), AtomicU64::new(0));
    let failures = thread::scope(|scope| {
        let talker = scope.spawn(|| talk_until(&clone, None, &over, &handshakes));
        let flip = clone.succeeds("flip");
        assert!(flip.contains("==> green is live"), "{flip}");
        let back = clone.succeeds("flip");
        assert!(back.contains("==> blue is live"), "{back}");
        over.store(true, Ordering::Relaxed);
        talker.join().unwrap()
    });
    assert!(
        handshakes.load(Ordering::Relaxed) > 100,
        "the client talked all the while"
    );
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(clone.colour(), "blue");

    let status = clone.succeeds("status");
    assert!(status.contains("green        not running"), "{status}");
    let logs = clone.succeeds("logs");
    assert!(logs.contains("\"event\":\"shutdown_complete\""), "{logs}");
    clone.succeeds("down");
    assert!(clone.connect().is_err(), "nobody listens any more");
    assert_eq!(clone.processes(), Vec::<PathBuf>::new());
    clone.succeeds("down");
    for verb in ["flip", "status"] {
        let output = clone.run(verb);
        assert_eq!(output.status.code(), Some(1));
        assert!(told(&output).contains("./just up"), "{}", told(&output));
    }
}

fn a_colour_that_is_sick_never_goes_live(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    for (reason, sick) in [
        ("green", Sick::EndsAtOnce),
        ("green being ready", Sick::NeverReady),
    ] {
        let sick = engine.sick(&clone, sick);
        let output = talking(&clone, || clone.run_with("flip", sick));
        let told = told(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(
            told.contains(reason) && told.contains("blue goes on serving"),
            "{told}"
        );
        assert_eq!(clone.colour(), "blue");
    }
}

fn what_an_idle_colour_ran_before_is_not_flipped_to(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    clone.succeeds("flip");
    engine.start(&clone, "blue");
    let before = engine.process(&clone, "blue");
    clone.succeeds("flip");
    assert_eq!(clone.colour(), "blue");
    assert_ne!(engine.process(&clone, "blue"), before);
}

#[test]
fn a_stack_whose_supervisor_was_killed_comes_up_again_and_goes_down_whole() {
    let Some(clone) = Clone::upped(Engine::Native) else {
        return;
    };
    let kill = |clone: &Clone| {
        let supervisor = clone.supervisor(&["pid"]);
        let killed = Command::new("kill").args(["-KILL", &supervisor]).status();
        assert!(killed.unwrap().success());
        // Traefik and blue are still there, and nobody looks after them.
        clone.wait_for_processes(2);
    };
    kill(&clone);
    clone.succeeds("up");
    assert_eq!(clone.colour(), "blue");
    assert_eq!(clone.processes().len(), 3);
    kill(&clone);
    clone.succeeds("down");
    assert_eq!(clone.processes(), Vec::<PathBuf>::new());
}

fn the_front_door_leads_to_the_server_only_and_logs_no_session(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    assert_eq!(clone.get("/healthz"), "200");
    for internal in [
        "/api/rawdata",
        "/api/overview",
        "/ping",
        "/metrics",
        "/version",
    ] {
        assert_eq!(clone.get(internal), "404", "{internal}");
    }
    let session = "0f3b6c1e-9a53-4c57-8f0e-5d1f6a1b2c3d";
    assert_eq!(clone.get(&format!("/ws/chat/?session={session}")), "426");
    let seen = |line: &str| {
        line.contains("/ws/chat/") && line.contains("\"request_X-Request-Id\":\"seen\"")
    };
    let began = Instant::now();
    let log = loop {
        let log = clone.succeeds("logs 100");
        if log.lines().any(seen) {
            break log;
        }
        assert!(began.elapsed() < PATIENCE, "{log}");
    };
    assert!(!log.contains(session));
}

#[test]
fn without_a_stack_the_verbs_say_how_to_start_one() {
    let clone = Clone::new(Engine::Native);
    for verb in ["flip", "status", "logs"] {
        let output = clone.run(verb);
        assert_eq!(output.status.code(), Some(1));
        assert!(told(&output).contains("./just up"), "{}", told(&output));
    }
    let taken = TcpListener::bind(("127.0.0.1", clone.port)).unwrap();
    let output = clone.run("up");
    assert!(told(&output).contains("TALLY_PORT="), "{}", told(&output));
    drop(taken);
}
