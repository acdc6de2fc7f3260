//! What watches the stack: Prometheus, Alertmanager, Loki, the OpenTelemetry Collector and Grafana.
//! None of them may keep a colour from serving, or a flip from flipping: whatever goes wrong here is
//! told, and that is all.

mod docker;
mod files;
mod native;
mod options;
mod targets;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::json;

pub use docker::Containers;
pub use native::Processes;
pub use options::{Options, VARIABLES};

use crate::{
    colour::Colour,
    deploy::progress,
    engine::{Engine, Kind},
    error::{Error, Result},
    http, interrupt,
    ports::Monitoring as Ports,
    replace::{READABLE, replace},
    stack::Stack,
    terminal::say,
};

/// For all of them together. The first start of Grafana makes a database.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_PAUSE: Duration = Duration::from_millis(200);

/// Where the runbook is in Grafana.
const RUNBOOK: &str = "/d/tally-runbook";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Prometheus,
    Alertmanager,
    Loki,
    Otelcol,
    Grafana,
}

impl Part {
    pub const ALL: [Self; 5] = [
        Self::Prometheus,
        Self::Alertmanager,
        Self::Loki,
        Self::Otelcol,
        Self::Grafana,
    ];

    /// The name of its program, its folder, its log and its container.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prometheus => "prometheus",
            Self::Alertmanager => "alertmanager",
            Self::Loki => "loki",
            Self::Otelcol => "otelcol",
            Self::Grafana => "grafana",
        }
    }

    pub fn port(self, ports: &Ports) -> u16 {
        match self {
            Self::Prometheus => ports.prometheus,
            Self::Alertmanager => ports.alertmanager,
            Self::Loki => ports.loki,
            Self::Otelcol => ports.otelcol,
            Self::Grafana => ports.grafana,
        }
    }

    /// What answers once it works. (Loki calls itself ready 15 s after it is.)
    fn ready(self) -> &'static str {
        match self {
            Self::Prometheus | Self::Alertmanager => "/-/ready",
            Self::Loki | Self::Otelcol => "/metrics",
            Self::Grafana => "/api/health",
        }
    }
}

/// Where the parts run, and how they see each other and their files from there.
pub trait Host {
    fn stack(&self) -> &Stack;
    /// The address that a part listens on, without and with its port.
    fn listen(&self) -> &'static str;
    fn port(&self, part: Part) -> u16;
    fn loki_grpc(&self) -> u16;
    /// Where the others find it.
    fn address(&self, part: Part) -> String;
    fn operator(&self, colour: Colour) -> String;
    /// Traefik's own listener.
    fn traefik(&self) -> String;
    /// Its files, as it sees them.
    fn configuration(&self, part: Part) -> String;
    /// What it keeps, as it sees that.
    fn data(&self, part: Part) -> String;
    /// The logs of the stack's programs, as the Collector sees them.
    fn logs(&self) -> String;
    fn history(&self) -> String;
    /// Whose the files have to be, if not those of whoever runs this.
    fn user(&self) -> Option<(u32, u32)>;
    /// What a part would run: a program or an image.
    ///
    /// # Errors
    /// It is not here, and how to get it.
    fn find(&self, part: Part, options: &Options) -> std::result::Result<String, String>;
    /// Starts those that do not run; those of `changed` anew.
    ///
    /// # Errors
    /// Nothing could be started.
    fn start(&self, parts: &[Found], changed: &[Part], options: &Options) -> Result<()>;
    /// Whether it runs, working or not.
    fn runs(&self, part: Part) -> bool;
    /// Where it answers this machine.
    ///
    /// # Errors
    /// It does not run.
    fn reach(&self, part: Part) -> Result<String>;
    /// Harmless where nothing runs.
    ///
    /// # Errors
    /// Something does not end.
    fn stop(&self) -> Result<()>;
}

/// A part that this machine has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub part: Part,
    /// A program or an image.
    pub runs: String,
}

/// What `up` found, for whoever asks later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    found: Vec<Found>,
    /// What is missing, and how to get it.
    missing: Vec<String>,
}

impl Record {
    fn path(stack: &Stack) -> PathBuf {
        stack.monitoring().join("parts.json")
    }

