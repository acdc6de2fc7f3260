//! What an engine can do with a colour. The flow of `up` and `flip` knows nothing else of it.

use std::{fmt, fs, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    colour::Colour,
    docker::{self, Docker},
    error::{Error, Result},
    history,
    kubernetes::Kubernetes,
    lock,
    monitoring::Host,
    native::Native,
    router::{ROUTER, Router},
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
    /// Pods of a cluster.
    Kubernetes,
}

impl Kind {
    /// As in `ENGINE=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Docker => "docker",
            Self::Kubernetes => "kubernetes",
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
        let kinds = [Self::Native, Self::Docker, Self::Kubernetes];
        kinds.into_iter().find(|kind| kind.name() == text).ok_or(())
    }
}

/// A process of a colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub name: String,
    /// Where its operator's listener can be reached from here.
    pub operator: String,
}

impl Process {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.operator)
    }
}

pub trait Engine {
    fn kind(&self) -> Kind;
    fn stack(&self) -> &Stack;
    /// Those of a colour that can be asked now; at least one.
    ///
    /// # Errors
    /// It is known that the colour does not run, and perhaps why.
    fn processes(&self, colour: Colour) -> Result<Vec<Process>>;
    /// Whether a process that does not answer is one that was taken away since it was listed.
    fn has_left(&self, _process: &Process) -> bool {
        false
    }
    /// Whether every process of a colour is there that should be.
    ///
    /// # Errors
    /// Some are missing, and perhaps why.
    fn complete(&self, _colour: Colour) -> Result<()> {
        Ok(())
    }
    /// For a person: where a colour's metrics are, or of how many processes they would be.
    ///
    /// # Errors
    /// As of [`Self::processes`].
    fn metrics(&self, colour: Colour) -> Result<String> {
        let process = self.processes(colour)?.swap_remove(0);
        Ok(format!("metrics at {}", process.url("metrics")))
    }

    /// Where this machine reaches the front door.
    ///
    /// # Errors
    /// It cannot be found.
    fn front_door(&self) -> Result<String> {
        Ok(self.stack().front_door())
    }
    /// Where this machine reaches a colour that is not live, through Traefik.
    ///
    /// # Errors
    /// There is no way.
    fn preview(&self, _colour: Colour) -> Result<String> {
        Ok(self.stack().preview())
    }
    /// Where this machine reaches the API of each Traefik.
    ///
    /// # Errors
    /// They cannot be found.
    fn traefiks(&self) -> Result<Vec<String>> {
        Ok(vec![self.stack().internal()])
    }
    /// What Traefik calls the router of the front door, and the service of a colour.
    fn router(&self) -> String {
        format!("{ROUTER}@file")
    }
    fn service(&self, colour: Colour) -> String {
        format!("{}@file", colour.service())
    }
    /// The colour that a service leads to, by the name that Traefik's routers have for it.
    fn led_to(&self, service: &str) -> Option<Colour> {
        Colour::of_service(service)
    }
    /// The colour that Traefik was told to lead to; none before the first start.
    fn pointed_to(&self) -> Option<Colour> {
        Router::of(self.stack()).live()
    }
    /// Tells Traefik to lead to a colour and to no other: the switch, in one go.
    ///
    /// # Errors
    /// It is not told; what it was told before stands.
    fn point_to(&self, colour: Colour) -> Result<()> {
        Router::of(self.stack()).point_to(colour)
    }
    /// The same for a colour that still bakes: where it does not answer, the other one may.
    ///
    /// # Errors
    /// As of [`Self::point_to`].
    fn try_out(&self, colour: Colour) -> Result<()> {
        Router::of(self.stack()).try_out(colour)
    }

    /// Where those who may deploy find each other.
    fn lock(&self) -> lock::Place {
        lock::Place::File(self.stack().lock())
    }
    fn history(&self) -> history::Place {
        history::Place::File(self.stack().history())
    }
    /// The server's hard promise is 3 s; a machine that is busy building may take longer to get there.
    fn ready_timeout(&self) -> Duration {
        Duration::from_secs(10)
    }
    /// Until when an idle colour is kept for a rollback, as it was written.
    fn warm_until(&self, colour: Colour) -> Option<String> {
        fs::read_to_string(self.stack().warm(colour)).ok()
    }
    /// # Errors
    /// It cannot be written down.
    fn keep_warm(&self, colour: Colour, until: &str) -> Result<()> {
        let path = self.stack().warm(colour);
        fs::write(&path, until).map_err(Error::file(path))
    }
    fn forget_warm(&self, colour: Colour) {
        // It may not be there, and then there is nothing to forget.
        let _ = fs::remove_file(self.stack().warm(colour));
    }
    /// For a person: how to come to what has no place of its own in `status`.
    fn ways(&self) -> Vec<(&'static str, String)> {
        let stack = self.stack();
        vec![
            (
                "preview",
                format!("http://{}/  (the idle colour)", stack.preview()),
            ),
            (
                "traefik",
                format!("http://{}/api/rawdata", stack.internal()),
            ),
        ]
    }

    /// The programs that a build and a start need.
    ///
    /// # Errors
    /// One is missing, and how to get it.
    fn tools(&self) -> Result<String>;
    /// The addresses of this machine that a colour takes as it starts.
    fn binds(&self, colour: Colour) -> Vec<String>;
    /// Where a build needs room, if here.
    fn disk(&self) -> Option<PathBuf>;
    /// Files that a colour may open, where that is a limit of this machine.
    fn files_max(&self) -> Option<u64>;
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
        Kind::Kubernetes => Box::new(Kubernetes::new(stack)),
    }
}
