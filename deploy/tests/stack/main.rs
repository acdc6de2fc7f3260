//! The whole stack: real supervisord, real Traefik, the real server, in a folder of its own.

mod clone;
mod drills;
mod engine;
mod verbs;
