//! What can go wrong, and what to do about it.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    colour::Colour,
    engine::Kind,
    kubernetes::cluster::Cluster,
    lock::Holder,
    store::{Store, VARIABLE},
};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("nothing runs here; start the stack with: ./just up")]
    NotUp,
    /// No mistake of anybody's.
    #[error("nobody reads standard output any more")]
    NobodyReads,
    #[error("{path:?}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path:?} cannot be understood ({reason}); run ./just down, delete it, run ./just up")]
    Record { path: PathBuf, reason: String },
    #[error("{path:?}: {reason}")]
    Placeholder { path: PathBuf, reason: String },
    #[error("{0}")]
    Settings(String),
    #[error("{source}; {cure}")]
    Missing {
        source: Box<Error>,
        cure: &'static str,
    },
    #[error("the stack runs on the {0} engine; to change that: ./just down, then ./just up")]
    OtherEngine(Kind),
    #[error("{colour} is {state} (exit code {exit_code}); its last words: {words}")]
    NotRunning {
        colour: Colour,
        state: String,
        exit_code: String,
        words: String,
    },
    #[error("the front door cannot be at {address}: {source}; {}", cure(source))]
    Door {
        address: SocketAddr,
        source: io::Error,
    },
    /// In plain words, with the file or the name that it is about.
    #[error("{0}")]
    Certificate(String),
    #[error(
        "Traefik reads how to ask for certificates (TALLY_ACME_EMAIL, TALLY_ACME_SERVER, \
         TALLY_ACME_CA) only as it starts; ./just down, then ./just up"
    )]
    OtherAccount,
    #[error(
        "{VARIABLE} is {wanted}, the stack runs with {stack}, and no session would move from one to \
         the other; leave the variable alone, or start anew: ./just down, then ./just up"
    )]
    OtherStore { stack: Store, wanted: Store },
    #[error("{colour} cannot reach {store}; {cure}, and ./just logs says more")]
    StoreDown {
        colour: Colour,
        store: Store,
        cure: &'static str,
    },
    #[error(
        "{to} keeps its sessions in {next} and {from} in {live}, so none would move; \
         to start anew with it: ./just down, then ./just up"
    )]
    SessionsStay {
        from: Colour,
        to: Colour,
        live: String,
        next: String,
    },
    #[error(
        "not enough ports of 127.0.0.1 are free; stop something that listens there (ss -ltn), or say \
         with TALLY_PORTS where others are"
    )]
    NoPorts,
    #[error(
        "the tools cannot be installed: {0}; needed are python3 with venv \
         (apt-get install python3 python3-venv) and a way to PyPI"
    )]
    Tools(Box<Error>),
    #[error("process {0} does not end; end it: kill -9 {0}")]
    Alive(i32),
    #[error("the stack runs at port {0} already; to move it: ./just down, then ./just up")]
    RunsElsewhere(u16),
    #[error("{0} has no address of IPv4, which is all that the load test takes")]
    NoAddress(String),
    #[error("all is not well; the load test's report above says why")]
    Audit,
    #[error("`{command}` failed: {reason}")]
    Command { command: String, reason: String },
    #[error("{what} did not come true within {waited:?}: {last}; look at ./just logs")]
    Timeout {
        what: String,
        waited: Duration,
        last: String,
    },
    #[error("{url} answered {answer}")]
    Http { url: String, answer: String },
    #[error("the conversation with {address} failed at {step}: {reason}")]
    Smoke {
        address: String,
        step: &'static str,
        reason: String,
    },
    #[error("Traefik leads nowhere with {service} ({status}); ./just logs says why")]
    Meaningless { service: String, status: String },
    #[error(
        "Traefik kept its old configuration, which leads to {0}: it could not read a file in \
         traefik/dynamic, and its log says which"
    )]
    NotTaken(Colour),
    #[error("{colour} runs version {found:?}, and {meant:?} was meant")]
    OtherVersion {
        colour: Colour,
        found: String,
        meant: String,
    },
    #[error("{colour} did not hold out: {reason}")]
    Bake { colour: Colour, reason: String },
    #[error("somebody asked to stop")]
    Interrupted,
    #[error(
        "{} of {} has been at it since {} (process {} on {}); wait, or look: ./just status",
        .0.verb, .0.user, .0.since.format("%H:%M:%S"), .0.process, .0.host
    )]
    Locked(Box<Holder>),
    #[error("{0} is changed by others over and over; try again")]
    Contended(String),
    #[error("{colour} is of two minds: {one} and {other}; wait for its rollout to end")]
    Mixed {
        colour: Colour,
        one: String,
        other: String,
    },
    #[error("{colour} is not whole: {told}")]
    NotWhole { colour: Colour, told: String },
    /// Of a colour that cannot become whole by itself.
    #[error("{colour} does not start: {told}")]
    NeverWhole { colour: Colour, told: String },
    #[error(
        "TALLY_IMAGE names no image that the cluster can pull; or set TALLY_IMAGE_PUSH to what brings \
         one there that is built here, such as \"docker push\" or \"kind load docker-image\""
    )]
    NoImage,
    #[error(
        "the stack runs in namespace {} from overlay {}, and TALLY_NAMESPACE or TALLY_OVERLAY says \
         otherwise; leave them alone, or start anew: ./just down, for another overlay also kubectl \
         delete namespace {}, then ./just up",
         .0.namespace, .0.overlay, .0.namespace
    )]
    RolledOutElsewhere(Cluster),
    #[error("{0} is nothing for ENGINE=kubernetes: {1}")]
    NotOnKubernetes(&'static str, &'static str),
    #[error("the lock was taken over by somebody else; look at ./just status before going on")]
    LockLost,
    #[error("before a flip can begin:\n{0}")]
    Preflight(String),
    #[error("there is nothing to go back to: {0} was never started here; use ./just flip")]
    NothingBefore(Colour),
    #[error("{place}: {reason}; the history lacks this line: {line}")]
    History {
        place: String,
        reason: String,
        line: String,
    },
    #[error("the flip to {to} failed: {source}\n{from} goes on serving")]
    Refused {
        from: Colour,
        to: Colour,
        source: Box<Error>,
    },
    #[error(
        "the flip to {to} failed: {source}\n{from} serves again; the front door did not lead to it \
         for {} ms", .away.as_millis()
    )]
    TakenBack {
        from: Colour,
        to: Colour,
        source: Box<Error>,
        away: Duration,
    },
    #[error(
        "{to} is live, but {from} has not gone: {source}; \
         ./just up finishes that, ./just rollback goes back"
    )]
    OldStays {
        from: Colour,
        to: Colour,
        source: Box<Error>,
    },
    #[error(
        "the flip to {to} failed: {source}\nand going back to {from} failed too: {back}; \
         look at ./just status"
    )]
    FlipStuck {
        from: Colour,
        to: Colour,
        source: Box<Error>,
        back: Box<Error>,
    },
}

impl Error {
    /// Whether no waiting makes it better.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::NeverWhole { .. })
    }
}

/// What helps against an address that cannot be had.
fn cure(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "low ports are for root; ENGINE=docker has its rights, and so has everybody after \
             sysctl net.ipv4.ip_unprivileged_port_start=443, or choose another port: \
             TALLY_PORT=8443 ./just up"
        }
        io::ErrorKind::AddrNotAvailable => {
            "set TALLY_BIND to an address of this machine: ip address"
        }
        _ => "choose another port: TALLY_PORT=8081 ./just up",
    }
}

impl Error {
    /// For `map_err` on file operations.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::File { path, source }
    }
}
