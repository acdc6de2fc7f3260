//! Ways from this machine to ports of pods: a `kubectl port-forward` each, kept until nobody needs it.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader},
    process::{Child, Command},
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::cluster::Cluster;
use crate::error::{Error, Result};

/// Until kubectl says where it listens.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// A way whose user was killed closes by itself; one that is still needed is opened again.
const LIFE_S: &str = "3600";

/// Kubectl says it before anything else.
const OPENED: &str = "Forwarding from ";

#[derive(Default)]
pub struct Forwards(Mutex<HashMap<(String, u16), Forward>>);

impl Forwards {
    /// The address of this machine that leads to a port of a pod.
    ///
    /// # Errors
    /// There is no way there.
    pub fn to(&self, cluster: &Cluster, pod: &str, port: u16) -> Result<String> {
        let mut open = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        open.retain(|_, forward| forward.lives());
        let key = (pod.to_owned(), port);
        if let Some(forward) = open.get(&key) {
            return Ok(forward.address.clone());
        }
        let forward = Forward::open(cluster, pod, port)?;
        let address = forward.address.clone();
        open.insert(key, forward);
        Ok(address)
    }
}

struct Forward {
    child: Child,
    address: String,
}

impl Forward {
    fn open(cluster: &Cluster, pod: &str, port: u16) -> Result<Self> {
        let failed = |reason: String| Error::Command {
            command: format!("kubectl port-forward pod/{pod} :{port}"),
            reason,
        };
        let (reader, writer) = io::pipe().map_err(|error| failed(error.to_string()))?;
        let complaints = writer.try_clone();
        let mut kubectl = Command::new("timeout");
        kubectl.args([LIFE_S, "kubectl"]);
        cluster.aim(&mut kubectl);
        kubectl
            .args(["port-forward", "--address=127.0.0.1"])
            .args([format!("pod/{pod}"), format!(":{port}")])
            .stdout(writer)
            .stderr(complaints.map_err(|error| failed(error.to_string()))?);
        let child = kubectl.spawn().map_err(|error| failed(error.to_string()))?;
        // It holds the writing ends of the pipe, which would never be at its end.
        drop(kubectl);
        let mut forward = Self {
            child,
            address: String::new(),
        };
        let (said, first) = mpsc::channel();
        // It has something to say about each connection, and would stop at a pipe that is full.
        thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(io::Result::ok) {
                let _ = said.send(line);
            }
        });
        let first = first
            .recv_timeout(OPEN_TIMEOUT)
            .map_err(|error| failed(error.to_string()))?;
        forward.address = first
            .strip_prefix(OPENED)
            .and_then(|rest| rest.split_whitespace().next())
            .ok_or_else(|| failed(first.clone()))?
            .to_owned();
        Ok(forward)
    }

    fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Forward {
    /// Asked to end, `timeout` takes its kubectl along.
    fn drop(&mut self) {
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if self.lives()
            && let Some(process) = process
        {
            let _ = kill_process(process, Signal::TERM);
            let _ = self.child.wait();
        }
    }
}
