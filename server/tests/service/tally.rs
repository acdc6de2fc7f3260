//! The real process: started with settings of its own, its log read line by line, ended by its id.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::client::{Client, Request};

/// Longer than anything that is waited for takes.
pub const PATIENCE: Duration = Duration::from_secs(12);

/// The server as it is built for the tests.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_tally-server");

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<Value>>,
    grown: Condvar,
}

pub struct Tally {
    child: Child,
    log: Arc<Log>,
    pub public: SocketAddr,
    pub operator: SocketAddr,
    /// From exec to the second `listening` line.
    pub started_in: Duration,
}

impl Tally {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts the server with these settings beside the defaults.
    pub fn with(settings: &[(&str, &str)]) -> Self {
        Self::of(Path::new(PROGRAM), settings)
    }

    /// Starts a build of the server.
    pub fn of(program: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command.envs(settings.iter().copied());
        Self::spawn(command)
    }

    /// Starts the server with a limit of open files.
    pub fn with_files(limit: u32, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("ulimit -n {limit}; exec \"$0\"")])
            .arg(PROGRAM)
            .envs(settings.iter().copied());
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let began = Instant::now();
        let mut child = command
            .env("TALLY_LISTEN", "127.0.0.1:0")
            .env("TALLY_OPERATOR_LISTEN", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let log = Arc::new(Log::default());
        let (reader, kept) = (child.stdout.take().expect("piped"), log.clone());
        thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                let record = serde_json::from_str(&line)
                    .unwrap_or_else(|_| panic!("a log line is no JSON: {line}"));
                kept.lines.lock().unwrap().push(record);
                kept.grown.notify_all();
            }
        });
        let mut tally = Self {
            child,
            log,
            public: ([127, 0, 0, 1], 0).into(),
            operator: ([127, 0, 0, 1], 0).into(),
            started_in: Duration::ZERO,
        };
        tally.public = tally.listener("public");
        tally.operator = tally.listener("operator");
        tally.started_in = began.elapsed();
        tally
    }

    fn listener(&self, name: &str) -> SocketAddr {
        let line = self.wait_for(|line| line["event"] == "listening" && line["listener"] == name);
        line["address"].as_str().unwrap().parse().unwrap()
    }

    /// The first log line that fits, now or later.
    pub fn wait_for(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| fits(line)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no such log line among {lines:#?}");
            lines = self.log.grown.wait_timeout(lines, left).unwrap().0;
        }
    }

    pub fn wait_for_event(&self, event: &str) -> Value {
        self.wait_for(|line| line["event"] == event)
    }

    pub fn log_lines(&self) -> Vec<Value> {
        self.log.lines.lock().unwrap().clone()
    }

    pub fn connect(&self) -> Client {
        self.connect_with(Request::new())
    }

    pub fn resume(&self, session: &str) -> Client {
        self.connect_with(Request::new().query(&format!("session={session}")))
    }

    pub fn connect_with(&self, request: Request) -> Client {
        let client = Client::open(self.public, &request);
        assert_eq!(client.status, 101, "{:?}", client.headers);
        client
    }

    /// Shakes hands and returns the refusal.
    pub fn refused(&self, request: Request) -> Client {
        let client = Client::open(self.public, &request);
        assert_ne!(client.status, 101);
        client
    }

    pub fn metrics(&self) -> String {
        self.get(self.operator, "/metrics").1
    }

    /// The value of a series, such as `tally_errors_total{kind="hub"}`.
    pub fn metric(&self, series: &str) -> f64 {
        let metrics = self.metrics();
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("no series {series} in\n{metrics}"))
    }

    /// Waits until a series has a value.
    pub fn wait_for_metric(&self, series: &str, value: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.metric(series);
            if (found - value).abs() < 1e-9 {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{series} is {found}, not {value}"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn get(&self, address: SocketAddr, path: &str) -> (u16, String) {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .new_agent();
        let mut response = agent
            .get(format!("http://{address}{path}"))
            .call()
            .expect("an answer");
        let status = response.status().as_u16();
        (status, response.body_mut().read_to_string().unwrap())
    }

    /// Resident memory, bytes.
    pub fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        let kilobytes = line.split_whitespace().nth(1).unwrap();
        kilobytes.parse::<u64>().unwrap() * 1024
    }

    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill")
            .args(["-s", signal, &self.child.id().to_string()])
            .status();
        assert!(done.expect("kill runs").success());
    }

    pub fn wait_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
