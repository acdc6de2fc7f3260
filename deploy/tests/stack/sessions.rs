//! Nothing is lost: a crowd talks, comes back and resends, whatever happens to the stack, and its
//! ledger has to agree to the last message.

use std::{
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

use serde_json::Value;
use tungstenite::Message;

use crate::{
    clone::{Clone, PATIENCE, Socket, talking, told, workspace},
    engine::{Engine, Sick, docker, on_each_engine},
    redis_server::RedisServer,
};

on_each_engine!([
    a_flip_loses_nothing,
    a_flip_audits_itself,
    a_stack_keeps_its_store,
    sessions_outlive_a_stack_that_is_down,
    what_the_store_did_not_take_is_left_for_the_next_process,
    with_sessions_in_memory_a_flip_begins_them_anew_and_says_so,
    a_release_that_keeps_its_sessions_to_itself_never_goes_live,
    no_flip_begins_while_the_store_is_down,
    a_store_that_goes_down_in_the_bake_is_not_the_new_colours_fault,
    a_rollback_needs_neither_the_store_nor_the_colour_that_it_leaves,
], slow [
    ten_flips_in_a_row_lose_nothing,
    a_rollback_in_the_middle_of_the_drain_loses_nothing,
    a_second_flip_right_after_the_first_loses_nothing,
    a_rollback_from_a_drain_that_waits_for_the_store_loses_nothing,
    a_store_that_restarts_in_the_middle_of_a_flip_costs_nothing,
    a_store_that_is_wiped_in_the_middle_of_a_flip_is_filled_again,
    a_colour_that_is_killed_costs_what_its_clients_send_again,
]);

/// What a colour saves within, unless it is told otherwise.
const CHECKPOINT: Duration = Duration::from_secs(1);

/// In which a bake looks at both colours at least once, on a machine that is busy.
const SOME_LOOKS: Duration = Duration::from_secs(1);

/// The load test in the same profile as this test; built once.
pub fn loadtest() -> &'static Path {
    static LOADTEST: OnceLock<PathBuf> = OnceLock::new();
    LOADTEST.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--locked",
                "--package",
                "tally-loadtest",
            ])
            .current_dir(workspace())
            .status();
        assert!(built.expect("cargo runs").success());
        let deploy = Path::new(env!("CARGO_BIN_EXE_tally-deploy"));
        deploy.with_file_name("tally-loadtest")
    })
}

/// Runs a script while a crowd talks through the front door; in it `tally` is the deploy program.
/// What the crowd's ledger says, which must be that nothing was lost and nothing counted twice.
#[expect(clippy::print_stdout, reason = "the ledger is what a drill is for")]
pub fn audit(clone: &Clone, crowd: &str, script: &str) -> Value {
    let deploy = env!("CARGO_BIN_EXE_tally-deploy");
    let root = clone.root.path().display();
    let report = clone.root.path().join("report.json");
    let script = format!("set -e; tally() {{ {deploy} --root {root} \"$@\"; }}; {script}");
    let as_a_flip = clone.command("flip");
    let variables = as_a_flip
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    let output = Command::new(loadtest())
        .arg(format!("ws://{}:{}/ws/chat/", clone.host, clone.port))
        .args((!clone.host.is_loopback()).then_some("--remote"))
        .args(crowd.split_whitespace())
        .args(["--mode", "drain", "--reconnect", "--duration", "2s"])
        .args(["--heartbeat", "0s", "--drain-timeout", "10m"])
        .args(["--assert", "lost<=0", "--assert", "duplicated<=0"])
        .args(["--end-command", &script])
        .arg("--json")
        .arg(&report)
        .envs(variables)
        .output()
        .unwrap();
    let told = told(&output);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let drain = report["drain"].clone();
    println!("{script}: {drain}");
    drain
}

#[track_caller]
pub fn assert_all_resumed(drain: &Value) {
    assert_eq!(drain["fresh"], 0, "{drain}");
    assert!(drain["resumed"].as_u64().unwrap() > 0, "{drain}");
}

fn a_flip_loses_nothing(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let drain = audit(&clone, "-n 300 --rate 600", "tally flip --bake 0s");
    assert_all_resumed(&drain);
    assert_eq!(drain["resumed"], 300, "{drain}");
}

