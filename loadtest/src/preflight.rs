//! Which limits of this machine stand in the way, and how to lift them.

use std::{fs, path::Path};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    process, stack,
    target::{SOCKETS_PER_SOURCE, Target},
};

/// Files that this program opens beside its sockets.
const FILES_BESIDE: u64 = 64;

/// Ports that are left alone, for everybody else.
const PORTS_SPARE: u64 = 500;

/// A limit that is too low, and its cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub what: String,
    pub cure: String,
    /// Whether the run cannot even begin.
    pub blocks: bool,
}

/// Looks at everything at once.
pub fn look(target: &Target, sockets: u64) -> Vec<Obstacle> {
    let front_door = target.is_here() && stack::is_front_door(target.address.port());
    let mut found = Vec::new();
    found.extend(files_here(raise_file_limit(), sockets));
    let listener = target
        .is_here()
        .then(|| process::listener(target.address.port()));
    if let Some(pid) = listener.flatten() {
        let each = if front_door { 2 } else { 1 };
        let name = process::name(pid).unwrap_or_default();
        let limit = process::files_max(pid);
        found.extend(limit.and_then(|limit| files_there(&name, limit, sockets * each, each)));
    }
    if let Some(ports) = client_ports() {
        found.extend(ports_here(ports, sockets, front_door));
    }
    if let Some((used, most)) = tracked() {
        found.extend(tracking(
            used,
            most,
            sockets * if front_door { 2 } else { 1 },
        ));
    }
    found
}

/// Raises the soft limit of open files to the hard one; returns what holds.
fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn files_here(limit: u64, sockets: u64) -> Option<Obstacle> {
    (sockets + FILES_BESIDE > limit).then(|| Obstacle {
        what: format!("{sockets} sockets do not fit into the {limit} files that this program may open"),
        cure: format!(
            "--sockets {}, or a higher limit: ulimit -Hn (as root, or in /etc/security/limits.conf)",
            limit.saturating_sub(FILES_BESIDE)
        ),
        blocks: true,
    })
}

fn files_there(name: &str, limit: u64, needed: u64, each: u64) -> Option<Obstacle> {
    (needed + FILES_BESIDE > limit).then(|| Obstacle {
        what: format!("{name} may open {limit} files, and needs {each} for each socket"),
        cure: format!(
            "--sockets {}, or start it with a higher limit: ulimit -n",
            limit.saturating_sub(FILES_BESIDE) / each
        ),
        blocks: false,
    })
}

/// A proxy reaches its server from one address to one port, so there the ports are the limit.
fn ports_here(ports: u64, sockets: u64, proxied: bool) -> Option<Obstacle> {
    let from_one = if proxied {
        sockets
    } else {
        sockets.min(SOCKETS_PER_SOURCE as u64)
    };
    (from_one + PORTS_SPARE > ports).then(|| Obstacle {
        what: format!("{from_one} connections from one address do not fit into {ports} ports"),
        cure: "sysctl -w net.ipv4.ip_local_port_range='16384 65535'".into(),
        blocks: false,
    })
}

fn tracking(used: u64, most: u64, connections: u64) -> Option<Obstacle> {
    (used + connections > most).then(|| Obstacle {
        what: format!(
            "the firewall tracks {used} connections, of {most}; beyond, it drops them silently"
        ),
        cure: format!(
            "sysctl -w net.netfilter.nf_conntrack_max={}",
            2 * (used + connections)
        ),
        blocks: false,
    })
}

fn client_ports() -> Option<u64> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut bounds = range.split_whitespace().map(str::parse::<u64>);
    let (low, high) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
    Some((high + 1).saturating_sub(low))
}

/// Connections that the kernel tracks, and the most it does; `None` where it does not.
fn tracked() -> Option<(u64, u64)> {
    let number = |name: &str| {
        let path = Path::new("/proc/sys/net/netfilter").join(name);
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    Some((number("nf_conntrack_count")?, number("nf_conntrack_max")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_no_obstacle() {
        assert_eq!(files_here(20_000, 19_000), None);
        assert_eq!(files_there("traefik", 20_000, 2 * 9_900, 2), None);
        assert_eq!(ports_here(28_232, 100_000, false), None);
        assert_eq!(tracking(100, 262_144, 20_000), None);
    }

    #[test]
    fn each_limit_comes_with_its_cure() {
        let files = files_here(1024, 5000).unwrap();
        assert!(
            files.blocks && files.cure.contains("--sockets 960"),
            "{files:?}"
        );
        let proxy = files_there("traefik", 20_000, 2 * 10_000, 2).unwrap();
        assert!(proxy.what.contains("traefik may open 20000"), "{proxy:?}");
        assert!(proxy.cure.contains("--sockets 9968"), "{proxy:?}");
        assert!(
            ports_here(28_232, 28_000, true)
                .unwrap()
                .cure
                .contains("ip_local_port_range")
        );
        assert!(
            tracking(262_000, 262_144, 200)
                .unwrap()
                .cure
                .contains("nf_conntrack_max")
        );
    }
}
