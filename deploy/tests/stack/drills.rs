//! What may go wrong in a flip. In each case the colour that stays answers everybody all the while.

use std::{
    fs,
    net::TcpStream,
    os::unix::fs::symlink,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use crate::{
    clone::{Clone, PATIENCE, moving, signal, surviving, talking, told},
    engine::{Engine, Sick, on_each_engine},
};

on_each_engine!([
    a_colour_that_fails_the_smoke_test_never_goes_live,
    a_colour_that_dies_in_the_bake_is_taken_back,
    a_file_that_traefik_cannot_read_leaves_the_old_configuration,
    a_configuration_without_meaning_is_noticed_and_taken_back,
    traefik_may_restart_in_the_middle_of_a_flip,
    without_traefik_no_flip_begins_and_in_its_middle_both_colours_stay,
    two_flips_at_once_are_one_flip,
    a_terminal_that_is_gone_leaves_one_colour_live,
    a_lock_is_stale_when_its_time_is_up,
    a_full_disk_under_the_history_stops_no_flip,
    a_rollback_needs_seconds_where_the_old_colour_is_warm,
    a_rollback_in_the_middle_of_the_drain_keeps_who_is_still_there,
    a_colour_is_kept_warm_no_longer_than_it_was_told,
    a_rollback_in_the_bake_ends_the_flip_that_bakes,
    a_dry_run_tells_the_plan_and_changes_nothing,
    the_preview_door_leads_to_the_idle_colour_and_to_loopback_only,
], slow [
    up_recovers_from_a_flip_that_was_killed_at_any_step,
    the_next_flip_recovers_from_one_that_was_killed_at_any_step,
    a_rollback_recovers_from_a_flip_that_was_killed_at_any_step,
    a_flip_that_is_told_to_stop_leaves_one_colour_live,
]);

const SMOKED: &str = "passes the smoke test";
const SWITCHED: &str = "the front door leads to green";

/// What came after the `up`.
fn history(clone: &Clone) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(clone.root.path().join(".tally/history.jsonl")).unwrap();
    let entries = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let mut entries: Vec<serde_json::Value> = entries.collect();
    assert_eq!(entries.remove(0)["verb"], "up");
    entries
}

fn a_colour_that_fails_the_smoke_test_never_goes_live(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let sick = engine.sick(&clone, Sick::RefusesMessages);
    let output = talking(&clone, || clone.run_with("flip", sick));
    let told = told(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("failed at counting"), "{told}");
    assert!(told.contains("blue goes on serving"), "{told}");
    assert_eq!(clone.colour(), "blue");
    assert_eq!(history(&clone)[0]["outcome"], "refused");
}

fn a_colour_that_dies_in_the_bake_is_taken_back(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let began = Instant::now();
    let ((code, told), byes) = surviving(&clone, "green", || {
        clone.watch("flip --bake 60s", "no handshake reaches blue", |_| {
            engine.kill(&clone, "green");
        })
    });
    assert_eq!(byes, 0, "who stayed on blue is not sent away");
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("green did not hold out"), "{told}");
    assert!(told.contains("blue serves again"), "{told}");
    assert!(began.elapsed() < Duration::from_secs(40), "{told}");
    assert_eq!(clone.colour(), "blue");
    assert_eq!(history(&clone)[0]["outcome"], "taken_back");
}

fn a_file_that_traefik_cannot_read_leaves_the_old_configuration(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let broken = clone.root.path().join("traefik/dynamic/broken.yml");
    fs::write(&broken, "http: [").unwrap();
    let output = talking(&clone, || clone.run("flip"));
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("kept its old configuration"), "{said}");
    assert!(said.contains("blue serves again"), "{said}");
    assert_eq!(clone.colour(), "blue");
    fs::remove_file(broken).unwrap();
    clone.succeeds("flip");
    assert_eq!(clone.colour(), "green");
}

fn a_configuration_without_meaning_is_noticed_and_taken_back(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let dynamic = clone.root.path().join("traefik/dynamic");
    let meaningless = fs::read_to_string(dynamic.join("services.yml"))
        .unwrap()
        .replace("tally-green:", "tally-grene:");
    // Before the switch it is found by the smoke test, and by the preflight the next time.
    let staged = clone.root.path().join("services.yml");
    let (code, told) = clone.watch("flip --bake 20s", SMOKED, |_| {
        fs::write(&staged, &meaningless).unwrap();
        fs::rename(&staged, dynamic.join("services.yml")).unwrap();
    });
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("blue serves again; the front door"), "{told}");
    assert_eq!(clone.colour(), "blue");
    let output = talking(&clone, || clone.run("flip"));
    let told = crate::clone::told(&output);
    assert!(told.contains("before a flip can begin"), "{told}");
    assert!(told.contains("services.yml"), "{told}");
}

