//! What a run found out, put together into its report.

use std::sync::atomic::Ordering;

use crate::{
    clock::{Nanos, seconds},
    drain,
    machine::Machine,
    process::Usage,
    recorder::Durations,
    report::{Beats, Drain, FaultCount, Phase, Plan, Process, Report, Summary},
    run::{Mark, Run},
    watch::Look,
};

pub fn report(run: &Run<'_>, began: String) -> Report {
    let recorder = &run.client.recorder;
    let phases: Vec<Phase> = run.marks.windows(2).map(phase).collect();
    let talk = phases.iter().find(|phase| phase.name == "talk");
    let mut report = Report {
        passed: true,
        interrupted: run.interrupted.load(Ordering::Relaxed),
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
        drain: run
            .client
            .drain
            .as_ref()
            .map(|drain| drained(drain, recorder.handshakes_peak)),
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

fn plan(run: &Run<'_>) -> Plan {
    let load = &run.options.load;
    let target = &run.client.target;
    Plan {
        target: target.to_string(),
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

fn drained(drain: &drain::Drain, handshakes_peak: u64) -> Drain {
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
        taken_back: drain.taken_back,
        resent: drain.resent,
        lost: drain.lost,
        duplicated: drain.duplicated,
        handshakes_peak,
        gone: drain.gone(),
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
    let own = |look: &Look| look.client;
    process(run, "tally-loadtest".into(), std::process::id(), own)
}

fn servers(run: &Run<'_>) -> Vec<Process> {
    let watched = run.watch.processes.iter().enumerate();
    watched
        .map(|(place, watched)| {
            let its = |look: &Look| look.servers[place];
            process(run, watched.name.clone(), watched.pid, its)
        })
        .collect()
}

fn process(run: &Run<'_>, name: String, pid: u32, usage: impl Fn(&Look) -> Usage) -> Process {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::durations;

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
