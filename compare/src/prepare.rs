//! Installs and builds the peers, all under `target/`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    command::{first_line, run},
    peer::{Kind, Peer},
};

/// A link-time optimised build on a small machine takes minutes.
const BUILD_MAX: Duration = Duration::from_secs(30 * 60);

/// Where everything is.
pub struct Folders {
    pub root: PathBuf,
    pub target: PathBuf,
}

/// A peer that can be started, with a port and the heartbeat in milliseconds behind this.
#[derive(Clone, Debug)]
pub struct Ready {
    pub peer: Peer,
    pub program: PathBuf,
    pub arguments: Vec<PathBuf>,
    pub version: String,
}

impl Folders {
    fn sources(&self) -> PathBuf {
        self.root.join("compare/peers")
    }

    fn peers(&self) -> PathBuf {
        self.target.join("peers")
    }

    pub fn results(&self) -> PathBuf {
        self.target.join("compare")
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.results().join(format!("{name}.log"))
    }

    pub fn release(&self, program: &str) -> PathBuf {
        self.target.join("release").join(program)
    }
}

/// # Errors
/// Why it has to be left out, and how it could come in.
pub fn prepare(folders: &Folders, peer: Peer) -> Result<Ready, String> {
    let log = folders.log(&format!("build-{}", peer.name));
    match peer.kind {
        Kind::Tally => tally(folders, peer, &log),
        Kind::Rust(package) => rust(folders, peer, package, &log),
        Kind::Go(folder) => go(folders, peer, folder, &log),
        Kind::Node => node(folders, peer, &log),
        Kind::Channels => channels(folders, peer, &log),
    }
}

fn tally(folders: &Folders, peer: Peer, log: &Path) -> Result<Ready, String> {
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--locked"]);
    build.args(["--package", "tally-server", "--package", "tally-loadtest"]);
    build.arg("--target-dir").arg(&folders.target);
    run(build.current_dir(&folders.root), log, BUILD_MAX)?;
    Ok(Ready {
        peer,
        program: folders.release("tally-server"),
        arguments: Vec::new(),
        version: env!("CARGO_PKG_VERSION").into(),
    })
}

fn rust(folders: &Folders, peer: Peer, package: &str, log: &Path) -> Result<Ready, String> {
    let sources = folders.sources().join("rust");
    let target = folders.peers().join("rust");
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--locked", "--package", package]);
    build.arg("--target-dir").arg(&target);
    // For uWebSockets: its makefile makes objects for gcc's linker alone, and Rust may use another.
    build.env("CC", "cc -ffat-lto-objects");
    build.env("CXX", "c++ -ffat-lto-objects");
    run(build.current_dir(&sources), log, BUILD_MAX).map_err(|error| {
        let needs = "apt-get install build-essential libclang-dev libuv1-dev libssl-dev zlib1g-dev";
        match peer.name {
            "uws" => format!("{error}; it needs: {needs}"),
            _ => error,
        }
    })?;
    Ok(Ready {
        peer,
        program: target.join("release").join(package),
        arguments: Vec::new(),
        version: locked_crate(&sources, peer.name),
    })
}

/// The version of the crate that the peer is there for.
fn locked_crate(sources: &Path, name: &str) -> String {
    let package = match name {
        "uws" => "uwebsockets_rs",
        "actix" => "actix-web-actors",
        "axum" => "axum",
        _ => return String::new(),
    };
    let lock = fs::read_to_string(sources.join("Cargo.lock")).unwrap_or_default();
    let start = format!("name = \"{package}\"\nversion = \"");
    let version = lock
        .split_once(&start)
        .and_then(|(_, rest)| rest.split_once('"'));
    version.map_or_else(String::new, |(version, _)| version.to_owned())
}

fn go(folders: &Folders, peer: Peer, folder: &str, log: &Path) -> Result<Ready, String> {
    let toolchain =
        first_line("go", "version").ok_or("go is missing; install it: apt-get install golang")?;
    let program = folders.peers().join("go").join(folder);
    let mut build = Command::new("go");
    build
        .args(["build", "-o"])
        .arg(&program)
        .arg(format!("./{folder}"));
    let sources = folders.sources().join("go");
    run(build.current_dir(&sources), log, BUILD_MAX)?;
    let modules = fs::read_to_string(sources.join("go.mod")).unwrap_or_default();
    let library = match folder {
        "gws" => "lxzan/gws ",
        _ => "gorilla/websocket ",
    };
    let version = modules
        .split(library)
        .nth(1)
        .and_then(|rest| rest.lines().next());
    Ok(Ready {
        peer,
        program,
        arguments: Vec::new(),
        version: format!(
            "{}, {}",
            version.unwrap_or_default(),
            toolchain.replace("go version ", "")
        ),
    })
}

fn node(folders: &Folders, peer: Peer, log: &Path) -> Result<Ready, String> {
    let missing = "node and npm are missing; install them: apt-get install nodejs npm";
    let toolchain = first_line("node", "--version").ok_or(missing)?;
    first_line("npm", "--version").ok_or(missing)?;
    let folder = folders.peers().join("node");
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    // Copied, because node looks for modules beside the script and above it.
    for file in ["package.json", "package-lock.json", "server.mjs"] {
        let source = folders.sources().join("node").join(file);
        fs::copy(&source, folder.join(file)).map_err(|error| format!("{file}: {error}"))?;
    }
    let mut install = Command::new("npm");
    install.args(["ci", "--no-audit", "--no-fund"]);
    run(install.current_dir(&folder), log, BUILD_MAX)?;
    let package = fs::read_to_string(folder.join("package.json")).unwrap_or_default();
    let version = package
        .split("\"ws\": \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    Ok(Ready {
        peer,
        program: "node".into(),
        arguments: vec![folder.join("server.mjs")],
        version: format!("{}, node {toolchain}", version.unwrap_or_default()),
    })
}

fn channels(folders: &Folders, peer: Peer, log: &Path) -> Result<Ready, String> {
    let missing = "python3 with venv is missing; install it: apt-get install python3 python3-venv";
    let toolchain = first_line("python3", "--version").ok_or(missing)?;
    let folder = folders.peers().join("channels");
    let mut create = Command::new("python3");
    let create = create.args(["-m", "venv"]).arg(&folder);
    run(create, log, BUILD_MAX).map_err(|error| format!("{error}; {missing}"))?;
    let sources = folders.sources().join("channels");
    let requirements = sources.join("requirements.txt");
    let mut install = Command::new(folder.join("bin/pip"));
    install.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--requirement",
    ]);
    run(install.arg(&requirements), log, BUILD_MAX)?;
    let versions = fs::read_to_string(&requirements).unwrap_or_default();
    let version = |package: &str| versions.lines().find(|line| line.starts_with(package));
    let [channels, uvicorn] =
        ["channels", "uvicorn"].map(|package| version(package).unwrap_or_default());
    Ok(Ready {
        peer,
        program: folder.join("bin/python"),
        arguments: vec![sources.join("server.py")],
        version: format!("{channels}, {uvicorn}, {toolchain}").replace("==", " "),
    })
}