fn a_flip_audits_itself(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let mut flip = clone.command("flip --audit --audit-sockets 100 --audit-rate 200");
    flip.env("TALLY_LOADTEST", loadtest());
    let output = flip.output().unwrap();
    let told = told(&output);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("0 messages lost, 0 duplicated"), "{told}");
    assert_eq!(clone.colour(), "green");
    let history = clone.succeeds("history");
    let ledger = "0 messages lost, 0 duplicated; 100 of 100 resumed";
    assert!(history.contains(ledger), "{history}");
}

fn a_stack_keeps_its_store(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    assert!(clone.succeeds("status").contains("the engine's own store"));
    for verb in ["up", "flip"] {
        let mut other = clone.command(verb);
        let output = other.env("TALLY_SESSION_STORE", "memory").output().unwrap();
        let told = told(&output);
        assert!(!output.status.success(), "{verb}: {told}");
        let both = "TALLY_SESSION_STORE is memory, the stack runs with the engine's own store";
        assert!(told.contains(both), "{told}");
    }
    assert_eq!(clone.colour(), "blue");
}

/// Says so many messages, which are the first of a session, and returns the session.
fn say(clone: &Clone, messages: u32) -> (Socket, String) {
    let (mut socket, response) = clone.connect().unwrap();
    say_more(&mut socket, 1..=messages);
    let session = response.headers()["x-session-id"].to_str().unwrap();
    (socket, session.to_owned())
}

fn say_more(socket: &mut Socket, counts: RangeInclusive<u32>) {
    for count in counts {
        socket.send(Message::text("x")).unwrap();
        let answer = socket.read().unwrap().to_string();
        assert_eq!(answer, format!("{{\"count\":{count}}}"));
    }
}

/// What a session is found with: whether it is the same, and its count.
fn found(clone: &Clone, session: &str) -> (bool, String) {
    let (_, response) = clone.come_back(session).unwrap();
    let header = |name| response.headers()[name].to_str().unwrap().to_owned();
    let resumed = header("x-session-resumed") == "true";
    assert_eq!(header("x-session-id") == session, resumed);
    (resumed, header("x-session-count"))
}

fn sessions_outlive_a_stack_that_is_down(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let (mut socket, session) = say(&clone, 3);
    clone.succeeds("down");
    assert_eq!(socket.read().unwrap().to_string(), bye(3));
    clone.succeeds("up");
    assert_eq!(found(&clone, &session), (true, "3".into()));
}

fn bye(total: u32) -> String {
    format!("{{\"bye\":true,\"total\":{total}}}")
}

fn what_the_store_did_not_take_is_left_for_the_next_process(engine: Engine) {
    let Some((clone, mut store)) = Store::upped(engine) else {
        return;
    };
    let (mut socket, session) = say(&clone, 2);
    // The store knows the session, and who holds it.
    std::thread::sleep(CHECKPOINT * 2);
    store.stop();
    wait_for_store(&clone, "down");
    say_more(&mut socket, 3..=5);
    clone.succeeds("down");
    assert_eq!(socket.read().unwrap().to_string(), bye(5));
    if let Store::Beside(redis) = &mut store {
        redis.restart();
    }
    clone.succeeds("up");
    assert_eq!(found(&clone, &session), (true, "5".into()));
}

fn with_sessions_in_memory_a_flip_begins_them_anew_and_says_so(engine: Engine) {
    let mut clone = Clone::new(engine);
    let memory = ("TALLY_SESSION_STORE", "memory".to_owned());
    clone.settings.push(memory);
    let Some(up) = clone.up() else { return };
    let anew = "every client begins anew";
    assert!(up.contains(anew), "{up}");
    let plan = clone.succeeds("flip --dry-run");
    assert!(plan.contains(anew), "{plan}");
    if engine == Engine::Docker {
        assert!(docker(&["inspect", &clone.container("store")]).is_err());
    }
    let (_socket, session) = say(&clone, 1);
    clone.succeeds("flip");
    assert_eq!(found(&clone, &session), (false, "0".into()));
}

fn a_release_that_keeps_its_sessions_to_itself_never_goes_live(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let sick = engine.sick(&clone, Sick::KeepsSessionsToItself);
    let output = talking(&clone, || clone.run_with("flip", sick));
    let told = told(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("green keeps its sessions in memory"),
        "{told}"
    );
    assert_eq!(clone.colour(), "blue");
}

