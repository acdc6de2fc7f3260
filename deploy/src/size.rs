//! What a number of sockets takes, worked out from measured figures: no cluster is asked.

use clap::Args;

/// What was measured, on 2 cores (AMD EPYC, Linux 6.18, 2026-11-25), and which command shows it again.
mod measured {
    /// Up to here what follows was seen, and beyond it is extrapolated.
    pub const SERVER_SOCKETS: u64 = 19_000;
    pub const TRAEFIK_SOCKETS: u64 = 5_000;
    /// Of the server for an idle socket: `./just compare`.
    pub const SERVER_BYTES: f64 = 1_668.0;
    /// Of a process without any: `./just loadtest -n 1000 --rate 0`, less 1,000 sockets.
    pub const PROCESS_BYTES: f64 = 10.7e6;
    /// Of the kernel for a socket whose peer reads: `Slab` in `/proc/meminfo` during and after
    /// `./just loadtest -n 9000 --rate 0`, halved, since both ends were here; the median of five.
    pub const KERNEL_BYTES: f64 = 4_120.0;
    /// Of Traefik for a socket, which is two connections: `./just loadtest` through it.
    pub const TRAEFIK_BYTES: f64 = 97.0 * 1024.0;
    /// CPU of the server: `./just compare`, the floor's median by the multiple.
    pub const HANDSHAKE_S: f64 = 21e-6;
    pub const MESSAGE_S: f64 = 8.2e-6;
    pub const DELIVERY_S: f64 = 8.0e-6;
    /// Of a handshake that resumes, the session's way through the store included:
    /// `compare/stores.py`.
    pub const RESUME_S: f64 = 143e-6;
    /// Traefik's CPU by the server's, for the same traffic: `./just loadtest` through it.
    pub const TRAEFIK_CPU: f64 = 3.5;
    /// Of Redis for a session that is stored: `compare/stores.py`.
    pub const SAVE_S: f64 = 8e-6;
    /// Of Redis for an open session: `INFO memory`, before and after `save.lua` for 100,000.
    pub const SESSION_BYTES: f64 = 262.0;
}

/// What the manifests under `deploy/kubernetes` say.
const WORKERS: f64 = 2.0;
const HEARTBEAT_S: f64 = 30.0;
const CHECKPOINT_S: f64 = 1.0;
const PODS_MIN: u64 = 3;
const TRAEFIKS_MIN: u64 = 2;

/// A pod takes 20,000: the other half is for those of a pod that is lost. Also what a Traefik carries
/// in a GiB, with two files each.
const SOCKETS_PER_POD: u64 = 10_000;

/// Of a node: what is left of 16 GiB and 4 cores beside the system's own.
const NODE_BYTES: f64 = 14.0 * GIB;
const NODE_CORES: f64 = 3.5;

/// How long a release may send its sockets away.
const DRAIN_S: f64 = 300.0;
const DRAIN_RATE_MIN: f64 = 500.0;

/// Redis has one core for its words; busier than that, it answers late.
const REDIS_BUSY_MAX: f64 = 0.5;

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

#[derive(Args, Clone, Copy, Debug)]
pub struct Sizing {
    /// Messages a second of a socket
    #[arg(long, default_value_t = 0.2, value_parser = rate)]
    rate: f64,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text
        .parse()
        .map_err(|_| "it should be a number, such as 0.2")?;
    if (0.0..=1000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err("it should be from 0 to 1000".into())
    }
}

/// For a number of sockets; memory in bytes, CPU in cores, rates a second.
#[derive(Clone, Copy, Debug)]
struct Needs {
    sockets: u64,
    pods: u64,
    pod_bytes: f64,
    server_bytes: f64,
    kernel_bytes: f64,
    server_cores: f64,
    traefiks: u64,
    traefik_bytes: f64,
    traefik_cores: f64,
    redis_saves: f64,
    redis_cores: f64,
    redis_bytes: f64,
    nodes: u64,
    nodes_without_proxy: u64,
    deliveries: f64,
    beat_s: f64,
    drain_rate: f64,
    drain_s: f64,
    lost_pod_s: f64,
}

impl Sizing {
    /// A column for each number of sockets.
    pub fn told(self, sockets: &[u64]) -> String {
        let needs: Vec<Needs> = sockets.iter().map(|count| self.needs(*count)).collect();
        self.table(&needs)
    }

