//! The Docker engine: a container for each colour and one for Traefik, on networks of their own.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
    time::Duration,
};

use chrono::Utc;

use crate::{
    colour::Colour,
    command,
    engine::{BUILD_TIMEOUT, Engine, Kind, Process, STOP_TIMEOUT},
    error::{Error, Result},
    monitoring::{self, Containers, Host},
    settings, sources,
    stack::Stack,
    store::{self, Store},
    terminal::show,
    traefik::{self, Place},
    wait,
};

/// One word with the engine.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// An image that is pulled may have a slow line.
pub const PULL_TIMEOUT: Duration = Duration::from_secs(600);

/// Beside the time that a process may take to end.
pub const ENGINE_SLACK: Duration = Duration::from_secs(20);

/// Marks containers and images as this stack's.
const LABEL: &str = "tally.stack";

/// Where Traefik's container has what it reads.
const CONFIGURATION: &str = "/etc/traefik";

/// In the colours' containers; nothing publishes it.
pub const OPERATOR_PORT: u16 = 9000;

const TRAEFIK: &str = "traefik";

/// To read its file again: seconds for the most that it holds, on a slow disk.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// The container of the sessions, its project and its volume.
const STORE: &str = "store";

pub struct Docker {
    stack: Stack,
}

/// Whether there is an engine to talk to, with Compose.
pub fn answers() -> bool {
    check().is_ok()
}

/// Returns the engine's version and that of Compose.
fn check() -> Result<String> {
    let ask = |arguments: &[&str], cure| {
        docker(arguments, TIMEOUT).map_err(|source| Error::Missing {
            source: Box::new(source),
            cure,
        })
    };
    let engine = ask(
        &["version", "--format={{.Server.Version}}"],
        "start the engine (systemctl start docker) or use ENGINE=native",
    )?;
    let compose = ask(
        &["compose", "version", "--short"],
        "install Compose (apt-get install docker-compose-plugin) or use ENGINE=native",
    )?;
    Ok(format!("Docker Engine {engine}, Compose {compose}"))
}

/// Runs the client; returns what it printed.
pub fn docker(arguments: &[&str], limit: Duration) -> Result<String> {
    command::run(Command::new("docker").args(arguments), limit)
}

/// Builds the server's image from the sources under `root`.
///
/// # Errors
/// It cannot be built; the output says why.
pub fn build_image(root: &Path, tag: &str, revision: &str, label: Option<&str>) -> Result<()> {
    let mut build = Command::new("docker");
    build
        .args(["build", "--file"])
        .arg(root.join("server/Dockerfile"))
        .args(["--tag", tag]);
    if let Some(label) = label {
        build.args(["--label", label]);
    }
    let facts = [
        format!("VERSION={}", env!("CARGO_PKG_VERSION")),
        format!("REVISION={revision}"),
        format!("CREATED={}", Utc::now().to_rfc3339()),
    ];
    for fact in &facts {
        build.args(["--build-arg", fact]);
    }
    // Without it an old client builds without cache mounts.
    build.arg(root).env("DOCKER_BUILDKIT", "1");
    command::watch(&mut build, BUILD_TIMEOUT)
}

/// What the engine knows of a container.
#[derive(Debug, PartialEq, Eq)]
struct Container {
    status: String,
    exit_code: String,
    address: String,
}

impl Container {
    const FORMAT: &str = "--format={{.State.Status}} {{.State.ExitCode}} \
                          {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";

    fn parse(text: &str) -> Self {
        let mut words = text.split_whitespace().map(str::to_owned);
        let mut next = || words.next().unwrap_or_default();
        Self {
            status: next(),
            exit_code: next(),
            address: next(),
        }
    }

    fn lives(&self) -> bool {
        ["running", "restarting", "paused"].contains(&self.status.as_str())
    }
}

impl Docker {
    pub fn new(stack: Stack) -> Self {
        Self { stack }
    }

    pub fn container(&self, name: &str) -> String {
        format!("{}-{name}", self.stack.name)
    }

    /// What a colour runs, and would run again. One name for each, so that old images go.
    fn image(&self, colour: Colour) -> String {
        format!("{}/{colour}:deployed", self.stack.name)
    }

