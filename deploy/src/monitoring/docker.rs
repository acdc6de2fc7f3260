//! The parts as containers of a project of their own, on the stack's private network.

use std::path::PathBuf;

use crate::{
    colour::Colour,
    command,
    docker::{Docker, ENGINE_SLACK, OPERATOR_PORT, PULL_TIMEOUT, TIMEOUT, docker, edge_user},
    engine::{Engine, STOP_TIMEOUT},
    error::Result,
    ports::Monitoring as Ports,
    stack::Stack,
};

use super::{Found, Host, Options, Part};

/// The project, and the file that it is described in.
const PROJECT: &str = "monitoring";
const FILE: &str = "monitoring.yml";

/// Where a container keeps what it keeps, and the Collector has the engine's logs.
const DATA: &str = "/data";
const LOGS: &str = "/logs/*/*-json.log";

pub struct Containers<'a> {
    engine: &'a Docker,
    ports: Ports,
}

impl<'a> Containers<'a> {
    /// None where the stack has no ports for them.
    pub fn new(engine: &'a Docker) -> Option<Self> {
        let ports = engine.stack().ports.monitoring?;
        Some(Self { engine, ports })
    }

    fn compose(&self) -> std::process::Command {
        let port = |part: Part| part.port(&self.ports).to_string();
        let (user, group) = edge_user();
        self.engine.compose(
            PROJECT,
            FILE,
            &[
                ("PROMETHEUS", port(Part::Prometheus)),
                ("ALERTMANAGER", port(Part::Alertmanager)),
                ("LOKI", port(Part::Loki)),
                ("GRAFANA", port(Part::Grafana)),
                ("PARTS_USER", format!("{user}:{group}")),
                ("CONTAINERS", containers()),
            ],
        )
    }

    fn image(&self, part: Part) -> Result<String> {
        let mut config = self.compose();
        config.args(["config", "--images", part.name()]);
        command::run(&mut config, TIMEOUT)
    }
}

/// The folder in which the engine has a folder for each container, with its log.
fn containers() -> String {
    let root = docker(&["info", "--format={{.DockerRootDir}}"], TIMEOUT);
    let root = root
        .map(PathBuf::from)
        .unwrap_or_else(|_| "/var/lib/docker".into());
    root.join("containers").to_string_lossy().into_owned()
}

impl Host for Containers<'_> {
    fn stack(&self) -> &Stack {
        self.engine.stack()
    }

    fn listen(&self) -> &'static str {
        "0.0.0.0"
    }

    fn port(&self, part: Part) -> u16 {
        match part {
            Part::Prometheus => 9090,
            Part::Alertmanager => 9093,
            Part::Loki => 3100,
            Part::Otelcol => 8888,
            Part::Grafana => 3000,
        }
    }

    fn loki_grpc(&self) -> u16 {
        9095
    }

    fn address(&self, part: Part) -> String {
        format!("{}:{}", self.engine.container(part.name()), self.port(part))
    }

    fn operator(&self, colour: Colour) -> String {
        format!("{}:{OPERATOR_PORT}", self.engine.container(colour.name()))
    }

    fn traefik(&self) -> String {
        format!("{}:8082", self.engine.container("traefik"))
    }

    fn configuration(&self, part: Part) -> String {
        format!("/etc/{}", part.name())
    }

    fn data(&self, _part: Part) -> String {
        DATA.into()
    }

    fn logs(&self) -> String {
        LOGS.into()
    }

    fn history(&self) -> String {
        "/history.jsonl".into()
    }

    fn user(&self) -> Option<(u32, u32)> {
        Some(edge_user())
    }

    fn find(&self, part: Part, _options: &Options) -> std::result::Result<String, String> {
        let found = self.image(part).and_then(|image| {
            let here = docker(&["image", "inspect", "--format={{.Id}}", &image], TIMEOUT);
            if here.is_err() {
                docker(&["pull", "--quiet", &image], PULL_TIMEOUT)?;
            }
            Ok(image)
        });
        found.map_err(|error| format!("{}: {error}", part.name()))
    }

    fn start(&self, parts: &[Found], changed: &[Part], _options: &Options) -> Result<()> {
        if parts.is_empty() {
            return Ok(());
        }
        let names = parts.iter().map(|found| found.part.name());
        let old: Vec<Part> = changed
            .iter()
            .copied()
            .filter(|part| self.runs(*part))
            .collect();
        let mut up = self.compose();
        up.args(["up", "--detach"]).args(names);
        command::run(&mut up, STOP_TIMEOUT + ENGINE_SLACK)?;
        if old.is_empty() {
            return Ok(());
        }
        let mut restart = self.compose();
        restart
            .arg("restart")
            .args(old.iter().map(|part| part.name()));
        command::run(&mut restart, STOP_TIMEOUT + ENGINE_SLACK).map(drop)
    }

    fn runs(&self, part: Part) -> bool {
        let name = self.engine.container(part.name());
        docker(&["inspect", "--format={{.State.Status}}", &name], TIMEOUT)
            .is_ok_and(|status| status == "running")
    }

    /// The Collector has no port here, but the private network is this machine's too.
    fn reach(&self, part: Part) -> Result<String> {
        if part != Part::Otelcol {
            return Ok(format!("127.0.0.1:{}", part.port(&self.ports)));
        }
        let address = "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let name = self.engine.container(part.name());
        let address = docker(&["inspect", address, &name], TIMEOUT)?;
        Ok(format!("{address}:{}", self.port(part)))
    }

    fn stop(&self) -> Result<()> {
        let project = self.engine.container(PROJECT);
        let down = ["compose", "--project-name", &project, "down"];
        docker(&down, STOP_TIMEOUT + ENGINE_SLACK).map(drop)
    }
}
