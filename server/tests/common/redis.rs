//! Debian's Redis, started by the test: one server, or a cluster of three.

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
    /// What it is told beside the usual.
    options: Vec<String>,
    directory: TempDir,
    process: Option<Child>,
}

/// Whether there is such a program; says so where there is none.
fn is_here() -> bool {
    match Command::new("redis-server").arg("--version").output() {
        Ok(_) => true,
        Err(error) => {
            eprintln!(
                "skipped: redis-server cannot be run ({error}); sudo apt-get install redis-server"
            );
            false
        }
    }
}

impl RedisServer {
    /// `None` where there is no such program, after a line that says so.
    pub fn start() -> Option<Self> {
        is_here().then(|| Self::start_with(Vec::new()))
    }

    fn start_with(options: Vec<String>) -> Self {
        let mut server = Self {
            address: free_address(),
            options,
            directory: TempDir::new().unwrap(),
            process: None,
        };
        server.restart();
        server
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
        let running = run(self.address.port(), self.directory.path(), &self.options);
        self.process = Some(running);
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

/// Two masters with half of the keys each, and a replica of the first, which can take its place.
pub struct RedisCluster {
    nodes: [RedisServer; 3],
}

const SLOTS: [(&str, &str); 2] = [("0", "8191"), ("8192", "16383")];

impl RedisCluster {
    /// `None` where there is no such program, after a line that says so.
    pub fn start() -> Option<Self> {
        if !is_here() {
            return None;
        }
        let node = |_| {
            let bus = free_address().port().to_string();
            let words = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
            let words = words.into_iter().chain(["--cluster-port", &bus]);
            (
                RedisServer::start_with(words.map(str::to_owned).collect()),
                bus,
            )
        };
        let nodes = [(); 3].map(node);
        let [(first, _), others @ ..] = &nodes;
        for (node, bus) in others {
            let (host, port) = ("127.0.0.1", node.address.port().to_string());
            first.command(&["CLUSTER", "MEET", host, &port, bus]);
        }
        for ((node, _), (from, to)) in nodes.iter().zip(SLOTS) {
            node.command(&["CLUSTER", "ADDSLOTSRANGE", from, to]);
        }
        let cluster = Self {
            nodes: nodes.map(|(node, _)| node),
        };
        cluster.follow(2, 0);
        cluster.wait_until_whole();
        Some(cluster)
    }

    pub fn url(&self) -> String {
        let nodes = self.nodes.iter().map(|node| node.address.to_string());
        format!("redis-cluster://{}", nodes.collect::<Vec<_>>().join(","))
    }

    /// Makes one the replica of another, once it knows of it.
    fn follow(&self, replica: usize, master: usize) {
        let id = self.nodes[master].command(&["CLUSTER", "MYID"]);
        let id = id.lines().nth(1).unwrap().to_owned();
        let replica = &self.nodes[replica];
        wait_for("they meet", || {
            let told = replica.try_command(&["CLUSTER", "REPLICATE", &id]);
            told.is_ok_and(|told| told.starts_with("+OK"))
        });
    }

    /// All keys have a master, everybody knows it, and the replica has what its master has.
    fn wait_until_whole(&self) {
        wait_for("the cluster is whole", || {
            let alive = self.nodes.iter().filter(|node| node.process.is_some());
            let mut whole = true;
            let mut replicas = 0;
            for node in alive {
                whole &= node
                    .command(&["CLUSTER", "INFO"])
                    .contains("cluster_state:ok");
                let role = node.command(&["INFO", "replication"]);
                let follows = role.contains("role:slave");
                replicas += u32::from(follows);
                whole &= !follows || role.contains("master_link_status:up");
            }
            whole && replicas == 1
        });
    }

    pub fn wipe(&self) {
        for node in &self.nodes {
            let role = node.command(&["INFO", "replication"]);
            if role.contains("role:master") {
                node.wipe();
            }
        }
    }

    pub fn wipe_first_master(&self) {
        self.nodes[0].wipe();
    }

    /// Half of the keys have no master any more.
    pub fn kill_first_master(&mut self) {
        // What it has acknowledged is on its replica, too: how much may be missing there is for
        // Redis to say.
        let told = self.nodes[0].command(&["WAIT", "1", "5000"]);
        assert!(told.starts_with(":1"), "{told}");
        self.nodes[0].kill();
    }

    /// Its replica takes its place.
    pub fn promote_replica(&self) {
        self.nodes[2].command(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
        wait_for("the others know", || {
            let told = self.nodes[1].command(&["CLUSTER", "INFO"]);
            told.contains("cluster_state:ok") && told.contains("cluster_slots_ok:16384")
        });
    }

    /// It follows who has taken its place.
    pub fn bring_first_back(&mut self) {
        self.nodes[0].restart();
        self.wait_until_whole();
    }
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !there() {
        assert!(begun.elapsed() < START_MAX, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_address() -> SocketAddr {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    port.local_addr().unwrap()
}

fn run(port: u16, directory: &Path, options: &[String]) -> Child {
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
        .args(options)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
