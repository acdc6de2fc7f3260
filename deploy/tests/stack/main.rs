//! The whole stack: real engines, real Traefik, the real server, in a folder of its own.

mod certificates;
mod clone;
mod containers;
mod door;
mod drills;
mod engine;
mod pebble;
#[path = "../../../server/tests/common/redis.rs"]
mod redis;
mod sessions;
mod verbs;
