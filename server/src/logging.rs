//! JSON lines on stdout: one record a line, written by a thread of its own.

use std::{io, panic::AssertUnwindSafe, process, sync::mpsc, thread, time::Duration};

use chrono::{SecondsFormat, Utc};
use prometheus::{IntCounter, IntCounterVec};
use slog::{Drain, FnValue, Level, Logger, Never, OwnedKVList, PushFnValue, Record, o};
use slog_async::{AsyncCore, AsyncGuard};

use crate::metrics::Metrics;

/// Records that may wait for a slow reader of stdout; beyond, they are dropped and counted: a
/// worker never waits for a log.
const QUEUE: usize = 16 * 1024;

/// How long the last records may take on their way out when nobody reads stdout.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// The logger, and what has to be done before the process ends.
pub struct Logging {
    pub logger: Logger,
    colour: String,
    guard: AsyncGuard,
}

impl Logging {
    /// Records below `level` are left out.
    pub fn start(level: Level, colour: &str, metrics: &Metrics) -> Self {
        let (core, guard) = AsyncCore::custom(json(colour).ignore_res())
            .chan_size(QUEUE)
            .thread_name("log".into())
            .build_with_guard();
        // The counters are whole even if a thread panics between two of them.
        let counted = Counted {
            core,
            written: AssertUnwindSafe(metrics.log_records.clone()),
            dropped: metrics.log_records_dropped.clone(),
        };
        Self {
            logger: Logger::root(slog::LevelFilter::new(counted, level).fuse(), o!()),
            colour: colour.to_owned(),
            guard,
        }
    }

    /// Lets the libraries' own records, such as a failed accept, come out as ours do. They go
    /// through the `log` crate, whose logger is global; nothing of ours uses it.
    pub fn take_in_libraries(&self) -> Result<slog_scope::GlobalLoggerGuard, log::SetLoggerError> {
        let logger = self.logger.new(o!("event" => "library"));
        let guard = slog_scope::set_global_logger(logger);
        slog_stdlog::init_with_level(log::Level::Warn)?;
        Ok(guard)
    }

    /// Writes out what is queued, then lets `last` write the last line past the queue, and ends
    /// the process. Bounded, even where nobody reads stdout.
    pub fn end_process(self, code: i32, last: impl FnOnce(&Logger) + Send + 'static) -> ! {
        let (done, finished) = mpsc::channel();
        thread::spawn(move || {
            drop(self.guard);
            last(&Logger::root(
                std::sync::Mutex::new(json(&self.colour)).ignore_res(),
                o!(),
            ));
            let _ = done.send(());
        });
        let _ = finished.recv_timeout(FLUSH_TIMEOUT);
        process::exit(code)
    }
}

/// The level by its full name: slog's short form, `ERRO`, escapes whoever searches for `ERROR`.
fn json(colour: &str) -> slog_json::Json<io::Stdout> {
    slog_json::Json::new(io::stdout())
        .add_key_value(o!(
            "version" => env!("CARGO_PKG_VERSION"),
            "colour" => colour.to_owned(),
            "msg" => PushFnValue(|record: &Record, serializer| serializer.emit(record.msg())),
            "level" => FnValue(|record: &Record| record.level().as_str()),
            "ts" => FnValue(|_: &Record| Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)),
        ))
        .build()
}

/// Counts what is written and what had to be dropped. slog-async's own report of drops would be
/// an ERROR record about nothing the service did wrong.
struct Counted {
    core: AsyncCore,
    written: AssertUnwindSafe<IntCounterVec>,
    dropped: IntCounter,
}

impl Drain for Counted {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record, values: &OwnedKVList) -> Result<(), Never> {
        match self.core.log(record, values) {
            Ok(()) => self
                .written
                .with_label_values(&[record.level().as_str()])
                .inc(),
            Err(_) => self.dropped.inc(),
        }
        Ok(())
    }
}
