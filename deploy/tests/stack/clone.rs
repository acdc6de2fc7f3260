//! A clone in miniature, and who talks to it.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::pki_types::CertificateDer;
use tungstenite::{Message, WebSocket, handshake::client::Response};

use crate::{
    certificates::{NAME, Stream, Trust, secure},
    engine::{Engine, docker},
};

/// Of a test with what must come, on a machine that may be busy.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A range for the next clone. A port that is free but somebody's, such as an idle colour's, would else
/// be picked by another clone now and then.
fn ports() -> String {
    const FIRST: u32 = 11_000;
    const CLONES: u32 = 650;
    const EACH: u32 = 32;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let place = (std::process::id() + TAKEN.fetch_add(1, Ordering::Relaxed)) % CLONES;
    let first = FIRST + place * EACH;
    format!("{first}-{}", first + EACH - 1)
}

pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// The server in the same profile as this test; built once.
pub fn server() -> &'static Path {
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

pub type Socket = WebSocket<Box<dyn Stream>>;

/// A clone in miniature; whatever was started in it is stopped at the end.
pub struct Clone {
    pub root: tempfile::TempDir,
    /// Where its front door is.
    pub host: Ipv4Addr,
    pub port: u16,
    /// Its other ports, which no other clone of this process is given.
    ports: String,
    pub engine: Engine,
    /// What the shell of every verb has set.
    pub settings: Vec<(&'static str, String)>,
    /// Whom the clients believe, where the front door is under TLS.
    pub trust: Option<Trust>,
}

impl Clone {
    pub fn new(engine: Engine) -> Self {
        let root = tempfile::tempdir().unwrap();
        for file in [
            "traefik/traefik.yml",
            "traefik/dynamic/services.yml",
            "deploy/compose/edge.yml",
            "deploy/compose/colour.yml",
            "deploy/compose/store.yml",
        ] {
            let copy = root.path().join(file);
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(workspace().join(file), copy).unwrap();
        }
        // The tools are installed once for all tests, where `up` would put them.
        let tools = workspace().join(".tools");
        fs::create_dir_all(&tools).unwrap();
        std::os::unix::fs::symlink(tools, root.path().join(".tools")).unwrap();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        Self {
            root,
            host: Ipv4Addr::LOCALHOST,
            port,
            ports: ports(),
            engine,
            settings: Vec::new(),
            trust: None,
        }
    }

    pub fn run(&self, verb: &str) -> Output {
        self.command(verb).output().unwrap()
    }

    /// Runs a verb with another server than that of the present sources.
    pub fn run_with(&self, verb: &str, (variable, server): (&str, String)) -> Output {
        let mut command = self.command(verb);
        command.env(variable, server).output().unwrap()
    }

    /// A verb with its options. A flip bakes no longer than it must, unless it says so.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tally-deploy"));
        command
            .arg("--root")
            .arg(self.root.path())
            .args(verb.split_whitespace())
            .env("ENGINE", self.engine.to_string())
            .env("TALLY_PORT", self.port.to_string())
            .env("TALLY_PORTS", &self.ports)
            // The tests of the monitoring have it; the others can do without its programs.
            .env("TALLY_MONITORING", "off")
            // No beat falls into the conversations of these tests, however long they take.
            .env("TALLY_HEARTBEAT", "1h")
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
        if verb == "up" || verb.starts_with("flip") {
            let (variable, server) = self.engine.server();
            command.env(variable, server);
        }
        if verb.starts_with("flip") && !verb.contains("--bake") {
            command.args(["--bake", "0s"]);
        }
        command
    }

    pub fn succeeds(&self, verb: &str) -> String {
        let output = self.run(verb);
        let told = told(&output);
        assert!(output.status.success(), "{verb}: {told}");
        told
    }

    /// Brings the stack up; none where this machine lacks what that needs, which is then told.
    pub fn up(&self) -> Option<String> {
        self.up_with(&[])
    }

