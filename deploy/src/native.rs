//! The native engine: processes of this machine under supervisord, tools from PyPI.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use crate::{
    colour::Colour,
    command,
    engine::{BUILD_TIMEOUT, Engine, Kind, Process},
    error::{Error, Result},
    leftovers,
    logs::Tails,
    monitoring::{self, Host, Part, Processes},
    settings, sources,
    stack::Stack,
    store,
    supervisor::{Program, Supervisor},
    terminal::show,
    tools,
    traefik::{self, Place},
};

const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

const TRAEFIK: &str = "traefik";

/// Between two looks at the logs that a person follows.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

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
        let web = SocketAddr::new(self.stack.bind, self.stack.ports.front_door);
        traefik::write_configuration(
            &self.stack,
            &Place {
                web: web.to_string(),
                preview: self.stack.preview(),
                internal: self.stack.internal(),
                dynamic: self.stack.dynamic().to_string_lossy().into_owned(),
                tls: self.stack.tls().to_string_lossy().into_owned(),
                acme: self.stack.acme().to_string_lossy().into_owned(),
            },
        )?;
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
                variables: self.for_traefik(),
            },
        ])
    }

    fn colour<'a>(&self, colour: Colour, binary: &'a Path) -> Program<'a> {
        let state = self.stack.state().to_string_lossy().into_owned();
        let own = [
            ("TALLY_LISTEN", self.stack.public(colour)),
            ("TALLY_OPERATOR_LISTEN", self.operator_listen(colour)),
            ("TALLY_COLOUR", colour.to_string()),
            ("TALLY_STATE_DIR", state),
            (store::VARIABLE, self.store()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        Program {
            name: colour.name(),
            binary,
            arguments: "",
            variables: settings::handed_on().chain(own).collect(),
        }
    }

    fn store(&self) -> String {
        let own = format!("sqlite:{}", self.stack.sessions().display());
        self.stack.store.setting(own)
    }

    /// What Traefik's dynamic files are filled with.
    fn for_traefik(&self) -> Vec<(String, String)> {
        let tls = self.stack.tls().to_string_lossy().into_owned();
        let addresses = Colour::ALL.into_iter().map(|colour| {
            let name = format!("TALLY_{}_URL", colour.name().to_uppercase());
            (name, format!("http://{}", self.stack.public(colour)))
        });
        addresses
            .chain([("TALLY_TLS_FOLDER".to_owned(), tls)])
            .collect()
    }

    fn operator_listen(&self, colour: Colour) -> String {
        format!("127.0.0.1:{}", self.stack.operator_port(colour))
    }

    /// The files that the processes write.
    fn log_files(&self) -> Vec<PathBuf> {
        let parts = Part::ALL.map(Part::name);
        ["blue", "green", TRAEFIK, "supervisord"]
            .into_iter()
            .chain(parts)
            .map(|name| self.stack.log(name))
            .filter(|log| log.exists())
            .collect()
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

impl Engine for Native {
    fn kind(&self) -> Kind {
        Kind::Native
    }

    fn stack(&self) -> &Stack {
        &self.stack
    }

    fn processes(&self, colour: Colour) -> Result<Vec<Process>> {
        Ok(vec![Process {
            name: colour.to_string(),
            operator: self.operator_listen(colour),
        }])
    }

    fn tools(&self) -> Result<String> {
        let cargo = command::run(Command::new("cargo").arg("--version"), VERSION_TIMEOUT);
        cargo.map_err(|source| Error::Missing {
            source: Box::new(source),
            cure: "install Rust: https://rustup.rs",
        })
    }

    fn binds(&self, colour: Colour) -> Vec<String> {
        vec![self.stack.public(colour), self.operator_listen(colour)]
    }

    fn disk(&self) -> Option<PathBuf> {
        Some(self.stack.run())
    }

    fn files_max(&self) -> Option<u64> {
        Some(settings::files_of_this_process())
    }

    fn can_start(&self, colour: Colour) -> bool {
        self.stack.binary(colour).exists()
    }

    fn running(&self) -> Result<bool> {
        Ok(self.supervisor().running())
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
                let revision = sources::revision(self.stack.root());
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
        monitoring::turn(self.monitoring(), colour, true);
        self.supervisor().start(colour.name())
    }

    fn runs(&self, colour: Colour) -> bool {
        self.supervisor().runs(colour.name())
    }

    fn stop(&self, colour: Colour) -> Result<()> {
        self.supervisor().stop(colour.name())?;
        monitoring::turn(self.monitoring(), colour, false);
        Ok(())
    }

    fn traefik_user(&self) -> Option<(u32, u32)> {
        None
    }

    fn start_traefik(&self) -> Result<()> {
        self.supervisor().start(TRAEFIK)
    }

    fn monitoring(&self) -> Option<Box<dyn Host + '_>> {
        Processes::new(&self.stack).map(|host| Box::new(host) as Box<dyn Host + '_>)
    }

    /// The colours first, while Traefik still carries their goodbyes; what watches them last.
    fn down(&self) -> Result<()> {
        if self.supervisor().running() {
            for name in ["blue", "green", TRAEFIK] {
                self.supervisor().stop(name)?;
            }
            self.supervisor().shut_down()?;
        }
        self.stop_leftovers().map(drop)
    }

    fn logs(&self, lines: usize, follow: bool) -> Result<()> {
        let mut tails = Tails::default();
        show(tails.last(&self.log_files(), lines)?)?;
        if !follow {
            return Ok(());
        }
        loop {
            thread::sleep(FOLLOW_PAUSE);
            show(tails.since(&self.log_files())?)?;
        }
    }
}
