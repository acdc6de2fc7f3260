//! What Traefik says of itself, and what it does.

use std::{fs, thread, time::Duration};

use serde::Deserialize;

use crate::{
    colour::Colour,
    door::Account,
    engine::Engine,
    entrance::Entrance,
    error::{Error, Result},
    http, scrape, smoke,
    stack::{AUTHORITY, Stack},
    wait,
};

/// Milliseconds do, unless Traefik is just being started again.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers in a row, on fresh and on kept connections, that must come from the new colour.
const PROBES: usize = 5;

/// How often, and how many times in a row, the old colour's handshakes must not have moved.
const STILL_INTERVAL: Duration = Duration::from_millis(250);
const STILL_TIMES: usize = 3;

/// What differs between a process of this machine and a container.
pub struct Place {
    pub web: String,
    pub preview: String,
    pub internal: String,
    /// The folder that it watches, as it sees it.
    pub dynamic: String,
    /// The folders of what it is given and of what it keeps, as it sees them.
    pub tls: String,
    pub acme: String,
}

/// Begin the lines of the project's file that are only for certificates by ACME, and of those the
/// one that is only for an authority of one's own.
const ACME: &str = "#@ACME ";
const ACME_CA: &str = "#@ACME_CA ";

/// Makes Traefik's static configuration out of the project's file. It is read when Traefik starts.
///
/// # Errors
/// A file cannot be read or written.
pub fn write_configuration(stack: &Stack, place: &Place) -> Result<()> {
    let template = stack.root().join("traefik/traefik.yml");
    let text = fs::read_to_string(&template).map_err(Error::file(template))?;
    let path = stack.run().join("traefik.yml");
    fs::write(&path, fill(&text, place, stack.door.account())).map_err(Error::file(path))
}

fn fill(template: &str, place: &Place, account: Option<&Account>) -> String {
    let text = template
        .replace("@WEB@", &place.web)
        .replace("@PREVIEW@", &place.preview)
        .replace("@INTERNAL@", &place.internal)
        .replace("@DYNAMIC@", &place.dynamic);
    let Some(account) = account else {
        return text;
    };
    let text = match &account.ca {
        None => text,
        Some(_) => text.replace(ACME_CA, ""),
    };
    text.replace(ACME, "")
        .replace("@ACME_FOLDER@", &place.acme)
        .replace("@ACME_AUTHORITY@", &format!("{}/{AUTHORITY}", place.tls))
        .replace("@ACME_SERVER@", &account.server)
        .replace("@ACME_EMAIL@", &account.email)
}

#[derive(Deserialize)]
struct RouterState {
    service: String,
    status: String,
}

#[derive(Deserialize)]
struct ServiceState {
    status: String,
}

/// Whether Traefik itself is there.
pub fn answers(engine: &dyn Engine) -> bool {
    let each = |traefiks: Vec<String>| {
        let mut traefiks = traefiks.iter();
        traefiks.all(|traefik| http::get_ok(&format!("http://{traefik}/ping")).is_ok())
    };
    engine.traefiks().is_ok_and(each)
}

/// The colour that Traefik's own API names as live.
///
/// # Errors
/// Traefik does not answer, has no working router, or is of two minds.
pub fn live(engine: &dyn Engine) -> Result<Colour> {
    let mut named = engine.traefiks()?.into_iter();
    let first = named.next().ok_or(Error::NotUp)?;
    let first = live_at(engine, &first)?;
    for other in named {
        let other = live_at(engine, &other)?;
        if other != first {
            return Err(Error::NotTaken(other));
        }
    }
    Ok(first)
}

fn live_at(engine: &dyn Engine, traefik: &str) -> Result<Colour> {
    let url = format!("http://{traefik}/api/http/routers/{}", engine.router());
    let state: RouterState = http::get_json(&url)?;
    if state.status != "enabled" {
        return Err(Error::Meaningless {
            service: state.service,
            status: state.status,
        });
    }
    engine.led_to(&state.service).ok_or_else(|| Error::Http {
        url,
        answer: format!("that the service is {}", state.service),
    })
}

/// Whether Traefik could lead to a colour.
///
/// # Errors
/// It does not answer, or knows of no such service.
pub fn service(engine: &dyn Engine, colour: Colour) -> Result<()> {
    let service = engine.service(colour);
    for traefik in engine.traefiks()? {
        let url = format!("http://{traefik}/api/http/services/{service}");
        let ServiceState { status } = http::get_json(&url)?;
        if status != "enabled" {
            return Err(Error::Meaningless { service, status });
        }
    }
    Ok(())
}

