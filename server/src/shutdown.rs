//! The end of the process: one owner, one deadline.

use std::{
    process, thread,
    time::{Duration, Instant},
};

use actix_rt::time::timeout;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use tokio::sync::oneshot;

use crate::{
    app::Service,
    hub::{CutOff, Drain},
    public::STOP_TIMEOUT,
    records::Outcome,
};

/// What an operator is promised.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// For goodbyes, and the peers' answers to them.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);

/// For the sockets that had to be cut off to go.
const CUT_OFF_TIMEOUT: Duration = Duration::from_millis(500);

/// For the servers to stop; and meanwhile for the keeper to store or spill what is left.
const SERVERS_TIMEOUT: Duration = Duration::from_millis(2500);

const _: () = assert!(
    DRAIN_TIMEOUT.as_millis() + CUT_OFF_TIMEOUT.as_millis() + SERVERS_TIMEOUT.as_millis()
        < SHUTDOWN_MAX.as_millis() - 500,
    "the steps, and half a second for the log, fit the promise"
);
const _: () = assert!(STOP_TIMEOUT.as_millis() < SERVERS_TIMEOUT.as_millis());

/// How the drain went, for the last line of the log.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub outcome: Outcome,
    pub duration: Duration,
    /// Connections when it began.
    pub connections: usize,
    /// Connections that had to be cut off.
    pub cut_off: usize,
}

/// Resolves with the first SIGTERM or SIGINT, by name. A second one ends the process at once with
/// exit code 1, whatever the first is still doing.
///
/// # Errors
/// The handlers cannot be installed.
pub fn signal() -> std::io::Result<oneshot::Receiver<&'static str>> {
    let (first, received) = oneshot::channel();
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut signals = signals.forever();
            if let Some(signal) = signals.next() {
                let _ = first.send(signal_hook::low_level::signal_name(signal).unwrap_or("signal"));
            }
            if signals.next().is_some() {
                process::exit(1);
            }
        })?;
    Ok(received)
}

/// Sends everybody away, then stops the servers. Takes less than [`SHUTDOWN_MAX`].
pub async fn drain(service: Service, signal: &'static str) -> Report {
    let began = Instant::now();
    let site = service.site.clone();
    let (admission, telemetry) = (&site.admission, &site.telemetry);
    admission.close();
    let connections = admission.open();
    telemetry.drain_began(signal, connections);

    site.desk.keeper.hurry();
    site.desk.hub.do_send(Drain);
    let mut cut_off = 0;
    if timeout(DRAIN_TIMEOUT, admission.emptied()).await.is_err() {
        cut_off = admission.open();
        telemetry.drain_overdue(cut_off);
        site.desk.hub.do_send(CutOff);
        let _ = timeout(CUT_OFF_TIMEOUT, admission.emptied()).await;
    }
    let _ = timeout(SERVERS_TIMEOUT, service.stop()).await;

    let report = Report {
        outcome: if cut_off == 0 {
            Outcome::Clean
        } else {
            Outcome::Forced
        },
        duration: began.elapsed(),
        connections,
        cut_off,
    };
    if let Err(error) = site.records.close(report.outcome, report.duration) {
        telemetry.records_unwritable(&error);
    }
    report
}