fn traefik_may_restart_in_the_middle_of_a_flip(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let (code, told) = clone.watch("flip", SMOKED, |_| {
        engine.kill(&clone, "traefik");
    });
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(clone.colour(), "green");
}

fn without_traefik_no_flip_begins_and_in_its_middle_both_colours_stay(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let (code, told) = clone.watch("flip", SMOKED, |_| {
        engine.stop(&clone, "traefik");
    });
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("going back to blue failed too"), "{told}");
    for colour in ["blue", "green"] {
        assert!(engine.runs(&clone, colour));
    }
    let output = clone.run("flip");
    let told = crate::clone::told(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("/api/http/routers/"), "{told}");
    clone.succeeds("up");
    assert_eq!(clone.colour(), "blue");
    assert!(!engine.runs(&clone, "green"));
}

fn two_flips_at_once_are_one_flip(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let ((code, told), _) = moving(&clone, || {
        clone.watch("flip --bake 2s", SWITCHED, |first| {
            for verb in ["flip", "down", "up"] {
                let output = clone.run(verb);
                let said = told(&output);
                assert_eq!(output.status.code(), Some(1), "{said}");
                assert!(said.contains(&format!("process {first} ")), "{said}");
            }
            assert!(clone.succeeds("status").contains("under way"));
        })
    });
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(clone.colour(), "green");
}

fn a_terminal_that_is_gone_leaves_one_colour_live(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let run_unread = |verb: &str, act: &dyn Fn(u32)| {
        let mut verb = clone.command(verb);
        let verb = verb.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = verb.spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        act(child.id());
        child.wait().unwrap()
    };
    // Nobody reads, and that is all.
    let (flipped, _) = moving(&clone, || run_unread("flip", &|_| ()));
    assert!(flipped.success(), "{flipped}");
    assert_eq!(clone.colour(), "green");
    // The shell's farewell to its children comes in the bake.
    let ended = talking(&clone, || {
        run_unread("flip --bake 60s", &|flip| {
            let began = Instant::now();
            while clone.settled() != "blue" {
                assert!(began.elapsed() < PATIENCE * 3, "no bake begins");
            }
            signal("HUP", flip);
        })
    });
    assert_eq!(ended.code(), Some(1), "{ended}");
    let history = history(&clone);
    let outcomes = history.iter().map(|entry| entry["outcome"].as_str());
    assert_eq!(
        outcomes.collect::<Vec<_>>(),
        [Some("done"), Some("taken_back")]
    );
    assert_eq!(clone.settled(), "green");
    assert!(!engine.runs(&clone, "blue"));
}

fn a_lock_is_stale_when_its_time_is_up(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let lock = |until: &str| {
        let holder = serde_json::json!({
            "verb": "flip", "user": "ann", "host": "elsewhere", "process": 1, "process_start": 1,
            "since": "2026-01-01T00:00:00Z", "until": until,
        });
        fs::write(clone.root.path().join(".tally/lock"), holder.to_string()).unwrap();
    };
    lock("2999-01-01T00:00:00Z");
    let output = talking(&clone, || clone.run("flip"));
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("flip of ann has been at it"), "{said}");
    assert_eq!(clone.colour(), "blue");
    lock("2026-01-01T00:15:00Z");
    let (said, _) = moving(&clone, || clone.succeeds("flip"));
    assert!(said.contains("is taken over"), "{said}");
    assert_eq!(clone.colour(), "green");
}

fn a_full_disk_under_the_history_stops_no_flip(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let history = clone.root.path().join(".tally/history.jsonl");
    fs::remove_file(&history).unwrap();
    symlink("/dev/full", history).unwrap();
    let (told, _) = moving(&clone, || clone.succeeds("flip"));
    assert!(told.contains("not written down"), "{told}");
    assert!(told.contains("\"outcome\":\"done\""), "{told}");
    assert_eq!(clone.colour(), "green");
}

/// Ends a flip behind each of its steps, and lets `recover` put things right.
fn end_at_every_step(engine: Engine, name: &str, recover: &str) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    for step in [
        "is built",
        "is started",
        "is ready",
        SMOKED,
        "the front door leads to",
        "no handshake reaches",
        "has held out",
        "is drained",
    ] {
        let ((told, live, recovered), _) = moving(&clone, || {
            let (_, told) = clone.watch("flip --bake 1s", step, |flip| signal(name, flip));
            let live = clone.settled();
            (told, live, clone.run(recover))
        });
        let said = crate::clone::told(&recovered);
        assert!(
            recovered.status.success(),
            "{name} at {step:?}: {told}{said}"
        );
        let expected = match recover {
            "up" => live.clone(),
            _ => other(&live).to_owned(),
        };
        assert_eq!(clone.colour(), expected, "{name} at {step:?}: {told}{said}");
        if name == "INT" {
            assert!(told.contains("somebody asked to stop"), "{step:?}: {told}");
            assert!(told.contains(&live), "{step:?}: {told}");
        }
        let idle = engine.runs(&clone, other(&expected));
        assert!(!idle, "{name} at {step:?}: {said}");
    }
}

