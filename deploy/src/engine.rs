//! What an engine can do with a colour. The flow of `up` and `flip` knows nothing else of it.

use std::path::PathBuf;

use crate::{colour::Colour, error::Result};

pub trait Engine {
    /// As in `ENGINE=`.
    fn name(&self) -> &'static str;
    /// The addresses of this machine that a colour takes as it starts.
    fn binds(&self, colour: Colour) -> Vec<String>;
    /// Whether something is there that a colour ran before, and could run again.
    fn can_start(&self, colour: Colour) -> bool;
    /// Whether the engine itself is up.
    fn running(&self) -> bool;
    /// Ends what an engine that broke down has left behind; returns how many processes.
    fn stop_leftovers(&self) -> Result<usize>;
    /// Brings the engine itself and Traefik's surroundings up; harmless when they are.
    fn prepare(&self) -> Result<()>;
    /// Builds what a colour runs; returns the revision that it will report, where that is known.
    fn build(&self, colour: Colour) -> Result<Option<String>>;
    /// Starts a colour with what was built last and the settings of now. One that runs is stopped
    /// first, since it may be something older.
    fn start(&self, colour: Colour) -> Result<()>;
    /// Whether a colour runs, ready or not.
    fn runs(&self, colour: Colour) -> bool;
    /// Drains and stops; harmless when it does not run.
    fn stop(&self, colour: Colour) -> Result<()>;
    /// Harmless when it runs.
    fn start_traefik(&self) -> Result<()>;
    /// Stops everything.
    fn down(&self) -> Result<()>;
    /// The files that the processes write.
    fn logs(&self) -> Vec<PathBuf>;
}
