//! The load test as a person runs it: against the real server, and against one that lies.

mod honest;
mod liar;
mod lies;
mod server;
mod tool;