/// Waits until Traefik has taken the router over, and then until what comes through the front
/// door comes from this colour: plain answers, and a conversation, as far as the session store lets it.
///
/// # Errors
/// It did not in time, or Traefik can make nothing of the router.
pub fn confirm(engine: &dyn Engine, colour: Colour) -> Result<()> {
    wait::until(
        &format!("Traefik's switch to {colour}"),
        SWITCH_TIMEOUT,
        || match live(engine) {
            Ok(found) if found == colour => Ok(Ok(())),
            Ok(found) => Err(Error::NotTaken(found)),
            // It is taken over, and means nothing: waiting makes that no better.
            Err(Error::Meaningless { service, status })
                if engine.led_to(&service) == Some(colour) =>
            {
                Ok(Err(Error::Meaningless { service, status }))
            }
            Err(error) => Err(error),
        },
    )??;
    let door = Entrance::front_door(engine)?;
    let kept = http::agent();
    wait::until(
        &format!("{colour} behind the front door"),
        SWITCH_TIMEOUT,
        || {
            door.certificate()?;
            for _ in 0..PROBES {
                probe(&door, &kept, colour)?;
                probe(&door, &http::agent(), colour)?;
            }
            match smoke::talk(&door, colour) {
                Err(_) if scrape::misses_store(engine, colour) => smoke::shake_hands(&door, colour),
                outcome => outcome,
            }
        },
    )
}

fn answered_by(colour: &str) -> Error {
    Error::Http {
        url: "the front door".into(),
        answer: format!("from {colour:?}"),
    }
}

/// Asks once through the front door.
///
/// # Errors
/// Nobody answers, or another colour.
pub fn probe(door: &Entrance, agent: &ureq::Agent, colour: Colour) -> Result<()> {
    let response = http::get(agent, &door.url("http", "/readyz"))?;
    let found = response.headers().get("x-colour");
    let found = found
        .and_then(|name| name.to_str().ok())
        .unwrap_or("nobody");
    if response.status().is_success() && found == colour.name() {
        Ok(())
    } else {
        Err(answered_by(found))
    }
}

/// Waits until a colour gets no handshakes any more: one that Traefik had routed before the switch
/// may still be on its way.
///
/// # Errors
/// They go on.
pub fn settle(engine: &dyn Engine, colour: Colour) -> Result<()> {
    let mut seen = scrape::handshakes(engine, colour)?;
    let mut still = 0;
    wait::until(
        &format!("the end of handshakes on {colour}"),
        SWITCH_TIMEOUT,
        || {
            thread::sleep(STILL_INTERVAL);
            let now = scrape::handshakes(engine, colour)?;
            still = if now == seen { still + 1 } else { 0 };
            seen = now;
            if still >= STILL_TIMES {
                Ok(())
            } else {
                Err(answered_by(colour.name()))
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = include_str!("../../traefik/traefik.yml");

    fn filled(account: Option<&Account>) -> String {
        let place = Place {
            web: "127.0.0.1:8080".into(),
            preview: "127.0.0.1:8081".into(),
            internal: "127.0.0.1:8082".into(),
            dynamic: "/dynamic".into(),
            tls: "/tls".into(),
            acme: "/acme".into(),
        };
        let filled = fill(TEMPLATE, &place, account);
        let lines = filled.lines().filter(|line| !line.starts_with('#'));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn account(ca: Option<&str>) -> Account {
        Account {
            email: "ops@a.example".into(),
            server: "https://ca.example/dir".into(),
            ca: ca.map(Into::into),
        }
    }

    #[test]
    fn without_acme_nothing_of_it_is_left() {
        let text = filled(None);
        assert!(text.contains("address: \"127.0.0.1:8080\""), "{text}");
        assert!(!text.contains('@') && !text.contains("acme"), "{text}");
    }

    #[test]
    fn with_acme_its_lines_are_filled_in() {
        let text = filled(Some(&account(None)));
        assert!(
            text.contains("\n      email: \"ops@a.example\"\n"),
            "{text}"
        );
        assert!(text.contains("storage: \"/acme/acme.json\""), "{text}");
        assert!(!text.contains("caCertificates"), "{text}");
        let text = filled(Some(&account(Some("/root.pem"))));
        let given = "\n      caCertificates: [\"/tls/authority.pem\"]\n      tlsChallenge: {}\n";
        assert!(text.contains(given), "{text}");
    }
}