    /// None where there is no monitoring.
    fn load(stack: &Stack) -> Option<Self> {
        let text = fs::read_to_string(Self::path(stack)).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn write(&self, stack: &Stack) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("plain fields serialise");
        replace(&Self::path(stack), text + "\n", READABLE, None)
    }

    fn forget(stack: &Stack) {
        // It may not be there, and then there is nothing to forget.
        let _ = fs::remove_file(Self::path(stack));
    }

    fn parts(&self) -> Vec<Part> {
        self.found.iter().map(|found| found.part).collect()
    }
}

/// A monitoring whose files are written, and that can be started.
pub struct Prepared<'a> {
    host: Box<dyn Host + 'a>,
    options: &'a Options,
    changed: Vec<Part>,
}

/// Writes all files, while nobody else deploys. None where nobody wants any monitoring, or where it
/// cannot be had, which is then told.
pub fn prepare<'a>(engine: &'a dyn Engine, options: &'a Options) -> Option<Prepared<'a>> {
    let host = engine.monitoring()?;
    let stack = engine.stack();
    if !options.on {
        if Record::load(stack).is_some() {
            Record::forget(stack);
            tell("the monitoring does not stop", host.stop());
        }
        return None;
    }
    let running = Colour::ALL
        .into_iter()
        .filter(|colour| engine.runs(*colour));
    let running: Vec<Colour> = running.collect();
    let prepared = write_files(host.as_ref(), options).and_then(|changed| {
        targets::colours(stack, &running, |colour| host.operator(colour))?;
        Ok(changed)
    });
    match prepared {
        Ok(changed) => Some(Prepared {
            host,
            options,
            changed,
        }),
        Err(error) => {
            tell::<()>("there is no monitoring", Err(error));
            None
        }
    }
}

fn tell<T>(what: &str, outcome: Result<T>) {
    if let Err(error) = outcome {
        say(format!("==> {what}: {error}"));
    }
}

/// Returns the parts whose files have changed.
fn write_files(host: &dyn Host, options: &Options) -> Result<Vec<Part>> {
    let stack = host.stack();
    let sources = stack.root().join("monitoring");
    let values = values(host, options, &sources)?;
    let mut changed = Vec::new();
    for part in Part::ALL {
        if files::copy(part, &sources, &stack.monitoring(), &values)? {
            changed.push(part);
        }
        files::folder(&stack.monitoring_data().join(part.name()))?;
    }
    // Where it is missing, an engine would mount a new folder in its place.
    let history = stack.history();
    let opened = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&history);
    opened.map_err(Error::file(history))?;
    if let Some(user) = host.user() {
        files::give(&stack.monitoring(), user)?;
        files::give(&stack.monitoring_data(), user)?;
    }
    Ok(changed)
}

fn values(host: &dyn Host, options: &Options, sources: &Path) -> Result<files::Values> {
    let url = |part: Part| json!(format!("http://{}", host.address(part)));
    let below = |part: Part, folder: &str| json!(format!("{}/{folder}", host.configuration(part)));
    let runbook = sources.join("runbook.md");
    let runbook_text = fs::read_to_string(&runbook).map_err(Error::file(runbook))?;
    let grafana = host
        .stack()
        .ports
        .monitoring
        .map_or(0, |ports| ports.grafana);
    let grafana = format!("http://127.0.0.1:{grafana}");
    let runbook = options.runbook.clone();
    let (webhooks, mails) = options.people();
    Ok(files::Values::from([
        ("ALERTMANAGER_URL", url(Part::Alertmanager)),
        ("DASHBOARDS", below(Part::Grafana, "dashboards")),
        ("GRAFANA_DATA", json!(host.data(Part::Grafana))),
        ("GRAFANA_HOST", json!(host.listen())),
        ("GRAFANA_PORT", json!(host.port(Part::Grafana))),
        ("GRAFANA_PROVISIONING", below(Part::Grafana, "provisioning")),
        ("GRAFANA_URL", json!(grafana)),
        ("HISTORY", json!(host.history())),
        (
            "HOME_DASHBOARD",
            below(Part::Grafana, "dashboards/service.json"),
        ),
        ("LOGS", json!(host.logs())),
        ("LOKI", url(Part::Loki)),
        ("LOKI_DATA", json!(host.data(Part::Loki))),
        ("LOKI_GRPC_PORT", json!(host.loki_grpc())),
        ("LOKI_HOST", json!(host.listen())),
        ("LOKI_PORT", json!(host.port(Part::Loki))),
        ("LOKI_RULES", below(Part::Loki, "rules")),
        ("OTELCOL_DATA", json!(host.data(Part::Otelcol))),
        ("OTELCOL_HOST", json!(host.listen())),
        ("OTELCOL_PORT", json!(host.port(Part::Otelcol))),
        ("PEOPLE_MAILS", mails),
        ("PEOPLE_WEBHOOKS", webhooks),
        ("PROMETHEUS_URL", url(Part::Prometheus)),
        ("RUNBOOK", json!(runbook.unwrap_or(grafana + RUNBOOK))),
        ("RUNBOOK_TEXT", json!(runbook_text)),
        ("STACK", json!(host.stack().name)),
        ("WATCHDOG_WEBHOOKS", options.watchdogs()),
    ]))
}

