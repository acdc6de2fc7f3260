//! The real server, ended by its id.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
};

use serde_json::Value;

pub struct Server {
    child: Child,
    pub public: SocketAddr,
    pub operator: SocketAddr,
}

impl Server {
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::start_at(anywhere, anywhere, settings)
    }

    /// In the place of one that has ended.
    pub fn start_at(public: SocketAddr, operator: SocketAddr, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(built())
            .env("TALLY_LISTEN", public.to_string())
            .env("TALLY_OPERATOR_LISTEN", operator.to_string())
            .env("TALLY_WORKERS", "1")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut listener = |name| {
            let mut records = lines.by_ref().map(|line| line.unwrap());
            let found = records.find_map(|line| {
                let record: Value = serde_json::from_str(&line).ok()?;
                (record["listener"] == name).then(|| record["address"].clone())
            });
            found.unwrap().as_str().unwrap().parse().unwrap()
        };
        let (public, operator) = (listener("public"), listener("operator"));
        // Somebody has to read what it logs, or it drops records.
        thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            public,
            operator,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// No goodbye.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended, whoever ends it.
    pub fn ended(&mut self) {
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server in the same profile as this test; built once.
fn built() -> &'static Path {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    SERVER.get_or_init(|| {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "--package", "tally-server"])
            .current_dir(workspace)
            .status();
        assert!(built.expect("cargo runs").success());
        Path::new(env!("CARGO_BIN_EXE_tally-loadtest")).with_file_name("tally-server")
    })
}
