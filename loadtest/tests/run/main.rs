//! The load test as a person runs it: against the real server, and against one that lies.

mod honest;
mod liar;
mod lies;
#[expect(dead_code, reason = "the clients of the README use more of it")]
mod server;
mod tool;
