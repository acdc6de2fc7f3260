//! What a run found out: one structure for the table, the JSON, the page, and whoever compares.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    assertion::Assertion, clock::seconds, fault::Fault, machine::Machine, recorder::Durations,
    series::Point,
};

/// Quantiles by the name that assertions use, in the order of [`Summary`].
const QUANTILES: [&str; 5] = ["p50", "p90", "p99", "p999", "max"];

/// What has quantiles: `p99` are the answers', `beat_p99` those during a beat.
const SUMMARIES: [&str; 5] = ["", "beat", "handshake", "lag", "gap"];

const FIGURES: [&str; 15] = [
    "spread",
    "drain",
    "exit",
    "rate",
    "opened",
    "faults",
    "byes",
    "resumed",
    "lost",
    "duplicated",
    "resent",
    "taken_back",
    "handshakes_peak",
    "socket_bytes",
    "client_cpu",
];

/// Whether that is something to assert.
pub fn is_figure(name: &str) -> bool {
    let (of, quantile) = split(name);
    let known = QUANTILES.contains(&quantile);
    FIGURES.contains(&name) || (known && SUMMARIES.contains(&of))
}

fn split(figure: &str) -> (&str, &str) {
    figure.split_once('_').unwrap_or(("", figure))
}

/// Durations by their quantiles, in seconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    pub count: u64,
    pub p50_s: f64,
    pub p90_s: f64,
    pub p99_s: f64,
    pub p999_s: f64,
    pub max_s: f64,
}

impl Summary {
    pub fn of(durations: &Durations) -> Self {
        let at = |quantile| seconds(durations.value_at_quantile(quantile));
        Self {
            count: durations.len(),
            p50_s: at(0.5),
            p90_s: at(0.9),
            p99_s: at(0.99),
            p999_s: at(0.999),
            max_s: seconds(durations.max()),
        }
    }

