//! What a colour tells of itself on its operator's listener.

use std::{collections::HashMap, time::Duration};

use serde::Deserialize;

use crate::{colour::Colour, engine::Engine, error::Result, http};

/// The samples of one look at `/metrics`, by name with labels.
pub struct Samples(HashMap<String, f64>);

impl Samples {
    /// # Errors
    /// The colour does not answer.
    pub fn of(engine: &dyn Engine, colour: Colour) -> Result<Self> {
        let text = http::get_ok(&operator_url(engine, colour, "metrics")?)?;
        Ok(Self::parse(&text))
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
    /// The colour does not answer, or not with a version.
    pub fn of(engine: &dyn Engine, colour: Colour) -> Result<Self> {
        http::get_json(&operator_url(engine, colour, "version")?)
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

#[derive(Deserialize)]
struct Readiness {
    #[serde(default)]
    store: StoreState,
}

fn operator_url(engine: &dyn Engine, colour: Colour, path: &str) -> Result<String> {
    Ok(format!("http://{}/{path}", engine.operator(colour)?))
}

/// # Errors
/// The colour does not answer.
pub fn drain_state(engine: &dyn Engine, colour: Colour) -> Result<DrainState> {
    http::get_json(&operator_url(engine, colour, "drain")?)
}

/// Begins to send the sockets of a colour away, `rate` of them a second.
///
/// # Errors
/// The colour does not answer, or refuses.
pub fn begin_drain(engine: &dyn Engine, colour: Colour, rate: u32) -> Result<()> {
    let url = operator_url(engine, colour, &format!("drain?rate={rate}"))?;
    http::post(&url).map(drop)
}

/// Takes a drain back: who is still there stays, and who comes is welcome. Harmless without one.
///
/// # Errors
/// The colour does not answer, or is shutting down for good.
pub fn take_drain_back(engine: &dyn Engine, colour: Colour) -> Result<()> {
    http::delete(&operator_url(engine, colour, "drain")?).map(drop)
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
    http::get_ok(&operator_url(engine, colour, "readyz")?).map(drop)
}

/// # Errors
/// It takes no new connections.
pub fn store_state(engine: &dyn Engine, colour: Colour) -> Result<StoreState> {
    let readiness: Readiness = http::get_json(&operator_url(engine, colour, "readyz")?)?;
    Ok(readiness.store)
}

/// Whether a colour says that it cannot reach its session store: who comes back to a session is then
/// sent away, whatever else is well.
pub fn misses_store(engine: &dyn Engine, colour: Colour) -> bool {
    store_state(engine, colour).is_ok_and(|store| store == StoreState::Down)
}

/// # Errors
/// Nobody answers for it.
pub fn alive(engine: &dyn Engine, colour: Colour) -> Result<()> {
    http::get_ok(&operator_url(engine, colour, "healthz")?).map(drop)
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