    fn inspect(&self, name: &str) -> Result<Container> {
        let name = self.container(name);
        let told = docker(&["inspect", Container::FORMAT, &name], TIMEOUT)?;
        Ok(Container::parse(&told))
    }

    fn label(&self) -> String {
        format!("{LABEL}={}", self.stack.name)
    }

    /// Compose with one of the project's files, whose placeholders are filled from here.
    pub fn compose(&self, project: &str, file: &str, variables: &[(&str, String)]) -> Command {
        let file = self.stack.root().join("deploy/compose").join(file);
        let mut compose = Command::new("docker");
        compose
            .args(["compose", "--project-name"])
            .arg(self.container(project))
            .arg("--file")
            .arg(file)
            .env("STACK", &self.stack.name)
            .env("NOFILE", self.stack.files_max.to_string())
            .envs(variables.iter().map(|(name, value)| (name, value)));
        compose
    }

    fn edge(&self) -> Command {
        let ports = self.stack.ports;
        let (user, group) = edge_user();
        self.compose(
            "edge",
            "edge.yml",
            &[
                ("BIND", self.stack.bind.to_string()),
                ("FRONT_DOOR", ports.front_door.to_string()),
                ("INTERNAL", ports.internal.to_string()),
                ("PREVIEW", ports.preview.to_string()),
                ("EDGE_USER", format!("{user}:{group}")),
            ],
        )
    }

    fn colour(&self, colour: Colour) -> Command {
        self.compose(
            colour.name(),
            "colour.yml",
            &[
                ("COLOUR", colour.to_string()),
                ("IMAGE", self.image(colour)),
                (
                    "SETTINGS",
                    self.settings(colour).to_string_lossy().into_owned(),
                ),
            ],
        )
    }

    fn settings(&self, colour: Colour) -> PathBuf {
        self.stack.run().join(format!("{colour}.env"))
    }

    fn write_settings(&self, colour: Colour) -> Result<()> {
        let store = (store::VARIABLE.to_owned(), self.store());
        let text: String = settings::handed_on()
            .chain([store])
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        let path = self.settings(colour);
        fs::write(&path, text).map_err(Error::file(path))
    }

    fn store(&self) -> String {
        let own = format!("redis://{}:6379/0", self.container(STORE));
        self.stack.store.setting(own)
    }

    /// Harmless when it runs.
    fn start_store(&self) -> Result<()> {
        if self.stack.store != Store::Own {
            return Ok(());
        }
        let mut up = self.compose(STORE, "store.yml", &[]);
        up.args(["up", "--detach", "--no-recreate"]);
        command::run(&mut up, PULL_TIMEOUT)?;
        // The engine asks for its health every few seconds only, the first time too.
        let ping = ["exec", &self.container(STORE), "redis-cli", "-e", "ping"];
        wait::until("the session store's answer", STORE_TIMEOUT, || {
            docker(&ping, TIMEOUT)
        })
        .map(drop)
    }

    fn build_image(&self, colour: Colour) -> Result<String> {
        let root = self.stack.root();
        let revision = sources::revision(root);
        build_image(root, &self.image(colour), &revision, Some(&self.label()))?;
        Ok(revision)
    }

    /// Takes an image that somebody else has built; returns the revision it is labelled with.
    fn take_image(&self, colour: Colour, image: &str) -> Result<Option<String>> {
        let here = docker(&["image", "inspect", "--format={{.Id}}", image], TIMEOUT);
        if here.is_err() {
            docker(&["pull", "--quiet", image], PULL_TIMEOUT)?;
        }
        docker(&["tag", image, &self.image(colour)], TIMEOUT)?;
        let label = "--format={{index .Config.Labels \"org.opencontainers.image.revision\"}}";
        let revision = docker(&["image", "inspect", label, image], TIMEOUT)?;
        Ok(Some(revision).filter(|revision| !revision.is_empty()))
    }

    /// What a colour ran before it was built anew is of no use to anybody.
    fn forget_old_images(&self) {
        let of_this_stack = format!("--filter=label={}", self.label());
        // They only take room: what cannot be removed now is removed the next time.
        let _ = docker(&["image", "prune", "--force", &of_this_stack], TIMEOUT);
    }

