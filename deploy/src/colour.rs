//! The two deployment slots.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    Blue,
    Green,
}

const SERVICE: &str = "tally-";
const WITH_FALLBACK: &str = "-first";

impl Colour {
    pub const ALL: [Self; 2] = [Self::Blue, Self::Green];

    pub fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    /// The name in settings, logs, metrics and headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }

    /// The name of its service in Traefik's configuration.
    pub fn service(self) -> String {
        format!("{SERVICE}{self}")
    }

    /// The service that leads to this colour, and to the other one where this one does not answer.
    pub fn service_with_fallback(self) -> String {
        self.service() + WITH_FALLBACK
    }

    /// The colour that a service leads to, first of all.
    pub fn of_service(service: &str) -> Option<Self> {
        let name = service.strip_prefix(SERVICE)?;
        name.strip_suffix(WITH_FALLBACK)
            .unwrap_or(name)
            .parse()
            .ok()
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Colour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|colour| colour.name() == text)
            .ok_or_else(|| format!("{text:?} is no colour; there are blue and green"))
    }
}
