//! What an engine can do with a colour. The flow of `up` and `flip` knows nothing else of it.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    colour::Colour,
    docker::{self, Docker},
    error::Result,
    monitoring::Host,
    native::Native,
    stack::Stack,
};

/// A cold release build with link-time optimisation takes minutes, on a small machine many.
pub const BUILD_TIMEOUT: Duration = Duration::from_secs(3600);

/// Until a colour is killed. The server promises to end within 10 s of SIGTERM.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(12);

/// What the processes of a stack run under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Processes of this machine under supervisord.
    Native,
    /// Containers.
    Docker,
}

impl Kind {
    /// As in `ENGINE=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Docker => "docker",
        }
    }

    /// The engine of a new stack, where nobody asked for one: Docker where it answers.
    pub fn found_here() -> Self {
        if docker::answers() {
            Self::Docker
        } else {
            Self::Native
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let kinds = [Self::Native, Self::Docker];
        kinds.into_iter().find(|kind| kind.name() == text).ok_or(())
    }
}

pub trait Engine {
    fn kind(&self) -> Kind;
    fn stack(&self) -> &Stack;
    /// Where a colour's operator's listener can be reached from here.
    ///
    /// # Errors
    /// It is known that the colour does not run, and perhaps why.
    fn operator(&self, colour: Colour) -> Result<String>;
    /// The programs that a build and a start need.
    ///
    /// # Errors
    /// One is missing, and how to get it.
    fn tools(&self) -> Result<String>;
    /// The addresses of this machine that a colour takes as it starts.
    fn binds(&self, colour: Colour) -> Vec<String>;
    /// Where a build needs room.
    fn disk(&self) -> PathBuf;
    /// Files that a colour may open.
    fn files_max(&self) -> u64;
    /// Whether something is there that a colour ran before, and could run again.
    fn can_start(&self, colour: Colour) -> bool;
    /// Whether anything of the stack runs.
    ///
    /// # Errors
    /// The engine itself cannot be asked.
    fn running(&self) -> Result<bool>;
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
    /// Whose Traefik's files must be, if not those of whoever runs this.
    fn traefik_user(&self) -> Option<(u32, u32)>;
    /// Harmless when it runs.
    fn start_traefik(&self) -> Result<()>;
    /// Where what watches the stack runs; none where the stack is from before there was any.
    fn monitoring(&self) -> Option<Box<dyn Host + '_>>;
    /// Stops everything.
    fn down(&self) -> Result<()>;
    /// Prints the last lines of each log, and with `follow` what comes, until a signal.
    fn logs(&self, lines: usize, follow: bool) -> Result<()>;
}

/// The engine that a stack is on.
pub fn of(stack: Stack) -> Box<dyn Engine> {
    match stack.engine {
        Kind::Native => Box::new(Native::new(stack)),
        Kind::Docker => Box::new(Docker::new(stack)),
    }
}
