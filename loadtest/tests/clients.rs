//! The clients that the README shows, through a drain and through a kill: they count to the last
//! message, however often their connection ends.
#![expect(clippy::print_stdout, reason = "a skipped test says so")]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

#[path = "run/server.rs"]
#[expect(dead_code, reason = "the load test's own tests use more of it")]
mod server;

use server::Server;

const MESSAGES: &str = "400";

const PATIENCE: Duration = Duration::from_secs(60);

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

fn found(program: &str) -> bool {
    let asked = Command::new(program).arg("--version").output();
    let found = asked.is_ok_and(|output| output.status.success());
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

fn post(method: &str, server: &Server, query: &str) {
    let url = format!("http://{}/drain{query}", server.operator);
    let agent = ureq::Agent::new_with_defaults();
    let answer = match method {
        "POST" => agent.post(url).send_empty(),
        _ => agent.delete(url).call(),
    };
    assert!(answer.unwrap().status().is_success());
}

/// Sends the client away twice and kills the server once while it talks.
fn survives(mut client: Command) {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}/sessions.db", folder.path().display());
    let settings = [("TALLY_SESSION_STORE", store.as_str())];
    let mut server = Server::start(&settings);
    let url = format!("ws://{}/ws/chat/", server.public);
    let mut child = client
        .args([&url, MESSAGES])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pause = || thread::sleep(Duration::from_millis(700));
    for _ in 0..2 {
        pause();
        post("POST", &server, "?rate=1000");
        thread::sleep(Duration::from_millis(100));
        post("DELETE", &server, "");
    }
    pause();
    let (public, operator) = (server.public, server.operator);
    server.kill();
    let _server = Server::start_at(public, operator, &settings);
    assert_eq!(last_words(&mut child), MESSAGES);
}

fn last_words(child: &mut Child) -> String {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(20));
    }
    let mut told = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut told).unwrap();
    told.trim().to_owned()
}

#[test]
fn the_client_in_javascript_loses_nothing() {
    if !found("node") {
        return;
    }
    let mut node = Command::new("node");
    // From Node.js 22 on it is there without being asked for.
    node.arg("--experimental-websocket")
        .arg(clients().join("talk.mjs"));
    survives(node);
}

#[test]
fn the_client_in_python_loses_nothing() {
    if !found("python3") {
        return;
    }
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients-venv");
    let made = Command::new("python3")
        .args(["-m", "venv"])
        .arg(&venv)
        .output();
    let pip = || {
        Command::new(venv.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check"])
            .arg("websockets==15.0.1")
            .output()
    };
    if !made.is_ok_and(|made| made.status.success())
        || !pip().is_ok_and(|installed| installed.status.success())
    {
        println!("skipped: websockets cannot be installed into a venv");
        return;
    }
    let mut python = Command::new(venv.join("bin/python"));
    python.arg(clients().join("talk.py"));
    survives(python);
}
