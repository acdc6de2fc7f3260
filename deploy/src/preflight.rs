//! What has to be true before a flip begins.

use std::{net::TcpListener, path::PathBuf};

use rustix::fs::statvfs;

use crate::{
    certificate::{self, Certificate},
    colour::Colour,
    door::Tls,
    engine::Engine,
    entrance::Entrance,
    error::{Error, Result},
    scrape::{self, Samples, StoreState},
    settings, store, traefik,
};

/// A build of the server, its log and a copy of it fit in there.
const FREE_BYTES_MIN: u64 = 512 * 1024 * 1024;

/// Open files that a colour needs beside its sockets, with some to spare.
const FILES_BESIDE_SOCKETS: u64 = 1000;

type Check<'a> = (
    &'static str,
    Box<dyn Fn() -> std::result::Result<String, String> + 'a>,
);

/// Every check with its name and what it found, the bad as well as the good.
pub fn look(
    engine: &dyn Engine,
    from: Colour,
) -> Vec<(&'static str, std::result::Result<String, String>)> {
    let to = from.other();
    let checks: [Check; 8] = [
        (
            "tools",
            Box::new(|| engine.tools().map_err(|error| error.to_string())),
        ),
        ("the router", Box::new(move || router_agrees(engine, from))),
        (
            "Traefik's services",
            Box::new(move || service_is_known(engine, to)),
        ),
        (
            "certificate",
            Box::new(move || certificate_is_there(engine)),
        ),
        (
            "session store",
            Box::new(move || store_answers(engine, from)),
        ),
        ("ports", Box::new(move || ports_are_free(engine, to))),
        ("disk", Box::new(move || disk_has_room(engine.disk()))),
        ("open files", Box::new(move || files_suffice(engine, from))),
    ];
    checks.map(|(name, check)| (name, check())).into()
}

/// # Errors
/// Everything that is wrong, at once.
pub fn check(engine: &dyn Engine, from: Colour) -> Result<()> {
    let wrong: Vec<String> = look(engine, from)
        .into_iter()
        .filter_map(|(name, found)| Some(format!("  {name}: {}", found.err()?)))
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Error::Preflight(wrong.join("\n")))
    }
}

/// They differ when Traefik could not read a file, and would not take the next change over either.
fn router_agrees(engine: &dyn Engine, live: Colour) -> std::result::Result<String, String> {
    match engine.pointed_to() {
        Some(colour) if colour == live => Ok(format!("it names {live}, as Traefik does")),
        Some(colour) => Err(format!(
            "it names {colour} while Traefik leads to {live}; repair the files in traefik/dynamic \
             (./just logs says which), then run ./just up"
        )),
        None => Err("it names no colour; run ./just up".into()),
    }
}

fn service_is_known(engine: &dyn Engine, colour: Colour) -> std::result::Result<String, String> {
    traefik::service(engine, colour)
        .map(|()| format!("Traefik knows {colour}"))
        .map_err(|error| format!("{error}; is traefik/dynamic/services.yml whole?"))
}

/// Of files it is the one that the flip will bring in. One that has ended keeps no flip from
/// beginning: clients are no worse off after it.
fn certificate_is_there(engine: &dyn Engine) -> std::result::Result<String, String> {
    let ends = match &engine.stack().door.tls {
        None => return Ok("none, the front door has no TLS".into()),
        Some(Tls::Files(files)) => Certificate::read(&files.certificate, &files.key)?.ends(),
        Some(Tls::Acme(_)) => {
            let shown = Entrance::front_door(engine).and_then(|door| door.certificate());
            let shown = shown.map_err(|error| error.to_string())?;
            shown.and_then(|shown| certificate::ends(&shown))
        }
    };
    Ok(ends.map_or("it is there".into(), |ends| format!("it ends {ends}")))
}

/// Who is sent away while the store is down comes back to nobody who knows the count.
fn store_answers(engine: &dyn Engine, live: Colour) -> std::result::Result<String, String> {
    let store = &engine.stack().store;
    let fits = store.fits(settings::store());
    fits.map_err(|error| error.to_string())?;
    match scrape::store_state(engine, live).map_err(|error| error.to_string())? {
        StoreState::Down => Err(store::down(engine.stack(), live).to_string()),
        StoreState::Up => Ok(store
            .warning()
            .unwrap_or_else(|| format!("{store} answers"))),
    }
}

fn ports_are_free(engine: &dyn Engine, colour: Colour) -> std::result::Result<String, String> {
    if engine.runs(colour) {
        return Ok(format!("{colour} has them"));
    }
    for address in engine.binds(colour) {
        TcpListener::bind(&address).map_err(|error| {
            format!("{address} of {colour}: {error}; ./just down and ./just up pick new ones")
        })?;
    }
    Ok(format!("those of {colour} are free"))
}

fn disk_has_room(folder: Option<PathBuf>) -> std::result::Result<String, String> {
    let Some(folder) = folder else {
        return Ok("not looked at; no colour runs here".into());
    };
    let free = statvfs(&folder).map_err(|error| format!("{folder:?}: {error}"))?;
    let free = free.f_bavail.saturating_mul(free.f_frsize);
    let found = format!("{} MB free", free / 1024 / 1024);
    if free < FREE_BYTES_MIN {
        let needed = FREE_BYTES_MIN / 1024 / 1024;
        Err(format!("{found} in {folder:?}, {needed} needed"))
    } else {
        Ok(found)
    }
}

/// The sockets of the live colour have to find room on the other one.
fn files_suffice(engine: &dyn Engine, live: Colour) -> std::result::Result<String, String> {
    let samples = Samples::of(engine, live).map_err(|error| error.to_string())?;
    let sockets = samples.sum("tally_active_connections") as u64;
    let Some(limit) = engine.files_max() else {
        return Ok("each process sees to its own".into());
    };
    let needed = sockets + FILES_BESIDE_SOCKETS;
    if limit < needed {
        Err(format!(
            "a process may open {limit}, and {sockets} sockets need {needed}; raise the hard limit \
             (ulimit -Hn, and NOFILE for containers)"
        ))
    } else {
        Ok(format!("{limit} for {sockets} sockets"))
    }
}
