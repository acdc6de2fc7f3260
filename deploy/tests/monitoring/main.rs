//! What watches the stack: rules, routes, logs and dashboards, checked by the programs that read
//! them, and against what the stack really says.

mod alerts;
#[path = "../../../server/tests/page/browser.rs"]
#[expect(dead_code, reason = "the tests of the page do more with it")]
mod browser;
#[path = "../stack/certificates.rs"]
#[expect(dead_code, reason = "the tests of the stack do more with it")]
mod certificates;
#[path = "../stack/clone.rs"]
#[expect(dead_code, reason = "the tests of the stack do more with it")]
mod clone;
mod dashboards;
mod delivery;
#[path = "../stack/engine.rs"]
#[expect(dead_code, reason = "the same")]
mod engine;
mod grafana;
mod live;
mod logs;
mod monitor;
mod parts;
mod programs;
mod proof;
mod watched;
