//! The whole stack: real engines, real Traefik, the real server, in a folder of its own.

mod certificates;
mod clone;
mod containers;
mod door;
mod drills;
mod engine;
mod kubernetes;
mod pebble;
#[path = "../../../server/tests/common/redis.rs"]
#[expect(dead_code, reason = "the tests of the stores use more of it")]
mod redis_server;
mod sessions;
mod verbs;
