//! The one router file: which colour is live, which one the preview door leads to, and what the
//! front door asks of those who come.
//!
//! While a new colour bakes, Traefik falls back on the old one: a handshake that the new colour does
//! not answer, or with a server's error, is the old one's within the same request.

use std::{fs, path::PathBuf};

use crate::{
    colour::Colour,
    door::{Acme, Door, Tls},
    error::{Error, Result},
    replace::{READABLE, replace_by},
    stack::{CERTIFICATE, Stack},
};

pub const ROUTER: &str = "tally";

/// The router file in Traefik's watched folder.
pub struct Router {
    file: PathBuf,
    staging: PathBuf,
    door: Door,
}

impl Router {
    pub fn of(stack: &Stack) -> Self {
        let dynamic = stack.dynamic();
        Self {
            file: dynamic.join("router.yml"),
            staging: dynamic.with_file_name("staging"),
            door: stack.door.clone(),
        }
    }

    /// The colour that the file points to; none before the first start.
    pub fn live(&self) -> Option<Colour> {
        let text = fs::read_to_string(&self.file).ok()?;
        text.lines()
            .find_map(|line| line.trim().strip_prefix("service: "))
            .and_then(Colour::of_service)
    }

    /// Points the router to a colour and no other.
    ///
    /// # Errors
    /// The file cannot be written; the old one is then still in place.
    pub fn point_to(&self, colour: Colour) -> Result<()> {
        self.write(&self.render(colour, &colour.service()))
    }

    /// Points the router to a colour, and to the other one where this one does not answer.
    ///
    /// # Errors
    /// As of [`Self::point_to`].
    pub fn try_out(&self, colour: Colour) -> Result<()> {
        self.write(&self.render(colour, &colour.service_with_fallback()))
    }

    /// Written even where nothing changes: only such an event makes Traefik read a certificate that
    /// was renewed, and it drops what it knows already.
    fn write(&self, text: &str) -> Result<()> {
        fs::create_dir_all(&self.staging).map_err(Error::file(&self.staging))?;
        let staged = self.staging.join("router.yml");
        replace_by(&staged, &self.file, text, READABLE, None)
    }

    fn render(&self, colour: Colour, service: &str) -> String {
        let tls = match &self.door.tls {
            None => "",
            Some(Tls::Files(_)) => "      tls: {}\n",
            Some(Tls::Acme(acme)) => &issued(acme),
        };
        let idle = colour.other().service();
        let head = format!(
            "# Written by the deploy program: {colour} is live. Change it with ./just flip.\nhttp:\n"
        );
        [
            head,
            "  routers:\n".to_owned(),
            router(ROUTER, "web", "/", service) + tls,
            self.handshakes(service, tls),
            router("preview", "preview", "/", &idle),
            self.door.handshake_rate.map_or_else(String::new, limit),
            self.tls(),
        ]
        .concat()
    }

    /// The limit is for handshakes: a page or a probe costs little, and a monitor asks often.
    fn handshakes(&self, service: &str, tls: &str) -> String {
        match self.door.handshake_rate {
            None => String::new(),
            Some(_) => {
                let router = router("handshakes", "web", "/ws/", service);
                format!("{router}      middlewares: [handshakes]\n{tls}")
            }
        }
    }

    /// Older versions of TLS are broken. HTTP/2 is left out: a WebSocket takes a connection of
    /// HTTP/1.1 anyway, and nobody behind this door speaks anything else.
    fn tls(&self) -> String {
        let options = "tls:\n  options:\n    default:\n      minVersion: VersionTLS12\n      \
                       alpnProtocols: [http/1.1, acme-tls/1]\n";
        match &self.door.tls {
            None => String::new(),
            Some(Tls::Acme(_)) => options.to_owned(),
            Some(Tls::Files(_)) => format!("{options}{}", default_certificate()),
        }
    }
}

/// The default one, so that it is shown whatever name is asked for.
fn default_certificate() -> String {
    let file = format!("'{{{{ env \"TALLY_TLS_FOLDER\" }}}}/{CERTIFICATE}'");
    format!(
        "  stores:\n    default:\n      defaultCertificate:\n        certFile: {file}\n        \
         keyFile: {file}\n"
    )
}

