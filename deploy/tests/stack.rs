//! The whole stack: real supervisord, real Traefik, the real server, in a folder of its own.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tungstenite::{Message, WebSocket, handshake::client::Response};

/// Of a test with what must come, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(10);

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// The server in the same profile as this test; built once.
fn server() -> &'static Path {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    SERVER.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "--package", "tally-server"])
            .current_dir(workspace())
            .status();
        assert!(built.expect("cargo runs").success());
        let deploy = Path::new(env!("CARGO_BIN_EXE_tally-deploy"));
        deploy.with_file_name("tally-server")
    })
}

/// A clone in miniature; whatever was started in it is stopped at the end.
struct Clone {
    root: tempfile::TempDir,
    port: u16,
}

impl Clone {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let traefik = root.path().join("traefik");
        fs::create_dir_all(traefik.join("dynamic")).unwrap();
        for file in ["traefik.yml", "dynamic/services.yml"] {
            fs::copy(workspace().join("traefik").join(file), traefik.join(file)).unwrap();
        }
        // The tools are installed once for all tests, where `up` would put them.
        let tools = workspace().join(".tools");
        fs::create_dir_all(&tools).unwrap();
        std::os::unix::fs::symlink(tools, root.path().join(".tools")).unwrap();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        Self { root, port }
    }

    fn run(&self, verb: &str, server: &Path) -> Output {
        self.command(self.port, verb, server).output().unwrap()
    }

    /// A verb with its options. A flip bakes no longer than it must, unless it says so.
    fn command(&self, port: u16, verb: &str, server: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tally-deploy"));
        command
            .arg("--root")
            .arg(self.root.path())
            .args(verb.split_whitespace())
            .env("TALLY_PORT", port.to_string())
            // No beat falls into the conversations of these tests, however long they take.
            .env("TALLY_HEARTBEAT", "1h")
            .env("TALLY_SERVER", server)
            .env_remove("ENGINE");
        if verb.starts_with("flip") && !verb.contains("--bake") {
            command.args(["--bake", "0s"]);
        }
        command
    }

    fn succeeds(&self, verb: &str) -> String {
        let output = self.run(verb, server());
        let told = told(&output);
        assert!(output.status.success(), "{verb}: {told}");
        told
    }

    /// Brings the stack up; none where this machine lacks what that needs, which is then told.
    #[expect(
        clippy::print_stdout,
        reason = "a skipped test says so on standard output"
    )]
    fn up(&self) -> Option<String> {
        let output = self.run("up", server());
        let told = told(&output);
        if told.contains("the tools cannot be installed") {
            println!("skipped: {}", told.lines().last().unwrap_or_default());
            return None;
        }
        assert!(output.status.success(), "up: {told}");
        Some(told)
    }

    /// A word with this clone's supervisord.
    fn supervisor(&self, arguments: &[&str]) -> String {
        let output = Command::new(self.root.path().join(".tools/venv/bin/supervisorctl"))
            .args(["-c", "supervisord.conf"])
            .args(arguments)
            .current_dir(self.root.path().join(".tally"))
            .output();
        told(&output.unwrap()).trim().to_owned()
    }

    /// Whatever runs in this clone: every process of a stack works in its folder.
    fn processes(&self) -> Vec<PathBuf> {
        let folder = self.root.path().canonicalize().unwrap().join(".tally");
        let works_here = |process: &PathBuf| {
            fs::read_link(process.join("cwd")).is_ok_and(|found| found == folder)
        };
        let entries = fs::read_dir("/proc").unwrap();
        let processes = entries.filter_map(|entry| Some(entry.ok()?.path()));
        processes.filter(works_here).collect()
    }

    /// A killed process takes a moment to go.
    fn wait_for_processes(&self, count: usize) {
        let began = Instant::now();
        while self.processes().len() != count {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.processes());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The status of a plain GET through the front door.
    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: tally\r\nX-Request-Id: seen\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
            .split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    }

    fn connect(&self) -> Result<(WebSocket<TcpStream>, Response), String> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(|e| e.to_string())?;
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let url = format!("ws://127.0.0.1:{}/ws/chat/", self.port);
        tungstenite::client(url, stream).map_err(|error| error.to_string())
    }

    fn colour(&self) -> String {
        let (_, response) = self.connect().expect("somebody answers");
        response.headers()["x-colour"].to_str().unwrap().to_owned()
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        self.run("down", Path::new("/"));
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Handshakes and counts without pause until told to stop; every failure counts.
fn talk_until(clone: &Clone, over: &AtomicBool, handshakes: &AtomicU64) -> Vec<String> {
    let mut failures = Vec::new();
    while !over.load(Ordering::Relaxed) {
        match clone.connect() {
            Err(error) => failures.push(error),
            Ok((mut socket, _)) => {
                handshakes.fetch_add(1, Ordering::Relaxed);
                socket.send(Message::text("x")).unwrap();
                match socket.read() {
                    Ok(Message::Text(answer)) if answer == "{\"count\":1}" => {}
                    // The drain may come first; the bye then tells that nothing was counted.
                    Ok(Message::Text(bye)) if bye == "{\"bye\":true,\"total\":0}" => {}
                    other => failures.push(format!("{other:?}")),
                }
            }
        }
    }
    failures
}

#[test]
fn up_flip_and_down() {
    let clone = Clone::new();
    let Some(up) = clone.up() else { return };
    assert!(up.contains("live        blue"), "{up}");
    assert_eq!(clone.colour(), "blue");
    clone.succeeds("up");
    let elsewhere = clone.command(clone.port - 1, "up", server());
    let elsewhere = { elsewhere }.output().unwrap();
    assert!(
        told(&elsewhere).contains("./just down"),
        "{}",
        told(&elsewhere)
    );

    let (over, handshakes) = (AtomicBool::new(false), AtomicU64::new(0));
    let failures = thread::scope(|scope| {
        let talker = scope.spawn(|| talk_until(&clone, &over, &handshakes));
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
    assert!(status.contains("green       not running"), "{status}");
    assert!(
        clone
            .succeeds("logs")
            .contains("\"event\":\"shutdown_complete\"")
    );
    clone.succeeds("down");
    assert!(clone.connect().is_err(), "nobody listens any more");
    assert_eq!(clone.processes(), Vec::<PathBuf>::new());
    clone.succeeds("down");
    for verb in ["flip", "status"] {
        let output = clone.run(verb, server());
        assert_eq!(output.status.code(), Some(1));
        assert!(told(&output).contains("./just up"), "{}", told(&output));
    }
}

#[test]
fn a_colour_that_is_sick_never_goes_live() {
    let clone = Clone::new();
    let Some(_) = clone.up() else { return };
    let (mut talking, _) = clone.connect().unwrap();
    for (reason, script) in [
        ("green", "#!/bin/sh\nexit 1\n"),
        ("green being ready", "#!/bin/sh\nexec sleep 60\n"),
    ] {
        let sick = clone.root.path().join("sick");
        fs::write(&sick, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&sick, mode).unwrap();
        let output = clone.run("flip", &sick);
        let told = told(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(
            told.contains(reason) && told.contains("blue goes on serving"),
            "{told}"
        );
        assert_eq!(clone.colour(), "blue");
    }
    talking.send(Message::text("still here")).unwrap();
    assert_eq!(talking.read().unwrap(), Message::text("{\"count\":1}"));
}

#[test]
fn what_an_idle_colour_ran_before_is_not_flipped_to() {
    let clone = Clone::new();
    let Some(_) = clone.up() else { return };
    clone.succeeds("flip");
    clone.supervisor(&["start", "blue"]);
    let before = clone.supervisor(&["pid", "blue"]);
    clone.succeeds("flip");
    assert_eq!(clone.colour(), "blue");
    assert_ne!(clone.supervisor(&["pid", "blue"]), before);
}

#[test]
fn a_stack_whose_supervisor_was_killed_comes_up_again_and_goes_down_whole() {
    let clone = Clone::new();
    let Some(_) = clone.up() else { return };
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

#[test]
fn the_front_door_leads_to_the_server_only_and_logs_no_session() {
    let clone = Clone::new();
    let Some(_) = clone.up() else { return };
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
    // Stopped, Traefik has written all it had to say.
    clone.succeeds("down");
    let log = fs::read_to_string(clone.root.path().join(".tally/logs/traefik.log")).unwrap();
    let seen = |line: &str| line.contains("\"request_X-Request-Id\":\"seen\"");
    assert!(
        log.lines()
            .any(|line| line.contains("/ws/chat/") && seen(line)),
        "{log}"
    );
    assert!(!log.contains(session));
}

#[test]
fn without_a_stack_the_verbs_say_how_to_start_one() {
    let clone = Clone::new();
    for verb in ["flip", "status", "logs"] {
        let output = clone.run(verb, server());
        assert_eq!(output.status.code(), Some(1));
        assert!(told(&output).contains("./just up"), "{}", told(&output));
    }
    let taken = TcpListener::bind(("127.0.0.1", clone.port)).unwrap();
    let output = clone.run("up", server());
    assert!(told(&output).contains("TALLY_PORT="), "{}", told(&output));
    drop(taken);
}
