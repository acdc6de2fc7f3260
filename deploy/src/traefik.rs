//! What Traefik says of itself, and what it does.

use std::{fs, thread, time::Duration};

use serde::Deserialize;

use crate::{
    colour::Colour,
    engine::Engine,
    error::{Error, Result},
    http,
    router::ROUTER,
    scrape, smoke,
    stack::Stack,
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
}

/// Makes Traefik's static configuration out of the project's file. It is read when Traefik starts.
///
/// # Errors
/// A file cannot be read or written.
pub fn write_configuration(stack: &Stack, place: &Place) -> Result<()> {
    let template = stack.root().join("traefik/traefik.yml");
    let text = fs::read_to_string(&template).map_err(Error::file(template))?;
    let text = text
        .replace("@WEB@", &place.web)
        .replace("@PREVIEW@", &place.preview)
        .replace("@INTERNAL@", &place.internal)
        .replace("@DYNAMIC@", &place.dynamic);
    let path = stack.run().join("traefik.yml");
    fs::write(&path, text).map_err(Error::file(path))
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
pub fn answers(stack: &Stack) -> bool {
    http::get_ok(&format!("http://{}/ping", stack.internal())).is_ok()
}

/// The colour that Traefik's own API names as live.
///
/// # Errors
/// Traefik does not answer, or has no working router.
pub fn live(stack: &Stack) -> Result<Colour> {
    let url = format!("http://{}/api/http/routers/{ROUTER}@file", stack.internal());
    let state: RouterState = http::get_json(&url)?;
    if state.status != "enabled" {
        return Err(Error::Meaningless {
            service: state.service,
            status: state.status,
        });
    }
    Colour::of_service(&state.service).ok_or_else(|| Error::Http {
        url,
        answer: format!("that the service is {}", state.service),
    })
}

/// Whether Traefik could lead to a colour.
///
/// # Errors
/// It does not answer, or knows of no such service.
pub fn service(stack: &Stack, colour: Colour) -> Result<()> {
    let internal = stack.internal();
    let url = format!(
        "http://{internal}/api/http/services/{}@file",
        colour.service()
    );
    let state: ServiceState = http::get_json(&url)?;
    if state.status == "enabled" {
        Ok(())
    } else {
        Err(Error::Meaningless {
            service: colour.service(),
            status: state.status,
        })
    }
}

/// Waits until Traefik has taken the router over, and then until what comes through the front
/// door comes from this colour: plain answers, and a conversation.
///
/// # Errors
/// It did not in time, or Traefik can make nothing of the router.
pub fn confirm(stack: &Stack, colour: Colour) -> Result<()> {
    wait::until(
        &format!("Traefik's switch to {colour}"),
        SWITCH_TIMEOUT,
        || match live(stack) {
            Ok(found) if found == colour => Ok(Ok(())),
            Ok(found) => Err(Error::NotTaken(found)),
            // It is taken over, and means nothing: waiting makes that no better.
            Err(Error::Meaningless { service, status })
                if Colour::of_service(&service) == Some(colour) =>
            {
                Ok(Err(Error::Meaningless { service, status }))
            }
            Err(error) => Err(error),
        },
    )??;
    let kept = http::agent();
    wait::until(
        &format!("{colour} behind the front door"),
        SWITCH_TIMEOUT,
        || {
            for _ in 0..PROBES {
                probe(stack, &kept, colour)?;
                probe(stack, &http::agent(), colour)?;
            }
            smoke::talk(&stack.front_door(), colour)
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
pub fn probe(stack: &Stack, agent: &ureq::Agent, colour: Colour) -> Result<()> {
    let response = http::get(agent, &format!("http://{}/readyz", stack.front_door()))?;
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
