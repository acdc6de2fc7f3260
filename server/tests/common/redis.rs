//! Debian's Redis, started by the test.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

const START_MAX: Duration = Duration::from_secs(10);

pub struct RedisServer {
    address: SocketAddr,
    directory: TempDir,
    process: Option<Child>,
}

impl RedisServer {
    /// `None` where there is no such program, after a line that says so.
    pub fn start() -> Option<Self> {
        let version = Command::new("redis-server").arg("--version").output();
        if let Err(error) = version {
            eprintln!(
                "skipped: redis-server cannot be run ({error}); sudo apt-get install redis-server"
            );
            return None;
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut server = Self {
            address: port.local_addr().unwrap(),
            directory: TempDir::new().unwrap(),
            process: None,
        };
        drop(port);
        server.restart();
        Some(server)
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Goes at once, and keeps what is in its log.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// With what it had.
    pub fn restart(&mut self) {
        self.kill();
        self.process = Some(run(self.address.port(), self.directory.path()));
        let begun = Instant::now();
        while !matches!(self.try_command(&["PING"]), Ok(pong) if pong.starts_with("+PONG")) {
            assert!(begun.elapsed() < START_MAX, "redis-server does not answer");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Forgets everything.
    pub fn wipe(&self) {
        self.command(&["FLUSHALL"]);
    }

    /// It takes connections and words, and does nothing for that long.
    pub fn pause(&self, length: Duration) {
        let seconds = format!("{:.1}", length.as_secs_f64());
        let mut socket = TcpStream::connect(self.address).unwrap();
        let sleep = format!("DEBUG SLEEP {seconds}\r\n");
        socket.write_all(sleep.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(50));
    }

    /// What it answers, as it comes: tests look for words in it.
    pub fn command(&self, words: &[&str]) -> String {
        let answer = self.try_command(words).unwrap();
        assert!(!answer.starts_with('-'), "{words:?}: {answer}");
        answer
    }

    fn try_command(&self, words: &[&str]) -> std::io::Result<String> {
        let mut socket = TcpStream::connect(self.address)?;
        write!(socket, "*{}\r\n", words.len())?;
        for word in words {
            write!(socket, "${}\r\n{word}\r\n", word.len())?;
        }
        socket.write_all(b"*1\r\n$4\r\nQUIT\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(port: u16, directory: &Path) -> Child {
    Command::new("redis-server")
        .args([
            "--bind",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--save",
            "",
        ])
        .args([
            "--enable-debug-command",
            "local",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--dir",
        ])
        .arg(directory)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
