//! One function an event: it writes the log line and moves the metric, so that the two cannot
//! drift apart.

use std::{
    fmt,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use slog::{Logger, debug, error, info, warn};
use uuid::Uuid;

use crate::{
    handshake::{OUTCOME_ACCEPTED, Refusal},
    hub::Resumed,
    metrics::Metrics,
    sockets::ConnectionId,
    store::{StoreError, Tidied},
    wire::Ending,
};

/// Opening and closing are logged this often a second; the rest is counted only.
const SAMPLED_PER_SECOND: u64 = 100;

/// The id that ties what one request caused together. A minted one costs no heap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    Given(Box<str>),
    Minted(Uuid),
}

impl RequestId {
    /// As `X-Request-Id` may look: up to 128 letters, digits, `.`, `_`, `-`.
    pub const LENGTH_MAX: usize = 128;

    pub fn new(given: Option<&str>) -> Self {
        let acceptable = |id: &&str| {
            !id.is_empty()
                && id.len() <= Self::LENGTH_MAX
                && id
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        match given.filter(acceptable) {
            Some(id) => Self::Given(id.into()),
            None => Self::Minted(Uuid::new_v4()),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(id) => f.write_str(id),
            Self::Minted(id) => id.fmt(f),
        }
    }
}

/// Lets the first events of a second through.
#[derive(Default)]
struct Sampler {
    second: AtomicU64,
    seen: AtomicU64,
}

impl Sampler {
    /// Whether to log this event; and how many of the last second's were not, the first time that
    /// a new second is seen. Threads that race here may let one more or less through.
    fn admit(&self, now: Duration) -> (bool, u64) {
        let second = now.as_secs();
        let mut suppressed = 0;
        if self.second.swap(second, Ordering::Relaxed) != second {
            let seen = self.seen.swap(0, Ordering::Relaxed);
            suppressed = seen.saturating_sub(SAMPLED_PER_SECOND);
        }
        let nth = self.seen.fetch_add(1, Ordering::Relaxed);
        (nth < SAMPLED_PER_SECOND, suppressed)
    }
}

pub struct Telemetry {
    pub log: Logger,
    pub metrics: Metrics,
    started: Instant,
    sampler: Sampler,
}

impl Telemetry {
    pub fn new(log: Logger, metrics: Metrics) -> Self {
        Self {
            log,
            metrics,
            started: Instant::now(),
            sampler: Sampler::default(),
        }
    }

    pub fn listening(&self, listener: &str, address: SocketAddr) {
        info!(self.log, "listening"; "event" => "listening", "listener" => listener,
            "address" => address.to_string());
    }

    pub fn ready(&self) {
        let since_start = self.started.elapsed();
        info!(self.log, "ready"; "event" => "ready",
            "duration_ms" => since_start.as_millis() as u64);
    }

    /// Runs `write` unless this second has had its share of lines.
    fn sampled(&self, write: impl FnOnce()) {
        let (admitted, suppressed) = self.sampler.admit(self.started.elapsed());
        if suppressed > 0 {
            info!(self.log, "log lines left out"; "event" => "log_suppressed",
                "suppressed" => suppressed);
        }
        if admitted {
            write();
        } else {
            self.metrics.log_records_suppressed.inc();
        }
    }

    pub fn connection_opened(
        &self,
        connection: ConnectionId,
        request_id: &RequestId,
        resumed: bool,
        count: u64,
        took: Duration,
    ) {
        self.metrics.active_connections.inc();
        self.metrics
            .handshakes
            .with_label_values(&[OUTCOME_ACCEPTED])
            .inc();
        self.metrics.handshake_seconds.observe(took.as_secs_f64());
        self.sampled(|| {
            info!(self.log, "connection opened"; "event" => "connection_opened",
                "connection" => connection, "request_id" => %request_id,
                "resumed" => resumed, "count" => count);
        });
    }

    pub fn handshake_refused(&self, request_id: &RequestId, refusal: &Refusal) {
        self.metrics
            .handshakes
            .with_label_values(&[refusal.outcome()])
            .inc();
        self.sampled(|| {
            info!(self.log, "handshake refused"; "event" => "handshake_refused",
                "request_id" => %request_id, "outcome" => refusal.outcome(),
                "status" => refusal.status().as_u16());
        });
    }

