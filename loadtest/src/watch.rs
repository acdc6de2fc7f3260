//! The processes on the other side, looked at from here, beside this one.

use std::process;

use crate::{
    process::{self as proc, Usage},
    stack,
    target::Target,
};

/// A process whose memory and CPU are reported.
#[derive(Clone, Debug)]
pub struct Watched {
    pub name: String,
    pub pid: u32,
}

/// What all of them had used at one moment. Who has ended keeps what was seen last.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub client: Usage,
    pub servers: Vec<Usage>,
}

pub struct Watch {
    pub processes: Vec<Watched>,
    last: Look,
}

impl Watch {
    /// Those that were named; else who listens at the target, and the colours behind it.
    pub fn new(named: &[u32], target: &Target) -> Self {
        let processes: Vec<Watched> = if named.is_empty() && !target.is_here() {
            Vec::new()
        } else if named.is_empty() {
            let ports = stack::ports_behind(target.address.port());
            let all = std::iter::once(target.address.port()).chain(ports);
            all.filter_map(proc::listener).filter_map(watched).collect()
        } else {
            named.iter().copied().filter_map(watched).collect()
        };
        let last = Look {
            client: Usage::default(),
            servers: vec![Usage::default(); processes.len()],
        };
        Self { processes, last }
    }

    pub fn look(&mut self) -> Look {
        update(&mut self.last.client, process::id());
        for (usage, process) in self.last.servers.iter_mut().zip(&self.processes) {
            update(usage, process.pid);
        }
        self.last.clone()
    }
}

fn watched(pid: u32) -> Option<Watched> {
    let name = proc::name(pid)?;
    Some(Watched { name, pid })
}

fn update(usage: &mut Usage, pid: u32) {
    if !proc::ended(pid)
        && let Some(now) = proc::usage(pid)
    {
        *usage = now;
    }
}

impl Look {
    pub fn server_cpu(&self) -> crate::clock::Nanos {
        self.servers.iter().map(|usage| usage.cpu).sum()
    }

    pub fn server_rss(&self) -> u64 {
        self.servers.iter().map(|usage| usage.rss_bytes).sum()
    }
}