/// A store that tests can take away: the container's, or a Redis beside the native engine.
enum Store {
    Container(String),
    Beside(RedisServer),
}

impl Store {
    /// A stack on it; none where this machine lacks what that needs.
    fn upped(engine: Engine) -> Option<(Clone, Self)> {
        if engine == Engine::Docker {
            let clone = Clone::upped(engine)?;
            let store = Self::Container(clone.container("store"));
            return Some((clone, store));
        }
        let redis = RedisServer::start()?;
        let mut clone = Clone::new(engine);
        clone.settings.push(("TALLY_SESSION_STORE", redis.url()));
        clone.up().map(|_| (clone, Self::Beside(redis)))
    }

    fn stop(&mut self) {
        match self {
            Self::Container(name) => drop(docker(&["stop", name]).unwrap()),
            Self::Beside(redis) => redis.kill(),
        }
    }

    fn start(&mut self) {
        match self {
            Self::Container(name) => drop(docker(&["start", name]).unwrap()),
            Self::Beside(redis) => redis.restart(),
        }
    }

    fn wipe(&self) {
        match self {
            Self::Container(name) => {
                drop(docker(&["exec", name, "redis-cli", "FLUSHALL"]).unwrap())
            }
            Self::Beside(redis) => redis.wipe(),
        }
    }
}

/// Waits until `status` says so of the store.
fn wait_for_store(clone: &Clone, state: &str) {
    let began = Instant::now();
    loop {
        let told = clone.succeeds("status");
        let store = told.lines().find(|line| line.starts_with("store"));
        if store.is_some_and(|line| line.contains("NOT GOOD") == (state == "down")) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{told}");
    }
}

fn no_flip_begins_while_the_store_is_down(engine: Engine) {
    let Some((clone, mut store)) = Store::upped(engine) else {
        return;
    };
    store.stop();
    wait_for_store(&clone, "down");
    let output = clone.run("flip");
    let told = told(&output);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("session store: blue cannot reach"), "{told}");
    if engine == Engine::Docker {
        assert!(told.contains("./just up starts its container"), "{told}");
    }
    assert_eq!(clone.colour(), "blue");
    store.start();
    wait_for_store(&clone, "up");
    clone.succeeds("flip");
    assert_eq!(clone.colour(), "green");
}

fn a_store_that_goes_down_in_the_bake_is_not_the_new_colours_fault(engine: Engine) {
    let Some((clone, mut store)) = Store::upped(engine) else {
        return;
    };
    let (_, session) = say(&clone, 2);
    let (code, told) = clone.watch("flip --bake 4s", "no handshake reaches", |_| {
        store.stop();
        wait_for_store(&clone, "down");
        assert!(clone.connect().is_ok(), "new clients come in");
        std::thread::sleep(SOME_LOOKS);
        store.start();
    });
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("is down: the bake goes on"), "{told}");
    assert!(told.contains("is back: the bake looks at"), "{told}");
    assert_eq!(found(&clone, &session), (true, "2".into()));
}

fn a_rollback_needs_neither_the_store_nor_the_colour_that_it_leaves(engine: Engine) {
    let Some((clone, mut store)) = Store::upped(engine) else {
        return;
    };
    clone.succeeds("flip --keep-warm 60s");
    store.stop();
    wait_for_store(&clone, "down");
    let told = clone.succeeds("rollback");
    assert!(told.contains("nobody can come back to a session"), "{told}");
    assert_eq!(clone.colour(), "blue");
    store.start();
    wait_for_store(&clone, "up");
    clone.succeeds("flip --keep-warm 60s");
    engine.stop(&clone, "green");
    let told = clone.succeeds("rollback");
    assert!(told.contains("no session moves from green"), "{told}");
    assert_eq!(clone.colour(), "blue");
}

fn ten_flips_in_a_row_lose_nothing(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let flips = "for flip in 1 2 3 4 5 6 7 8 9 10; do tally flip --bake 0s; done";
    let drain = audit(&clone, "-n 5000 --rate 1000 --assert gap_p99<1s", flips);
    assert_all_resumed(&drain);
    assert_eq!(drain["resumed"], 50_000, "{drain}");
}