    pub fn message_counted(
        &self,
        connection: ConnectionId,
        request_id: &RequestId,
        count: u64,
        took: Duration,
    ) {
        self.metrics.messages.inc();
        self.metrics.message_seconds.observe(took.as_secs_f64());
        debug!(self.log, "message counted"; "event" => "message_counted",
            "connection" => connection, "request_id" => %request_id, "count" => count);
    }

    pub fn connection_closed(
        &self,
        connection: ConnectionId,
        request_id: &RequestId,
        ending: Ending,
        total: u64,
        lasted: Duration,
    ) {
        let reason = ending.name();
        self.metrics.active_connections.dec();
        self.metrics.closes.with_label_values(&[reason]).inc();
        self.metrics
            .connection_seconds
            .observe(lasted.as_secs_f64());
        let error = match ending {
            Ending::ServerClosed(goodbye) => goodbye.is_error(),
            Ending::Silent | Ending::SlowReader => true,
            Ending::ClientClosed(_) | Ending::PeerGone | Ending::Aborted => false,
        };
        if error {
            self.metrics.errors.with_label_values(&[reason]).inc();
        }
        if ending == Ending::SlowReader {
            self.metrics.slow_readers.inc();
        }
        let code = match ending {
            Ending::ClientClosed(code) => code,
            Ending::ServerClosed(goodbye) => Some(goodbye.code()),
            _ => None,
        };
        self.sampled(|| {
            info!(self.log, "connection closed"; "event" => "connection_closed",
                "connection" => connection, "request_id" => %request_id, "reason" => reason,
                "close_code" => code, "total" => total,
                "duration_ms" => lasted.as_millis() as u64);
        });
    }

    pub fn session_resumed(&self, outcome: &Resumed) {
        let outcome = match outcome {
            Resumed::Yes(_) => "resumed",
            Resumed::Unknown => "unknown",
            Resumed::Busy => "busy",
            Resumed::Unavailable => "unavailable",
        };
        self.metrics.resumes.with_label_values(&[outcome]).inc();
    }

    /// A batch was stored.
    pub fn sessions_saved(&self, sessions: usize, took: Duration) {
        self.metrics.store_saves.inc_by(sessions as u64);
        self.metrics.store_batch_seconds.observe(took.as_secs_f64());
    }

    /// A late word about a session that has gone on elsewhere was refused.
    pub fn save_fenced(&self) {
        self.metrics.store_fenced.inc();
    }

    pub fn store_unsaved(&self, sessions: usize) {
        self.metrics.store_pending.set(sessions as i64);
    }

    pub fn store_tidied(&self, tidied: &Tidied) {
        if let Some(parked) = tidied.parked {
            self.metrics.sessions_parked.set(parked as i64);
        }
        let forgotten = [("expired", tidied.expired), ("evicted", tidied.evicted)];
        for (reason, sessions) in forgotten {
            let counter = &self.metrics.sessions_forgotten;
            counter.with_label_values(&[reason]).inc_by(sessions);
        }
        if tidied.evicted > 0 {
            self.sampled(|| {
                warn!(self.log, "sessions evicted: more are parked than may be";
                    "event" => "sessions_evicted", "evicted" => tidied.evicted);
            });
        }
    }

    pub fn store_down(&self, error: &StoreError) {
        self.metrics.store_up.set(0);
        self.metrics.errors.with_label_values(&["store"]).inc();
        error!(self.log, "the session store is down: {error}"; "event" => "store_down");
    }

    pub fn store_up(&self, after: Duration) {
        self.metrics.store_up.set(1);
        info!(self.log, "the session store is up again"; "event" => "store_up",
            "duration_ms" => after.as_millis() as u64);
    }

    pub fn store_wiped(&self) {
        warn!(self.log, "the session store has forgotten everything; saving what is open";
            "event" => "store_wiped");
    }

    pub fn sessions_found_spilled(&self, sessions: usize) {
        if sessions > 0 {
            info!(self.log, "found sessions that an earlier process could not store";
                "event" => "sessions_found_spilled", "sessions" => sessions);
        }
    }

