//! The native engine: processes of this machine under supervisord, tools from PyPI.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    colour::Colour,
    command,
    engine::Engine,
    error::{Error, Result},
    leftovers,
    stack::Stack,
    supervisor::{Program, Supervisor},
    tools,
};

/// A cold release build with link-time optimisation takes minutes, on a small machine many.
pub const BUILD_TIMEOUT: Duration = Duration::from_secs(3600);

const GIT_TIMEOUT: Duration = Duration::from_secs(30);

const TRAEFIK: &str = "traefik";

/// The variables that set the deploy program itself up, or that it sets for each colour.
const NOT_HANDED_ON: [&str; 7] = [
    "TALLY_PORT",
    "TALLY_SERVER",
    "TALLY_REVISION",
    "TALLY_LISTEN",
    "TALLY_OPERATOR_LISTEN",
    "TALLY_COLOUR",
    "TALLY_STATE_DIR",
];

pub struct Native {
    stack: Stack,
}

impl Native {
    pub fn new(stack: Stack) -> Self {
        Self { stack }
    }

    fn supervisor(&self) -> Supervisor<'_> {
        Supervisor::new(&self.stack)
    }

    fn write_configuration(&self) -> Result<()> {
        let template = self.stack.root().join("traefik/traefik.yml");
        let text = fs::read_to_string(&template).map_err(Error::file(template))?;
        let traefik = text
            .replace("@FRONT_DOOR@", &self.stack.ports.front_door.to_string())
            .replace("@INTERNAL@", &self.stack.ports.internal.to_string())
            .replace("@PREVIEW@", &self.stack.ports.preview.to_string())
            .replace("@DYNAMIC@", &self.stack.dynamic().to_string_lossy());
        let path = self.stack.run().join("traefik.yml");
        fs::write(&path, traefik).map_err(Error::file(path))?;
        self.configure_supervisor()
    }

    fn configure_supervisor(&self) -> Result<()> {
        let [blue, green] = Colour::ALL.map(|colour| self.stack.binary(colour));
        self.supervisor().configure(&[
            self.colour(Colour::Blue, &blue),
            self.colour(Colour::Green, &green),
            Program {
                name: TRAEFIK,
                binary: &tools::program(&self.stack.tools(), TRAEFIK),
                arguments: " --configfile=traefik.yml",
                variables: self.addresses(),
            },
        ])
    }

    fn colour<'a>(&self, colour: Colour, binary: &'a Path) -> Program<'a> {
        let state = self.stack.state().to_string_lossy().into_owned();
        let own = [
            ("TALLY_LISTEN", self.stack.public(colour)),
            ("TALLY_OPERATOR_LISTEN", self.stack.operator(colour)),
            ("TALLY_COLOUR", colour.to_string()),
            ("TALLY_STATE_DIR", state),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        Program {
            name: colour.name(),
            binary,
            arguments: "",
            variables: settings(env::vars()).chain(own).collect(),
        }
    }

    /// What Traefik's services are made of.
    fn addresses(&self) -> Vec<(String, String)> {
        Colour::ALL
            .into_iter()
            .map(|colour| {
                let name = format!("TALLY_{}_URL", colour.name().to_uppercase());
                (name, format!("http://{}", self.stack.public(colour)))
            })
            .collect()
    }

    fn revision(&self) -> String {
        let mut git = Command::new("git");
        git.args(["describe", "--always", "--dirty", "--abbrev=12"])
            .current_dir(self.stack.root());
        command::run(&mut git, GIT_TIMEOUT).unwrap_or_else(|_| "unknown".into())
    }

    fn build_release(&self, revision: &str) -> Result<PathBuf> {
        let mut cargo = Command::new("cargo");
        cargo
            .args(["build", "--release", "--locked", "--package"])
            .arg("tally-server")
            .current_dir(self.stack.root())
            .env("TALLY_REVISION", revision);
        command::watch(&mut cargo, BUILD_TIMEOUT)?;
        let target = env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| self.stack.root().join("target"), PathBuf::from);
        Ok(target.join("release").join("tally-server"))
    }
}

/// The server's settings among the variables: a flip hands the present ones to the new colour.
fn settings(
    variables: impl Iterator<Item = (String, String)>,
) -> impl Iterator<Item = (String, String)> {
    variables
        .filter(|(name, _)| name.starts_with("TALLY_") && !NOT_HANDED_ON.contains(&name.as_str()))
}

impl Engine for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn binds(&self, colour: Colour) -> Vec<String> {
        vec![self.stack.public(colour), self.stack.operator(colour)]
    }

    fn can_start(&self, colour: Colour) -> bool {
        self.stack.binary(colour).exists()
    }

    fn running(&self) -> bool {
        self.supervisor().running()
    }

    fn stop_leftovers(&self) -> Result<usize> {
        leftovers::stop(&self.stack.run())
    }

    fn prepare(&self) -> Result<()> {
        tools::install(&self.stack.tools())?;
        self.write_configuration()?;
        self.supervisor().boot()
    }

    /// A colour runs its own copy, so that a build never changes what is running.
    /// `TALLY_SERVER` names a binary to run instead of building one.
    fn build(&self, colour: Colour) -> Result<Option<String>> {
        let (built, revision) = match env::var_os("TALLY_SERVER") {
            Some(binary) => (PathBuf::from(binary), None),
            None => {
                let revision = self.revision();
                (self.build_release(&revision)?, Some(revision))
            }
        };
        let staged = self.stack.run().join("tally-server.staged");
        fs::copy(&built, &staged).map_err(Error::file(&built))?;
        let binary = self.stack.binary(colour);
        fs::rename(&staged, &binary).map_err(Error::file(binary))?;
        Ok(revision)
    }

    fn start(&self, colour: Colour) -> Result<()> {
        self.write_configuration()?;
        self.supervisor().stop(colour.name())?;
        self.supervisor().update(colour.name())?;
        self.supervisor().start(colour.name())
    }

    fn runs(&self, colour: Colour) -> bool {
        self.supervisor().runs(colour.name())
    }

    fn stop(&self, colour: Colour) -> Result<()> {
        self.supervisor().stop(colour.name())
    }

    fn start_traefik(&self) -> Result<()> {
        self.supervisor().start(TRAEFIK)
    }

    /// The colours first, while Traefik still carries their goodbyes.
    fn down(&self) -> Result<()> {
        if self.running() {
            for name in ["blue", "green", TRAEFIK] {
                self.supervisor().stop(name)?;
            }
            self.supervisor().shut_down()?;
        }
        self.stop_leftovers().map(drop)
    }

    fn logs(&self) -> Vec<PathBuf> {
        ["blue", "green", TRAEFIK, "supervisord"]
            .map(|name| self.stack.log(name))
            .into_iter()
            .filter(|log| log.exists())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_handed_on_but_not_what_belongs_to_the_stack() {
        let variables = [
            ("TALLY_HEARTBEAT", "5s"),
            ("TALLY_PORT", "8081"),
            ("TALLY_COLOUR", "red"),
            ("HOME", "/root"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let handed_on: Vec<_> = settings(variables.into_iter()).collect();
        assert_eq!(handed_on, [("TALLY_HEARTBEAT".into(), "5s".into())]);
    }
}
