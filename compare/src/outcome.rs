//! What a comparison found out.

use serde::{Deserialize, Serialize};
use tally_loadtest::machine::Machine;

use crate::{
    figures::{Figure, Measure},
    measure::{Effort, Sample},
    peer::FLOOR,
};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub began: String,
    pub machine: Machine,
    pub effort: Effort,
    pub peers: Vec<Measured>,
    /// Who is not here, and why.
    pub left_out: Vec<(String, String)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub name: String,
    pub title: String,
    pub version: String,
    /// One for each repeat.
    pub samples: Vec<Sample>,
}

impl Outcome {
    pub fn peer(&self, name: &str) -> Option<&Measured> {
        self.peers.iter().find(|peer| peer.name == name)
    }

    /// What the table shows: a multiple of the floor's where that says more, and the floor is here.
    pub fn figure(&self, peer: &Measured, measure: Measure) -> Figure {
        match self.peer(FLOOR) {
            Some(floor) if measure.is_ratio() => measure.ratio(&peer.samples, &floor.samples),
            _ => measure.figure(&peer.samples),
        }
    }
}
