//! The whole stack: real engines, real Traefik, the real server, in a folder of its own.

mod clone;
mod containers;
mod drills;
mod engine;
mod verbs;
