//! The ports of a stack: picked once, recorded, and used again.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
};

use serde::{Deserialize, Serialize};

use crate::{
    engine::Kind,
    error::{Error, Result},
};

pub const FRONT_DOOR: u16 = 8080;

/// All but the front door's.
const NEEDED: usize = 12;

/// Below it live the services that have a number of their own.
const LOWEST: u16 = 10_240;

/// Where Linux begins to give ports to clients, unless it says otherwise.
const CLIENTS_FROM: u16 = 32_768;

/// None are 0: those of a stack that takes none of this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    pub front_door: u16,
    /// Traefik's API, ping and metrics.
    pub internal: u16,
    /// Traefik's way to the idle colour.
    pub preview: u16,
    pub blue: u16,
    pub blue_operator: u16,
    pub green: u16,
    pub green_operator: u16,
    /// A record from before there was any monitoring has none.
    #[serde(default)]
    pub monitoring: Option<Monitoring>,
}

/// Those of what watches the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitoring {
    pub prometheus: u16,
    pub alertmanager: u16,
    pub loki: u16,
    /// For Loki's parts among themselves.
    pub loki_grpc: u16,
    /// The Collector's metrics.
    pub otelcol: u16,
    pub grafana: u16,
}

impl Monitoring {
    fn pick(picker: &mut Picker, before: Option<Self>) -> Result<Self> {
        Ok(Self {
            prometheus: picker.pick(before.map(|ports| ports.prometheus))?,
            alertmanager: picker.pick(before.map(|ports| ports.alertmanager))?,
            loki: picker.pick(before.map(|ports| ports.loki))?,
            loki_grpc: picker.pick(before.map(|ports| ports.loki_grpc))?,
            otelcol: picker.pick(before.map(|ports| ports.otelcol))?,
            grafana: picker.pick(before.map(|ports| ports.grafana))?,
        })
    }
}

impl Ports {
    /// Those of `before` that are free, and new ones for the others. All are held while picking,
    /// so that none is picked twice.
    ///
    /// # Errors
    /// The front door cannot be at its address, or there are not enough free ports.
    pub fn pick(
        front_door: SocketAddr,
        engine: Kind,
        before: Option<Self>,
        given: Option<Range<u16>>,
    ) -> Result<Self> {
        let _held = hold(front_door, engine)?;
        let mut picker = Picker::new(given.unwrap_or_else(candidates))?;
        Ok(Self {
            front_door: front_door.port(),
            internal: picker.pick(before.map(|ports| ports.internal))?,
            preview: picker.pick(before.map(|ports| ports.preview))?,
            blue: picker.pick(before.map(|ports| ports.blue))?,
            blue_operator: picker.pick(before.map(|ports| ports.blue_operator))?,
            green: picker.pick(before.map(|ports| ports.green))?,
            green_operator: picker.pick(before.map(|ports| ports.green_operator))?,
            monitoring: Some(Monitoring::pick(
                &mut picker,
                before.and_then(|ports| ports.monitoring),
            )?),
        })
    }
}

/// Reads `20000-20031`, of which both ends count.
pub fn range(text: &str) -> Option<Range<u16>> {
    let (first, last) = text.split_once('-')?;
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    let range = first..last.checked_add(1)?;
    (first > 0 && range.len() >= NEEDED).then_some(range)
}

/// Docker's engine may listen where whoever asks it may not.
fn hold(address: SocketAddr, engine: Kind) -> Result<Option<TcpListener>> {
    match TcpListener::bind(address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if engine == Kind::Docker && error.kind() == io::ErrorKind::PermissionDenied => {
            Ok(None)
        }
        Err(source) => Err(Error::Door { address, source }),
    }
}

/// Ports that no client gets. Port 0 gives one of the clients' range: while the idle colour does
/// not hold it, any outgoing connection may take it, and under load the next flip fails.
fn candidates() -> Range<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let from = range.ok().and_then(|range| clients_from(&range));
    LOWEST..from.unwrap_or(CLIENTS_FROM)
}

fn clients_from(range: &str) -> Option<u16> {
    range.split_whitespace().next()?.parse().ok()
}