    /// The same with some variables set.
    #[expect(
        clippy::print_stdout,
        reason = "a skipped test says so on standard output"
    )]
    pub fn up_with(&self, variables: &[(&str, &str)]) -> Option<String> {
        if let Some(lack) = self.engine.lacks() {
            println!("skipped: {lack}");
            return None;
        }
        let mut up = self.command("up");
        let output = up.envs(variables.iter().copied()).output().unwrap();
        let told = told(&output);
        if told.contains("the tools cannot be installed") {
            println!("skipped: {}", told.lines().last().unwrap_or_default());
            return None;
        }
        assert!(output.status.success(), "up: {told}");
        Some(told)
    }

    /// Runs a verb, and does something once it has printed a line with `needle` in it; `act` gets
    /// the process's id. Returns the exit code, if any, and all that was told.
    pub fn watch(&self, verb: &str, needle: &str, act: impl FnOnce(u32)) -> (Option<i32>, String) {
        let mut command = self.command(verb);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut act = Some(act);
        let mut told = String::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if line.contains(needle)
                && let Some(act) = act.take()
            {
                act(child.id());
            }
            told += &(line + "\n");
        }
        let output = child.wait_with_output().unwrap();
        told += &String::from_utf8_lossy(&output.stderr);
        assert!(act.is_none(), "{needle:?} was never printed: {told}");
        (output.status.code(), told)
    }

    /// A stack on an engine, up; none where this machine lacks what that needs.
    pub fn upped(engine: Engine) -> Option<Self> {
        let clone = Self::new(engine);
        clone.up().map(|_| clone)
    }

    /// The name of a container.
    pub fn container(&self, name: &str) -> String {
        format!("{}-{name}", self.record()["name"].as_str().unwrap())
    }

    /// What `up` decided.
    pub fn record(&self) -> serde_json::Value {
        let text = fs::read_to_string(self.root.path().join(".tally/stack.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// A word with this clone's supervisord.
    pub fn supervisor(&self, arguments: &[&str]) -> String {
        let output = Command::new(self.root.path().join(".tools/venv/bin/supervisorctl"))
            .args(["-c", "supervisord.conf"])
            .args(arguments)
            .current_dir(self.root.path().join(".tally"))
            .output();
        told(&output.unwrap()).trim().to_owned()
    }

    /// Whatever runs in this clone: every process of a stack works in its folder.
    pub fn processes(&self) -> Vec<PathBuf> {
        if self.engine == Engine::Docker {
            let name = self.record()["name"].clone();
            let ours = format!("--filter=label=tally.stack={}", name.as_str().unwrap());
            let names = docker(&["ps", &ours, "--format={{.Names}}"]).unwrap();
            return names.lines().map(PathBuf::from).collect();
        }
        let folder = self.root.path().canonicalize().unwrap().join(".tally");
        let works_here = |process: &PathBuf| {
            fs::read_link(process.join("cwd")).is_ok_and(|found| found == folder)
        };
        let entries = fs::read_dir("/proc").unwrap();
        let processes = entries.filter_map(|entry| Some(entry.ok()?.path()));
        processes.filter(works_here).collect()
    }

    /// A killed process takes a moment to go.
    pub fn wait_for_processes(&self, count: usize) {
        let began = Instant::now();
        while self.processes().len() != count {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.processes());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The status of a GET through the front door.
    pub fn get(&self, path: &str) -> String {
        self.ask(self.open().unwrap(), path)
    }

    /// The same over plain TCP, whatever the front door is under.
    pub fn get_plainly(&self, path: &str) -> String {
        self.ask(self.tcp().unwrap(), path)
    }

    fn ask(&self, mut stream: impl Stream, path: &str) -> String {
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: tally\r\nX-Request-Id: seen\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        // Traefik ends a connection under TLS without saying so there.
        let _ = stream.read_to_string(&mut answer);
        answer
            .split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    }

    fn tcp(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((self.host, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(stream)
    }

    fn open(&self) -> io::Result<Box<dyn Stream>> {
        let stream = self.tcp()?;
        Ok(match &self.trust {
            None => Box::new(stream),
            Some(trust) => Box::new(secure(stream, trust)?),
        })
    }

    pub fn connect(&self) -> Result<(Socket, Response), String> {
        self.shake_hands("")
    }

    /// Shakes hands with a session of before.
    pub fn come_back(&self, session: &str) -> Result<(Socket, Response), String> {
        self.shake_hands(&format!("?session={session}"))
    }

    fn shake_hands(&self, query: &str) -> Result<(Socket, Response), String> {
        let stream = self.open().map_err(|error| error.to_string())?;
        let scheme = if self.trust.is_some() { "wss" } else { "ws" };
        let url = format!("{scheme}://{NAME}:{}/ws/chat/{query}", self.port);
        tungstenite::client(url, stream).map_err(|error| error.to_string())
    }

    /// The certificate that the front door shows.
    pub fn leaf(&self) -> CertificateDer<'static> {
        let trust = self.trust.as_ref().expect("it is under TLS");
        let stream = secure(self.tcp().unwrap(), trust).unwrap();
        let chain = stream.conn.peer_certificates().unwrap();
        chain[0].clone().into_owned()
    }

    /// The colour that the router's file names, once Traefik leads there.
    pub fn settled(&self) -> String {
        let file = self.root.path().join("traefik/dynamic/router.yml");
        let began = Instant::now();
        loop {
            let text = fs::read_to_string(&file).unwrap();
            let colour = self.colour();
            let named = text
                .split_once("service: tally-")
                .and_then(|(_, rest)| rest.lines().next());
            // In the bake the service is named for the colour that goes first.
            let named = named.map(|name| name.trim_end_matches("-first"));
            if named == Some(colour.as_str()) {
                return colour;
            }
            assert!(began.elapsed() < PATIENCE, "{colour}, {text}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn colour(&self) -> String {
        let (_, response) = self.connect().expect("somebody answers");
        response.headers()["x-colour"].to_str().unwrap().to_owned()
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        let name =
            self.engine == Engine::Docker && self.root.path().join(".tally/stack.json").exists();
        let name = name.then(|| self.record()["name"].as_str().unwrap().to_owned());
        // Whoever retires a colour that was kept warm may hold the lock for a moment.
        let began = Instant::now();
        while !self.run("down").status.success() && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(100));
        }
        // `down` keeps what a person may want to come back to.
        if let Some(name) = name {
            for colour in ["blue", "green"] {
                let _ = docker(&["rmi", &format!("{name}/{colour}:deployed")]);
            }
            for volume in ["state", "store", "otelcol"] {
                let _ = docker(&["volume", "rm", &format!("{name}-{volume}")]);
            }
        }
    }
}

pub fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Handshakes and counts without pause until told to stop; every failure counts. Only on a colour
/// that `dies` may a conversation end without an answer.
pub fn talk_until(
    clone: &Clone,
    dies: Option<&str>,
    over: &AtomicBool,
    handshakes: &AtomicU64,
) -> Vec<String> {
    let mut failures = Vec::new();
    while !over.load(Ordering::Relaxed) {
        match clone.connect() {
            Err(error) => failures.push(error),
            Ok((mut socket, response)) => {
                handshakes.fetch_add(1, Ordering::Relaxed);
                let sent = socket.send(Message::text("x"));
                match sent.and_then(|()| socket.read()) {
                    Ok(Message::Text(answer)) if answer == "{\"count\":1}" => {}
                    // The drain may come first; the bye then tells that nothing was counted.
                    Ok(Message::Text(bye)) if bye == "{\"bye\":true,\"total\":0}" => {}
                    Err(_) if dies.is_some_and(|dies| response.headers()["x-colour"] == *dies) => {}
                    other => failures.push(format!("{other:?}")),
                }
            }
        }
    }
    failures
}

/// Talks through the front door while something happens to the stack: one client that shakes hands
/// all the time, and one that stays on its socket and must find every count right.
///
/// # Panics
/// A handshake failed, a count was wrong, or the client that stays was sent away.
pub fn talking<T>(clone: &Clone, act: impl FnOnce() -> T) -> T {
    let (outcome, byes) = moving(clone, act);
    assert_eq!(byes, 0, "nobody is sent away");
    outcome
}

/// The same where clients may be sent away, with the right total; says how often that was.
pub fn moving<T>(clone: &Clone, act: impl FnOnce() -> T) -> (T, usize) {
    watched(clone, None, act)
}

/// The same where one colour dies: whoever talks to it just then is cut off, and nobody else.
pub fn surviving<T>(clone: &Clone, dies: &str, act: impl FnOnce() -> T) -> (T, usize) {
    watched(clone, Some(dies), act)
}

fn watched<T>(clone: &Clone, dies: Option<&str>, act: impl FnOnce() -> T) -> (T, usize) {
    let over = AtomicBool::new(false);
    let handshakes = AtomicU64::new(0);
    thread::scope(|scope| {
        let comes = scope.spawn(|| talk_until(clone, dies, &over, &handshakes));
        let stays = scope.spawn(|| stay_until(clone, &over));
        let outcome = act();
        over.store(true, Ordering::Relaxed);
        assert_eq!(comes.join().unwrap(), Vec::<String>::new());
        assert!(handshakes.load(Ordering::Relaxed) > 0);
        (outcome, stays.join().unwrap())
    })
}

/// Counts on one socket, and on another one after each goodbye.
fn stay_until(clone: &Clone, over: &AtomicBool) -> usize {
    let mut byes = 0;
    loop {
        let (mut socket, _) = clone.connect().unwrap();
        for count in 1_u64.. {
            if over.load(Ordering::Relaxed) {
                return byes;
            }
            let sent = socket.send(Message::text("x"));
            let answer = socket.read().unwrap().to_string();
            if sent.is_ok() && answer == format!("{{\"count\":{count}}}") {
                thread::sleep(Duration::from_millis(5));
            } else {
                let total = count - 1;
                assert_eq!(answer, format!("{{\"bye\":true,\"total\":{total}}}"));
                byes += 1;
                break;
            }
        }
    }
}

/// Sends a signal by name.
pub fn signal(name: &str, process: u32) {
    let sent = Command::new("kill")
        .args([format!("-{name}"), process.to_string()])
        .status();
    assert!(sent.unwrap().success());
}
