//! Let's Encrypt's own test authority, which really comes to the front door and looks.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustls::crypto::ring;
use serde_json::json;

use crate::{
    certificates::{Authority, NAME, Trust, trust},
    clone::{Clone, PATIENCE},
};

pub struct Pebble {
    process: Child,
    pub directory: String,
    management: String,
}

impl Pebble {
    /// Starts one that looks for names at a clone's front door; its own certificate is of an
    /// authority whose root is put beside. None where there is no such program.
    pub fn start(clone: &Clone) -> Option<Self> {
        let folder = clone.root.path();
        let authority = Authority::new();
        let own = authority.issue("localhost");
        for (name, text) in [
            ("pebble.root", &authority.root),
            ("pebble.crt", &own.certificate),
            ("pebble.key", &own.key),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        let [acme, management] = [free_port(), free_port()];
        let configuration = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{acme}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": folder.join("pebble.crt"),
            "privateKey": folder.join("pebble.key"),
            "httpPort": 1,
            "tlsPort": clone.port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        fs::write(folder.join("pebble.json"), configuration.to_string()).unwrap();
        let log = fs::File::create(folder.join("pebble.log")).unwrap();
        let process = Command::new("pebble")
            .arg("-config")
            .arg(folder.join("pebble.json"))
            .args(["-dnsserver", &names()])
            // It dawdles and fails on purpose, unless it is told not to.
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .ok()?;
        Some(Self {
            process,
            directory: format!("https://localhost:{acme}/dir"),
            management: format!("https://localhost:{management}"),
        })
    }

    /// Believes what it issues; its root is made at each start.
    pub fn trust(&self) -> Trust {
        let tls = ureq::tls::TlsConfig::builder()
            .disable_verification(true)
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()));
        let agent = ureq::Agent::config_builder().tls_config(tls.build());
        let agent = agent.build().new_agent();
        let url = format!("{}/roots/0", self.management);
        let began = Instant::now();
        loop {
            match agent.get(&url).call() {
                Ok(mut root) => return trust(&root.body_mut().read_to_string().unwrap()),
                Err(error) => assert!(began.elapsed() < PATIENCE, "{url}: {error}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    free.local_addr().unwrap().port()
}

/// Serves names over TCP: [`NAME`] is on this machine, and nothing is anywhere else. Returns the
/// address.
fn names() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // It goes with the tests' process.
    thread::spawn(move || {
        for client in listener.incoming() {
            // Who goes away unanswered fails by itself.
            let _ = client.and_then(serve);
        }
    });
    address
}

/// One message, and its answer; both begin with their length.
fn serve(mut client: TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut length = [0; 2];
    client.read_exact(&mut length)?;
    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
    client.read_exact(&mut query)?;
    let answer = answer(&query);
    let length = (answer.len() as u16).to_be_bytes();
    client.write_all(&[&length[..], &answer].concat())
}

/// An answer in the terms of RFC 1035, section 4.1: a header of 12 bytes, the question, the answer.
fn answer(query: &[u8]) -> Vec<u8> {
    const TYPE_A: [u8; 2] = [0, 1];
    let name: Vec<u8> = NAME
        .split('.')
        .flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat())
        .chain([0])
        .collect();
    let question = &query[12..12 + name.len() + 4];
    let is_ours = question[..name.len()] == name && question[name.len()..][..2] == TYPE_A;
    let header = [
        &query[..2],
        &[0x85, 0x80, 0, 1, 0, u8::from(is_ours), 0, 0, 0, 0],
    ];
    let record: &[u8] = if is_ours {
        // The name as at byte 12, type A, class IN, a minute, four bytes.
        &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]
    } else {
        &[]
    };
    [&header.concat(), question, record].concat()
}