struct Picker {
    candidates: Box<dyn Iterator<Item = u16>>,
    held: Vec<TcpListener>,
}

impl Picker {
    /// Begins anywhere among the candidates, so that clones seldom want the same ports; what port
    /// 0 gives is random enough for that.
    fn new(candidates: Range<u16>) -> Result<Self> {
        let random = bind(0).map(|listener| port(&listener));
        let random = random.ok_or(Error::NoPorts)?;
        let candidates: Box<dyn Iterator<Item = u16>> = match candidates.len() {
            // Where clients get all ports there are, there is nothing better than port 0.
            0 => Box::new(std::iter::repeat_n(0, 100)),
            width => {
                let skip = usize::from(random) % width;
                Box::new(candidates.cycle().skip(skip).take(width))
            }
        };
        Ok(Self {
            candidates,
            held: Vec::new(),
        })
    }

    fn pick(&mut self, before: Option<u16>) -> Result<u16> {
        let listener = before
            .and_then(bind)
            .or_else(|| self.candidates.find_map(bind))
            .ok_or(Error::NoPorts)?;
        let picked = port(&listener);
        self.held.push(listener);
        Ok(picked)
    }
}

fn bind(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().map_or(0, |address| address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free() -> SocketAddr {
        bind(0).unwrap().local_addr().unwrap()
    }

    fn pick(front_door: SocketAddr, before: Option<Ports>) -> Result<Ports> {
        Ports::pick(front_door, Kind::Native, before, None)
    }

    #[test]
    fn no_client_gets_a_picked_port() {
        assert_eq!(clients_from("32768\t60999\n"), Some(32_768));
        let ports = pick(free(), None).unwrap();
        let clients = candidates().end;
        assert!((LOWEST..clients).contains(&ports.green), "{ports:?}");
        assert_ne!(ports.green, ports.blue);
    }

    #[test]
    fn a_range_is_kept_to_and_has_to_be_wide_enough() {
        let given = range("20000-20031").unwrap();
        let ports = Ports::pick(free(), Kind::Native, None, Some(given.clone())).unwrap();
        let monitoring = ports.monitoring.unwrap();
        for port in [ports.blue, ports.green_operator, monitoring.grafana] {
            assert!(given.contains(&port), "{ports:?}");
        }
        assert_eq!(range("20000-20011").unwrap().len(), NEEDED);
        for wrong in [
            "20000",
            "20000-20010",
            "20031-20000",
            "0-100",
            "1-65535",
            "a-b",
        ] {
            assert_eq!(range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_free_is_kept_and_what_is_taken_is_replaced() {
        let door = free();
        let first = pick(door, None).unwrap();
        let again = pick(door, Some(first)).unwrap();
        assert_eq!(again, first);
        let taken = bind(first.green).unwrap();
        let moved = pick(door, Some(first)).unwrap();
        assert_eq!(moved.blue, first.blue);
        assert_ne!(moved.green, first.green);
        drop(taken);
    }

    #[test]
    fn a_record_from_before_the_monitoring_is_understood() {
        let ports = pick(free(), None).unwrap();
        let mut old = serde_json::to_value(ports).unwrap();
        old.as_object_mut().unwrap().remove("monitoring").unwrap();
        let old: Ports = serde_json::from_value(old).unwrap();
        assert_eq!((old.blue, old.monitoring), (ports.blue, None));
    }

    #[test]
    fn a_taken_front_door_is_named() {
        let taken = bind(0).unwrap();
        let address = taken.local_addr().unwrap();
        let told = pick(address, None).unwrap_err().to_string();
        assert!(told.contains(&format!("{address}: Address already in use")));
        assert!(told.contains("TALLY_PORT="), "{told}");
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        let address = "192.0.2.1:0".parse().unwrap();
        let told = pick(address, None).unwrap_err().to_string();
        assert!(told.contains("set TALLY_BIND"), "{told}");
    }

    #[test]
    fn without_a_range_of_its_own_any_free_port_will_do() {
        let mut picker = Picker::new(9..9).unwrap();
        assert_ne!(picker.pick(None).unwrap(), 0);
    }
}
