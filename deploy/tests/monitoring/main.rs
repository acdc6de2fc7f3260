//! What watches the stack: rules, routes, logs and dashboards, checked by the programs that read
//! them, and against what the stack really says.

mod alerts;
mod dashboards;
mod delivery;
mod logs;
mod monitor;
mod programs;
