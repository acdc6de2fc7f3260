//! A peer while it is measured; ended by its id.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use crate::{
    command::{end, last_words, spawn},
    peer::Kind,
    prepare::Ready,
};

/// Python takes a second or two.
const START_MAX: Duration = Duration::from_secs(20);

/// For what is left to do after the last measurement.
const END_MAX: Duration = Duration::from_secs(15);

const PAUSE: Duration = Duration::from_millis(20);

pub struct Server {
    child: Child,
    pub port: u16,
}

impl Server {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// It does not.
    pub fn start(ready: &Ready, heartbeat: Duration, log: &Path) -> Result<Self, String> {
        let port = free_port()?;
        let child = spawn(&mut command(ready, port, heartbeat), log)?;
        let mut server = Self { child, port };
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if Instant::now() > deadline || server.has_ended() {
                return Err(format!("it does not listen: {}", last_words(log)));
            }
            thread::sleep(PAUSE);
        }
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Once it was told to end. A peer that does not listen to that is killed.
    pub fn wait(mut self) {
        end(&mut self.child, END_MAX);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One thread for what the service does, whatever the language calls it.
fn command(ready: &Ready, port: u16, heartbeat: Duration) -> Command {
    let milliseconds = heartbeat.as_millis().to_string();
    let mut command = Command::new(&ready.program);
    if ready.peer.kind == Kind::Tally {
        command.env("TALLY_LISTEN", format!("127.0.0.1:{port}"));
        command.env("TALLY_OPERATOR_LISTEN", "127.0.0.1:0");
        command.env("TALLY_WORKERS", "1");
        command.env("TALLY_HEARTBEAT", format!("{milliseconds}ms"));
    } else {
        command
            .args(&ready.arguments)
            .arg(port.to_string())
            .arg(&milliseconds);
        command.env("GOMAXPROCS", "1");
    }
    command
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    Ok(address.map_err(|error| error.to_string())?.port())
}
