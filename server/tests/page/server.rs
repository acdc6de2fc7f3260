//! The real server process, and a cable to it that can be cut.

use std::{
    io::{self, BufRead, BufReader},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const START_TIMEOUT: Duration = Duration::from_secs(20);

pub struct Server {
    process: Child,
    pub address: SocketAddr,
}

impl Server {
    pub fn start() -> Self {
        Self::start_on("127.0.0.1:0")
    }

    pub fn start_on(address: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tally-server"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TALLY_")) {
            command.env_remove(name);
        }
        let mut process = command
            .env("TALLY_LISTEN", address)
            .env("TALLY_OPERATOR_LISTEN", "127.0.0.1:0")
            .env("TALLY_WORKERS", "1")
            .env("TALLY_HEARTBEAT", "300ms")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let address = public_address(&mut process);
        Self { process, address }
    }

    pub fn page(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// SIGKILL: no goodbye.
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGTERM, then waits for the end.
    pub fn terminate(mut self) {
        self.signal(Signal::TERM);
        let status = self.process.wait().expect("the server's status");
        assert!(status.success(), "{status}");
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("the server runs");
    }

    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads the log to the line that tells the address, and goes on reading in a thread: a full pipe
/// is not what these tests are about.
fn public_address(process: &mut Child) -> SocketAddr {
    let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let record: Value = serde_json::from_str(&line).unwrap_or_default();
            if record["event"] == "listening" && record["listener"] == "public" {
                let _ = tell.send(record["address"].as_str().map(str::to_owned));
            }
        }
    });
    let address = told.recv_timeout(START_TIMEOUT).expect("a line in the log");
    address.and_then(|a| a.parse().ok()).expect("an address")
}

/// Forwards connections to the server until it is cut.
pub struct Cable {
    pub address: SocketAddr,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cable {
    pub fn to(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let ends = Arc::new(Mutex::new(Vec::new()));
        let kept = ends.clone();
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(server) else {
                    continue; // Dropping `near` closes it.
                };
                if let Ok(pair) = forward(near, far) {
                    kept.lock().expect("no panic").extend(pair);
                }
            }
        });
        Ok(Self { address, ends })
    }

    /// Ends all connections without a word of WebSocket; new ones are let through.
    pub fn cut(&self) {
        for end in self.ends.lock().expect("no panic").drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

fn forward(near: TcpStream, far: TcpStream) -> io::Result<[TcpStream; 2]> {
    let pair = [near.try_clone()?, far.try_clone()?];
    pump(near.try_clone()?, far.try_clone()?);
    pump(far, near);
    Ok(pair)
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}
