//! The parts as processes under the stack's supervisord.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::{
    colour::Colour,
    error::Result,
    ports::Monitoring as Ports,
    stack::Stack,
    supervisor::{Program, Supervisor, quoted},
};

use super::{Found, Host, Options, Part};

/// supervisord's name for all of them.
pub const GROUP: &str = "monitoring";

/// Where Debian's package has Grafana.
const GRAFANA_HOME: &str = "/usr/share/grafana";

pub struct Processes<'a> {
    stack: &'a Stack,
    ports: Ports,
}

impl<'a> Processes<'a> {
    /// None where the stack has no ports for them.
    pub fn new(stack: &'a Stack) -> Option<Self> {
        let ports = stack.ports.monitoring?;
        Some(Self { stack, ports })
    }

    fn supervisor(&self) -> Supervisor<'_> {
        Supervisor::new(self.stack)
    }

    /// Paths begin at `.tally`, where supervisord works.
    fn arguments(&self, part: Part, options: &Options) -> String {
        let name = part.name();
        let address = self.address(part);
        match part {
            Part::Prometheus => format!(
                " --config.file=monitoring/{name}/prometheus.yml \
                 --storage.tsdb.path=monitoring-data/{name} --web.listen-address={address}"
            ),
            Part::Alertmanager => format!(
                " --config.file=monitoring/{name}/alertmanager.yml \
                 --storage.path=monitoring-data/{name} --web.listen-address={address} \
                 --cluster.listen-address="
            ),
            Part::Loki => format!(" -config.file=monitoring/{name}/loki.yml"),
            Part::Otelcol => format!(" --config=monitoring/{name}/otelcol.yml"),
            Part::Grafana => {
                let home = format!("--homepath={}", grafana_home(options).display());
                let file = format!("--config={}/grafana.ini", self.configuration(part));
                format!(" server {} {}", quoted(&home), quoted(&file))
            }
        }
    }
}

fn grafana_home(options: &Options) -> PathBuf {
    let named = options.grafana.clone();
    named.unwrap_or_else(|| PathBuf::from(GRAFANA_HOME))
}

/// The first of the folders that has it.
fn program(name: &str, folders: impl Iterator<Item = PathBuf>) -> Option<String> {
    let programs = folders.map(|folder| folder.join(name));
    let mut found = programs.filter(|program| program.is_file());
    found
        .next()
        .map(|program| program.to_string_lossy().into_owned())
}

fn cure(part: Part) -> &'static str {
    match part {
        Part::Prometheus => {
            "https://prometheus.io/download; put it on the PATH, or name its folder: \
             TALLY_TOOLS=/folder ./just up"
        }
        Part::Alertmanager => "https://prometheus.io/download, on the PATH or in TALLY_TOOLS",
        Part::Loki => "https://github.com/grafana/loki/releases, on the PATH or in TALLY_TOOLS",
        Part::Otelcol => {
            "https://github.com/open-telemetry/opentelemetry-collector-releases/releases \
             (otelcol-contrib, under the name otelcol), on the PATH or in TALLY_TOOLS"
        }
        Part::Grafana => {
            "https://grafana.com/grafana/download; name its home folder: TALLY_GRAFANA=/folder \
             ./just up"
        }
    }
}

impl Host for Processes<'_> {
    fn stack(&self) -> &Stack {
        self.stack
    }

    fn listen(&self) -> &'static str {
        "127.0.0.1"
    }

    fn port(&self, part: Part) -> u16 {
        part.port(&self.ports)
    }

    fn loki_grpc(&self) -> u16 {
        self.ports.loki_grpc
    }

    fn address(&self, part: Part) -> String {
        format!("{}:{}", self.listen(), self.port(part))
    }

    fn operator(&self, colour: Colour) -> String {
        format!("{}:{}", self.listen(), self.stack.operator_port(colour))
    }

    fn traefik(&self) -> String {
        self.stack.internal()
    }

    fn configuration(&self, part: Part) -> String {
        told(&self.stack.monitoring().join(part.name()))
    }

    fn data(&self, part: Part) -> String {
        told(&self.stack.monitoring_data().join(part.name()))
    }

    fn logs(&self) -> String {
        told(&self.stack.logs().join("*.log"))
    }

    fn history(&self) -> String {
        told(&self.stack.history())
    }

    fn user(&self) -> Option<(u32, u32)> {
        None
    }

    fn find(&self, part: Part, options: &Options) -> std::result::Result<String, String> {
        let path = env::var_os("PATH").unwrap_or_default();
        let home = grafana_home(options);
        let grafanas = (part == Part::Grafana).then(|| home.join("bin"));
        let folders = grafanas.into_iter().chain(options.tools.clone());
        let found = program(part.name(), folders.chain(env::split_paths(&path)));
        // Its program alone is of no use.
        let found = found.filter(|_| part != Part::Grafana || home.join("public").is_dir());
        found.ok_or_else(|| format!("{}: {}", part.name(), cure(part)))
    }

    /// One group, so that all begin at once, and a colour's programs are never touched.
    fn start(&self, parts: &[Found], changed: &[Part], options: &Options) -> Result<()> {
        let arguments: Vec<String> = parts
            .iter()
            .map(|found| self.arguments(found.part, options))
            .collect();
        let programs: Vec<Program> = parts
            .iter()
            .zip(&arguments)
            .map(|(found, arguments)| Program {
                name: found.part.name(),
                binary: Path::new(&found.runs),
                arguments,
                variables: Vec::new(),
            })
            .collect();
        let supervisor = self.supervisor();
        supervisor.configure_group(GROUP, &programs)?;
        if parts.is_empty() {
            return Ok(());
        }
        for part in parts.iter().filter(|found| changed.contains(&found.part)) {
            // It does not run yet, most likely.
            let _ = supervisor.stop(&format!("{GROUP}:{}", part.part.name()));
        }
        supervisor.update(GROUP)?;
        // One that does not start is found out by asking it.
        let _ = supervisor.start_group(GROUP);
        Ok(())
    }

    fn runs(&self, part: Part) -> bool {
        self.supervisor().runs(&format!("{GROUP}:{}", part.name()))
    }

    fn reach(&self, part: Part) -> Result<String> {
        Ok(self.address(part))
    }

    fn stop(&self) -> Result<()> {
        self.supervisor().configure_group(GROUP, &[])?;
        self.supervisor().update(GROUP)
    }
}

fn told(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
