//! Debian's Redis, started for one test.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(12);

pub struct Redis {
    folder: TempDir,
    address: SocketAddr,
    server: Option<Child>,
}

impl Redis {
    /// `None` where there is no Redis; says so.
    #[expect(clippy::print_stdout, reason = "a test that is skipped says why")]
    pub fn start() -> Option<Self> {
        let found = Command::new("redis-server").arg("--version").output();
        if found.is_err() {
            println!("skipped: there is no redis-server; apt-get install redis-server");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = port.local_addr().unwrap();
        drop(port);
        let mut redis = Self {
            folder: tempfile::tempdir().unwrap(),
            address,
            server: None,
        };
        redis.start_again();
        Some(redis)
    }

    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// With what it had.
    pub fn start_again(&mut self) {
        let server = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
            .args(["--port", &self.address.port().to_string()])
            .arg("--dir")
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .spawn();
        self.server = Some(server.expect("redis-server starts"));
        let deadline = Instant::now() + PATIENCE;
        while self
            .ask("PING")
            .is_none_or(|answer| !answer.contains("PONG"))
        {
            assert!(Instant::now() < deadline, "no answer from redis-server");
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// Forgets everything.
    pub fn wipe(&self) {
        let answer = self.ask("FLUSHALL");
        assert!(answer.is_some_and(|answer| answer.contains("OK")));
    }

    /// What it answers to a command, as it goes over the wire.
    pub fn ask(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