    /// The quantiles in the order of their names; none where nothing was measured.
    fn figure(&self, name: &str) -> Option<f64> {
        let values = [self.p50_s, self.p90_s, self.p99_s, self.p999_s, self.max_s];
        let place = QUANTILES.iter().position(|known| *known == name)?;
        (self.count > 0).then_some(values[place])
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub passed: bool,
    pub interrupted: bool,
    pub trouble: Option<String>,
    pub began: String,
    pub machine: Machine,
    pub plan: Plan,
    pub opened: u64,
    pub sent: u64,
    pub answered: u64,
    /// Answers a second while messages were sent.
    pub rate: f64,
    pub pings: u64,
    pub latency: Summary,
    pub during_beats: Summary,
    /// How late messages were sent: this program's own part of the latency.
    pub lateness: Summary,
    pub handshake: Summary,
    pub beats: Beats,
    pub drain: Option<Drain>,
    pub faults: Vec<FaultCount>,
    pub assertions: Vec<Verdict>,
    pub client: Process,
    pub servers: Vec<Process>,
    pub phases: Vec<Phase>,
    pub series: Vec<Point>,
    /// Latencies for the chart: share of the answers, and the time they took.
    pub curve: Vec<(f64, f64)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub target: String,
    pub mode: String,
    pub sockets: u64,
    pub rate: u64,
    pub duration_s: f64,
    pub size_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Beats {
    pub number: u64,
    pub deliveries: u64,
    /// From a beat's first receipt to its last.
    pub spread_p50_s: f64,
    pub spread_max_s: f64,
    pub lag: Summary,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drain {
    pub sockets: u64,
    pub byes: u64,
    pub codes: BTreeMap<u16, u64>,
    pub cut_off: u64,
    pub last_bye_s: f64,
    pub exit_s: Option<f64>,
    pub reconnect: bool,
    pub gap: Summary,
    pub resumed: u64,
    pub fresh: u64,
    /// Sessions that came back with less than had been acknowledged.
    pub taken_back: u64,
    pub resent: u64,
    pub lost: u64,
    pub duplicated: u64,
    /// A second, at most.
    pub handshakes_peak: u64,
    /// Connections that ended, each time that they did.
    pub gone: u64,
    pub retries: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FaultCount {
    pub fault: Fault,
    pub number: u64,
    pub examples: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdict {
    pub assertion: String,
    /// `None` where the run has no such figure.
    pub value: Option<f64>,
    pub held: bool,
}

/// A process over the whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Process {
    pub name: String,
    pub pid: u32,
    pub cpu_s: f64,
    pub rss_peak_bytes: u64,
    /// Resident memory with few sockets and with all, before the first message.
    pub rss_few_bytes: u64,
    pub rss_all_bytes: u64,
    /// What one socket more takes.
    pub socket_bytes: f64,
}

/// From one mark to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Phase {
    pub name: String,
    pub time_s: f64,
    pub opened: u64,
    pub answered: u64,
    pub beats: u64,
    pub client_cpu_s: f64,
    pub server_cpu_s: f64,
}

impl Report {
    /// What an assertion is about, in seconds, bytes, or plain.
    pub fn figure(&self, name: &str) -> Option<f64> {
        let drain = self.drain.as_ref();
        let share = |part: u64, of: u64| Some(part as f64 / of.max(1) as f64);
        let number = |number: u64| Some(number as f64);
        match name {
            "spread" => (self.beats.number > 0).then_some(self.beats.spread_max_s),
            "drain" => drain.map(|drain| drain.last_bye_s),
            "exit" => drain?.exit_s,
            "rate" => Some(self.rate),
            "opened" => Some(self.opened as f64),
            "faults" => Some(self.fault_total() as f64),
            // Whoever was not sent away has no goodbye to show.
            "byes" => share(drain?.byes, drain?.gone.max(drain?.sockets)),
            "resumed" => share(drain?.resumed, drain?.resumed + drain?.fresh),
            "lost" => number(drain?.lost),
            "duplicated" => number(drain?.duplicated),
            "resent" => number(drain?.resent),
            "taken_back" => number(drain?.taken_back),
            "handshakes_peak" => number(drain?.handshakes_peak),
            "socket_bytes" => self.servers.first().map(|server| server.socket_bytes),
            "client_cpu" => Some(self.client_load()),
            _ => self.quantile(name),
        }
    }

    fn quantile(&self, name: &str) -> Option<f64> {
        let none = Summary::default();
        let (of, quantile) = split(name);
        let summary = match of {
            "" => &self.latency,
            "beat" => &self.during_beats,
            "handshake" => &self.handshake,
            "lag" => &self.beats.lag,
            "gap" => self.drain.as_ref().map_or(&none, |drain| &drain.gap),
            _ => return None,
        };
        summary.figure(quantile)
    }

    pub fn fault_total(&self) -> u64 {
        self.faults.iter().map(|fault| fault.number).sum()
    }

    /// The share of a core that this program took while it talked; close to one, it is this
    /// program that was measured.
    pub fn client_load(&self) -> f64 {
        let talk = self.phase("talk");
        talk.map_or(0.0, |talk| talk.client_cpu_s / talk.time_s)
    }

    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }

    pub fn judge(&mut self, assertions: &[Assertion]) {
        self.assertions = assertions
            .iter()
            .map(|assertion| {
                let value = self.figure(&assertion.figure);
                Verdict {
                    assertion: assertion.to_string(),
                    value,
                    held: value.is_some_and(|value| assertion.holds(value)),
                }
            })
            .collect();
        let held = self.assertions.iter().all(|verdict| verdict.held);
        self.passed = held && self.faults.is_empty() && self.trouble.is_none();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::durations;

    #[test]
    fn nothing_measured_is_no_figure() {
        let mut some = durations();
        assert_eq!(Summary::of(&some).figure("p99"), None);
        some.record(2_000_000).unwrap();
        let p99 = Summary::of(&some).figure("p99").unwrap();
        assert!((p99 - 0.002).abs() < 0.000_01, "{p99}");
    }

    #[test]
    fn figures_are_known_by_their_names() {
        for name in ["p99", "beat_max", "gap_p50", "spread", "socket_bytes"] {
            assert!(is_figure(name), "{name}");
        }
        for name in ["", "p98", "beat", "client_p99", "socket"] {
            assert!(!is_figure(name), "{name}");
        }
    }
}
