//! The service as its users meet it: the real process, over real sockets.

mod bad_input;
mod client;
mod contract;
mod lifecycle;
mod peers;
mod sessions;
mod tally;
mod telemetry;
