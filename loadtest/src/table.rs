//! The report as a table for a terminal; pure.

use std::fmt::Write;

use crate::{
    readable::{bytes, time},
    report::{Drain, Process, Report, Summary},
};

/// At this share of a core, it is the client that is measured.
const CLIENT_BOUND: f64 = 0.85;

pub fn table(report: &Report) -> String {
    let plan = &report.plan;
    let mut out = String::new();
    line(
        &mut out,
        "target",
        &format!("{} ({})", plan.target, plan.mode),
    );
    line(&mut out, "machine", &report.machine.told());
    line(&mut out, "sockets", &opened(report));
    let messages = format!(
        "{} sent, {} answered, {:.0}/s",
        report.sent, report.answered, report.rate
    );
    line(&mut out, "messages", &messages);
    let beats = &report.beats;
    let told = format!(
        "{} beats, {} deliveries, spread {} (median), {} (most)",
        beats.number,
        beats.deliveries,
        time(beats.spread_p50_s),
        time(beats.spread_max_s)
    );
    line(&mut out, "heartbeats", &told);
    out.push('\n');
    quantiles(&mut out, report);
    if let Some(drain) = &report.drain {
        out.push('\n');
        told_drain(&mut out, drain);
    }
    out.push('\n');
    processes(&mut out, report);
    out.push('\n');
    verdicts(&mut out, report);
    out
}

fn opened(report: &Report) -> String {
    let first = report.phase("ramp").map_or(0, |ramp| ramp.opened);
    let again = match report.opened - first {
        0 => String::new(),
        number => format!(", {number} came back"),
    };
    format!("{first} of {} opened{again}", report.plan.sockets)
}

fn line(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "{name:<12} {value}");
}

fn quantiles(out: &mut String, report: &Report) {
    let _ = writeln!(
        out,
        "{:<22}{:>10}{:>11}{:>11}{:>11}{:>11}{:>11}",
        "", "count", "p50", "p90", "p99", "p99.9", "max"
    );
    let gap = report.drain.as_ref().map(|drain| &drain.gap);
    let rows = [
        ("handshake", Some(&report.handshake)),
        ("answer", Some(&report.latency)),
        ("answer during a beat", Some(&report.during_beats)),
        ("sent late", Some(&report.lateness)),
        ("beat's lag", Some(&report.beats.lag)),
        ("gap to the reconnect", gap),
    ];
    for (name, summary) in rows {
        if let Some(summary) = summary.filter(|summary| summary.count > 0) {
            row(out, name, summary);
        }
    }
}

fn row(out: &mut String, name: &str, summary: &Summary) {
    let _ = write!(out, "{name:<22}{:>10}", summary.count);
    for value in [
        summary.p50_s,
        summary.p90_s,
        summary.p99_s,
        summary.p999_s,
        summary.max_s,
    ] {
        let _ = write!(out, "{:>11}", time(value));
    }
    out.push('\n');
}

fn told_drain(out: &mut String, drain: &Drain) {
    let codes: Vec<String> = drain
        .codes
        .iter()
        .map(|(code, number)| format!("{number} × {code}"))
        .collect();
    let told = format!(
        "{} of {} with the right bye, the last after {}; Close: {}; cut off: {}",
        drain.byes,
        drain.sockets,
        time(drain.last_bye_s),
        codes.join(", "),
        drain.cut_off
    );
    line(out, "drain", &told);
    if let Some(exit) = drain.exit_s {
        line(out, "", &format!("the process ended after {}", time(exit)));
    }
    if drain.reconnect {
        let told = format!(
            "{} resumed, {} with a fresh session, {} more tries; at most {} handshakes a second",
            drain.resumed, drain.fresh, drain.retries, drain.handshakes_peak
        );
        line(out, "", &told);
        let told = format!(
            "{} messages lost, {} duplicated; {} sent again, {} sessions came back with less than \
             was acknowledged",
            drain.lost, drain.duplicated, drain.resent, drain.taken_back
        );
        line(out, "ledger", &told);
    }
}

fn processes(out: &mut String, report: &Report) {
    let _ = writeln!(
        out,
        "{:<22}{:>10}{:>11}{:>14}{:>14}",
        "process", "pid", "CPU", "memory", "a socket"
    );
    for process in report.servers.iter().chain([&report.client]) {
        told_process(out, process);
    }
    if report.client_load() > CLIENT_BOUND {
        let _ = writeln!(
            out,
            "this program took {:.0} % of a core: it was the bottleneck, not the server",
            report.client_load() * 100.0
        );
    }
}

fn told_process(out: &mut String, process: &Process) {
    let _ = writeln!(
        out,
        "{:<22}{:>10}{:>11}{:>14}{:>14}",
        process.name,
        process.pid,
        time(process.cpu_s),
        bytes(process.rss_peak_bytes as f64),
        bytes(process.socket_bytes)
    );
}

fn verdicts(out: &mut String, report: &Report) {
    for fault in &report.faults {
        let _ = writeln!(out, "fault: {} × {}", fault.number, fault.fault);
        for example in &fault.examples {
            let _ = writeln!(out, "    {example}");
        }
    }
    for verdict in &report.assertions {
        let word = if verdict.held { "holds" } else { "FAILS" };
        let value = verdict
            .value
            .map_or("not measured".into(), |value| format!("{value:.6}"));
        let _ = writeln!(out, "{word}: {} ({value})", verdict.assertion);
    }
    if let Some(trouble) = &report.trouble {
        let _ = writeln!(out, "trouble: {trouble}");
    }
    if report.interrupted {
        out.push_str("interrupted: these figures are of a part of the run\n");
    }
    out.push_str(if report.passed {
        "passed\n"
    } else {
        "FAILED\n"
    });
}