fn router(name: &str, entry_point: &str, prefix: &str, service: &str) -> String {
    format!(
        "    {name}:\n      entryPoints: [{entry_point}]\n      rule: PathPrefix(`{prefix}`)\n      \
         service: {service}\n"
    )
}

fn issued(acme: &Acme) -> String {
    let (main, others) = acme.domains.split_at(1);
    format!(
        "      tls:\n        certResolver: acme\n        domains:\n          - main: {:?}\n            \
         sans: {others:?}\n",
        main[0]
    )
}

/// An address of IPv6 is its network here: whoever has one, has them all.
fn limit(rate: u32) -> String {
    format!(
        "  middlewares:\n    handshakes:\n      rateLimit:\n        average: {rate}\n        \
         burst: {}\n        sourceCriterion:\n          ipStrategy:\n            ipv6Subnet: 64\n",
        rate * 2
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        door::{Account, Files},
        stack,
    };

    fn router(root: &Path, door: Door) -> Router {
        let stack = stack::sample(root, door);
        fs::create_dir_all(stack.dynamic()).unwrap();
        Router::of(&stack)
    }

    fn under_tls() -> Door {
        let [certificate, key] = ["crt", "key"].map(PathBuf::from);
        Door {
            tls: Some(Tls::Files(Files { certificate, key })),
            handshake_rate: Some(10),
        }
    }

    #[test]
    fn the_router_says_who_is_live() {
        for door in [Door::default(), under_tls()] {
            let root = tempfile::tempdir().unwrap();
            let router = router(root.path(), door);
            assert_eq!(router.live(), None);
            for colour in [Colour::Blue, Colour::Green, Colour::Blue] {
                router.try_out(colour).unwrap();
                assert_eq!(router.live(), Some(colour));
                router.point_to(colour).unwrap();
                assert_eq!(router.live(), Some(colour));
            }
            let watched = fs::read_dir(root.path().join("traefik/dynamic")).unwrap();
            assert_eq!(
                watched.count(),
                1,
                "nothing is staged in the watched folder"
            );
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let root = tempfile::tempdir().unwrap();
        let router = router(root.path(), Door::default());
        router.point_to(Colour::Blue).unwrap();
        let staging = root.path().join("traefik/staging");
        fs::remove_dir_all(&staging).unwrap();
        fs::write(&staging, "in the way").unwrap();
        assert!(router.point_to(Colour::Green).is_err());
        assert_eq!(router.live(), Some(Colour::Blue));
    }

    #[test]
    fn a_plain_door_has_nothing_but_its_routers() {
        let root = tempfile::tempdir().unwrap();
        let text = router(root.path(), Door::default()).render(Colour::Blue, "tally-blue");
        for word in ["tls", "middlewares", "/ws/"] {
            assert!(!text.contains(word), "{text}");
        }
    }

    #[test]
    fn the_preview_has_neither_tls_nor_a_limit() {
        let root = tempfile::tempdir().unwrap();
        let text = router(root.path(), under_tls()).render(Colour::Blue, "tally-blue");
        let (_, preview) = text.split_once("    preview:\n").unwrap();
        let (preview, _) = preview.split_once("  middlewares:\n").unwrap();
        assert!(preview.ends_with("service: tally-green\n"), "{text}");
        assert_eq!(text.matches("tls: {}").count(), 2, "{text}");
        assert!(text.contains("average: 10\n        burst: 20\n"), "{text}");
    }

    #[test]
    fn a_certificate_is_asked_for_by_both_routers() {
        let root = tempfile::tempdir().unwrap();
        let door = Door {
            tls: Some(Tls::Acme(Acme {
                account: Account {
                    email: "ops@a.example".into(),
                    server: "https://ca.example".into(),
                    ca: None,
                },
                domains: vec!["a.example".into(), "b.example".into()],
            })),
            handshake_rate: Some(10),
        };
        let text = router(root.path(), door).render(Colour::Blue, "tally-blue");
        let asked = "- main: \"a.example\"\n            sans: [\"b.example\"]\n";
        assert_eq!(text.matches(asked).count(), 2, "{text}");
        assert!(!text.contains("defaultCertificate"), "{text}");
    }
}