    fn stop_container(&self, name: &str) -> Result<()> {
        let time = STOP_TIMEOUT.as_secs().to_string();
        let name = self.container(name);
        let stop = ["stop", "--time", &time, &name];
        match docker(&stop, STOP_TIMEOUT + ENGINE_SLACK) {
            Err(Error::Command { reason, .. }) if reason.contains("No such container") => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// The last line that a container wrote, to either stream.
    fn last_words(&self, name: &str) -> String {
        let mut logs = Command::new("docker");
        logs.args(["logs", "--tail=1", &self.container(name)]);
        let words = command::run_with_complaints(&mut logs, TIMEOUT);
        words.unwrap_or_default()
    }

    fn write_configuration(&self) -> Result<()> {
        let listens = |port: u16| format!(":{port}");
        traefik::write_configuration(
            &self.stack,
            &Place {
                web: listens(8080),
                preview: listens(8081),
                internal: listens(8082),
                dynamic: format!("{CONFIGURATION}/dynamic"),
                tls: format!("{CONFIGURATION}/tls"),
                acme: format!("{CONFIGURATION}/acme"),
            },
        )
    }

    /// The containers that there are, running or not.
    fn containers(&self) -> Result<Vec<String>> {
        let ours = format!("--filter=label={}", self.label());
        let names = docker(&["ps", "--all", &ours, "--format={{.Names}}"], TIMEOUT)?;
        let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }
}

/// Traefik needs no rights, only the files that belong to whoever runs this; root's are given away.
pub fn edge_user() -> (u32, u32) {
    const NOBODY: u32 = 65532;
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    if user.is_root() {
        (NOBODY, NOBODY)
    } else {
        (user.as_raw(), group.as_raw())
    }
}

impl Engine for Docker {
    fn kind(&self) -> Kind {
        Kind::Docker
    }

    fn stack(&self) -> &Stack {
        &self.stack
    }

    /// On the private network, which this machine is part of. Asked each time: a container that
    /// was started again may have another address.
    fn processes(&self, colour: Colour) -> Result<Vec<Process>> {
        let container = self.inspect(colour.name())?;
        if container.status == "running" && !container.address.is_empty() {
            return Ok(vec![Process {
                name: colour.to_string(),
                operator: format!("{}:{OPERATOR_PORT}", container.address),
            }]);
        }
        Err(Error::NotRunning {
            colour,
            state: container.status,
            exit_code: container.exit_code,
            words: self.last_words(colour.name()),
        })
    }

    fn tools(&self) -> Result<String> {
        check()
    }

    fn binds(&self, _colour: Colour) -> Vec<String> {
        Vec::new()
    }

    fn disk(&self) -> Option<PathBuf> {
        let root = docker(&["info", "--format={{.DockerRootDir}}"], TIMEOUT);
        let root = root.map(PathBuf::from).unwrap_or_default();
        Some(if root.is_dir() {
            root
        } else {
            self.stack.run()
        })
    }

    fn files_max(&self) -> Option<u64> {
        Some(self.stack.files_max)
    }

    fn can_start(&self, colour: Colour) -> bool {
        docker(&["image", "inspect", &self.image(colour)], TIMEOUT).is_ok()
    }

    fn running(&self) -> Result<bool> {
        let ours = format!("--filter=label={}", self.label());
        docker(&["ps", "--quiet", &ours], TIMEOUT).map(|found| !found.is_empty())
    }

    /// The engine outlives this program and looks after its containers itself.
    fn stop_leftovers(&self) -> Result<usize> {
        Ok(0)
    }

    /// The networks and the volume have to be there before a colour is. A running Traefik is left alone, whatever
    /// has changed: to start it again would cut every socket.
    fn prepare(&self) -> Result<()> {
        check()?;
        self.write_configuration()?;
        let mut create = self.edge();
        create.arg("create");
        if self.running()? {
            create.arg("--no-recreate");
        }
        command::run(&mut create, PULL_TIMEOUT)?;
        // Compose makes no volume that no service of the project mounts.
        let state = self.container("state");
        docker(
            &["volume", "create", "--label", &self.label(), &state],
            TIMEOUT,
        )?;
        self.start_store()
    }

    /// `TALLY_IMAGE` names an image to run instead of building one.
    fn build(&self, colour: Colour) -> Result<Option<String>> {
        match settings::text("TALLY_IMAGE") {
            None => self.build_image(colour).map(Some),
            Some(image) => self.take_image(colour, &image),
        }
    }

    fn start(&self, colour: Colour) -> Result<()> {
        self.write_settings(colour)?;
        let mut up = self.colour(colour);
        up.args(["up", "--detach", "--force-recreate"]);
        command::run(&mut up, STOP_TIMEOUT + ENGINE_SLACK)?;
        monitoring::turn(self.monitoring(), colour, true);
        self.forget_old_images();
        Ok(())
    }

    fn runs(&self, colour: Colour) -> bool {
        self.inspect(colour.name())
            .is_ok_and(|container| container.lives())
    }

    /// The container stays for its log, until the colour is started the next time.
    fn stop(&self, colour: Colour) -> Result<()> {
        self.stop_container(colour.name())?;
        monitoring::turn(self.monitoring(), colour, false);
        Ok(())
    }

    fn traefik_user(&self) -> Option<(u32, u32)> {
        Some(edge_user())
    }

    fn start_traefik(&self) -> Result<()> {
        let mut up = self.edge();
        up.args(["up", "--detach", "--no-recreate"]);
        command::run(&mut up, PULL_TIMEOUT).map(drop)
    }

    fn monitoring(&self) -> Option<Box<dyn Host + '_>> {
        Containers::new(self).map(|host| Box::new(host) as Box<dyn Host + '_>)
    }

    /// The colours first, while Traefik still carries their goodbyes and the store takes their
    /// sessions; what watches them last, but for the networks. Volumes and images stay.
    fn down(&self) -> Result<()> {
        for name in ["blue", "green", TRAEFIK, STORE] {
            self.stop_container(name)?;
        }
        for project in ["blue", "green", STORE, "monitoring", "edge"] {
            let project = self.container(project);
            let down = ["compose", "--project-name", &project, "down"];
            docker(&down, STOP_TIMEOUT + ENGINE_SLACK)?;
        }
        Ok(())
    }

    fn logs(&self, lines: usize, follow: bool) -> Result<()> {
        let speaking = Mutex::new(String::new());
        let containers = self.containers()?;
        if !follow {
            return containers
                .iter()
                .try_for_each(|name| print_log(name, lines, false, &speaking));
        }
        thread::scope(|scope| {
            let printers: Vec<_> = containers
                .iter()
                .map(|name| scope.spawn(|| print_log(name, lines, true, &speaking)))
                .collect();
            printers
                .into_iter()
                .try_for_each(|printer| printer.join().unwrap_or(Ok(())))
        })
    }
}

/// Prints a container's log under its name, which is told again when another one has spoken.
fn print_log(name: &str, lines: usize, follow: bool, speaking: &Mutex<String>) -> Result<()> {
    let failed = || Error::file(Path::new("docker logs").join(name));
    let (reader, writer) = io::pipe().map_err(failed())?;
    let mut logs = Command::new("docker");
    logs.args(["logs", &format!("--tail={lines}")]);
    if follow {
        logs.arg("--follow");
    }
    logs.arg(name)
        .stdout(writer.try_clone().map_err(failed())?)
        .stderr(writer);
    let mut child = logs.spawn().map_err(failed())?;
    // It holds the writing ends of the pipe, which would never be at its end.
    drop(logs);
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.map_err(failed())?;
        let mut speaking = speaking.lock().unwrap_or_else(|broken| broken.into_inner());
        if *speaking != name {
            show(format!("==> {name}\n"))?;
            name.clone_into(&mut speaking);
        }
        show(String::from_utf8_lossy(&line) + "\n")?;
    }
    child.wait().map(drop).map_err(failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_container_is_understood() {
        let running = Container::parse("running 0 172.18.0.3\n");
        assert!(running.lives());
        assert_eq!(running.address, "172.18.0.3");
        let ended = Container::parse("exited 2 ");
        assert!(!ended.lives());
        assert_eq!(ended.exit_code, "2");
        assert_eq!(ended.address, "");
    }
}
