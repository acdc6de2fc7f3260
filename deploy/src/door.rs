//! The front door: whether it is under TLS, and how many handshakes it takes from one address.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    certificate::{self, Certificate},
    settings::Reader,
};

/// Fewer, and a flip's own conversations would be refused.
const HANDSHAKE_RATE_MIN: u32 = 10;

const HANDSHAKE_RATE_MAX: u32 = 1_000_000;

/// Where Let's Encrypt takes requests for certificates.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Recorded by `up`, so that a flip from a shell without the settings leaves the door as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Door {
    pub tls: Option<Tls>,
    /// New WebSockets a second from one address.
    pub handshake_rate: Option<u32>,
}

/// Where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    Files(Files),
    Acme(Acme),
}

/// PEM files of a person's, copied at each `up` and flip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Traefik asks an authority for it, and again before it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acme {
    pub account: Account,
    /// The first one is the certificate's own name; there is always one.
    pub domains: Vec<String>,
}

/// What Traefik only reads as it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub email: String,
    /// The authority's directory, an address.
    pub server: String,
    /// PEM file of whom to believe about the authority; none where the machine knows.
    pub ca: Option<PathBuf>,
}

impl Door {
    pub fn read<F: Fn(&str) -> Option<String>>(reader: &mut Reader<F>, root: &Path) -> Self {
        let files = Files::read(reader, root).map(Tls::Files);
        let acme = Acme::read(reader, root).map(Tls::Acme);
        let both = ["TALLY_TLS_CERT", "TALLY_ACME_DOMAIN"].map(|name| reader.text(name));
        if let [Some(file), Some(domain)] = both {
            reader.mistakes.push(format!(
                "TALLY_TLS_CERT is {file:?} and TALLY_ACME_DOMAIN is {domain:?}; \
                 the certificate should come from a file or from ACME, not from both"
            ));
        }
        let expected =
            format!("off, or a number from {HANDSHAKE_RATE_MIN} to {HANDSHAKE_RATE_MAX}");
        Self {
            tls: files.or(acme),
            handshake_rate: reader
                .read("TALLY_HANDSHAKE_RATE", &expected, handshake_rate)
                .flatten(),
        }
    }

    /// Whether a Traefik that was started for `self` can become `wanted` as it runs.
    pub fn becomes(&self, wanted: &Self) -> bool {
        let account = wanted.account();
        account.is_none() || account == self.account()
    }

    pub fn account(&self) -> Option<&Account> {
        match &self.tls {
            Some(Tls::Acme(acme)) => Some(&acme.account),
            _ => None,
        }
    }

    /// For whoever follows an `up`.
    pub fn told(&self) -> String {
        let tls = match &self.tls {
            None => "no TLS".to_owned(),
            Some(Tls::Files(files)) => format!("TLS with {}", files.certificate.display()),
            Some(Tls::Acme(acme)) => format!("TLS for {} by ACME", acme.domains.join(", ")),
        };
        match self.handshake_rate {
            None => tls,
            Some(rate) => format!("{tls}, {rate} handshakes a second from an address"),
        }
    }
}

fn handshake_rate(text: &str) -> Option<Option<u32>> {
    if text == "off" {
        return Some(None);
    }
    let allowed = HANDSHAKE_RATE_MIN..=HANDSHAKE_RATE_MAX;
    text.parse()
        .ok()
        .filter(|rate| allowed.contains(rate))
        .map(Some)
}

impl Files {
    fn read<F: Fn(&str) -> Option<String>>(reader: &mut Reader<F>, root: &Path) -> Option<Self> {
        reader.belong_together("TALLY_TLS_CERT", "TALLY_TLS_KEY");
        let certificate = reader.check("TALLY_TLS_CERT", "a PEM file with a certificate", |text| {
            let path = root.join(text);
            certificate::leaf(&path).map(|_| path)
        });
        let key = reader.check("TALLY_TLS_KEY", "a PEM file with a private key", |text| {
            let path = root.join(text);
            certificate::check_key(&path).map(|()| path)
        });
        let (certificate, key) = (certificate?, key?);
        reader.check("TALLY_TLS_KEY", "the key of TALLY_TLS_CERT", |_| {
            Certificate::read(&certificate, &key)
        })?;
        Some(Self { certificate, key })
    }
}

impl Acme {
    fn read<F: Fn(&str) -> Option<String>>(reader: &mut Reader<F>, root: &Path) -> Option<Self> {
        reader.belong_together("TALLY_ACME_EMAIL", "TALLY_ACME_DOMAIN");
        for name in ["TALLY_ACME_SERVER", "TALLY_ACME_CA"] {
            reader.needs(name, "TALLY_ACME_DOMAIN");
        }
        let email = reader.read(
            "TALLY_ACME_EMAIL",
            "an address such as ops@a.example",
            email,
        );
        let domains = reader.read(
            "TALLY_ACME_DOMAIN",
            "names such as a.example,b.example",
            domains,
        );
        let server = reader.read("TALLY_ACME_SERVER", "an https:// address", directory);
        let ca = reader.check("TALLY_ACME_CA", "a PEM file with a certificate", |text| {
            let path = root.join(text);
            certificate::leaf(&path).map(|_| path)
        });
        Some(Self {
            account: Account {
                email: email?,
                server: server.unwrap_or_else(|| LETS_ENCRYPT.to_owned()),
                ca,
            },
            domains: domains?,
        })
    }
}

