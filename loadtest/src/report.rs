//! What a run found out: one structure for the table, the JSON, the page, and whoever compares.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    assertion::Assertion,
    clock::{Nanos, seconds},
    fault::Fault,
    machine::Machine,
    recorder::Durations,
    run::{Mark, Run},
    series::Point,
};

/// Quantiles by the name that assertions use.
const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p999", 0.999),
    ("max", 1.0),
];

/// Every figure that can be asserted.
pub const FIGURES: [&str; 35] = [
    "p50",
    "p90",
    "p99",
    "p999",
    "max",
    "beat_p50",
    "beat_p90",
    "beat_p99",
    "beat_p999",
    "beat_max",
    "handshake_p50",
    "handshake_p90",
    "handshake_p99",
    "handshake_p999",
    "handshake_max",
    "lag_p50",
    "lag_p90",
    "lag_p99",
    "lag_p999",
    "lag_max",
    "gap_p50",
    "gap_p90",
    "gap_p99",
    "gap_p999",
    "gap_max",
    "spread",
    "drain",
    "exit",
    "rate",
    "opened",
    "faults",
    "byes",
    "resumed",
    "socket_bytes",
    "client_cpu",
];

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
        let place = QUANTILES.iter().position(|(known, _)| *known == name)?;
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
    pub fn of(run: &Run<'_>, began: String) -> Self {
        let recorder = &run.client.recorder;
        let phases: Vec<Phase> = run.marks.windows(2).map(phase).collect();
        let talk = phases.iter().find(|phase| phase.name == "talk");
        let mut report = Self {
            passed: true,
            interrupted: run.interrupted.load(std::sync::atomic::Ordering::Relaxed),
            trouble: run.trouble.clone(),
            began,
            machine: Machine::look(),
            plan: plan(run),
            opened: recorder.counts.opened,
            sent: recorder.counts.sent,
            answered: recorder.counts.answered,
            rate: talk.map_or(0.0, |talk| talk.answered as f64 / talk.time_s),
            pings: recorder.counts.pings,
            latency: Summary::of(&recorder.latency),
            during_beats: Summary::of(&recorder.during_beats),
            lateness: Summary::of(&recorder.lateness),
            handshake: Summary::of(&recorder.handshake),
            beats: beats(run),
            drain: run.client.drain.as_ref().map(drain),
            faults: faults(run),
            assertions: Vec::new(),
            client: client(run),
            servers: servers(run),
            phases,
            series: run.series.points.clone(),
            curve: curve(&recorder.latency),
        };
        report.judge(&run.options.expect.assertions);
        report
    }

    /// What an assertion is about, in seconds, bytes, or plain.
    pub fn figure(&self, name: &str) -> Option<f64> {
        let drain = self.drain.as_ref();
        let share = |part: u64| drain.map(|drain| part as f64 / drain.sockets.max(1) as f64);
        match name {
            "spread" => (self.beats.number > 0).then_some(self.beats.spread_max_s),
            "drain" => drain.map(|drain| drain.last_bye_s),
            "exit" => drain?.exit_s,
            "rate" => Some(self.rate),
            "opened" => Some(self.opened as f64),
            "faults" => Some(self.fault_total() as f64),
            "byes" => share(drain?.byes),
            "resumed" => share(drain?.resumed),
            "socket_bytes" => self.servers.first().map(|server| server.socket_bytes),
            "client_cpu" => Some(self.client_load()),
            _ => self.quantile(name),
        }
    }

    fn quantile(&self, name: &str) -> Option<f64> {
        let none = Summary::default();
        let (of, quantile) = name.split_once('_').unwrap_or(("", name));
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

    fn judge(&mut self, assertions: &[Assertion]) {
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

fn plan(run: &Run<'_>) -> Plan {
    let load = &run.options.load;
    let target = &run.client.target;
    Plan {
        target: format!("ws://{}{}", target.address, target.path),
        mode: load.mode.name().into(),
        sockets: load.sockets.into(),
        rate: load.rate.into(),
        duration_s: load.duration.as_secs_f64(),
        size_bytes: load.size.into(),
    }
}

fn beats(run: &Run<'_>) -> Beats {
    let mut spreads: Vec<Nanos> = run
        .client
        .beats
        .all()
        .map(|beat| beat.last - beat.first)
        .collect();
    spreads.sort_unstable();
    let at = |place: usize| spreads.get(place).copied().map_or(0.0, seconds);
    Beats {
        number: spreads.len() as u64,
        deliveries: run.client.recorder.counts.beats,
        spread_p50_s: at(spreads.len() / 2),
        spread_max_s: at(spreads.len().saturating_sub(1)),
        lag: Summary::of(&run.client.recorder.lag),
    }
}

fn drain(drain: &crate::drain::Drain) -> Drain {
    let since = |at: Nanos| seconds(at.saturating_sub(drain.began));
    Drain {
        sockets: drain.sockets,
        byes: drain.byes,
        codes: drain.codes.clone(),
        cut_off: drain.cut,
        last_bye_s: since(drain.last_bye),
        exit_s: drain.exit.map(since),
        reconnect: drain.reconnect,
        gap: Summary::of(&drain.gaps),
        resumed: drain.resumed,
        fresh: drain.fresh,
        retries: drain.retries,
    }
}

fn faults(run: &Run<'_>) -> Vec<FaultCount> {
    let faults = run.client.recorder.faults.all();
    faults
        .map(|(fault, number, examples)| FaultCount {
            fault,
            number,
            examples: examples.to_vec(),
        })
        .collect()
}

fn client(run: &Run<'_>) -> Process {
    let own = |look: &crate::watch::Look| look.client;
    process(run, "tally-loadtest".into(), std::process::id(), own)
}

fn servers(run: &Run<'_>) -> Vec<Process> {
    let watched = run.watch.processes.iter().enumerate();
    watched
        .map(|(place, watched)| {
            let its = |look: &crate::watch::Look| look.servers[place];
            process(run, watched.name.clone(), watched.pid, its)
        })
        .collect()
}

fn process(
    run: &Run<'_>,
    name: String,
    pid: u32,
    usage: impl Fn(&crate::watch::Look) -> crate::process::Usage,
) -> Process {
    let marked = |phase: &str| run.marks.iter().find(|mark| mark.phase == phase);
    let at = |phase: &str| {
        marked(phase)
            .map(|mark| usage(&mark.look))
            .unwrap_or_default()
    };
    let last = run
        .marks
        .last()
        .map(|mark| usage(&mark.look))
        .unwrap_or_default();
    let all = at("ramp").rss_bytes;
    let opened = marked("ramp").map_or(0, |mark| mark.counts.open);
    let (few_sockets, few) = run.few.as_ref().map_or((0, 0), |(number, look)| {
        (*number as u64, usage(look).rss_bytes)
    });
    let more = opened.saturating_sub(few_sockets).max(1);
    Process {
        name,
        pid,
        cpu_s: seconds(last.cpu.saturating_sub(at("start").cpu)),
        rss_peak_bytes: run
            .marks
            .iter()
            .map(|mark| usage(&mark.look).rss_bytes)
            .max()
            .unwrap_or(0),
        rss_few_bytes: few,
        rss_all_bytes: all,
        socket_bytes: (all as f64 - few as f64) / more as f64,
    }
}

fn phase(marks: &[Mark]) -> Phase {
    let (before, after) = (&marks[0], &marks[1]);
    Phase {
        name: after.phase.into(),
        time_s: seconds(after.at - before.at),
        opened: after.counts.opened - before.counts.opened,
        answered: after.counts.answered - before.counts.answered,
        beats: after.counts.beats - before.counts.beats,
        client_cpu_s: seconds(after.look.client.cpu.saturating_sub(before.look.client.cpu)),
        server_cpu_s: seconds(
            after
                .look
                .server_cpu()
                .saturating_sub(before.look.server_cpu()),
        ),
    }
}

/// Nines on the way to all: 0 %, 50 %, … 99.999 %.
fn curve(latency: &Durations) -> Vec<(f64, f64)> {
    if latency.is_empty() {
        return Vec::new();
    }
    let shares = (0..=50).map(|step| 1.0 - 10_f64.powf(-f64::from(step) / 10.0));
    shares
        .map(|share| (share, seconds(latency.value_at_quantile(share))))
        .collect()
}

/// A duration as a person reads it.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 0.001 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}

/// Bytes as a person reads them.
pub fn bytes(bytes: f64) -> String {
    match bytes.abs() {
        b if b >= f64::from(1 << 20) => format!("{:.1} MiB", bytes / f64::from(1 << 20)),
        b if b >= 10_240.0 => format!("{:.1} KiB", bytes / 1024.0),
        _ => format!("{bytes:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::durations;

    #[test]
    fn times_and_sizes_read_well() {
        assert_eq!(
            [time(0.000_25), time(0.012_34), time(2.0)],
            ["250 µs", "12.34 ms", "2.00 s"]
        );
        assert_eq!(
            [bytes(1280.0), bytes(3.0 * 1_048_576.0)],
            ["1280 B", "3.0 MiB"]
        );
    }

    #[test]
    fn nothing_measured_is_no_figure() {
        let mut some = durations();
        assert_eq!(Summary::of(&some).figure("p99"), None);
        some.record(2_000_000).unwrap();
        let p99 = Summary::of(&some).figure("p99").unwrap();
        assert!((p99 - 0.002).abs() < 0.000_01, "{p99}");
    }

    #[test]
    fn the_curve_rises_to_the_slowest() {
        let mut latency = durations();
        for millisecond in 1..=1000 {
            latency.record(millisecond * 1_000_000).unwrap();
        }
        let curve = curve(&latency);
        assert!(curve.is_sorted_by(|one, next| one.1 <= next.1));
        assert!((curve.last().unwrap().1 - 1.0).abs() < 0.01);
    }
}