    fn needs(self, sockets: u64) -> Needs {
        use measured as m;
        let count = sockets as f64;
        let pods = sockets.div_ceil(SOCKETS_PER_POD).max(PODS_MIN);
        let each = count / pods as f64;
        let traefiks = sockets.div_ceil(SOCKETS_PER_POD).max(TRAEFIKS_MIN);
        let deliveries = count / HEARTBEAT_S;
        let drain_rate = (count / DRAIN_S).max(DRAIN_RATE_MIN);
        // While a release drains, what moves comes on top of what talks.
        let returns = drain_rate * (m::HANDSHAKE_S + m::RESUME_S);
        let talk = count * self.rate * m::MESSAGE_S + deliveries * m::DELIVERY_S;
        let server_cores = talk + returns;
        let kernel_bytes = count * m::KERNEL_BYTES;
        let server_bytes = count * m::SERVER_BYTES + pods as f64 * m::PROCESS_BYTES;
        let traefik_bytes = count * m::TRAEFIK_BYTES;
        let traefik_cores = server_cores * m::TRAEFIK_CPU;
        // A session is stored at most once a checkpoint, and once as it is drained.
        let redis_saves = count * self.rate.min(1.0 / CHECKPOINT_S) + drain_rate;
        let redis_cores = redis_saves * m::SAVE_S;
        let redis_bytes = count * m::SESSION_BYTES;
        // In a release both colours are there.
        let colours = 2.0 * (server_bytes + kernel_bytes);
        let nodes = |bytes: f64, cores: f64| {
            let nodes = (bytes / NODE_BYTES).max(cores / NODE_CORES).ceil();
            (nodes as u64).max(PODS_MIN)
        };
        Needs {
            sockets,
            pods,
            pod_bytes: m::PROCESS_BYTES + each * (m::SERVER_BYTES + m::KERNEL_BYTES),
            server_bytes,
            kernel_bytes,
            server_cores,
            traefiks,
            traefik_bytes,
            traefik_cores,
            redis_saves,
            redis_cores,
            redis_bytes,
            nodes: nodes(
                colours + traefik_bytes + redis_bytes,
                server_cores + traefik_cores + redis_cores,
            ),
            nodes_without_proxy: nodes(colours + redis_bytes, server_cores + redis_cores),
            deliveries,
            beat_s: each / WORKERS * m::DELIVERY_S,
            drain_rate,
            drain_s: count / drain_rate,
            lost_pod_s: each * (m::HANDSHAKE_S + m::RESUME_S) / ((pods - 1) as f64 * WORKERS),
        }
    }

    fn table(self, needs: &[Needs]) -> String {
        type Row<'a> = (&'a str, Box<dyn Fn(&Needs) -> String>);
        let rows: [Row; 18] = [
            ("sockets", Box::new(|n| thousands(n.sockets as f64))),
            ("pods of a colour", Box::new(|n| n.pods.to_string())),
            (
                "memory of a pod",
                Box::new(|n| of_server(n, bytes(n.pod_bytes))),
            ),
            (
                "  all pods: the server's own",
                Box::new(|n| of_server(n, bytes(n.server_bytes))),
            ),
            (
                "  all pods: the kernel's",
                Box::new(|n| of_server(n, bytes(n.kernel_bytes))),
            ),
            (
                "cores of all pods",
                Box::new(|n| of_server(n, cores(n.server_cores))),
            ),
            ("Traefiks", Box::new(|n| n.traefiks.to_string())),
            (
                "  their memory",
                Box::new(|n| of_traefik(n, bytes(n.traefik_bytes))),
            ),
            (
                "  their cores",
                Box::new(|n| of_traefik(n, cores(n.traefik_cores))),
            ),
            (
                "sessions stored a second",
                Box::new(|n| thousands(n.redis_saves)),
            ),
            (
                "  Redis' cores, of one",
                Box::new(|n| extrapolated(cores(n.redis_cores))),
            ),
            (
                "  Redis' memory",
                Box::new(|n| of_server(n, bytes(n.redis_bytes))),
            ),
            (
                "nodes of 4 cores, 16 GiB",
                Box::new(|n| extrapolated(n.nodes.to_string())),
            ),
            (
                "  without an HTTP proxy",
                Box::new(|n| extrapolated(n.nodes_without_proxy.to_string())),
            ),
            (
                "beats delivered a second",
                Box::new(|n| thousands(n.deliveries)),
            ),
            (
                "  a beat, first socket to last",
                Box::new(|n| of_server(n, seconds(n.beat_s))),
            ),
            (
                "a release drains (rate, time)",
                Box::new(|n| format!("{}/s, {}", thousands(n.drain_rate), seconds(n.drain_s))),
            ),
            (
                "a lost pod's return, CPU alone",
                Box::new(|n| extrapolated(seconds(n.lost_pod_s))),
            ),
        ];
        let mut text = String::new();
        for (name, row) in &rows {
            text += &format!("{name:<34}");
            for needs in needs {
                text += &format!("{:>17}", row(needs));
            }
            text += "\n";
        }
        text += "\n~ is extrapolated: beyond 19,000 sockets of a server, 5,000 through a Traefik, and \
                 what\n  nobody has run here at all. All else was measured at that size, or is \
                 arithmetic.\n";
        for needs in needs {
            text += &format!(
                "\n{} sockets: {}\n",
                thousands(needs.sockets as f64),
                first(needs)
            );
        }
        text
    }
}

