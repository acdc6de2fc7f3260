//! What a colour tells of itself on its operator's listener: one process, or several that are taken
//! together.

use std::{collections::HashMap, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    colour::Colour,
    engine::{Engine, Process},
    error::{Error, Result},
    http,
};

/// The samples of one look at `/metrics`, by name with labels.
pub struct Samples(HashMap<String, f64>);

impl Samples {
    /// Of each process, by its name.
    ///
    /// # Errors
    /// One does not answer.
    pub fn by_process(engine: &dyn Engine, colour: Colour) -> Result<HashMap<String, Self>> {
        let samples = each(engine, colour, |process| {
            let text = http::get_ok(&process.url("metrics"))?;
            Ok((process.name.clone(), Self::parse(&text)))
        })?;
        Ok(samples.into_iter().collect())
    }

    /// # Errors
    /// The colour does not answer.
    pub fn of(engine: &dyn Engine, colour: Colour) -> Result<Self> {
        let mut sums = HashMap::new();
        for (name, value) in Self::by_process(engine, colour)?
            .into_values()
            .flat_map(|samples| samples.0)
        {
            *sums.entry(name).or_default() += value;
        }
        Ok(Self(sums))
    }

    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// The sum over all labels; 0 for what is not there.
    pub fn sum(&self, metric: &str) -> f64 {
        let of_metric = |name: &str| {
            name.strip_prefix(metric)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        let samples = self.0.iter().filter(|(name, _)| of_metric(name));
        samples.map(|(_, value)| value).sum()
    }

    /// One sample; 0 when it is not there.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Version {
    pub version: String,
    pub revision: String,
    pub colour: String,
    /// The kind of its session store; empty for a release that has none.
    #[serde(default)]
    pub store: String,
}

impl Version {
    /// # Errors
    /// The colour does not answer, or not with one version.
    pub fn of(engine: &dyn Engine, colour: Colour) -> Result<Self> {
        let mut found: Vec<Self> = ask(engine, colour, "version")?;
        let version = found.swap_remove(0);
        match found.into_iter().find(|other| *other != version) {
            None => Ok(version),
            Some(other) => Err(Error::Mixed {
                colour,
                one: version.told(),
                other: other.told(),
            }),
        }
    }

    pub fn told(&self) -> String {
        format!("{} ({})", self.version, self.revision)
    }

    /// Where it keeps its sessions, in a word. Releases without a choice have the process's memory.
    pub fn store_told(&self) -> &str {
        if self.store.is_empty() {
            "memory"
        } else {
            &self.store
        }
    }

    /// Whether a session outlives its process.
    pub fn shares_sessions(&self) -> bool {
        self.store_told() != "memory"
    }
}

/// How the drain of a colour stands.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct DrainState {
    pub draining: bool,
    pub connections: u64,
    /// While it is down nobody is sent away.
    #[serde(default)]
    pub store: StoreState,
}

/// Whether a colour can reach its session store. One that does not say has none to miss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreState {
    #[default]
    Up,
    Down,
}

impl StoreState {
    /// Of a colour whose processes have these.
    fn of_all(states: impl IntoIterator<Item = Self>) -> Self {
        let down = states.into_iter().find(|state| *state == Self::Down);
        down.unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct Readiness {
    #[serde(default)]
    store: StoreState,
}

/// Has a word with each process of a colour; whoever has left meanwhile has no say.
fn each<T>(
    engine: &dyn Engine,
    colour: Colour,
    word: impl Fn(&Process) -> Result<T>,
) -> Result<Vec<T>> {
    let mut answers = Vec::new();
    for process in engine.processes(colour)? {
        match word(&process) {
            Err(_) if engine.has_left(&process) => {}
            answer => answers.push(answer?),
        }
    }
    if answers.is_empty() {
        let told = "all of it has just left".into();
        return Err(Error::NotWhole { colour, told });
    }
    Ok(answers)
}

/// What each process of a colour answers.
fn ask<T: DeserializeOwned>(engine: &dyn Engine, colour: Colour, path: &str) -> Result<Vec<T>> {
    each(engine, colour, |process| http::get_json(&process.url(path)))
}

/// # Errors
/// The colour does not answer.
pub fn drain_state(engine: &dyn Engine, colour: Colour) -> Result<DrainState> {
    let states: Vec<DrainState> = ask(engine, colour, "drain")?;
    Ok(DrainState {
        draining: states.iter().all(|state| state.draining),
        connections: states.iter().map(|state| state.connections).sum(),
        store: StoreState::of_all(states.iter().map(|state| state.store)),
    })
}

/// Begins to send the sockets of a colour away, `rate` of them a second, whichever process has them.
///
/// # Errors
/// The colour does not answer, or refuses.
pub fn begin_drain(engine: &dyn Engine, colour: Colour, rate: u32) -> Result<()> {
    let processes = engine.processes(colour)?.len();
    let share = rate.div_ceil(u32::try_from(processes).unwrap_or(u32::MAX));
    let drain = format!("drain?rate={share}");
    each(engine, colour, |process| http::post(&process.url(&drain))).map(drop)
}

/// Takes a drain back: who is still there stays, and who comes is welcome. Harmless without one.
///
/// # Errors
/// The colour does not answer, or is shutting down for good.
pub fn take_drain_back(engine: &dyn Engine, colour: Colour) -> Result<()> {
    each(engine, colour, |process| {
        http::delete(&process.url("drain"))
    })
    .map(drop)
}

/// What a rate of handshakes is measured with.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);

/// # Errors
/// The colour does not answer.
pub fn handshakes(engine: &dyn Engine, colour: Colour) -> Result<f64> {
    Ok(Samples::of(engine, colour)?.sum("tally_handshakes_total"))
}

/// # Errors
/// It takes no new connections.
pub fn ready(engine: &dyn Engine, colour: Colour) -> Result<()> {
    engine.complete(colour)?;
    each(engine, colour, |process| {
        http::get_ok(&process.url("readyz"))
    })
    .map(drop)
}

/// # Errors
/// It takes no new connections.
pub fn store_state(engine: &dyn Engine, colour: Colour) -> Result<StoreState> {
    let readiness: Vec<Readiness> = ask(engine, colour, "readyz")?;
    Ok(StoreState::of_all(
        readiness.iter().map(|ready| ready.store),
    ))
}

/// Whether a colour says that it cannot reach its session store: who comes back to a session is then
/// sent away, whatever else is well.
pub fn misses_store(engine: &dyn Engine, colour: Colour) -> bool {
    store_state(engine, colour).is_ok_and(|store| store == StoreState::Down)
}

/// # Errors
/// Nobody answers for it.
pub fn alive(engine: &dyn Engine, colour: Colour) -> Result<()> {
    each(engine, colour, |process| {
        http::get_ok(&process.url("healthz"))
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_summed_over_labels() {
        let samples = Samples::parse("# HELP a b\na 1\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3.5\n");
        assert_eq!(samples.sum("a"), 1.0);
        assert_eq!(samples.sum("a_total"), 5.5);
        assert_eq!(samples.get("a_total{x=\"2\"}"), 3.5);
        assert_eq!(samples.get("b"), 0.0);
    }
}