/// What may stand in a quoted text of Traefik's file without meaning anything there.
fn is_plain(text: &str) -> bool {
    text.chars()
        .all(|character| character.is_ascii_graphic() && !['"', '\\'].contains(&character))
}

fn email(text: &str) -> Option<String> {
    let (user, host) = text.split_once('@')?;
    (is_plain(text) && !user.is_empty() && !host.is_empty()).then(|| text.to_owned())
}

fn directory(text: &str) -> Option<String> {
    let host = text.strip_prefix("https://")?;
    (is_plain(text) && !host.is_empty()).then(|| text.to_owned())
}

fn domains(text: &str) -> Option<Vec<String>> {
    text.split(',').map(|name| domain(name.trim())).collect()
}

/// No wildcard: the challenge of TLS-ALPN proves single names only (RFC 8737).
fn domain(name: &str) -> Option<String> {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_letter);
    name.split('.')
        .all(is_label)
        .then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(root: &Path, given: &[(&str, &str)]) -> (Door, Vec<String>) {
        let mut reader = Reader::new(|name: &str| {
            let found = given.iter().find(|(given, _)| *given == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        let door = Door::read(&mut reader, root);
        (door, reader.mistakes)
    }

    fn wrong(given: &[(&str, &str)], needle: &str) {
        let (_, mistakes) = read(Path::new("/nowhere"), given);
        let told = mistakes.iter().any(|mistake| mistake.contains(needle));
        assert!(told, "{needle}: {mistakes:?}");
    }

    #[test]
    fn without_settings_the_door_is_plain() {
        let off = [("TALLY_HANDSHAKE_RATE", "off"), ("TALLY_TLS_CERT", "")];
        for given in [&[][..], &off] {
            let (door, mistakes) = read(Path::new("/nowhere"), given);
            assert_eq!((door, mistakes), (Door::default(), vec![]));
        }
    }

    #[test]
    fn files_are_found_from_the_clone_on() {
        let root = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["door.test".to_owned()]).unwrap();
        fs::write(root.path().join("crt"), made.cert.pem()).unwrap();
        fs::write(root.path().join("key"), made.signing_key.serialize_pem()).unwrap();
        let given = [("TALLY_TLS_CERT", "crt"), ("TALLY_TLS_KEY", "key")];
        let (door, mistakes) = read(root.path(), &given);
        assert_eq!(mistakes, Vec::<String>::new());
        let [certificate, key] = ["crt", "key"].map(|name| root.path().join(name));
        assert_eq!(door.tls, Some(Tls::Files(Files { certificate, key })));
    }

    #[test]
    fn acme_has_lets_encrypt_for_a_default() {
        let given = [
            ("TALLY_ACME_EMAIL", "ops@a.example"),
            ("TALLY_ACME_DOMAIN", "A.example, b.a.example"),
        ];
        let (door, mistakes) = read(Path::new("/nowhere"), &given);
        assert_eq!(mistakes, Vec::<String>::new());
        let Some(Tls::Acme(acme)) = door.tls else {
            panic!("{door:?}");
        };
        assert_eq!(acme.domains, ["a.example", "b.a.example"]);
        assert_eq!(acme.account.server, LETS_ENCRYPT);
    }

    #[test]
    fn what_makes_no_sense_is_told_by_name() {
        for rate in ["9", "1000001", "-1", "many"] {
            let needle = format!("TALLY_HANDSHAKE_RATE is {rate:?}");
            wrong(&[("TALLY_HANDSHAKE_RATE", rate)], &needle);
        }
        for (variable, value) in [
            ("TALLY_TLS_CERT", "missing.crt"),
            ("TALLY_TLS_KEY", "missing.key"),
            ("TALLY_ACME_EMAIL", "nobody"),
            ("TALLY_ACME_EMAIL", "a@b\"c"),
            ("TALLY_ACME_DOMAIN", "*.a.example"),
            ("TALLY_ACME_DOMAIN", "a.example,"),
            ("TALLY_ACME_SERVER", "http://a.example"),
            ("TALLY_ACME_CA", "missing.crt"),
        ] {
            wrong(&[(variable, value)], &format!("{variable} is {value:?}"));
        }
    }

    #[test]
    fn what_is_missing_or_too_much_is_told() {
        wrong(&[("TALLY_TLS_CERT", "a")], "TALLY_TLS_KEY is not set");
        wrong(&[("TALLY_TLS_KEY", "a")], "TALLY_TLS_CERT is not set");
        wrong(&[("TALLY_ACME_EMAIL", "a@b")], "TALLY_ACME_DOMAIN is not");
        wrong(&[("TALLY_ACME_CA", "a")], "TALLY_ACME_DOMAIN is not set");
        let both = [("TALLY_TLS_CERT", "a"), ("TALLY_ACME_DOMAIN", "b")];
        wrong(&both, "not from both");
    }

    #[test]
    fn only_another_account_takes_a_new_traefik() {
        let acme = |email: &str, domain: &str| {
            let given = [("TALLY_ACME_EMAIL", email), ("TALLY_ACME_DOMAIN", domain)];
            read(Path::new("/nowhere"), &given).0
        };
        let door = acme("a@a.example", "a.example");
        assert!(door.becomes(&Door::default()));
        assert!(door.becomes(&acme("a@a.example", "b.example")));
        assert!(!door.becomes(&acme("b@a.example", "a.example")));
        assert!(!Door::default().becomes(&door));
    }
}
