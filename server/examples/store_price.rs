//! What a store costs the server, in microseconds of CPU a session: `cargo run --release --example
//! store_price -- memory sqlite:/tmp/price.sqlite redis://127.0.0.1:6379/15`.
//!
//! Counts the time of the whole process in user and kernel, so every thread of a store is in it.
//! What a Redis spends itself is beside it, where it runs on this machine (`--server-pid`). The
//! store should hold nothing else: sessions are left in it until they expire.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use clap::Parser;
use tally_server::{
    session::{Owner, Save},
    store::{self, Op, Place, Store, StoreSettings},
};
use uuid::Uuid;

/// In sessions: a checkpoint of a busy server.
const BATCH: usize = 5000;

/// In sessions: what a drain moves at once.
const CLAIMS: usize = 500;

#[derive(Parser)]
struct Options {
    /// `memory`, `sqlite:<file>` or `redis://…`; several are measured one after the other.
    #[arg(required = true)]
    stores: Vec<String>,
    /// The process of a Redis on this machine.
    #[arg(long)]
    server_pid: Option<u32>,
    /// Sessions that lie parked in the store meanwhile.
    #[arg(long, default_value_t = 0)]
    parked: usize,
    /// Checkpoints to take the mean of; one in five is followed by the store's housekeeping.
    #[arg(long, default_value_t = 20)]
    rounds: u64,
    /// Milliseconds between two checkpoints: in a server, a second of other work has emptied the
    /// processor's caches.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Whether each batch has to be on the disk before the next.
    #[arg(long)]
    durable: bool,
}

#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
fn main() {
    let options = Options::parse();
    println!("| store | what | CPU µs each | Redis' CPU µs each | wall ms a batch |");
    println!("|---|---|---:|---:|---:|");
    for name in &options.stores {
        let place: Place = name.parse().expect(Place::EXPECTED);
        let settings = StoreSettings {
            owner: Owner::new("price"),
            ttl: Duration::from_secs(120),
            parked_max: usize::MAX,
            durable: options.durable,
        };
        let store = store::open(&place, settings).unwrap();
        let server = options.server_pid.filter(|_| place.name() == "redis");
        for row in measure(store, &options, server) {
            println!("| {} | {row} |", place.name());
        }
    }
}

fn measure(mut store: Box<dyn Store>, options: &Options, server: Option<u32>) -> Vec<String> {
    let others = ids(options.parked);
    for some in others.chunks(BATCH) {
        store.apply(&saves(some, 1, 1, true)).unwrap();
    }
    let ids = ids(BATCH);
    store.apply(&saves(&ids, 1, 0, false)).unwrap();
    let rounds = options.rounds;
    let pause = Duration::from_millis(options.pause_ms);
    let mut price = Price {
        store,
        server,
        pause,
    };
    let mut rows = Vec::new();
    rows.push(price.row("save in a checkpoint of 5,000", rounds, |round| {
        saves(&ids, 1, round + 1, false)
    }));
    rows.push(price.row("parked save in a batch of 5,000", 1, |_| {
        saves(&ids, 1, 1000, true)
    }));
    rows.push(price.row("claim in a batch of 500", 8, |round| {
        let from = round as usize * CLAIMS;
        claims(&ids[from..from + CLAIMS])
    }));
    rows.push(price.row("claim alone", 500, |round| {
        let from = 8 * CLAIMS + round as usize;
        claims(&ids[from..=from])
    }));
    rows
}

struct Price {
    store: Box<dyn Store>,
    server: Option<u32>,
    pause: Duration,
}

impl Price {
    fn row(&mut self, what: &str, rounds: u64, ops: impl Fn(u64) -> Vec<Op>) -> String {
        let batches: Vec<Vec<Op>> = (0..rounds).map(ops).collect();
        let sessions: usize = batches.iter().map(Vec::len).sum();
        let mut took = Duration::ZERO;
        let (own, servers) = (cpu(std::process::id()), self.server.map(cpu));
        for (batch, round) in batches.iter().zip(1..) {
            if batch.len() == BATCH {
                thread::sleep(self.pause);
            }
            let begun = Instant::now();
            self.store.apply(batch).unwrap();
            took += begun.elapsed();
            if batch.len() == BATCH && round % 5 == 0 {
                self.store.tidy().unwrap();
            }
        }
        let each = |spent: u64| spent as f64 / 1e3 / sessions as f64;
        let spent = cpu(std::process::id()) - own;
        let servers = servers.zip(self.server);
        let servers = servers.map(|(before, pid)| each(cpu(pid) - before));
        format!(
            "{what} | {:.2} | {} | {:.2}",
            each(spent),
            servers.map_or("–".into(), |each| format!("{each:.2}")),
            took.as_secs_f64() * 1e3 / rounds as f64,
        )
    }
}

/// What all threads of a process have spent, in nanoseconds.
fn cpu(pid: u32) -> u64 {
    // The kernel books what a thread has spent when it lets go of the processor.
    thread::yield_now();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .map(|thread| {
            let spent = fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
            spent.split(' ').next().unwrap().parse::<u64>().unwrap()
        })
        .sum()
}

fn ids(count: usize) -> Vec<Uuid> {
    (0..count).map(|_| Uuid::new_v4()).collect()
}

fn saves(ids: &[Uuid], epoch: u32, count: u64, parked: bool) -> Vec<Op> {
    let save = |id: &Uuid| Save {
        id: *id,
        epoch,
        count,
        parked,
    };
    ids.iter().map(|id| Op::Save(save(id))).collect()
}

fn claims(ids: &[Uuid]) -> Vec<Op> {
    ids.iter().map(|id| Op::Claim(*id)).collect()
}
