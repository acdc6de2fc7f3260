//! Tally: a message counter over WebSockets. DESIGN.md tells how the parts work together.

pub mod admission;
pub mod app;
pub mod assembly;
pub mod changes;
pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod connection;
pub mod context;
pub mod drain;
pub mod frame;
pub mod handshake;
pub mod healthcheck;
pub mod http;
pub mod hub;
pub mod input;
pub mod keeper;
pub mod lease;
pub mod logging;
pub mod metrics;
pub mod minting;
pub mod pacer;
pub mod protocol;
pub mod public;
pub mod records;
pub mod roster;
pub mod session;
pub mod shutdown;
pub mod socket;
pub mod sockets;
pub mod spill;
pub mod store;
pub mod telemetry;
pub mod turn;
pub mod upgrade;
pub mod wire;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit this was built from, where the build was told.
pub const REVISION: &str = match option_env!("TALLY_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
