//! What a person may set for the recipes, beside the server's own settings. Read before anything
//! is done, and all mistakes are told at once.

use std::{
    env,
    net::{IpAddr, Ipv4Addr},
    ops::Range,
    path::Path,
};

use rustix::process::{Resource, getrlimit};

use crate::{
    door::Door,
    engine::Kind,
    error::{Error, Result},
    monitoring::{self, Options},
    ports, store,
};

/// More files than any process of a stack will need; some machines have no limit at all.
const FILES_MAX: u64 = 1_048_576;

/// Fewer would leave no room for sockets.
const FILES_MIN: u64 = 1024;

/// What the recipes take for themselves, and what they set for each colour: the server is handed
/// every other variable that begins with `TALLY_`.
const NOT_HANDED_ON: [&str; 22] = [
    "TALLY_ACME_CA",
    "TALLY_ACME_DOMAIN",
    "TALLY_ACME_EMAIL",
    "TALLY_ACME_SERVER",
    "TALLY_BIND",
    "TALLY_COLOUR",
    "TALLY_HANDSHAKE_RATE",
    "TALLY_IMAGE",
    "TALLY_IMAGE_NAME",
    "TALLY_IMAGE_PUSH",
    "TALLY_NAMESPACE",
    "TALLY_OPERATOR_LISTEN",
    "TALLY_OVERLAY",
    "TALLY_PORT",
    "TALLY_PORTS",
    "TALLY_LISTEN",
    "TALLY_REVISION",
    "TALLY_SERVER",
    store::VARIABLE,
    "TALLY_STATE_DIR",
    "TALLY_TLS_CERT",
    "TALLY_TLS_KEY",
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `ENGINE`
    pub engine: Option<Kind>,
    /// `TALLY_PORT`
    pub port: Option<u16>,
    /// `TALLY_PORTS`: what all other ports are picked from.
    pub ports: Option<Range<u16>>,
    /// `TALLY_BIND`: the address of this machine that the front door is at.
    pub bind: IpAddr,
    /// `TALLY_TLS_*`, `TALLY_ACME_*`, `TALLY_HANDSHAKE_RATE`
    pub door: Door,
    /// `TALLY_SESSION_STORE`
    pub store: Option<String>,
    /// `NOFILE`: files that a container may open.
    pub files_max: u64,
    /// `TALLY_NAMESPACE`: of the cluster.
    pub namespace: Option<String>,
    /// `TALLY_OVERLAY`: a folder of `deploy/kubernetes/overlays`.
    pub overlay: Option<String>,
    /// What watches the stack, and whom it tells.
    pub monitoring: Options,
}

impl Settings {
    /// Paths in them begin at `root`, unless they are absolute.
    ///
    /// # Errors
    /// Every setting that is wrong.
    pub fn read(root: &Path) -> Result<Self> {
        Self::from(root, |name| env::var(name).ok())
    }

    fn from(root: &Path, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut reader = Reader::new(variable);
        let settings = Self {
            engine: reader.read("ENGINE", "native, docker or kubernetes", |text| {
                text.parse().ok()
            }),
            port: reader.read("TALLY_PORT", "a port from 1 to 65535", |text| {
                text.parse().ok().filter(|port| *port > 0)
            }),
            ports: reader.read(
                "TALLY_PORTS",
                "twelve ports or more, such as 20000-20031",
                ports::range,
            ),
            bind: reader
                .read("TALLY_BIND", "an address such as 0.0.0.0", |text| {
                    text.parse().ok()
                })
                .unwrap_or(Ipv4Addr::LOCALHOST.into()),
            door: Door::read(&mut reader, root),
            store: reader.text(store::VARIABLE),
            files_max: reader
                .read("NOFILE", "a number of files from 1024 on", |text| {
                    text.parse().ok().filter(|files| *files >= FILES_MIN)
                })
                .unwrap_or_else(files_of_this_process),
            namespace: reader.read(
                "TALLY_NAMESPACE",
                "a namespace's name: a-z, 0-9, -",
                |text| is_label(text).then(|| text.to_owned()),
            ),
            overlay: reader.read(
                "TALLY_OVERLAY",
                "a folder of deploy/kubernetes/overlays",
                |text| {
                    let folder = root.join("deploy/kubernetes/overlays").join(text);
                    (is_label(text) && folder.is_dir()).then(|| text.to_owned())
                },
            ),
            monitoring: Options::read(&mut reader, root),
        };
        if reader.mistakes.is_empty() {
            Ok(settings)
        } else {
            Err(Error::Settings(reader.mistakes.join("\n")))
        }
    }
}