fn a_rollback_in_the_middle_of_the_drain_loses_nothing(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let rollback = "tally flip --bake 0s --drain-rate 100 >flip.log 2>&1 & flip=$!; \
        until grep -q 'no handshake reaches' flip.log; do sleep 0.1; done; sleep 2; \
        tally rollback; wait $flip || true";
    let script = format!("cd {}; {rollback}", clone.root.path().display());
    let drain = audit(&clone, "-n 1000 --rate 1000", &script);
    assert_all_resumed(&drain);
    assert_eq!(clone.colour(), "blue");
}

fn a_second_flip_right_after_the_first_loses_nothing(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let flips = "tally flip --bake 0s; tally flip --bake 0s";
    let drain = audit(&clone, "-n 1000 --rate 2000", flips);
    assert_all_resumed(&drain);
    assert_eq!(drain["resumed"], 2000, "{drain}");
}

fn a_rollback_from_a_drain_that_waits_for_the_store_loses_nothing(engine: Engine) {
    let Some((clone, mut store)) = Store::upped(engine) else {
        return;
    };
    let folder = clone.root.path();
    let [flip, back] = ["flip.log", "back.log"].map(|name| folder.join(name));
    let waits = "the drain waits for it";
    let script = format!(
        "cd {}; tally flip --bake 0s --drain-rate 100 >flip.log 2>&1 & flip=$!; \
         until grep -q '{waits}' flip.log; do sleep 0.1; done; \
         tally rollback >back.log 2>&1; wait $flip || true",
        folder.display()
    );
    let drain = std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for_line(&flip, "no handshake reaches");
            std::thread::sleep(Duration::from_secs(2));
            store.stop();
            // Both colours have sockets, and those of green go when they can come back.
            wait_for_line(&back, waits);
            assert_eq!(clone.colour(), "blue");
            store.start();
        });
        audit(&clone, "-n 1000 --rate 1000", &script)
    });
    assert_all_resumed(&drain);
    assert_eq!(clone.colour(), "blue");
}

fn wait_for_line(log: &Path, line: &str) {
    let began = Instant::now();
    while !fs::read_to_string(log).unwrap_or_default().contains(line) {
        assert!(began.elapsed() < Duration::from_secs(120), "no {line:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Does something to the store in the middle of a flip, in another thread.
fn audit_meanwhile(
    clone: &Clone,
    flip: &str,
    line: &str,
    meanwhile: impl FnOnce() + Send,
) -> Value {
    let log = clone.root.path().join("flip.log");
    let script = format!("{flip} >{}", log.display());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for_line(&log, line);
            meanwhile();
        });
        audit(clone, "-n 1000 --rate 1000", &script)
    })
}

fn a_store_that_restarts_in_the_middle_of_a_flip_costs_nothing(engine: Engine) {
    let Some((clone, mut store)) = Store::upped(engine) else {
        return;
    };
    // In the drain, which waits for it.
    let flip = "tally flip --bake 0s --drain-rate 200";
    let drain = audit_meanwhile(&clone, flip, "no handshake reaches", || {
        std::thread::sleep(Duration::from_secs(1));
        store.stop();
        std::thread::sleep(Duration::from_secs(2));
        store.start();
    });
    assert_all_resumed(&drain);
    let log = fs::read_to_string(clone.root.path().join("flip.log")).unwrap();
    assert!(log.contains("the drain waits for it"), "{log}");
    assert!(log.contains("the drain goes on"), "{log}");
}

fn a_store_that_is_wiped_in_the_middle_of_a_flip_is_filled_again(engine: Engine) {
    let Some((clone, store)) = Store::upped(engine) else {
        return;
    };
    // Before the drain: who is on the way between the colours is known to the store alone.
    let flip = "tally flip --bake 5s";
    let drain = audit_meanwhile(&clone, flip, "the front door leads to", || store.wipe());
    assert_all_resumed(&drain);
}

fn a_colour_that_is_killed_costs_what_its_clients_send_again(engine: Engine) {
    let Some(clone) = Clone::upped(engine) else {
        return;
    };
    let process = engine.process(&clone, "blue");
    let kill = format!("kill -KILL {process}; sleep 3");
    let drain = audit(&clone, "-n 1000 --rate 5000", &kill);
    assert_all_resumed(&drain);
    assert_eq!(drain["cut_off"], 1000, "{drain}");
}
