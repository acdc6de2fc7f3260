//! The stack of this clone, as `./just up` recorded it.

use std::fs;

use serde_json::Value;

use crate::target::Target;

const RECORD: &str = ".tally/stack.json";

/// The front door.
///
/// # Errors
/// Nothing was recorded here.
pub fn front_door() -> Result<Target, String> {
    let missing = "no address was given, and no stack is recorded here; start one (./just up), or \
                   give an address: ws://127.0.0.1:8000/ws/chat/";
    let record = record().ok_or(missing)?;
    let port = port(&record, "front_door").ok_or(missing)?;
    if port == 0 {
        return Err("this stack is in a cluster; give its address, as ./just status has it".into());
    }
    let scheme = match record["door"]["tls"] {
        Value::Null => "ws",
        _ => "wss",
    };
    Target::parse(&format!("{scheme}://127.0.0.1:{port}/ws/chat/"))
}

/// Where the colours listen behind the front door; nowhere behind another port.
pub fn ports_behind(front_door: u16) -> Vec<u16> {
    let Some(record) = record().filter(|record| port(record, "front_door") == Some(front_door))
    else {
        return Vec::new();
    };
    let colours = ["blue", "green"];
    colours
        .iter()
        .filter_map(|colour| port(&record, colour))
        .collect()
}

/// Whether the port is the front door: a proxy then holds two files for each socket.
pub fn is_front_door(number: u16) -> bool {
    record().and_then(|record| port(&record, "front_door")) == Some(number)
}

fn record() -> Option<Value> {
    serde_json::from_str(&fs::read_to_string(RECORD).ok()?).ok()
}

fn port(record: &Value, name: &str) -> Option<u16> {
    record["ports"][name].as_u64()?.try_into().ok()
}