fn other(colour: &str) -> &str {
    if colour == "blue" { "green" } else { "blue" }
}

fn up_recovers_from_a_flip_that_was_killed_at_any_step(engine: Engine) {
    end_at_every_step(engine, "KILL", "up");
}

fn the_next_flip_recovers_from_one_that_was_killed_at_any_step(engine: Engine) {
    end_at_every_step(engine, "KILL", "flip");
}

fn a_rollback_recovers_from_a_flip_that_was_killed_at_any_step(engine: Engine) {
    end_at_every_step(engine, "KILL", "rollback");
}

fn a_flip_that_is_told_to_stop_leaves_one_colour_live(engine: Engine) {
    end_at_every_step(engine, "INT", "up");
}

fn a_rollback_needs_seconds_where_the_old_colour_is_warm(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let told = clone.succeeds("flip --keep-warm 60s");
    assert!(told.contains("blue is kept warm"), "{told}");
    assert!(clone.succeeds("status").contains("kept warm until"));
    let began = Instant::now();
    clone.succeeds("rollback");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(clone.colour(), "blue");
    let verbs: Vec<_> = history(&clone)
        .iter()
        .map(|entry| entry["verb"].clone())
        .collect();
    assert_eq!(verbs, ["flip", "rollback"]);
    assert!(clone.succeeds("history").contains("rollback"));
}

/// Who was sent away before has the right total; who is still there stays, with the right count.
fn a_rollback_in_the_middle_of_the_drain_keeps_who_is_still_there(engine: Engine) {
    const SOCKETS: usize = 20;
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let mut sockets: Vec<_> = (0..SOCKETS).map(|_| clone.connect().unwrap().0).collect();
    let mut took = Duration::MAX;
    let (code, told) = clone.watch("flip --drain-rate 1", "has held out", |_| {
        // The oldest goes first.
        let bye = sockets.remove(0).read().unwrap().to_string();
        assert_eq!(bye, "{\"bye\":true,\"total\":0}");
        let began = Instant::now();
        clone.succeeds("rollback");
        took = began.elapsed();
    });
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("green is live, but blue has not gone"),
        "{told}"
    );
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(clone.colour(), "blue");
    let stayed = sockets.iter_mut().filter_map(|socket| {
        // One that was sent away before the rollback cannot be written to for long.
        let _ = socket.send("still here".into());
        let answer = socket.read().unwrap().to_string();
        (answer != "{\"bye\":true,\"total\":0}").then_some(answer)
    });
    let stayed: Vec<_> = stayed.collect();
    assert!(stayed.len() >= SOCKETS / 4, "{stayed:?}");
    assert!(
        stayed.iter().all(|answer| answer == "{\"count\":1}"),
        "{stayed:?}"
    );
}

fn a_colour_is_kept_warm_no_longer_than_it_was_told(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    clone.succeeds("flip --keep-warm 1s");
    let began = Instant::now();
    while engine.runs(&clone, "blue") {
        assert!(began.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(clone.colour(), "green");
}

fn a_rollback_in_the_bake_ends_the_flip_that_bakes(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let (code, told) = clone.watch("flip --bake 60s", "no handshake reaches blue", |_| {
        let said = clone.succeeds("rollback");
        assert!(said.contains("blue is live"), "{said}");
    });
    assert_eq!(code, Some(1), "{told}");
    assert_eq!(clone.colour(), "blue");
}

fn a_dry_run_tells_the_plan_and_changes_nothing(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let router = clone.root.path().join("traefik/dynamic/router.yml");
    let before = fs::read(&router).unwrap();
    let told = clone.succeeds("flip --dry-run");
    assert!(told.contains("the front door leads to green"), "{told}");
    assert!(told.contains("MB free"), "{told}");
    assert_eq!(fs::read(&router).unwrap(), before);
    assert_eq!(history(&clone).len(), 0);
    assert!(!engine.runs(&clone, "green"));
}

fn the_preview_door_leads_to_the_idle_colour_and_to_loopback_only(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let port = clone.record()["ports"]["preview"].as_u64().unwrap();
    assert!(TcpStream::connect(format!("127.0.0.1:{port}")).is_ok());
    assert!(TcpStream::connect(format!("127.0.0.2:{port}")).is_err());
}
