//! The service as its users meet it: the real process, over real sockets.

mod bad_input;
mod client;
mod contract;
mod drain;
mod earlier;
mod exposition;
mod handshake;
mod healthcheck;
mod host;
mod lifecycle;
mod limits;
mod peers;
mod races;
mod readers;
#[path = "../common/redis.rs"]
#[expect(dead_code, reason = "the tests of the stores use more of it")]
mod redis_server;
mod sessions;
mod settings;
mod stores;
mod stubborn;
mod tally;
mod telemetry;
