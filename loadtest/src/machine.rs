//! What it was measured on; figures of two machines are not to be compared.

use std::{fs, thread};

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
}

impl Machine {
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kilobytes = memory
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok());
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kilobytes.unwrap_or(0_u64) * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }

    pub fn told(&self) -> String {
        let gibibytes = self.memory_bytes as f64 / f64::from(1 << 30);
        format!(
            "{}, {} cores, {gibibytes:.0} GiB, Linux {}",
            self.processor, self.cores, self.kernel
        )
    }
}

fn field(text: &str, name: &str) -> String {
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_cores_and_memory() {
        let machine = Machine::look();
        assert!(
            machine.cores > 0 && machine.memory_bytes > 1 << 26,
            "{machine:?}"
        );
        assert!(machine.told().contains("cores"));
    }
}
