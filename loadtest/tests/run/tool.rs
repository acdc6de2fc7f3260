//! The program, run to its end.

use std::{
    net::SocketAddr,
    process::{Command, Output},
};

use serde_json::Value;

/// What a run said and how it ended.
pub struct Outcome {
    pub code: i32,
    pub told: String,
    pub report: Value,
}

/// Runs it against an address with options separated by spaces.
pub fn load(address: SocketAddr, options: &str) -> Outcome {
    run(&format!("ws://{address}/ws/chat/ {options}"))
}

pub fn run(arguments: &str) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("report.json");
    let output: Output = Command::new(env!("CARGO_BIN_EXE_tally-loadtest"))
        .args(arguments.split_whitespace())
        .arg("--json")
        .arg(&json)
        // Where no stack is recorded.
        .current_dir(folder.path())
        .output()
        .unwrap();
    let told = [output.stdout, output.stderr].concat();
    let report = std::fs::read(&json).unwrap_or_default();
    Outcome {
        code: output.status.code().unwrap(),
        told: String::from_utf8(told).unwrap(),
        report: serde_json::from_slice(&report).unwrap_or_default(),
    }
}

impl Outcome {
    #[track_caller]
    pub fn passed(self) -> Value {
        assert_eq!(self.code, 0, "{}", self.told);
        self.report
    }

    /// The faults by name; there has to be one.
    #[track_caller]
    pub fn faults(&self) -> Vec<&str> {
        assert_eq!(self.code, 1, "{}", self.told);
        let faults = self.report["faults"].as_array().unwrap().iter();
        faults
            .map(|fault| fault["fault"].as_str().unwrap())
            .collect()
    }
}