impl Prepared<'_> {
    /// Starts what is here, waits until it answers, and tells what is not.
    pub fn start(self) {
        let began = Instant::now();
        let record = self.look();
        if let Err(error) = self.run(&record) {
            tell::<()>("the monitoring does not start", Err(error));
            return;
        }
        let mut names = Vec::new();
        for part in record.parts() {
            match wait_for(self.host.as_ref(), part, began) {
                Ok(()) => names.push(part.name()),
                Err(error) => tell::<()>(
                    &format!("{} does not work, and ./just logs may say why", part.name()),
                    Err(error),
                ),
            }
        }
        if !names.is_empty() {
            progress(&format!("watched by {}", names.join(", ")), began);
        }
    }

    fn look(&self) -> Record {
        let mut record = Record::default();
        for part in Part::ALL {
            match self.host.find(part, self.options) {
                Ok(runs) => record.found.push(Found { part, runs }),
                Err(lack) => record.missing.push(lack),
            }
        }
        record
    }

    fn run(&self, record: &Record) -> Result<()> {
        let stack = self.host.stack();
        record.write(stack)?;
        targets::others(stack, self.host.as_ref(), &record.parts())?;
        self.host.start(&record.found, &self.changed, self.options)
    }
}

/// Where it works.
fn ask(host: &dyn Host, part: Part) -> Result<String> {
    let address = host.reach(part)?;
    http::get_ok(&format!("http://{address}{}", part.ready())).map(|_| address)
}

/// One that has ended already is not waited for.
fn wait_for(host: &dyn Host, part: Part, began: Instant) -> Result<()> {
    loop {
        match ask(host, part) {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() >= READY_TIMEOUT || !host.runs(part) => {
                return Err(error);
            }
            Err(_) => interrupt::check()?,
        }
        thread::sleep(READY_PAUSE);
    }
}

/// Tells Prometheus of a colour that was started or stopped.
pub fn turn(host: Option<Box<dyn Host + '_>>, colour: Colour, runs: bool) {
    if let Some(host) = host {
        let told = targets::turn(host.stack(), colour, runs, |colour| host.operator(colour));
        tell("Prometheus is not told", told);
    }
}

/// What runs where, for a person: a name and what there is to say of it.
pub fn status(engine: &dyn Engine) -> Vec<(&'static str, String)> {
    if engine.kind() == Kind::Kubernetes {
        return vec![("monitoring", "the cluster's own".into())];
    }
    let Some(host) = engine.monitoring() else {
        return vec![(
            "monitoring",
            "comes with the next ./just down, ./just up".into(),
        )];
    };
    let Some(record) = Record::load(engine.stack()) else {
        return vec![("monitoring", "off".into())];
    };
    let state = |part: Part| {
        let told = match ask(host.as_ref(), part) {
            Ok(address) => format!("http://{address}/"),
            Err(error) => format!("NOT WORKING: {error}; ./just logs may say why"),
        };
        (part.name(), told)
    };
    let parts = record.parts().into_iter().map(state);
    let missing = record.missing.iter().map(|lack| ("missing", lack.clone()));
    parts.chain(missing).collect()
}
