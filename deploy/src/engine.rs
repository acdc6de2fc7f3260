//! What an engine can do with a colour. The flow of `up` and `flip` knows nothing else of it.

use std::path::PathBuf;

use crate::{colour::Colour, error::Result};

pub trait Engine {
    /// Brings the engine itself and Traefik's surroundings up; harmless when they are.
    fn prepare(&self) -> Result<()>;
    /// Builds what a colour runs.
    fn build(&self, colour: Colour) -> Result<()>;
    fn start(&self, colour: Colour) -> Result<()>;
    /// Drains and stops; harmless when it does not run.
    fn stop(&self, colour: Colour) -> Result<()>;
    fn start_traefik(&self) -> Result<()>;
    /// Stops everything.
    fn down(&self) -> Result<()>;
    /// The files that the processes write.
    fn logs(&self) -> Vec<PathBuf>;
}