    pub fn sessions_spilled(&self, sessions: usize) {
        warn!(self.log, "sessions left in the state directory for the next process";
            "event" => "sessions_spilled", "sessions" => sessions);
    }

    pub fn spill_failed(&self, sessions: usize, error: &std::io::Error) {
        error!(self.log, "sessions can neither be stored nor left for the next process: {error}";
            "event" => "spill_failed", "sessions" => sessions);
    }

    /// More have gone while the store was down than may be kept for it.
    pub fn session_given_up(&self) {
        let forgotten = &self.metrics.sessions_forgotten;
        forgotten.with_label_values(&["evicted"]).inc();
        self.sampled(|| {
            error!(self.log, "session given up: the store is down for too long";
                "event" => "session_given_up");
        });
    }

    pub fn heartbeat_began(&self, lag: Duration) {
        self.metrics.heartbeats.inc();
        self.metrics
            .heartbeat_lag_seconds
            .observe(lag.as_secs_f64());
    }

    pub fn heartbeat_swept(&self, took: Duration) {
        self.metrics
            .heartbeat_sweep_seconds
            .observe(took.as_secs_f64());
    }

    /// A socket's mailbox was full: its task does not run any more.
    pub fn socket_unresponsive(&self) {
        self.metrics
            .errors
            .with_label_values(&["unresponsive"])
            .inc();
        self.sampled(|| {
            warn!(self.log, "socket cut off: its mailbox is full";
                "event" => "socket_unresponsive");
        });
    }

    /// Mostly because the process may open no more files.
    pub fn accept_failed(&self, error: &std::io::Error) {
        self.metrics.errors.with_label_values(&["accept"]).inc();
        self.sampled(|| {
            error!(self.log, "a connection cannot be accepted: {error}";
                "event" => "accept_failed");
        });
    }

    pub fn hub_behind(&self) {
        self.metrics.errors.with_label_values(&["hub"]).inc();
        self.sampled(|| {
            error!(self.log, "the Hub does not keep up"; "event" => "hub_behind");
        });
    }

    pub fn records_unwritable(&self, error: &std::io::Error) {
        warn!(self.log, "cannot write to the state directory: {error}";
            "event" => "state_unwritable");
    }

    pub fn drain_began(&self, signal: &str, open: usize) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.metrics.draining.set(1);
        self.metrics
            .shutdown_started_seconds
            .set(now.map_or(0.0, |since| since.as_secs_f64()));
        info!(self.log, "draining"; "event" => "drain_began", "signal" => signal,
            "connections" => open);
    }

    pub fn paced_drain_began(&self, rate: u32, open: usize) {
        self.metrics.draining.set(1);
        info!(self.log, "draining at a rate"; "event" => "paced_drain_began", "rate" => rate,
            "connections" => open);
    }

    pub fn paced_drain_taken_back(&self, open: usize) {
        self.metrics.draining.set(0);
        info!(self.log, "draining no more"; "event" => "paced_drain_taken_back",
            "connections" => open);
    }

    pub fn drain_overdue(&self, open: usize) {
        warn!(self.log, "cutting off the connections that are left";
            "event" => "drain_overdue", "connections" => open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_taken_over_only_when_harmless() {
        let given = RequestId::new(Some("abc-1._Z"));
        assert_eq!(given.to_string(), "abc-1._Z");
        for bad in ["", "a b", "a\"b", "a\nb", "ä", &"x".repeat(129)] {
            assert!(matches!(RequestId::new(Some(bad)), RequestId::Minted(_)));
        }
        assert!(matches!(RequestId::new(None), RequestId::Minted(_)));
    }

    #[test]
    fn a_second_has_its_share_of_lines_and_the_rest_is_reported() {
        let sampler = Sampler::default();
        let admitted = |second| sampler.admit(Duration::from_secs(second));
        let first = (0..250).filter(|_| admitted(1).0).count();
        assert_eq!(first as u64, SAMPLED_PER_SECOND);
        assert_eq!(admitted(2), (true, 150));
        assert_eq!(admitted(2), (true, 0));
    }
}