/// What this process may open, a process that it starts may too.
pub fn files_of_this_process() -> u64 {
    let limit = getrlimit(Resource::Nofile).maximum;
    limit.unwrap_or(FILES_MAX).min(FILES_MAX)
}

/// Reads variables, and remembers what is wrong with them.
pub struct Reader<F> {
    variable: F,
    pub mistakes: Vec<String>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    pub fn new(variable: F) -> Self {
        Self {
            variable,
            mistakes: Vec::new(),
        }
    }

    /// An empty variable counts as none.
    pub fn text(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|text| !text.is_empty())
    }

    pub fn read<T>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(name)?;
        let parsed = parse(&text);
        if parsed.is_none() {
            let mistake = format!("{name} is {text:?}; it should be {expected}");
            self.mistakes.push(mistake);
        }
        parsed
    }

    /// The same where it takes a reason to see why a value is wrong.
    pub fn check<T>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> std::result::Result<T, String>,
    ) -> Option<T> {
        let text = self.text(name)?;
        let wrong = |reason| format!("{name} is {text:?}; it should be {expected}: {reason}");
        parse(&text)
            .map_err(|reason| self.mistakes.push(wrong(reason)))
            .ok()
    }

    /// One of them without the other is a mistake.
    pub fn belong_together(&mut self, one: &str, other: &str) {
        self.needs(one, other);
        self.needs(other, one);
    }

    /// To set `name` alone is a mistake.
    pub fn needs(&mut self, name: &str, other: &str) {
        if let (Some(text), None) = (self.text(name), self.text(other)) {
            let mistake = format!("{name} is {text:?} and {other} is not set; it should be");
            self.mistakes.push(mistake);
        }
    }
}

/// What DNS takes for a name, and Kubernetes for most of its own.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A variable of now; an empty one counts as none.
pub fn text(name: &str) -> Option<String> {
    Reader::new(|name| env::var(name).ok()).text(name)
}

/// The words of a variable of now.
pub fn words(name: &str) -> Vec<String> {
    let text = text(name).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The session store that is set here and now, if any.
pub fn store() -> Option<String> {
    text(store::VARIABLE)
}

/// The server's settings among the variables: a flip hands the present ones to the new colour.
pub fn handed_on() -> impl Iterator<Item = (String, String)> {
    servers(env::vars())
}

fn servers(
    variables: impl Iterator<Item = (String, String)>,
) -> impl Iterator<Item = (String, String)> {
    variables
        .filter(|(name, _)| name.starts_with("TALLY_") && !NOT_HANDED_ON.contains(&name.as_str()))
        .filter(|(name, _)| !monitoring::VARIABLES.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[(&str, &str)]) -> Result<Settings> {
        Settings::from(Path::new("/nowhere"), |name| {
            let found = given.iter().find(|(given, _)| *given == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_has_to_be_set() {
        let settings = read(&[("TALLY_PORT", "")]).unwrap();
        assert_eq!(settings.port, None);
        assert_eq!(settings.engine, None);
        assert!(settings.bind.is_loopback());
        assert!(settings.files_max >= FILES_MIN);
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let wrong = [
            ("ENGINE", "podman"),
            ("TALLY_PORT", "0"),
            ("TALLY_PORTS", "1-2"),
            ("TALLY_BIND", "here"),
            ("NOFILE", "20"),
            ("TALLY_HANDSHAKE_RATE", "1"),
            ("TALLY_TLS_CERT", "nothing.pem"),
            ("TALLY_NAMESPACE", "Tally"),
            ("TALLY_OVERLAY", "../base"),
        ];
        let told = read(&wrong).unwrap_err().to_string();
        for (name, value) in wrong {
            assert!(told.contains(&format!("{name} is {value:?}")), "{told}");
        }
    }

    #[test]
    fn the_sample_has_every_setting() {
        let sample = include_str!("../../.env.sample");
        let asked = std::cell::RefCell::new(Vec::new());
        let settings = Settings::from(Path::new("/nowhere"), |name| {
            asked.borrow_mut().push(name.to_owned());
            None
        });
        settings.unwrap();
        for name in asked.take() {
            assert!(sample.contains(&format!("\n#{name}=")), "{name}");
        }
    }

    #[test]
    fn settings_are_handed_on_but_not_what_belongs_to_the_stack() {
        let variables = [
            ("TALLY_HEARTBEAT", "5s"),
            ("TALLY_PORT", "8081"),
            ("TALLY_COLOUR", "red"),
            ("TALLY_SMTP_PASSWORD", "secret"),
            ("TALLY_TLS_KEY", "key.pem"),
            ("HOME", "/root"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let handed_on: Vec<_> = servers(variables.into_iter()).collect();
        assert_eq!(handed_on, [("TALLY_HEARTBEAT".into(), "5s".into())]);
    }
}