/// What gives way first, and what to do about it.
fn first(needs: &Needs) -> &'static str {
    if needs.redis_cores > REDIS_BUSY_MAX {
        "Redis gives way first, at half its one core: use a Redis Cluster\n  \
         (redis-cluster://), or a longer TALLY_CHECKPOINT. Then Traefik's memory: put a TCP load \
         balancer\n  in front of the colours' Services instead of an HTTP proxy."
    } else if needs.traefik_bytes > needs.server_bytes + needs.kernel_bytes
        && needs.traefiks > TRAEFIKS_MIN
    {
        "Traefik's memory gives way first, many times what the pods take: more\n  Traefiks, or a \
         TCP load balancer in front of the colours' Services."
    } else {
        "nothing does; so many pods are for the loss of one, not for the load."
    }
}

fn extrapolated(text: String) -> String {
    format!("~{text}")
}

fn of_server(needs: &Needs, text: String) -> String {
    mark(text, needs.sockets > measured::SERVER_SOCKETS)
}

fn of_traefik(needs: &Needs, text: String) -> String {
    mark(text, needs.sockets > measured::TRAEFIK_SOCKETS)
}

fn mark(text: String, beyond: bool) -> String {
    if beyond { extrapolated(text) } else { text }
}

fn bytes(bytes: f64) -> String {
    match bytes / 1024.0 / 1024.0 {
        mib if mib < 1024.0 => format!("{mib:.0} MiB"),
        mib => format!("{:.1} GiB", mib / 1024.0),
    }
}

fn cores(cores: f64) -> String {
    format!("{cores:.2}")
}

fn seconds(seconds: f64) -> String {
    match seconds {
        short if short < 1.0 => format!("{:.0} ms", short * 1000.0),
        long => format!("{long:.0} s"),
    }
}

fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Sizing = Sizing { rate: 0.2 };

    #[test]
    fn more_sockets_never_take_less() {
        let mut before = USUAL.needs(1);
        for sockets in [1_000, 10_000, 30_001, 100_000, 1_000_000, 100_000_000] {
            let needs = USUAL.needs(sockets);
            for (now, before) in [
                (needs.pods as f64, before.pods as f64),
                (needs.traefik_bytes, before.traefik_bytes),
                (needs.server_cores, before.server_cores),
                (needs.redis_saves, before.redis_saves),
                (needs.nodes as f64, before.nodes as f64),
                (needs.drain_rate, before.drain_rate),
            ] {
                assert!(now >= before, "{needs:?}");
            }
            assert!(needs.nodes >= needs.nodes_without_proxy);
            before = needs;
        }
    }

    /// What the manifests ask for has to be enough for a pod that is full.
    #[test]
    fn a_pod_fits_its_manifest() {
        let manifest = include_str!("../kubernetes/base/colour/deployment.yaml");
        assert!(manifest.contains("memory: 128Mi") && manifest.contains("cpu: 500m"));
        let full = 2.0 * SOCKETS_PER_POD as f64;
        let bytes =
            measured::PROCESS_BYTES + full * (measured::SERVER_BYTES + measured::KERNEL_BYTES);
        assert!(bytes <= 128.0 * 1024.0 * 1024.0, "{bytes}");
        let settings = include_str!("../kubernetes/base/colour/settings.yaml");
        assert!(settings.contains("TALLY_CONNECTIONS_MAX: \"20000\""));
        assert!(settings.contains("TALLY_WORKERS: \"2\""));
    }

    #[test]
    fn what_gives_way_first_depends_on_the_size() {
        for (sockets, word) in [
            (10_000, "nothing"),
            (100_000, "Traefik's memory gives way first"),
            (1_000_000, "Redis gives way first"),
        ] {
            let told = first(&USUAL.needs(sockets));
            assert!(told.starts_with(word), "{sockets}: {told}");
        }
    }

    #[test]
    fn the_table_fits_a_terminal_and_says_what_is_extrapolated() {
        let table = USUAL.table(&[10_000, 100_000, 1_000_000].map(|count| USUAL.needs(count)));
        assert!(
            table.lines().all(|line| line.chars().count() <= 100),
            "{table}"
        );
        let memory = table
            .lines()
            .find(|line| line.starts_with("memory of a pod"));
        assert_eq!(memory.unwrap().matches('~').count(), 2, "{table}");
        let design = include_str!("../../DESIGN.md");
        assert!(design.contains(&table), "DESIGN.md lacks it:\n{table}");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(1_234_567.4), "1,234,567");
        assert_eq!(thousands(0.0), "0");
        assert_eq!(
            (seconds(0.0123), seconds(12.6)),
            ("12 ms".into(), "13 s".into())
        );
        assert_eq!(bytes(3.0 * GIB), "3.0 GiB");
        assert!(rate("-1").is_err() && rate("x").is_err() && rate("0.5").is_ok());
    }
}
